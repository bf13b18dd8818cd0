"""Log entries, decoded and checked: the form in which the fold takes them (contract sections 2 and 3)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, final

import msgspec

from kinfold_projections.records import TRUSTED
from kinfold_schemas.codec import decode_events
from kinfold_schemas.events import BROWSER, Erased, Event
from kinfold_schemas.identifiers import CONTRACT_RULES, IdentifierRules
from kinfold_schemas.names import Names, named_by
from kinfold_schemas.rejections import Rejection
from kinfold_schemas.times import EPOCH, LAST_MS, MILLISECONDS, YEAR_2000_MS, to_ms, to_text

EVENT_FIELD: Final = b"event"

ERASED_ID: Final = "\0\0"
"""Before the hash of an erased event's id: a namespace of its own. No id contains a NUL."""

NEVER_OCCURRED: Final = Rejection("invalid", "event", "an event", "one that was rejected, and erased since")

_SECOND_CHARS: Final = len("2026-11-22T08:00:00")

_YEAR_2000: Final = datetime(2000, 1, 1, tzinfo=UTC)

_NETWORK_MS: Final = 60_000
"""A smaller difference is network delay, not a wrong clock."""
_NEARLY_A_MINUTE: Final = timedelta(seconds=59)
_LONG_AGO: Final = timedelta(days=1, seconds=1)
_DAY_MS: Final = 86_400_000
_BROWSER_PAST_MS: Final = 7 * _DAY_MS
"""How far back a page can date its events."""
_HISTORY_MS: Final = _DAY_MS
"""A greater difference means history that is sent again with its original `sentAt`."""


@final
class Entry(msgspec.Struct, frozen=True, gc=False):
    """A valid entry: its event, the identifiers in it, and its effective time, in ms and as text."""

    id: str
    event_id: str
    """The event's own id, or the entry's. A page's event has a NUL before it, which no id contains: a namespace of its own."""
    data: bytes
    """The event as it was written."""
    event: Event
    names: Names
    at_ms: int
    at: str
    seen_at: str
    """`at`, or the entry's own time if the event's time is unknown. Such an event sets only what is not set yet, and dates
    nothing."""
    stamp: int
    """The stamp of everything that the event sets (`records.TRUSTED`)."""

    @property
    def is_trusted(self) -> bool:
        """Whether the event came from a source other than a page."""
        return self.stamp >= TRUSTED


class BadEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry that folds to nothing in any state."""

    id: str
    rejection: Rejection
    event_id: str = ""
    data: bytes = b""


def read_entry(entry_id: bytes, fields: Mapping[bytes, bytes], rules: IdentifierRules = CONTRACT_RULES) -> Entry | BadEntry:
    """Decode one log entry, as Redis returns it. Total: it returns for any bytes."""
    (entry,) = read_entries([(entry_id, fields)], rules)
    return entry


def read_entries(
    raws: Sequence[tuple[bytes, Mapping[bytes, bytes]]], rules: IdentifierRules = CONTRACT_RULES
) -> list[Entry | BadEntry]:
    """Decode log entries, as Redis returns them, in order. Total: it returns for any bytes."""
    entries: list[Entry | BadEntry] = []
    clock = _Clock()
    ms_prefix, entry_ms = "-", 0
    datas = [fields.get(EVENT_FIELD, b"") for _, fields in raws]
    for (entry_id, fields), data, event in zip(raws, datas, decode_events(datas), strict=True):
        text_id = entry_id.decode()
        if type(event) is Rejection:
            if EVENT_FIELD not in fields:
                got = f"an entry without that field ({len(fields)} others)"
                event = Rejection("no-event-field", "event", "one JSON object", got)  # noqa: PLW2901
            entries.append(BadEntry(text_id, event))
            continue
        names = named_by(event, rules)
        if type(names) is Rejection:
            entries.append(BadEntry(text_id, names))
            continue
        if not text_id.startswith(ms_prefix):
            ms_text = text_id.partition("-")[0]
            ms_prefix, entry_ms = f"{ms_text}-", int(ms_text)
            clock.enter(entry_ms)
        at_ms, at = clock.effective(event.at, event.sent_at)
        event_id, stamp = event.id or text_id, at_ms + TRUSTED
        if event.source is not None and event.source == BROWSER:
            earliest_ms = min(entry_ms, LAST_MS) - _BROWSER_PAST_MS
            if at_ms < earliest_ms and at_ms != YEAR_2000_MS:
                at_ms, at = earliest_ms, to_text(earliest_ms)
            event_id, stamp = f"\0{event_id}", at_ms
        if type(event) is Erased:
            if not event.occurred:
                entries.append(BadEntry(text_id, NEVER_OCCURRED))
                continue
            event_id = f"{ERASED_ID}{event.id}"
        seen_at = at if at_ms != YEAR_2000_MS else to_text(min(entry_ms, LAST_MS))
        entries.append(Entry(text_id, event_id, data, event, names, at_ms, at, seen_at, stamp))
    return entries


class _Clock:
    """Computes effective times. Entries of one batch are close in time, so what holds for a whole second is computed once."""

    def __init__(self) -> None:
        self._entry_ms = self._entry_second_ms = -1000
        self._last_ms = 0
        """The latest effective time of an event in this entry."""
        self._history = self._soonest = self._latest = EPOCH
        """Limits for the entry's second: a `sentAt` before the first, or between the other two, shows no wrong clock."""
        self._second, self._second_ms, self._text = _YEAR_2000, YEAR_2000_MS, to_text(YEAR_2000_MS)[:_SECOND_CHARS]
        """The second of recent values of `at`, in three forms."""

    def enter(self, entry_ms: int) -> None:
        """Go on to the entries of this millisecond."""
        self._entry_ms, self._last_ms = entry_ms, min(entry_ms, LAST_MS)
        if not 0 <= entry_ms - self._entry_second_ms < 1000:  # noqa: PLR2004
            self._entry_second_ms = entry_ms - entry_ms % 1000
            now = EPOCH + timedelta(milliseconds=min(self._entry_second_ms, LAST_MS - 60_000))
            self._history, self._soonest, self._latest = now - _LONG_AGO, now - _NEARLY_A_MINUTE, now + _NEARLY_A_MINUTE

    def effective(self, at: datetime | None, sent_at: datetime | None) -> tuple[int, str]:
        """The effective time of an event (contract section 3), within what RFC 3339 can write.

        A right clock is left alone, however long the network took. A wrong one is corrected by its own `sentAt`.
        """
        if at is None:
            return self._last_ms, to_text(self._last_ms)
        past = at - self._second
        if past.days or past.seconds:
            said_ms = to_ms(at)
            if not YEAR_2000_MS <= said_ms <= LAST_MS:
                return self._limited(said_ms, sent_at)
            self._second_ms = said_ms - said_ms % 1000
            self._second = EPOCH + timedelta(milliseconds=self._second_ms)
            self._text = to_text(self._second_ms)[:_SECOND_CHARS]
            past = at - self._second
        ms = past.microseconds // 1000
        said_ms = self._second_ms + ms
        if sent_at is None or (sent_at <= self._latest if sent_at >= self._soonest else sent_at < self._history):
            if said_ms < self._last_ms:
                return said_ms, self._text + MILLISECONDS[ms]
            return self._last_ms, to_text(self._last_ms)
        return self._limited(said_ms, sent_at)

    def _limited(self, said_ms: int, sent_at: datetime | None) -> tuple[int, str]:
        """As `effective`, for any time."""
        at_ms = self._last_ms
        if said_ms >= YEAR_2000_MS:
            at_ms = min(at_ms, said_ms if sent_at is None else _corrected(said_ms, to_ms(sent_at), self._entry_ms))
        return at_ms, to_text(at_ms)


def _corrected(at_ms: int, sent_ms: int, entry_ms: int) -> int:
    """`at`, corrected by what the same clock showed when the event was sent."""
    offset_ms = entry_ms - sent_ms
    is_wrong = offset_ms < -_NETWORK_MS or _NETWORK_MS < offset_ms <= _HISTORY_MS
    return max(at_ms + offset_ms, 0) if is_wrong and sent_ms >= at_ms else at_ms
