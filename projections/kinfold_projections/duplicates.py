"""The window in which an event is a duplicate (contract section 3): the 65,536 entries before it.

An event is a duplicate where one with its id and the same content is among those. The same id with other content is another
event, to which a producer gave an id that was taken.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from kinfold_projections.entries import BadEntry, Entry
from kinfold_schemas.codec import decode_event
from kinfold_schemas.rejections import Rejection
from kinfold_schemas.times import EPOCH

WINDOW_ENTRIES: Final = 65_536

Occurrence = Literal["new", "duplicate", "id-reused"]
"""What an entry's event is to the entries before it. id-reused: its id occurred, with other content only."""

_NONE: Final[Mapping[int, Occurrence]] = {}
_LONG_ID_CHARS: Final = 64
_LONG_BYTES: Final = 512
"""Up to 131,072 events are remembered, and each could have 64 KiB: of longer ones a digest is."""

_encode: Final = msgspec.json.Encoder(order="deterministic").encode

_Content = bytes | int
"""An event as it was written, which costs nothing to keep, or the digest of what it says."""


class _Generation:
    """A part of the log."""

    __slots__ = ("contents", "numbers", "others")

    def __init__(self) -> None:
        self.numbers: Final[dict[str, int]] = {}
        """By event id: the number of the last entry that had it."""
        self.contents: Final[dict[str, _Content]] = {}
        """By event id, of the same entry."""
        self.others: Final[dict[tuple[str, int], int]] = {}
        """By event id and digest: the number of the last entry with these, where another entry had the id after it."""

    def last_seen(self, event_id: str, digest: int) -> int:
        """The number of the last entry with this id and digest; 0 where there is none."""
        if event_id in self.numbers and _digest_of(self.contents[event_id]) == digest:
            return self.numbers[event_id]
        return self.others.get((event_id, digest), 0)


class DuplicateWindow:
    """Remembers the events of the last 65,536 entries, at least.

    Two generations: when the young one is a window old, the old one is dropped whole. So memory is bounded by two windows, and
    nothing is taken out one at a time.
    """

    def __init__(self) -> None:
        self._entries = 0
        self._young = _Generation()
        self._old = _Generation()
        self._rotate_at = WINDOW_ENTRIES

    def enter(self, entries: Sequence[Entry | BadEntry]) -> Mapping[int, Occurrence]:
        """The next entries of the log: which of them are not new, by index. From now on they have occurred.

        A bad entry counts as one, and its id does not occur.
        """
        return _NONE if self._enter_new(entries) else self._enter_each(entries)

    def _enter_new(self, entries: Sequence[Entry | BadEntry]) -> bool:
        """Enters them all at once where nothing about them is unusual, as nearly always."""
        first, young = self._entries + 1, self._young
        if first + len(entries) > self._rotate_at:
            return False
        contents = {entry.event_id: entry.data for entry in entries}
        if (
            len(contents) < len(entries)
            or "" in contents
            or not young.numbers.keys().isdisjoint(contents)
            or not self._old.numbers.keys().isdisjoint(contents)
            or max(map(len, contents), default=0) > _LONG_ID_CHARS
            or max(map(len, contents.values()), default=0) > _LONG_BYTES
        ):
            return False
        young.numbers.update(zip(contents, range(first, first + len(entries)), strict=True))
        young.contents.update(contents)
        self._entries += len(entries)
        return True

    def _enter_each(self, entries: Sequence[Entry | BadEntry]) -> Mapping[int, Occurrence]:
        occurrences: dict[int, Occurrence] = {}
        for index, entry in enumerate(entries):
            number = self._entries = self._entries + 1
            if number > self._rotate_at:
                self._old, self._young = self._young, _Generation()
                self._rotate_at = number + WINDOW_ENTRIES
            if isinstance(entry, Entry) and (occurrence := self._enter_one(number, entry)) != "new":
                occurrences[index] = occurrence
        return occurrences

    def _enter_one(self, number: int, entry: Entry) -> Occurrence:
        event_id, young = entry.event_id, self._young
        if len(event_id) > _LONG_ID_CHARS:
            event_id = hashlib.sha256(event_id.encode()).hexdigest()
        earliest = number - WINDOW_ENTRIES
        occurrence: Occurrence = "new"
        content: _Content = entry.data
        if (young.numbers.get(event_id) or self._old.numbers.get(event_id, 0)) >= max(earliest, 1):
            content = _digest_of(entry.data)
            last_seen = young.last_seen(event_id, content) or self._old.last_seen(event_id, content)
            occurrence = "duplicate" if last_seen >= max(earliest, 1) else "id-reused"
            if event_id in young.numbers:  # this entry takes its place
                young.others[event_id, _digest_of(young.contents[event_id])] = young.numbers[event_id]
        young.numbers[event_id] = number
        young.contents[event_id] = content if len(entry.data) <= _LONG_BYTES else _digest_of(content)
        return occurrence


def _digest_of(content: _Content) -> int:
    """Of what an event says: every field but `id`, by which it is looked up, and `sentAt`, which a retry stamps anew.

    Of the decoded event, so that neither the order of its keys nor its white space matters.
    """
    if isinstance(content, int):
        return content
    event = decode_event(content)
    assert not isinstance(event, Rejection)  # noqa: S101  only good entries have an id
    at = None if event.at is None else event.at - EPOCH  # one instant, in any offset that it was written with
    said = _encode((at, msgspec.structs.replace(event, id=None, at=None, sent_at=None)))
    return int.from_bytes(hashlib.sha256(said).digest())
