"""Log entries, read and judged: the form in which the fold takes them (contract sections 2 and 3)."""

from collections.abc import Mapping
from typing import Final

import msgspec

from kinfold_schemas.codec import decode_event
from kinfold_schemas.events import Event
from kinfold_schemas.identifiers import CONTRACT_RULES, IdentifierRules
from kinfold_schemas.names import Names, named_by
from kinfold_schemas.rejections import Rejection
from kinfold_schemas.times import LAST_MS, YEAR_2000_MS, to_ms, to_text

EVENT_FIELD: Final = b"event"

_NETWORK_MS: Final = 60_000
"""A difference up to this is the network's, and not the clock's."""
_HISTORY_MS: Final = 86_400_000
"""Beyond this difference the event is history that is sent again, with the `sentAt` of its time."""

Stamp = tuple[int, int, int]
"""When a value was set: effective time in ms, then the log entry's id (ms, seq). The greatest wins (contract section 3)."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A good entry: its event, whom that names, and its effective time as `stamp` and as text."""

    id: str
    event: Event
    names: Names
    stamp: Stamp
    at: str


class BadEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry that folds to nothing, whatever the state is."""

    id: str
    rejection: Rejection


def read_entry(entry_id: bytes, fields: Mapping[bytes, bytes], rules: IdentifierRules = CONTRACT_RULES) -> Entry | BadEntry:
    """Reads one log entry, as Redis gives it. Total: whatever the bytes are, it returns."""
    text_id = entry_id.decode()
    data = fields.get(EVENT_FIELD)
    if data is None:
        got = f"an entry without that field ({len(fields)} others)"
        return BadEntry(text_id, Rejection("no-event-field", "event", "one JSON object", got))
    event = decode_event(data)
    if type(event) is Rejection:
        return BadEntry(text_id, event)
    names = named_by(event, rules)
    if type(names) is Rejection:
        return BadEntry(text_id, names)
    ms, _, seq = text_id.partition("-")
    entry_ms = int(ms)
    effective = effective_ms(entry_ms, event)
    return Entry(text_id, event, names, (effective, entry_ms, int(seq)), to_text(effective))


def effective_ms(entry_ms: int, event: Event) -> int:
    """When an event counts as having happened (contract section 3, Effective time), within what RFC 3339 can write.

    A clock that is right is left alone, however long the network took; one that is wrong is corrected by what it says itself.
    """
    effective = entry_ms
    if event.at is not None and (at_ms := to_ms(event.at)) >= YEAR_2000_MS:
        if event.sent_at is not None and (sent_ms := to_ms(event.sent_at)) >= at_ms:
            offset_ms = entry_ms - sent_ms
            if offset_ms < -_NETWORK_MS or _NETWORK_MS < offset_ms <= _HISTORY_MS:
                at_ms += offset_ms
        effective = min(at_ms, entry_ms)
    return effective if 0 <= effective <= LAST_MS else min(max(effective, 0), LAST_MS)
