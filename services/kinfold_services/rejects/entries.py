"""Entries of `rejects` (contract section 7)."""

from collections.abc import Iterable
from typing import Final

import msgspec

from kinfold_projections.batches import RawEntry
from kinfold_projections.entries import EVENT_FIELD
from kinfold_schemas.events import MAX_EVENT_BYTES
from kinfold_schemas.positions import position_key
from kinfold_schemas.rejections import Rejection
from kinfold_services.log.streams import pairs_of

REFUSED_BY_SERVER: Final = "refused-by-server"
"""The reason of an entry that the fold takes and the server does not (contract section 7)."""

_MAX_BYTES: Final = 2 * MAX_EVENT_BYTES
"""The most bytes of an entry's names and values. Of a larger entry little is kept, because its event is too large anyway."""
_KEPT_BYTES: Final = 1024


class Reject(msgspec.Struct, frozen=True):
    """An entry that could not be folded: its fields, and the reason. A large entry is cut, and `detail` says so."""

    entry: str
    fields: list[tuple[bytes, bytes]]
    reason: str
    detail: str

    @property
    def size(self) -> int:
        """In bytes, about."""
        return sum(len(name) + len(value) for name, value in self.fields) + len(self.detail)

    def values(self) -> list[bytes | str]:
        """Names and values in turn, as they are appended.

        The added fields come last, so a reader that builds a mapping gets them even if the entry has fields of these names.
        """
        own = [item for pair in self.fields for item in pair]
        return [*own, "entry", self.entry, "reason", self.reason, "detail", self.detail]


def as_rejects(rejected: Iterable[tuple[RawEntry, Rejection]]) -> list[Reject]:
    """The rejects of a batch."""
    return [_reject(raw, rejection.reason, rejection.detail) for raw, rejection in rejected]


def refused_by_server(raw: RawEntry, error: str) -> Reject:
    """The reject of an entry whose transaction the server refuses."""
    return _reject(raw, REFUSED_BY_SERVER, f"event: expected one whose changes the server takes, got an error: {error}")


def _reject(raw: RawEntry, reason: str, detail: str) -> Reject:
    entry_id, fields = raw
    pairs = pairs_of(fields)
    size = sum(len(name) + len(value) for name, value in pairs)
    if size > _MAX_BYTES:
        name, value = next((pair for pair in pairs if pair[0] == EVENT_FIELD), pairs[0])
        pairs = [(name[:_KEPT_BYTES], value[:_KEPT_BYTES])]
        kept = sum(map(len, pairs[0]))
        detail = f"{detail} (the entry has {size:,} bytes, of which {kept:,} are kept)"
    return Reject(entry_id.decode(), pairs, reason, detail)


def read_reject(pairs: list[tuple[bytes, bytes]]) -> Reject | None:
    """Read an entry of `rejects`; None if no projector wrote it."""
    if [name for name, _ in pairs[-3:]] != [b"entry", b"reason", b"detail"]:
        return None
    try:
        entry, reason, detail = (value.decode() for _, value in pairs[-3:])
        position_key(entry)
    except ValueError:
        return None
    return Reject(entry, pairs[:-3], reason, detail)
