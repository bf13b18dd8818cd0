"""The window in which an event is a duplicate (contract section 3): the 65,536 entries of its kind before it.

An event is a duplicate if an event with its id and the same content is among those. The same id with other content is another
event, whose producer reused an id. Pages and trusted sources have a window each, so a page cannot take a backend's event ids,
or push them out.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from kinfold_projections.entries import ERASED_ID, BadEntry, Entry
from kinfold_schemas.codec import decode_event
from kinfold_schemas.events import Erased
from kinfold_schemas.rejections import Rejection
from kinfold_schemas.times import EPOCH

WINDOW_ENTRIES: Final = 65_536
_LOOKED_BACK: Final = 2
LOOKBACK_ENTRIES: Final = _LOOKED_BACK * WINDOW_ENTRIES
"""No window reaches further back in the log. A projector that starts reads this many entries again."""

Occurrence = Literal["new", "duplicate", "id-reused"]
"""How an event relates to the entries before it. id-reused: its id occurred, but only with other content."""

_NONE: Final[Mapping[int, Occurrence]] = {}
_FIRST_ID: Final = "\1"
"""The least id of a trusted event: an id has no NUL."""
_LONG_ID_CHARS: Final = 64
_LONG_BYTES: Final = 512
"""Longer events are remembered by digest: up to 131,072 events of each source are remembered, and each could have 64 KiB."""

_encode: Final = msgspec.json.Encoder(order="deterministic").encode

_Content = bytes | int
"""An event as written, which costs nothing to keep, or the digest of its content."""


class Occurred(NamedTuple):
    """What is left of an event for a window, where the event itself is gone. It tells neither its id nor its content."""

    id: str
    """`erased_id` of the event."""
    content: str
    """`erased_content` of the event, in hex."""
    salt: str
    is_trusted: bool


def occurred(entry: Entry | BadEntry, salt: str) -> Occurred | None:
    """What to keep of an entry for a window; None for an entry that is not an event."""
    if not isinstance(entry, Entry):
        return None
    if isinstance(entry.event, Erased):
        event = entry.event
        return Occurred(entry.event_id.removeprefix(ERASED_ID), event.content or "0", event.salt, entry.is_trusted)
    return Occurred(erased_id(salt, entry.event_id), erased_content(salt, entry), salt, entry.is_trusted)


class _Generation:
    """A part of the log."""

    __slots__ = ("contents", "numbers", "others")

    def __init__(self) -> None:
        self.numbers: Final[dict[str, int]] = {}
        """By event id: the number of the last entry with it."""
        self.contents: Final[dict[str, _Content]] = {}
        """By event id: the content of the same entry."""
        self.others: Final[dict[tuple[str, int], int]] = {}
        """By event id and digest: the number of the last entry with both, if a later entry had the id."""

    def last_seen(self, event_id: str, digest: int) -> int:
        """The number of the last entry with this id and digest; 0 if there is none."""
        if event_id in self.numbers and _digest_of(self.contents[event_id]) == digest:
            return self.numbers[event_id]
        return self.others.get((event_id, digest), 0)


class DuplicateWindow:
    """Remembers the events of at least the last 65,536 entries of each source, among the last 131,072 entries of the log."""

    def __init__(self) -> None:
        self._entries = 0
        self._trusted = _Source()
        self._browser = _Source()

    def enter(self, entries: Sequence[Entry | BadEntry]) -> Mapping[int, Occurrence]:
        """Enter the next entries of the log. Returns those that are not new, by index.

        A bad entry has no source, and its id does not count as used.
        """
        if self._trusted.enter_new(entries, self._entries + 1):
            self._entries += len(entries)
            return _NONE
        occurrences: dict[int, Occurrence] = {}
        for index, entry in enumerate(entries):
            self._entries += 1
            if isinstance(entry, Entry):
                source = self._trusted if entry.is_trusted else self._browser
                if (occurrence := source.enter(entry, self._entries)) != "new":
                    occurrences[index] = occurrence
        return occurrences

    def recall(self, items: Sequence[Occurred | None]) -> None:
        """Enter what is left of the next entries of the log, whose events are gone. None: an entry that is not an event."""
        for item in items:
            self._entries += 1
            if item is not None:
                source = self._trusted if item.is_trusted else self._browser
                source.recall(item, self._entries)


class _Source:
    """The window of one source.

    There are two generations. When the young one holds a whole window, the old one is dropped at once. So memory is bounded by
    two windows, and no entry has to be removed by itself.
    """

    def __init__(self) -> None:
        self._entries = 0
        self._young = _Generation()
        self._old = _Generation()
        self._rotate_at = WINDOW_ENTRIES
        self._salts: Final[dict[str, int]] = {}
        """Of the erased events in the window: the number of the last entry with each."""
        self._run_starts: Final = [0]
        self._run_leads: Final = [0]
        """By how much an entry's number in the log is ahead of its number here, from each start on."""

    def enter_new(self, entries: Sequence[Entry | BadEntry], number: int) -> bool:
        """Enter all entries at once if nothing about them is unusual, as nearly always. `number` is that of the first."""
        first, young = self._entries + 1, self._young
        if first + len(entries) > self._rotate_at or self._salts:
            return False
        contents = {entry.event_id: entry.data for entry in entries}
        if (
            len(contents) < len(entries)
            or min(contents, default="") < _FIRST_ID  # a bad entry, or a page's
            or not young.numbers.keys().isdisjoint(contents)
            or not self._old.numbers.keys().isdisjoint(contents)
            or max(map(len, contents)) > _LONG_ID_CHARS
            or max(map(len, contents.values())) > _LONG_BYTES
        ):
            return False
        young.numbers.update(zip(contents, range(first, first + len(entries)), strict=True))
        young.contents.update(contents)
        self._entries += len(entries)
        self._note_lead(first, number - first)
        return True

    def enter(self, entry: Entry, number: int) -> Occurrence:
        """Enter one entry, number `number` of the log. Returns how it relates to those before it."""
        if isinstance(entry.event, Erased):
            event = entry.event
            self._enter_gone(entry.event_id, event.content, event.salt, self._next(number))
            return "new"
        own = self._next(number)
        event_id, young = entry.event_id, self._young
        if len(event_id) > _LONG_ID_CHARS:
            event_id = hashlib.sha256(event_id.encode()).hexdigest()
        occurrence: Occurrence = "new"
        content: _Content = entry.data
        if self._is_within(young.numbers.get(event_id) or self._old.numbers.get(event_id, 0), number):
            content = _digest_of(entry.data)
            last_seen = young.last_seen(event_id, content) or self._old.last_seen(event_id, content)
            occurrence = "duplicate" if self._is_within(last_seen, number) else "id-reused"
            if event_id in young.numbers:  # this entry takes its place
                young.others[event_id, _digest_of(young.contents[event_id])] = young.numbers[event_id]
        young.numbers[event_id] = own
        young.contents[event_id] = content if len(entry.data) <= _LONG_BYTES else _digest_of(content)
        if self._salts and occurrence != "duplicate" and (found := self._among_gone(entry, number)) != "new":
            return found
        return occurrence

    def recall(self, item: Occurred, number: int) -> None:
        """Enter what is left of an event, which was the log's `number`th entry."""
        self._enter_gone(ERASED_ID + item.id, item.content, item.salt, self._next(number))

    def _next(self, number: int) -> int:
        """The number here of the log's `number`th entry, which is the next one of this source."""
        own = self._entries = self._entries + 1
        self._note_lead(own, number - own)
        if own > self._rotate_at:
            self._rotate(own)
        return own

    def _enter_gone(self, event_id: str, content: str | None, salt: str, own: int) -> None:
        young = self._young
        if event_id in young.numbers:
            young.others[event_id, _digest_of(young.contents[event_id])] = young.numbers[event_id]
        young.numbers[event_id], young.contents[event_id] = own, int(content or "0", 16)
        self._salts[salt] = own

    def _among_gone(self, entry: Entry, number: int) -> Occurrence:
        """How an event relates to the events in the window that are gone: erased, or cut."""
        found: Occurrence = "new"
        for salt in self._salts:
            event_id = ERASED_ID + erased_id(salt, entry.event_id)
            if not self._is_within(self._young.numbers.get(event_id) or self._old.numbers.get(event_id, 0), number):
                continue
            content = int(erased_content(salt, entry), 16)
            if self._is_within(self._young.last_seen(event_id, content) or self._old.last_seen(event_id, content), number):
                return "duplicate"
            found = "id-reused"
        return found

    def _is_within(self, before: int, number: int) -> bool:
        """Whether an entry, by its number here (0: none), is in the window of the log's entry `number`, the latest."""
        if not before or before < self._entries - WINDOW_ENTRIES:
            return False
        lead = self._run_leads[bisect_right(self._run_starts, before) - 1]
        return before + lead >= number - _LOOKED_BACK * WINDOW_ENTRIES

    def _note_lead(self, own: int, lead: int) -> None:
        if lead != self._run_leads[-1]:
            self._run_starts.append(own)
            self._run_leads.append(lead)

    def _rotate(self, own: int) -> None:
        self._old, self._young = self._young, _Generation()
        self._rotate_at = own + WINDOW_ENTRIES
        for salt in [salt for salt, last in self._salts.items() if last < own - WINDOW_ENTRIES]:
            del self._salts[salt]
        past = bisect_right(self._run_starts, own - WINDOW_ENTRIES) - 1
        if past > 0:
            del self._run_starts[:past], self._run_leads[:past]


def erased_id(salt: str, event_id: str) -> str:
    """The hash that an erased event has in place of its id (`Entry.event_id`)."""
    return hashlib.blake2b(event_id.encode(), digest_size=8, key=salt.encode()).hexdigest()


def erased_content(salt: str, entry: Entry) -> str:
    """The hash of an event's id and content. It tells a resend of an erased event."""
    said = b"%b\0%d" % (entry.event_id.encode(), _digest_of(entry.data))
    return hashlib.blake2b(said, digest_size=16, key=salt.encode()).hexdigest()


def _digest_of(content: _Content) -> int:
    """The digest of an event's content.

    The content is every field but `id` (the lookup's key), `sentAt` (a retry sets it again) and `source`. It is computed from
    the decoded event, so neither the order of keys nor white space matters.
    """
    if isinstance(content, int):
        return content
    event = decode_event(content)
    assert not isinstance(event, Rejection)  # noqa: S101  only good entries have an id
    at = None if event.at is None else event.at - EPOCH  # the same instant in any offset
    said = _encode((at, msgspec.structs.replace(event, id=None, at=None, sent_at=None, source=None)))
    return int.from_bytes(hashlib.sha256(said).digest())
