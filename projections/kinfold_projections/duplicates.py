"""The window in which an event is a duplicate (contract section 3): the 65,536 entries before it.

An event is a duplicate where one with its id and the same content is among those. The same id with other content is another
event, which a producer gave an id that was taken.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from kinfold_schemas.events import Event, EventsExcluded, MetadataSet, VisitorIdentified, VisitorSeen
from kinfold_schemas.times import EPOCH

WINDOW_ENTRIES: Final = 65_536

Occurrence = Literal["new", "duplicate", "id-reused"]
"""What an entry's event is to the entries before it. id-reused: its id occurred, with other content only."""

_DIGEST_BITS: Final = 64
_DIGEST_MASK: Final = 2**_DIGEST_BITS - 1

_encode: Final = msgspec.json.Encoder(order="deterministic").encode

_CONTENT: Final[Mapping[type[Event], Callable[[Any], tuple[Any, ...]]]] = {
    VisitorSeen: lambda event: ("VisitorSeen", event.visitor_id, event.context),
    VisitorIdentified: lambda event: (
        "VisitorIdentified",
        event.visitor_id,
        event.external_id,
        event.email,
        event.name,
        event.image,
        event.metadata,
        event.unset,
    ),
    MetadataSet: lambda event: (
        "MetadataSet",
        event.visitor_id,
        event.external_id,
        event.email,
        event.contact_id,
        event.metadata,
        event.unset,
        event.hash,
    ),
    EventsExcluded: lambda event: ("EventsExcluded", event.entries, event.reason),
}


def content_digest(event: Event) -> int:
    """64 bits of what an event says: every field but `id`, by which it is looked up, and `sentAt`, which a retry stamps anew.

    Of the decoded event, so that neither the order of its keys nor its white space matters. Python's own hash will do: it is
    good for one process alone, but so is the window, which each process reads from the log. Digests of one id are compared with
    each other and with no others, so an event is lost to a collision once in 2^64 re-used ids; and since the hash has a random
    key, nobody can make one on purpose.
    """
    at = None if event.at is None else event.at - EPOCH  # one instant, whatever offset it was written with
    return hash(_encode((at, _CONTENT[event.__class__](event)))) & _DIGEST_MASK


class _Generation:
    """A part of the log."""

    __slots__ = ("latest", "others")

    def __init__(self) -> None:
        self.latest: Final[dict[str, int]] = {}
        """By event id: the number of the last entry that had it, and the digest of what it said, in one integer (131,072 of
        them are kept, and a pair of two would take twice the memory)."""
        self.others: Final[dict[tuple[str, int], int]] = {}
        """By event id and digest: the number of the last entry with these, where another entry had the id after it."""

    def last_seen(self, event_id: str, digest: int) -> int | None:
        """The number of the last entry with this id and digest."""
        latest = self.latest.get(event_id)
        if latest is not None and latest & _DIGEST_MASK == digest:
            return latest >> _DIGEST_BITS
        return self.others.get((event_id, digest))


class DuplicateWindow:
    """Remembers which events occurred in which entry, for at least the last 65,536 entries.

    Two generations: when the young one is a window old, the old one is dropped whole. So memory is bounded by two windows, and
    nothing has to be taken out one at a time.
    """

    def __init__(self) -> None:
        self._entries = 0
        self._young = _Generation()
        self._old = _Generation()
        self._rotate_at = WINDOW_ENTRIES

    def skip(self) -> None:
        """One more entry of the log that has no id, since no event could be read from it."""
        self._next()

    def enter(self, event_id: str, digest: int) -> Occurrence:
        """One more entry of the log, and what its event is to the entries before. From now on it has occurred."""
        entries = self._next()
        young = self._young.latest
        before = young.get(event_id) or self._old.latest.get(event_id)
        if before is not None and entries - (before >> _DIGEST_BITS) <= WINDOW_ENTRIES:
            occurrence = self._occurred(event_id, digest)
        else:
            occurrence = "new"
        young[event_id] = entries << _DIGEST_BITS | digest
        return occurrence

    def _next(self) -> int:
        entries = self._entries = self._entries + 1
        if entries > self._rotate_at:
            self._old, self._young = self._young, _Generation()
            self._rotate_at = entries + WINDOW_ENTRIES
        return entries

    def _occurred(self, event_id: str, digest: int) -> Occurrence:
        """Which of the two it is, for an id that occurred within the window. Keeps what the entry is about to replace."""
        last_seen = self._young.last_seen(event_id, digest) or self._old.last_seen(event_id, digest)
        latest = self._young.latest.get(event_id)
        if latest is not None and latest & _DIGEST_MASK != digest:
            self._young.others[event_id, latest & _DIGEST_MASK] = latest >> _DIGEST_BITS
        return "duplicate" if last_seen is not None and self._entries - last_seen <= WINDOW_ENTRIES else "id-reused"
