"""From drafts to JSON: adds ids (UUIDv7, RFC 9562 section 5.7) and `at`. `kinfold.producer.stamps` adds `sentAt` later."""

import os
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from kinfold.calls.drafts import Draft, fields_of
from kinfold_schemas.times import from_text, to_ms, to_text

_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
_RANDOM_BYTES: Final = 10
_AT: Final = b',"at":"'
_AT_BYTES: Final = 24


class _Encoded(msgspec.Struct):
    type: str
    id: str
    at: str


_decode_encoded: Final = msgspec.json.Decoder(_Encoded).decode


def encode_drafts(drafts: Sequence[Draft]) -> list[bytes]:
    """The JSON of each event without `sentAt`, as it waits in memory and on disk."""
    ids = uuid7s([_ms(draft[1]) for draft in drafts])
    return [
        _encode({"type": draft[0], "id": event_id, "at": to_text(_ms(draft[1])), **fields_of(draft)})
        for draft, event_id in zip(drafts, ids, strict=True)
    ]


def encode_valid(drafts: Sequence[Draft]) -> tuple[list[bytes], list[Exception]]:
    """The JSON of the events that can be encoded, and the errors of the others.

    A lazy object of the caller may raise anything, for example after its request has ended.
    """
    try:
        return encode_drafts(drafts), []
    except Exception:  # noqa: BLE001  see above
        events: list[bytes] = []
        errors: list[Exception] = []
        for draft in drafts:
            try:
                events += encode_drafts([draft])
            except Exception as error:  # noqa: BLE001  see above
                errors.append(error)
        return events, errors


def is_encoded(event: bytes) -> bool:
    """Whether `event` looks like a result of `encode_drafts`. A disk may return something else."""
    try:
        return _decode_encoded(event).at == at_of(event) == to_text(from_text(at_of(event)))
    except (ValueError, msgspec.DecodeError):
        return False


def at_of(event: bytes) -> str:
    """The text of `at` of an encoded event."""
    start = event.index(_AT) + len(_AT)  # it follows type and id, which cannot contain it
    return event[start : start + _AT_BYTES].decode()


def name_of(event: bytes) -> str:
    """The type and the id of an encoded event, for a log: everything else may be personal data."""
    decoded = _decode_encoded(event)
    return f"{decoded.type} {decoded.id}"


def uuid7s(times_ms: Sequence[int]) -> list[str]:
    """One UUIDv7 for each time in milliseconds since 1970.

    The random bits come from the kernel: a generator in Python would give a forked child the same ids as its parent.
    """
    random_hex = os.urandom(_RANDOM_BYTES * len(times_ms)).hex()
    width = _RANDOM_BYTES * 2
    return [_uuid7(ms, random_hex[index * width : (index + 1) * width]) for index, ms in enumerate(times_ms)]


def _uuid7(ms: int, random_hex: str) -> str:
    time_hex = f"{ms & 0xFFFF_FFFF_FFFF:012x}"
    variant = "89ab"[int(random_hex[3], 16) & 3]
    return f"{time_hex[:8]}-{time_hex[8:]}-7{random_hex[:3]}-{variant}{random_hex[4:7]}-{random_hex[7:19]}"


def _ms(at: float | datetime) -> int:
    return to_ms(at) if isinstance(at, datetime) else int(at * 1000)
