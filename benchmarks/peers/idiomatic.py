"""The same contract as an idiomatic FastStream service: one message at a time, pydantic models, one Redis pipeline per event.

    python benchmarks/peers/idiomatic.py URL [WORKSPACE]

It is what a competent engineer writes in an afternoon, and nothing is slow on purpose. It loads the records that an event names
in one pipeline and their contacts in a second one, and writes state, feed and position in one transaction. It validates, keeps
an effective time for each metadata key, links, merges, reports conflicts, computes the hash, and drops no-ops and duplicates.

It leaves out the following, which would all make it slower: a second projector that takes over (it does not watch the
position), the history of a visitor's links (a late event belongs to the current contact), effective times of name and address,
ties by entry id, normalising and blocked identifiers, limits, visitors of a contact beyond the newest hundred (no older one
moves up), presence, removed keys that late events bring back, the exact window of duplicates (a week here), the number format
of RFC 8785, and the reasons of rejects.
"""

import hashlib
import json
import sys
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import uvloop
from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.annotations import RedisStreamMessage
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from redis.asyncio import Redis

Primitive = str | int | float | bool | None
Identifier = Annotated[str, Field(min_length=1, max_length=255)]


class Model(BaseModel):
    """Base of the models; fields are camelCase on the wire."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Common(Model):
    """The fields of all events."""

    id: str | None = None
    at: AwareDatetime | None = None
    sent_at: AwareDatetime | None = None


class VisitorSeen(Common):
    """A visitor was seen."""

    type: Literal["VisitorSeen"]
    visitor_id: Identifier
    context: dict[str, Primitive] = {}


class VisitorIdentified(Common):
    """A visitor was identified."""

    type: Literal["VisitorIdentified"]
    visitor_id: Identifier | None = None
    external_id: Identifier | None = None
    email: str | None = None
    name: str | None = None
    image: str | None = None
    metadata: dict[str, Primitive] = {}
    unset: list[str] = []


class MetadataSet(Common):
    """Metadata was set on a visitor or a contact."""

    type: Literal["MetadataSet"]
    visitor_id: Identifier | None = None
    external_id: Identifier | None = None
    email: str | None = None
    contact_id: str | None = None
    metadata: dict[str, Primitive] = {}
    unset: list[str] = []


Event = Annotated[VisitorSeen | VisitorIdentified | MetadataSet, Field(discriminator="type")]
EVENTS: Final[TypeAdapter[VisitorSeen | VisitorIdentified | MetadataSet]] = TypeAdapter(Event)


class Visitor(Model):
    """A stored visitor."""

    id: str
    contact_id: str | None = None
    metadata: dict[str, Primitive] = {}
    stamps: dict[str, int] = {}
    context: dict[str, Primitive] = {}
    context_ms: int = -1
    first_seen_at: datetime
    last_seen_at: datetime


class Contact(Model):
    """A stored contact."""

    id: str
    external_id: str | None = None
    email: str | None = None
    name: str | None = None
    image: str | None = None
    metadata: dict[str, Primitive] = {}
    stamps: dict[str, int] = {}
    metadata_hash: str = hashlib.sha256(b"{}").hexdigest()
    visitor_count: int = 0
    visitor_ids: list[str] = []
    first_seen_at: datetime
    last_seen_at: datetime
    created_at: datetime
    updated_at: datetime
    version: int = 0
    merged_into: str | None = None


class Service:
    """The fold of one workspace."""

    def __init__(self, redis: Redis, workspace: str) -> None:
        self.redis: Final = redis
        self.prefix: Final = f"kinfold:{{{workspace}}}:"

    async def handle(self, entry_id: str, data: str) -> None:
        """Fold one event."""
        try:
            event = EVENTS.validate_json(data)
        except ValidationError as error:
            await self.reject(entry_id, data, str(error))
            return
        if event.id and not await self.redis.set(f"{self.prefix}seen:{event.id}", 1, nx=True, ex=604_800):
            return
        at = effective(entry_id, event)
        fold = Fold(entry_id, at)
        await self.load(fold, event)
        if isinstance(event, VisitorSeen):
            fold.seen(event)
        elif isinstance(event, VisitorIdentified):
            fold.identified(event)
        else:
            fold.metadata_set(event)
        await self.save(fold)

    async def load(self, fold: "Fold", event: VisitorSeen | VisitorIdentified | MetadataSet) -> None:
        """Load the records that the event names, and their contacts."""
        external_id, email = getattr(event, "external_id", None), getattr(event, "email", None)
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.hget(self.prefix + "visitors", event.visitor_id or "")
            pipe.hget(self.prefix + "external-ids", external_id or "")
            pipe.hget(self.prefix + "emails", (email or "").lower())
            visitor, by_external_id, by_email = await pipe.execute()
        if visitor is not None:
            fold.visitor = Visitor.model_validate_json(visitor)
        contact_id = getattr(event, "contact_id", None)
        ids = [fold.visitor.contact_id if fold.visitor else None, by_external_id, by_email, contact_id]
        async with self.redis.pipeline(transaction=False) as pipe:
            for each in filter(None, ids):
                pipe.hget(self.prefix + "contacts", each)
            loaded = iter(await pipe.execute())
        found = [await self.living(next(loaded)) if each else None for each in ids]
        known = {each.id: each for each in found if each is not None}
        fold.holder, fold.by_external_id, fold.by_email, fold.by_id = (known[each.id] if each else None for each in found)

    async def living(self, data: str | None) -> Contact | None:
        """Load a contact, or the one that it was merged into."""
        contact = Contact.model_validate_json(data) if data is not None else None
        while contact is not None and contact.merged_into is not None:
            survivor: Any = await self.redis.hget(self.prefix + "contacts", contact.merged_into)
            contact = Contact.model_validate_json(survivor)
        return contact

    async def save(self, fold: "Fold") -> None:
        """Write state, feed and position in one transaction."""
        async with self.redis.pipeline(transaction=True) as pipe:
            if fold.visitor is not None:
                pipe.hset(self.prefix + "visitors", fold.visitor.id, fold.visitor.model_dump_json(by_alias=True))
            for contact in fold.changed.values():
                pipe.hset(self.prefix + "contacts", contact.id, contact.model_dump_json(by_alias=True))
                if contact.external_id and contact.merged_into is None:
                    pipe.hset(self.prefix + "external-ids", contact.external_id, contact.id)
                if contact.email and contact.merged_into is None:
                    pipe.hset(self.prefix + "emails", contact.email.lower(), contact.id)
            if fold.freed:
                pipe.hdel(self.prefix + "emails", *fold.freed)
            for change in fold.changes:
                pipe.xadd(self.prefix + "changes", {"change": change}, maxlen=1_000_000, approximate=True)
            pipe.hset(self.prefix + "position", "stream_id", fold.entry_id)
            await pipe.execute()

    async def reject(self, entry_id: str, data: str, reason: str) -> None:
        """Keep an entry that cannot be folded."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.xadd(self.prefix + "rejects", {"event": data, "entry": entry_id, "reason": reason})
            pipe.hset(self.prefix + "position", "stream_id", entry_id)
            await pipe.execute()


class Fold:
    """One event, the records that it loads, and its effects."""

    def __init__(self, entry_id: str, at: datetime) -> None:
        self.entry_id: Final = entry_id
        self.at: Final = at
        self.ms: Final = int(at.timestamp() * 1000)
        self.visitor: Visitor | None = None
        self.holder: Contact | None = None
        self.by_external_id: Contact | None = None
        self.by_email: Contact | None = None
        self.by_id: Contact | None = None
        self.changed: dict[str, Contact] = {}
        self.freed: list[str] = []
        self.changes: list[str] = []

    def seen(self, event: VisitorSeen) -> None:
        """Fold a VisitorSeen."""
        visitor = self.touch_visitor(event.visitor_id)
        if event.context and self.ms >= visitor.context_ms:
            visitor.context, visitor.context_ms = event.context, self.ms
        if self.holder is not None:
            self.touch(self.holder)

    def metadata_set(self, event: MetadataSet) -> None:
        """Fold a MetadataSet."""
        if event.visitor_id is not None and self.holder is None:
            visitor = self.touch_visitor(event.visitor_id)
            patch(visitor.metadata, visitor.stamps, event.metadata, event.unset, self.ms)
            return
        contact = self.holder or self.by_external_id or self.by_email or self.by_id
        if contact is None and event.contact_id is not None:
            return
        is_new = contact is None
        contact = contact or self.new_contact()
        contact.external_id, contact.email = contact.external_id or event.external_id, contact.email or event.email
        if event.visitor_id is not None:
            self.touch_visitor(event.visitor_id)
        self.touch(contact)
        changed = self.apply(contact, event)
        if is_new:
            self.tell("ContactCreated", contact)
        elif changed:
            self.tell("ContactUpdated", contact, changed=changed)

    def identified(self, event: VisitorIdentified) -> None:
        """Fold a VisitorIdentified: choose the contact, merge, and link the visitor."""
        contact, is_new = self.target(event)
        before = contact.model_dump(include={"external_id", "email", "name", "image"})
        contact.external_id = contact.external_id or event.external_id
        merged, conflict = self.take_email(contact, event.email)
        contact.name, contact.image = event.name or contact.name, event.image or contact.image
        self.touch(contact)
        previous = self.link(contact, event.visitor_id) if event.visitor_id is not None else None
        changed = self.apply(contact, event) + [name for name, value in before.items() if getattr(contact, name) != value]
        if is_new:
            self.tell("ContactCreated", contact)
        elif changed:
            self.tell("ContactUpdated", contact, changed=changed)
        if previous is not None:
            self.tell("VisitorLinked", contact, visitorId=event.visitor_id)
            if self.holder is not None:
                self.tell("VisitorUnlinked", self.holder, visitorId=event.visitor_id, nextContactId=contact.id)
        if merged is not None:
            self.tell("ContactsMerged", contact, mergedContactId=merged.id)
        if conflict is not None:
            self.tell("IdentityConflict", contact, email=event.email, heldBy=conflict.id)

    def target(self, event: VisitorIdentified) -> tuple[Contact, bool]:
        """The first table of contract section 5."""
        if event.external_id is None:
            found = self.by_email
        elif self.by_external_id is not None:
            found = self.by_external_id
        else:
            found = self.by_email if self.by_email is not None and self.by_email.external_id is None else None
        return (found, False) if found is not None else (self.new_contact(), True)

    def take_email(self, contact: Contact, email: str | None) -> tuple[Contact | None, Contact | None]:
        """The second table: the contact that is merged into this one, and the one that keeps the address."""
        if email is None or self.by_email is contact:
            return None, None
        holder = self.by_email
        if holder is not None and holder.external_id is not None:
            return None, holder
        if contact.email is not None:
            self.freed.append(contact.email.lower())
        contact.email = email
        if holder is not None:
            self.merge(contact, holder)
        return holder, None

    def merge(self, contact: Contact, merged: Contact) -> None:
        """Merge another contact into this one."""
        for name, ms in merged.stamps.items():
            if ms > contact.stamps.get(name, -1):
                contact.stamps[name] = ms
                contact.metadata[name] = merged.metadata[name]
        contact.visitor_ids = [*merged.visitor_ids, *contact.visitor_ids][:100]
        contact.visitor_count += merged.visitor_count
        contact.first_seen_at = min(contact.first_seen_at, merged.first_seen_at)
        contact.last_seen_at = max(contact.last_seen_at, merged.last_seen_at)
        contact.created_at = min(contact.created_at, merged.created_at)
        merged.merged_into = contact.id
        self.changed[merged.id] = merged

    def link(self, contact: Contact, visitor_id: str) -> Visitor | None:
        """Link the visitor, unless it is already linked to this contact."""
        visitor = self.touch_visitor(visitor_id)
        if self.holder is contact:
            return None
        if self.holder is not None:
            self.holder.visitor_ids = [each for each in self.holder.visitor_ids if each != visitor_id]
            self.holder.visitor_count -= 1
            self.touch(self.holder)
        else:
            contact.first_seen_at = min(contact.first_seen_at, visitor.first_seen_at)
            patch(contact.metadata, contact.stamps, visitor.metadata, [], self.ms)
            visitor.metadata = {}
        visitor.contact_id = contact.id
        contact.visitor_ids = [visitor_id, *contact.visitor_ids][:100]
        contact.visitor_count += 1
        return visitor

    def apply(self, contact: Contact, event: VisitorIdentified | MetadataSet) -> list[str]:
        """Patch the metadata; returns the changed fields."""
        before = dict(contact.metadata)
        patch(contact.metadata, contact.stamps, event.metadata, event.unset, self.ms)
        canonical = json.dumps(contact.metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        contact.metadata_hash = hashlib.sha256(canonical.encode()).hexdigest()
        names = before.keys() | contact.metadata.keys()
        return [f"metadata.{name}" for name in sorted(names) if before.get(name, ...) != contact.metadata.get(name, ...)]

    def touch_visitor(self, visitor_id: str) -> Visitor:
        """The visitor, marked as seen."""
        visitor = self.visitor = self.visitor or Visitor(id=visitor_id, first_seen_at=self.at, last_seen_at=self.at)
        visitor.first_seen_at, visitor.last_seen_at = min(visitor.first_seen_at, self.at), max(visitor.last_seen_at, self.at)
        return visitor

    def touch(self, contact: Contact) -> None:
        """The contact, marked as seen and to be written."""
        contact.first_seen_at, contact.last_seen_at = min(contact.first_seen_at, self.at), max(contact.last_seen_at, self.at)
        self.changed[contact.id] = contact

    def new_contact(self) -> Contact:
        """Create a contact for this entry."""
        contact_id = "ct_" + hashlib.sha256(self.entry_id.encode()).hexdigest()[:26]
        at = self.at
        return Contact(id=contact_id, first_seen_at=at, last_seen_at=at, created_at=at, updated_at=at)

    def tell(self, change: str, contact: Contact, **more: object) -> None:
        """Add a change to the feed, with the whole contact."""
        contact.version += 1
        contact.updated_at = max(contact.updated_at, self.at)
        self.changed[contact.id] = contact
        fields = {"type": change, "contactId": contact.id, "version": contact.version, "at": self.at.isoformat()}
        shown = contact.model_dump(mode="json", by_alias=True, exclude={"stamps", "merged_into"})
        self.changes.append(json.dumps({**fields, "cause": self.entry_id, "contact": shown, **more}))


def patch(
    metadata: dict[str, Primitive], stamps: dict[str, int], values: dict[str, Primitive], unset: list[str], ms: int
) -> None:
    """Patch metadata: the last write wins, by key."""
    for name, value in values.items():
        if ms >= stamps.get(name, -1):
            metadata[name], stamps[name] = value, ms
    for name in unset:
        if ms >= stamps.get(name, -1):
            metadata.pop(name, None)
            stamps.pop(name, None)


def effective(entry_id: str, event: Common) -> datetime:
    """The effective time of the event."""
    logged = datetime.fromtimestamp(int(entry_id.partition("-")[0]) / 1000, UTC)
    if event.at is None:
        return logged
    if event.sent_at is None:
        return min(event.at, logged)
    return logged - max(event.sent_at - event.at, event.at - event.at)


async def serve(url: str, workspace: str) -> None:
    """Fold the workspace until a signal."""
    broker = RedisBroker(url, logger=None)
    redis = Redis.from_url(url, decode_responses=True)
    service = Service(redis, workspace)
    position: Any = await redis.hget(service.prefix + "position", "stream_id")
    stream = StreamSub(service.prefix + "events", last_id=position or "0-0", max_records=100, polling_interval=2000)

    @broker.subscriber(stream=stream)
    async def on_entry(body: dict[str, str], message: RedisStreamMessage) -> None:
        await service.handle(message.raw_message["message_ids"][0].decode(), body["event"])

    await FastStream(broker, logger=None).run()
    await redis.aclose()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "default"))
