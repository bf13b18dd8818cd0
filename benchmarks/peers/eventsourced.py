"""The same fold with the package `eventsourcing`: visitors, contacts and identifiers are aggregates, stored in SQLite.

It gets every advantage: events come from memory and are decoded by kinfold's codec; all aggregates stay in an unlimited cache
without copies; and the effects of a thousand events are saved in one transaction. It reads no stream, writes no feed and has no
position. It also leaves out everything that `peers/idiomatic.py` leaves out, duplicates, and the visitors of tombstones. In
return it keeps the history of every aggregate.
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate, event

from kinfold_schemas.canonical import metadata_hash
from kinfold_schemas.events import Event, EventsExcluded, MetadataSet, VisitorIdentified, VisitorSeen

SAVED_AT_ONCE: Final = 1000


@lru_cache(maxsize=1_000_000)
def aggregate_id(kind: str, name: str) -> UUID:
    """The id of the aggregate with this name."""
    return uuid5(NAMESPACE_URL, f"/{kind}/{name}")


class Visitor(Aggregate):
    """A device or browser."""

    @event("Began")
    def __init__(self, name: str, at_ms: int) -> None:
        self.name = name
        self.contact_id = ""
        self.metadata: dict[str, Any] = {}
        self.stamps: dict[str, int] = {}
        self.context: dict[str, Any] = {}
        self.context_ms = -1
        self.first_ms = self.last_ms = at_ms

    @staticmethod
    def create_id(name: str) -> UUID:
        """Required by the library."""
        return aggregate_id("visitor", name)

    @event("Seen")
    def see(self, at_ms: int, context: dict[str, Any] | None) -> None:
        """Note that it was seen."""
        self.first_ms, self.last_ms = min(self.first_ms, at_ms), max(self.last_ms, at_ms)
        if context and at_ms >= self.context_ms:
            self.context, self.context_ms = context, at_ms

    @event("Linked")
    def link(self, contact_id: str) -> None:
        """Link the visitor to a contact."""
        self.contact_id = contact_id
        self.metadata, self.stamps = {}, {}

    @event("MetadataPatched")
    def patch(self, at_ms: int, metadata: dict[str, Any]) -> None:
        """Set metadata while the visitor is anonymous."""
        self.metadata, self.stamps = self.metadata | metadata, self.stamps | dict.fromkeys(metadata, at_ms)


class Contact(Aggregate):
    """A person."""

    @event("Created")
    def __init__(self, name: str, at_ms: int) -> None:
        self.name = name
        self.external_id: str | None = None
        self.email: str | None = None
        self.metadata: dict[str, Any] = {}
        self.stamps: dict[str, int] = {}
        self.metadata_hash = metadata_hash({})
        self.visitors: list[str] = []
        self.merged_into = ""
        self.first_ms = self.last_ms = at_ms

    @staticmethod
    def create_id(name: str) -> UUID:
        """Required by the library."""
        return aggregate_id("contact", name)

    @event("Named")
    def call(self, external_id: str | None, email: str | None) -> None:
        """Set the identifiers."""
        self.external_id, self.email = external_id, email

    @event("Seen")
    def see(self, at_ms: int) -> None:
        """Note that it was seen."""
        self.first_ms, self.last_ms = min(self.first_ms, at_ms), max(self.last_ms, at_ms)

    @event("MetadataPatched")
    def patch(self, at_ms: int, metadata: dict[str, Any], removed: list[str]) -> None:
        """Patch the metadata."""
        self.metadata = {name: value for name, value in (self.metadata | metadata).items() if name not in removed}
        self.stamps = self.stamps | dict.fromkeys([*metadata, *removed], at_ms)
        self.metadata_hash = metadata_hash(self.metadata)

    @event("VisitorAdded")
    def add(self, visitor: str) -> None:
        """Add a visitor."""
        self.visitors = [visitor, *self.visitors][:100]

    @event("VisitorRemoved")
    def remove(self, visitor: str) -> None:
        """Remove a visitor."""
        self.visitors = [each for each in self.visitors if each != visitor]

    @event("Merged")
    def merge(self, into: str) -> None:
        """Merge the contact into another one."""
        self.merged_into = into


class Identifier(Aggregate):
    """The contact of an external id or an address."""

    @event("Taken")
    def __init__(self, name: str, contact: str) -> None:
        self.name = name
        self.contact = contact

    @staticmethod
    def create_id(name: str) -> UUID:
        """Required by the library."""
        return aggregate_id("identifier", name)

    @event("Moved")
    def move(self, contact: str) -> None:
        """Assign the identifier to a contact, or to none with ''."""
        self.contact = contact


class Identities(Application[UUID]):
    """The fold."""

    env: ClassVar[dict[str, str]] = {
        "PERSISTENCE_MODULE": "eventsourcing.sqlite",
        "AGGREGATE_CACHE_MAXSIZE": "0",
        "AGGREGATE_CACHE_FASTFORWARD": "n",
        "DEEPCOPY_FROM_AGGREGATE_CACHE": "n",
    }

    def __init__(self, path: Path) -> None:
        super().__init__(env={"SQLITE_DBNAME": str(path)})
        self._decode: Final = msgspec.json.Decoder(Event).decode
        self._held: Final[dict[UUID, Any]] = {}
        self._count = 0

    def fold(self, events: Sequence[bytes]) -> float:
        """Fold and save events; returns the seconds."""
        started = time.perf_counter()
        for first in range(0, len(events), SAVED_AT_ONCE):
            self._held.clear()
            now_ms = time.time_ns() // 1_000_000
            for data in events[first : first + SAVED_AT_ONCE]:
                self._count += 1
                self._evolve(self._decode(data), now_ms)
            self.save(*self._held.values())
        return time.perf_counter() - started

    def _evolve(self, said: Event, now_ms: int) -> None:
        at_ms = now_ms
        if said.at is not None and said.sent_at is not None:
            at_ms -= max(0, (said.sent_at - said.at) // timedelta(milliseconds=1))
        if isinstance(said, VisitorSeen):
            self._seen(said, at_ms)
        elif isinstance(said, VisitorIdentified):
            self._identified(said, at_ms)
        elif not isinstance(said, EventsExcluded):
            self._metadata_set(said, at_ms)

    def _seen(self, said: VisitorSeen, at_ms: int) -> None:
        visitor = self._visitor(said.visitor_id, at_ms)
        visitor.see(at_ms, said.context)
        if visitor.contact_id:
            self._living(visitor.contact_id).see(at_ms)

    def _metadata_set(self, said: MetadataSet, at_ms: int) -> None:
        visitor = self._visitor(said.visitor_id, at_ms) if said.visitor_id else None
        if visitor is not None and not visitor.contact_id:
            visitor.patch(at_ms, said.metadata or {})
            return
        by_name = visitor.contact_id if visitor is not None else said.contact_id or self._holder(said.external_id, said.email)
        contact = self._living(by_name) if by_name else self._create(said.external_id, said.email, at_ms)
        self._patch(contact, at_ms, said.metadata, said.unset)

    def _identified(self, said: VisitorIdentified, at_ms: int) -> None:
        x = self._by(said.external_id)
        e = self._by(said.email.lower() if said.email else None)
        contact = (e if said.external_id is None else x) or (e if e is not None and e.external_id is None else None)
        if contact is None:
            free = said.email if e is None else None
            contact = self._create(said.external_id, free, at_ms)
        elif contact.external_id is None and said.external_id is not None:
            contact.call(said.external_id, contact.email)
            self._take(said.external_id, contact)
        if (
            said.email is not None
            and (e is None or (e is not contact and e.external_id is None))
            and contact.email != said.email
        ):
            if contact.email is not None:
                self._identifier(contact.email.lower(), "").move("")
            contact.call(contact.external_id, said.email)
            self._take(said.email.lower(), contact)
        if e is not None and e is not contact and e.external_id is None:
            self._merge(contact, e, at_ms)
        contact.see(at_ms)
        if said.visitor_id is not None:
            self._link(contact, self._visitor(said.visitor_id, at_ms), at_ms)
        self._patch(contact, at_ms, said.metadata, said.unset)

    def _merge(self, contact: Contact, merged: Contact, at_ms: int) -> None:
        newer = {name: merged.metadata[name] for name in merged.metadata if merged.stamps[name] > contact.stamps.get(name, -1)}
        self._patch(contact, at_ms, newer, None)
        for visitor in merged.visitors:
            contact.add(visitor)
        merged.merge(contact.name)

    def _link(self, contact: Contact, visitor: Visitor, at_ms: int) -> None:
        visitor.see(at_ms, None)
        previous = self._living(visitor.contact_id) if visitor.contact_id else None
        if previous is contact:
            return
        if previous is not None:
            previous.remove(visitor.name)
        else:
            self._patch(contact, at_ms, visitor.metadata, None)
        visitor.link(contact.name)
        contact.add(visitor.name)

    @staticmethod
    def _patch(contact: Contact, at_ms: int, metadata: dict[str, Any] | None, unset: list[str] | None) -> None:
        said = {name: value for name, value in (metadata or {}).items() if at_ms >= contact.stamps.get(name, -1)}
        removed = [name for name in unset or () if name in contact.metadata and at_ms >= contact.stamps[name]]
        missing = object()
        if removed or any(contact.metadata.get(name, missing) != value for name, value in said.items()):
            contact.patch(at_ms, said, removed)

    def _create(self, external_id: str | None, email: str | None, at_ms: int) -> Contact:
        contact = Contact(f"ct_{self._count}", at_ms)
        self._held[contact.id] = contact
        contact.call(external_id, email)
        for name in (external_id, email.lower() if email else None):
            if name is not None:
                self._take(name, contact)
        return contact

    def _holder(self, external_id: str | None, email: str | None) -> str:
        contact = self._by(external_id or (email or "").lower())
        return contact.name if contact is not None else ""

    def _by(self, name: str | None) -> Contact | None:
        found: Identifier | None = self._find("identifier", name) if name is not None else None
        return self._living(found.contact) if found is not None and found.contact else None

    def _living(self, name: str) -> Contact:
        contact: Contact = self._find("contact", name)
        return self._living(contact.merged_into) if contact.merged_into else contact

    def _take(self, name: str, contact: Contact) -> None:
        found = self._identifier(name, contact.name)
        if found.contact != contact.name:
            found.move(contact.name)

    def _identifier(self, name: str, contact: str) -> Identifier:
        found: Identifier | None = self._find("identifier", name)
        if found is None:
            found = Identifier(name, contact)
            self._held[found.id] = found
        return found

    def _visitor(self, name: str, at_ms: int) -> Visitor:
        found: Visitor | None = self._find("visitor", name)
        if found is None:
            found = Visitor(name, at_ms)
            self._held[found.id] = found
        return found

    def _find(self, kind: str, name: str) -> Any:
        found_id = aggregate_id(kind, name)
        found = self._held.get(found_id)
        if found is None:
            try:
                found = self.repository.get(found_id, deepcopy_from_cache=False)
            except AggregateNotFoundError:
                return None
            self._held[found_id] = found
        return found
