"""No-op suppression: what says nothing new is not sent at all.

The contract (section 4) says what a no-op is; this is the producer's part of it: it remembers, for a while and for so many
identifiers, the canonical hash of what it sent, and does not send the same again. Three rules keep that honest:

- An event is compared with what *this producer* sent. Another writer may have changed the value in between: then the event
  that is left out would have changed it back, and does not, until the time to live is over. Nor does an event that is left
  out confirm a value at a later time (contract section 3): an older one of another writer, late, may still win against it.
- Identifiers that one of its own events named together are one person from then on, so `{"plan": "free"}` for the external id
  makes `{"plan": "pro"}` for the visitor news again. Where they turn out to be two persons, that costs a few events more and
  never one too few. Of identifiers that only another process named together (a log-in elsewhere, a contact id) it does not
  know that they are one: they are as another writer's.
- An event with an `at` of the caller's own is always sent, and what was known of its target is forgotten: which value wins is
  decided by times that this producer does not know.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from kinfold.drafts import Draft, fields_of
from kinfold_schemas.canonical import Primitive, canonical_json
from kinfold_schemas.identifiers import email_key, id_key

_SAID: Final = 8
"""How many different events of one person are remembered."""
_NAMES: Final = 32
"""How many identifiers of one person are. A kiosk that everybody logs in at would make one person of them all."""


class _Said:
    """What was sent about one person: for each event, its hash, what it was about, and until when it counts."""

    __slots__ = ("events", "names")

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.events: OrderedDict[bytes, tuple[frozenset[str], float]] = OrderedDict()


class Suppression:
    """Remembers what was sent, for `ttl_s` seconds and `entries` identifiers. Used by one thread."""

    def __init__(self, entries: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: Final = entries
        self._ttl_s: Final = ttl_s
        self._clock: Final = clock
        self._people: OrderedDict[str, _Said] = OrderedDict()

    def __len__(self) -> int:
        return len(self._people)

    def is_news(self, draft: Draft) -> bool:
        """Whether the event is to be sent. If so it counts as sent from now on."""
        kind, at = draft[:2]
        if kind == "VisitorSeen" or self._entries == 0:
            return True
        named = fields_of(draft)
        names = _names(named)
        said = self._join(names)
        if not isinstance(at, float):
            said.events.clear()
            return True
        now, digest, about = self._clock(), _digest(kind, named), _about(kind, named)
        known = said.events.get(digest)
        if known is not None and now < known[1]:
            return False
        for other in [other for other, (keys, _) in said.events.items() if keys & about]:
            del said.events[other]
        said.events[digest] = about, now + self._ttl_s
        while len(said.events) > _SAID:
            said.events.popitem(last=False)
        return True

    def forget(self) -> None:
        """Forgets everything: something that counted as sent was not."""
        self._people.clear()

    def _join(self, names: list[str]) -> _Said:
        """What was said about the one person that these are names of."""
        known = {id(said): said for name in names if (said := self._people.get(name)) is not None}
        if len(known) == 1:
            said = next(iter(known.values()))
        else:
            # Two whom we held for different persons, or somebody new. What was said of either may now be otherwise.
            said = _Said()
            for other in known.values():
                said.names |= other.names
        said.names.update(names)
        if len(said.names) > _NAMES:
            for name in said.names:
                self._people.pop(name, None)
            said = _Said()
            said.names.update(names)
        for name in said.names:
            self._people[name] = said
            self._people.move_to_end(name)
        while len(self._people) > self._entries:
            _, oldest = self._people.popitem(last=False)
            for name in oldest.names:
                self._people.pop(name, None)
        return said


def _names(named: Mapping[str, Any]) -> list[str]:
    ids = ("visitorId", "externalId", "contactId")
    names = [f"{field}:{id_key(cast('str', named[field]))}" for field in ids if field in named]
    if "email" in named:
        names.append(f"email:{email_key(cast('str', named['email']))}")
    return names


def _about(kind: str, named: Mapping[str, Any]) -> frozenset[str]:
    """What the event decides: a later event about any of it makes this one news again."""
    keys = {f"metadata.{key}" for field in ("metadata", "unset") for key in cast("Iterable[str]", named.get(field, ()))}
    keys |= {field for field in ("name", "image") if field in named}
    if kind == "VisitorIdentified":
        keys.add("identity")
    return frozenset(keys)


def _digest(kind: str, named: Mapping[str, Any]) -> bytes:
    # Flat, so that it is the canonical JSON of the contract's own hash: metadata keys behind a prefix that no field has.
    flat: dict[str, Primitive] = {"type": kind}
    for field, value in named.items():
        if field == "metadata":
            flat.update({f"metadata.{key}": item for key, item in cast("Mapping[str, Primitive]", value).items()})
        elif field == "unset":
            flat.update({f"unset.{key}": True for key in cast("Iterable[str]", value)})
        else:
            flat[field] = cast("str", value)
    return hashlib.sha256(canonical_json(flat)).digest()
