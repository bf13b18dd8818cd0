"""Entries of `rejects` (contract section 7)."""

from collections.abc import Iterable

import msgspec

from kinfold_projections.batches import RawEntry
from kinfold_schemas.positions import position_key
from kinfold_schemas.rejections import Rejection
from kinfold_services.log.streams import pairs_of


class Reject(msgspec.Struct, frozen=True):
    """An entry that could not be folded: its fields, unchanged, and the reason."""

    entry: str
    fields: list[tuple[bytes, bytes]]
    reason: str
    detail: str

    def values(self) -> list[bytes | str]:
        """Names and values in turn, as they are appended.

        The added fields come last, so a reader that builds a mapping gets them even if the entry has fields of these names.
        """
        own = [item for pair in self.fields for item in pair]
        return [*own, "entry", self.entry, "reason", self.reason, "detail", self.detail]


def as_rejects(rejected: Iterable[tuple[RawEntry, Rejection]]) -> list[Reject]:
    """The rejects of a batch."""
    return [
        Reject(entry_id.decode(), pairs_of(fields), rejection.reason, rejection.detail)
        for (entry_id, fields), rejection in rejected
    ]


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
