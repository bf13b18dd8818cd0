"""Log entries, read and judged: the form in which the fold takes them (contract sections 2 and 3)."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from kinfold_schemas.codec import decode_event
from kinfold_schemas.events import Event
from kinfold_schemas.identifiers import CONTRACT_RULES, IdentifierRules
from kinfold_schemas.names import Names, named_by
from kinfold_schemas.rejections import Rejection
from kinfold_schemas.times import EPOCH, LAST_MS, MILLISECONDS, YEAR_2000_MS, to_ms, to_text

EVENT_FIELD: Final = b"event"

_SECOND_CHARS: Final = len("2026-11-22T08:00:00")

_NETWORK_MS: Final = 60_000
"""A difference up to this is the network's, and not the clock's."""
_NEARLY_A_MINUTE: Final = timedelta(seconds=59)
_LONG_AGO: Final = timedelta(days=1, seconds=1)
_HISTORY_MS: Final = 86_400_000
"""Beyond this difference the event is history that is sent again, with the `sentAt` of its time."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A good entry: its event, whom that names, and its effective time, in ms and as text."""

    id: str
    event_id: str
    """The event's own id, or the entry's."""
    data: bytes
    """The event as it was written."""
    event: Event
    names: Names
    at_ms: int
    at: str
    seen_at: str
    """`at`, or the entry's own time where the event's is not known: then it sets what is not set yet, and dates nothing."""


class BadEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry that folds to nothing, in any state."""

    id: str
    rejection: Rejection
    event_id: str = ""
    data: bytes = b""


def read_entry(entry_id: bytes, fields: Mapping[bytes, bytes], rules: IdentifierRules = CONTRACT_RULES) -> Entry | BadEntry:
    """Reads one log entry, as Redis gives it. Total: it returns for any bytes."""
    (entry,) = read_entries([(entry_id, fields)], rules)
    return entry


def read_entries(
    raws: Iterable[tuple[bytes, Mapping[bytes, bytes]]], rules: IdentifierRules = CONTRACT_RULES
) -> list[Entry | BadEntry]:
    """Reads log entries, as Redis gives them, in order. Total: it returns for any bytes."""
    entries: list[Entry | BadEntry] = []
    clock = _Clock()
    last_ms_text, entry_ms = "", 0
    for entry_id, fields in raws:
        text_id = entry_id.decode()
        data = fields.get(EVENT_FIELD)
        if data is None:
            got = f"an entry without that field ({len(fields)} others)"
            entries.append(BadEntry(text_id, Rejection("no-event-field", "event", "one JSON object", got)))
            continue
        event = decode_event(data)
        if type(event) is Rejection:
            entries.append(BadEntry(text_id, event))
            continue
        names = named_by(event, rules)
        if type(names) is Rejection:
            entries.append(BadEntry(text_id, names))
            continue
        ms_text = text_id.partition("-")[0]
        if ms_text != last_ms_text:
            last_ms_text, entry_ms = ms_text, int(ms_text)
        at_ms = clock.effective_ms(entry_ms, event)
        at = clock.text(at_ms)
        seen_at = at if at_ms != YEAR_2000_MS else clock.text(min(entry_ms, LAST_MS))
        entries.append(Entry(text_id, event.id or text_id, data, event, names, at_ms, at, seen_at))
    return entries


class _Clock:
    """Effective times of entries. Those of one batch are near each other, so what holds for a second is worked out once."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""
        self._entry_second = -1
        self._history = self._soonest = self._latest = EPOCH

    def text(self, ms: int) -> str:
        """As `kinfold_schemas.times.to_text`."""
        second = ms // 1000
        if second != self._second:
            self._second, self._text = second, to_text(second * 1000)[:_SECOND_CHARS]
        return self._text + MILLISECONDS[ms - second * 1000]

    def effective_ms(self, entry_ms: int, event: Event) -> int:
        """When an event counts as having happened (contract section 3, Effective time), within what RFC 3339 can write.

        A right clock is left alone, however long the network took; a wrong one is corrected by what it says itself.
        """
        at, sent_at = event.at, event.sent_at
        effective = entry_ms
        if at is not None and (at_ms := to_ms(at)) >= YEAR_2000_MS:
            if sent_at is not None and self._may_be_wrong(sent_at, entry_ms) and (sent_ms := to_ms(sent_at)) >= at_ms:
                offset_ms = entry_ms - sent_ms
                if offset_ms < -_NETWORK_MS or _NETWORK_MS < offset_ms <= _HISTORY_MS:
                    at_ms += offset_ms
            if at_ms < entry_ms:
                effective = at_ms
        return effective if 0 <= effective <= LAST_MS else min(max(effective, 0), LAST_MS)

    def _may_be_wrong(self, sent_at: datetime, entry_ms: int) -> bool:
        """False for nearly every clock that is right, and for history that is sent again, by a look at whole seconds."""
        second = entry_ms // 1000
        if second != self._entry_second:
            self._entry_second = second
            now = EPOCH + timedelta(seconds=min(second, LAST_MS // 1000 - 60))
            self._history, self._soonest, self._latest = now - _LONG_AGO, now - _NEARLY_A_MINUTE, now + _NEARLY_A_MINUTE
        return not (sent_at < self._history or self._soonest <= sent_at <= self._latest)
