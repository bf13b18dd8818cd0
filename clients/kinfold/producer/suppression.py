"""Suppression of no-ops: events that say nothing new are not sent.

The contract (section 4) defines a no-op. This is the producer's part: for a limited time, and for a limited number of
identifiers, it remembers the canonical hashes of the events that it sent, and does not send the same again. Three rules:

- An event is compared with what *this producer* sent. If another writer has changed the value, the suppressed event would have
  changed it back, and does not do so until the time to live has passed. Nor does a suppressed event confirm a value at a later
  time (contract section 3): an older value from another writer that arrives late may still win.
- Identifiers that one event names together belong to one person from then on. So `{"plan": "free"}` for the external id makes
  `{"plan": "pro"}` for the visitor new again. If they turn out to be two persons, a few more events are sent, never too few.
  The producer does not know identifiers that only another process named together (a log-in elsewhere, a contact id).
- An event with the caller's own `at` is always sent, and what was remembered about its target is forgotten: which value wins
  depends on times that this producer does not know.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from kinfold.calls.drafts import Draft, fields_of
from kinfold_schemas.canonical import Primitive, canonical_json
from kinfold_schemas.identifiers import email_key, id_key

_MAX_EVENTS: Final = 8
"""How many different events are remembered for one person."""
_MAX_NAMES: Final = 32
"""How many identifiers one person may have. All users of a kiosk share a device, and would otherwise become one person."""


class _Person:
    """What was sent about one person: for each event its hash, what it was about, and when it expires."""

    __slots__ = ("events", "names")

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.events: OrderedDict[bytes, tuple[frozenset[str], float]] = OrderedDict()


class Suppression:
    """Remembers what was sent, for `ttl_s` seconds and at most `entries` identifiers. One thread uses it."""

    def __init__(self, entries: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: Final = entries
        self._ttl_s: Final = ttl_s
        self._clock: Final = clock
        self._people: OrderedDict[str, _Person] = OrderedDict()

    def __len__(self) -> int:
        return len(self._people)

    def is_news(self, draft: Draft) -> bool:
        """Whether to send the event. If so, it counts as sent from now on."""
        event_type, at = draft[:2]
        if event_type == "VisitorSeen" or self._entries == 0:
            return True
        fields = fields_of(draft)
        person = self._join(_names(fields))
        if not isinstance(at, float):
            person.events.clear()
            return True
        now, digest, about = self._clock(), _digest(event_type, fields), _about(event_type, fields)
        known = person.events.get(digest)
        if known is not None and now < known[1]:
            return False
        for other in [other for other, (keys, _) in person.events.items() if keys & about]:
            del person.events[other]
        person.events[digest] = about, now + self._ttl_s
        while len(person.events) > _MAX_EVENTS:
            person.events.popitem(last=False)
        return True

    def forget(self) -> None:
        """Forget everything: an event that counted as sent was not."""
        self._people.clear()

    def _join(self, names: list[str]) -> _Person:
        """The person with these names."""
        known = {id(person): person for name in names if (person := self._people.get(name)) is not None}
        if len(known) == 1:
            person = next(iter(known.values()))
        else:
            # A new person, or several that turn out to be one. What was sent about them may no longer hold.
            person = _Person()
            for other in known.values():
                person.names |= other.names
        person.names.update(names)
        if len(person.names) > _MAX_NAMES:
            for name in person.names:
                self._people.pop(name, None)
            person = _Person()
            person.names.update(names)
        for name in person.names:
            self._people[name] = person
            self._people.move_to_end(name)
        while len(self._people) > self._entries:
            _, oldest = self._people.popitem(last=False)
            for name in oldest.names:
                self._people.pop(name, None)
        return person


def _names(fields: Mapping[str, Any]) -> list[str]:
    ids = ("visitorId", "externalId", "contactId")
    names = [f"{field}:{id_key(cast('str', fields[field]))}" for field in ids if field in fields]
    if "email" in fields:
        names.append(f"email:{email_key(cast('str', fields['email']))}")
    return names


def _about(event_type: str, fields: Mapping[str, Any]) -> frozenset[str]:
    """What the event sets: a later event that sets any of it makes this one new again."""
    keys = {f"metadata.{key}" for field in ("metadata", "unset") for key in cast("Iterable[str]", fields.get(field, ()))}
    keys |= {field for field in ("name", "image") if field in fields}
    if event_type == "VisitorIdentified":
        keys.add("identity")
    return frozenset(keys)


def _digest(event_type: str, fields: Mapping[str, Any]) -> bytes:
    # A flat object, as the canonical JSON of the contract needs it: no field's name has the prefixes of metadata keys.
    flat: dict[str, Primitive] = {"type": event_type}
    for field, value in fields.items():
        if field == "metadata":
            flat.update({f"metadata.{key}": item for key, item in cast("Mapping[str, Primitive]", value).items()})
        elif field == "unset":
            flat.update({f"unset.{key}": True for key in cast("Iterable[str]", value)})
        else:
            flat[field] = cast("str", value)
    return hashlib.sha256(canonical_json(flat)).digest()
