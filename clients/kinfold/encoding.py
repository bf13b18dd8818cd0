"""From drafts to the bytes of events: ids (UUIDv7, RFC 9562 section 5.7), `at`, and, at the moment of sending, `sentAt`."""

import os
import time
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from kinfold.drafts import Draft, fields_of
from kinfold_schemas.times import from_text, text_ms, to_ms, to_text

_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
_RANDOM_BYTES: Final = 10
_AT: Final = b',"at":"'
_AT_BYTES: Final = 24
_OFFSETS: Final = 50
"""Of how many batches the best guess at the difference of the clocks is taken: clocks drift."""
_MARGIN_MS: Final = 3
"""Clocks are read in whole milliseconds, at both ends."""


class _Kept(msgspec.Struct):
    type: str
    id: str
    at: str


_decode_kept: Final = msgspec.json.Decoder(_Kept).decode


def encode_drafts(drafts: Sequence[Draft]) -> list[bytes]:
    """The JSON of each event, without `sentAt`: what is kept, on disk too, until it is sent."""
    ids = uuid7s([_ms(draft[1]) for draft in drafts])
    return [
        _encode({"type": draft[0], "id": event_id, "at": to_text(_ms(draft[1])), **fields_of(draft)})
        for draft, event_id in zip(drafts, ids, strict=True)
    ]


def is_encoded(event: bytes) -> bool:
    """Whether these are the bytes of an event as `encode_drafts` makes them; a disk may give back others."""
    try:
        return _decode_kept(event).at == _at(event) == to_text(from_text(_at(event)))
    except (ValueError, msgspec.DecodeError):
        return False


def stamped(events: Iterable[bytes], sent_ms: int | None = None) -> list[bytes]:
    """The events as they go out now: `sentAt` is on the same clock as `at`, and tells how long an event was under way."""
    tail = _tail(_now_ms() if sent_ms is None else sent_ms)
    return [event[:-1] + tail for event in events]


class Stamps:
    """`sentAt` for one producer's batches, so that what it said later counts as later.

    An event counts as of the log's clock, less how long it was under way (contract section 3), and so with the delay of the
    network in it. Where that differs from batch to batch, an event could count as earlier than one that was said before
    it, and lose against it. The log tells when a batch arrived; an event of the next one that would fall before it, though it
    was said after it, gets a `sentAt` that is earlier by as much. A batch without an answer may have arrived at any moment
    until nobody waited for it any more: what is said later has to count as later than the last of these.
    """

    def __init__(self) -> None:
        self._offsets_ms: deque[int] = deque(maxlen=_OFFSETS)
        """How far the log's clock is ahead of ours, at least: no batch arrives before it is sent."""
        self._arrived_at, self._arrived_ms = "", 0
        """The latest `at` of what is in the log, and when that counts as having happened, on the log's clock."""
        self._lost_at, self._lost_ms = "", 0
        """The same of what had no answer: when it counts as having happened at the latest, on our clock."""

    def stamp(self, events: Sequence[bytes]) -> list[bytes]:
        """The events as they go out now."""
        sent_ms = _now_ms()
        tail = _tail(sent_ms)
        arrived_ms = self._arrived_ms - max(self._offsets_ms) if self._offsets_ms else 0
        said: list[bytes] = []
        for event in events:
            at = _at(event)
            # What would count as having happened before this, though it was said after that, would lose against it.
            after_ms = max(arrived_ms if at >= self._arrived_at else 0, self._lost_ms if at >= self._lost_at else 0)
            early_ms = after_ms + _MARGIN_MS - text_ms(at)
            said.append(event[:-1] + (tail if early_ms <= 0 else _tail(max(0, sent_ms - early_ms))))
        return said

    def arrived(self, position: str | None, stamped: Sequence[bytes]) -> None:
        """The batch is in the log, as it was stamped last, and `position` is that of its last event."""
        if position is None or not stamped:
            return
        arrived_ms = int(position.partition("-")[0])
        self._offsets_ms.append(arrived_ms - _now_ms())
        at, under_way_ms = _latest(stamped)
        if at >= self._arrived_at:
            self._arrived_at, self._arrived_ms = at, max(self._arrived_ms, arrived_ms - under_way_ms)

    def lost(self, stamped: Sequence[bytes]) -> None:
        """The batch, as it was stamped last, had no answer: it may be in the log since any moment until now, or not at all."""
        at, under_way_ms = _latest(stamped)
        if at >= self._lost_at:
            self._lost_at, self._lost_ms = at, max(self._lost_ms, _now_ms() - under_way_ms)


def _latest(stamped: Sequence[bytes]) -> tuple[str, int]:
    """The latest `at` of a batch, and for how many milliseconds that event says it was under way."""
    event = max(stamped, key=_at)
    at = _at(event)
    return at, max(0, text_ms(event[-_AT_BYTES - 2 : -2].decode()) - text_ms(at))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _at(event: bytes) -> str:
    start = event.index(_AT) + len(_AT)  # behind type and id, neither of which can hold it
    return event[start : start + _AT_BYTES].decode()


def _tail(sent_ms: int) -> bytes:
    return f',"sentAt":"{to_text(sent_ms)}"}}'.encode()


def uuid7s(times_ms: Sequence[int]) -> list[str]:
    """One UUIDv7 for each time in milliseconds since 1970.

    The random bits are the kernel's: a generator of Python's own would give a forked child the ids of its parent.
    """
    dice = os.urandom(_RANDOM_BYTES * len(times_ms)).hex()
    width = _RANDOM_BYTES * 2
    return [_uuid7(ms, dice[index * width : (index + 1) * width]) for index, ms in enumerate(times_ms)]


def _uuid7(ms: int, dice: str) -> str:
    time_hex = f"{ms & 0xFFFF_FFFF_FFFF:012x}"
    variant = "89ab"[int(dice[3], 16) & 3]
    return f"{time_hex[:8]}-{time_hex[8:]}-7{dice[:3]}-{variant}{dice[4:7]}-{dice[7:19]}"


def _ms(at: float | datetime) -> int:
    return to_ms(at) if isinstance(at, datetime) else int(at * 1000)
