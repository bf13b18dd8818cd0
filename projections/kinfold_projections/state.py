"""What the fold knows: visitors, contacts and identifiers of one workspace, and what the fold changed in them.

In a test and in a replay, a `State` is the whole workspace. In the projector, it holds what batches have named so far and is
closed under references: a visitor, an external id or an address is held with every contact that it leads to, through all
tombstones. `take_changes` returns what is to be written.
"""

from collections.abc import Container, Iterable, Iterator
from typing import Final

import msgspec

from kinfold_projections import members
from kinfold_projections.duplicates import DuplicateWindow
from kinfold_projections.members import Membership
from kinfold_projections.metadata import Metadata
from kinfold_projections.records import (
    NEVER,
    ContactRecord,
    ContactStamps,
    VisitorRecord,
    VisitorStamps,
    decode_contact,
    decode_contact_stamps,
    decode_visitor,
    decode_visitor_stamps,
    encode_record,
    new_contact,
)
from kinfold_schemas.canonical import metadata_hash
from kinfold_schemas.contacts import ERASED, MAX_CONTACT_BYTES, Link, MergedContact
from kinfold_schemas.times import text_ms

_VISITOR_BYTES: Final = 250
"""About how many bytes a new visitor takes."""
_COUNTERS_BYTES: Final = 32
"""How much more `weights.contact_bytes` may count than a record has."""
LIGHT_BYTES: Final = 24 * 1024
"""A contact of no more than this stays below its limit with an event that is not large, and with what a visitor brings."""
LARGE_BYTES: Final = 4 * _VISITOR_BYTES
"""A smaller event does not make it worthwhile to weigh the visitor again."""


_RECORDS: Final = ("visitors", "visitor_stamps", "contacts", "contact_stamps", "external_ids", "emails", "older")

_FREED_AT_ONCE: Final = 1000
"""How many records `dismantle` frees in a step. It takes about 0.2 ms."""


class _EveryContact:
    def __contains__(self, _contact_id: object) -> bool:
        return True


_EVERY_CONTACT: Final = _EveryContact()


class DamagedState(LookupError):
    """The state names a contact that it does not hold. The fold cannot have done that. `kinfold replay` rebuilds the state."""


def _damaged(contact_id: str) -> DamagedState:
    return DamagedState(f"contact {contact_id} is missing, though the state refers to it; kinfold replay rebuilds the state")


class StateChanges(msgspec.Struct):
    """What is to be written, each thing once, in its last form. None means removal."""

    visitors: dict[str, VisitorRecord] = {}
    visitor_stamps: dict[str, VisitorStamps | None] = {}
    contacts: dict[str, bytes] = {}
    """Encoded: living contacts as the feed shows them, and tombstones. Empty for a living contact if the state has
    `tells=False`."""
    contact_stamps: dict[str, ContactStamps | None] = {}
    external_ids: dict[str, str | None] = {}
    emails: dict[str, str | None] = {}
    """By the key of the address."""
    members: dict[str, bool] = {}
    """Members of the sorted set `members`: whether each is in it now."""
    created: dict[str, bool] = {}
    """Members of the sorted set `created`: True if the contact was created, False if it was merged."""
    new_visitors: int = 0
    new_contacts: int = 0
    new_external_ids: int = 0
    """Minus those that became free."""
    new_emails: int = 0
    """Minus those that became free."""
    merges: int = 0


class State:
    """Visitors, contacts and identifiers of one workspace.

    With `tells=False` the fold makes no changes for the feed, a contact is hashed once, by `take_changes`, and the
    caller encodes it. A replay uses this: it puts the differences on the feed at the end.
    """

    def __init__(self, workspace: str, *, tells: bool = True) -> None:
        self.workspace: Final = workspace
        self.tells: Final = tells
        self.visitors: Final[dict[str, VisitorRecord]] = {}
        self.visitor_stamps: Final[dict[str, VisitorStamps]] = {}
        self.contacts: Final[dict[str, ContactRecord | MergedContact]] = {}
        self.contact_stamps: Final[dict[str, ContactStamps]] = {}
        self.external_ids: Final[dict[str, str | None]] = {}
        """None: a batch freed it, and what is stored may not say so yet."""
        self.emails: Final[dict[str, str | None]] = {}
        """By the key of the address. None: a batch freed it, which may not be stored yet."""
        self.older: Final[dict[str, list[Membership]]] = {}
        """By contact id: the memberships that follow the listed ones (`members`)."""
        self.window: Final = DuplicateWindow()
        self.held_bytes = 0
        """About how many bytes the held records would take encoded."""
        self.told_bytes = 0
        """How many bytes the contacts in the changes for the feed have, since `take_changes`."""
        self._contact_bytes: dict[str, int] = {}
        self._visitor_bytes: dict[str, int] = {}
        """The weight of those that have grown. The others count as they were loaded."""
        self._heavy: Final = set[str]()
        self.heavy: Final[Container[str]] = self._heavy if tells else _EVERY_CONTACT
        """The contacts that may weigh more than `LIGHT_BYTES`. A state that tells nothing does not weigh what it changes."""
        self.described_bytes: Final[dict[str, int]] = {}
        """What a visitor weighs at most without its context, where that may be more than `LARGE_BYTES`."""
        self.large_contexts: Final = set[str]()
        """The visitors whose context may be large."""
        self._changes = StateChanges()

    # --- loading

    def hold_visitor(self, visitor_id: str, record: bytes, stamps: bytes | None) -> None:
        """Add a stored visitor. Raises msgspec.ValidationError for what the fold cannot have written."""
        self.visitors[visitor_id] = decode_visitor(record)
        self.held_bytes += len(record)
        if len(record) > LARGE_BYTES:
            self.described_bytes[visitor_id] = len(record)
            self.large_contexts.add(visitor_id)
        if stamps is not None:
            self.visitor_stamps[visitor_id] = decode_visitor_stamps(stamps)
            self.held_bytes += len(stamps)

    def hold_contact(self, contact_id: str, record: bytes, stamps: bytes | None) -> None:
        """Add a stored contact or tombstone. Raises DamagedState or msgspec.ValidationError if the fold cannot have made it."""
        contact = self.contacts[contact_id] = decode_contact(record)
        self._weigh(contact_id, len(record))
        if type(contact) is ContactRecord:
            if stamps is None:
                raise DamagedState(f"contact {contact_id} has no stamps; kinfold replay rebuilds the state")
            self.contact_stamps[contact_id] = decode_contact_stamps(stamps)
            self.held_bytes += len(stamps)

    def _weigh(self, contact_id: str, size: int) -> None:
        if size > LIGHT_BYTES:
            self._heavy.add(contact_id)
        self.held_bytes += size - self._contact_bytes.get(contact_id, 0)
        self._contact_bytes[contact_id] = size

    def may_exceed(self, contact_id: str, growth: int) -> bool:
        """Whether a contact may become too heavy if an event adds at most `growth` bytes. False is always right."""
        at_most = self._contact_bytes.get(contact_id, MAX_CONTACT_BYTES) + growth
        if not self.tells:  # else it is weighed as it is written
            self._contact_bytes[contact_id] = at_most
        return at_most + _COUNTERS_BYTES > MAX_CONTACT_BYTES

    def note_contact_bytes(self, contact_id: str, size: int) -> None:
        """Note what a contact weighs, before an event adds to it."""
        if not self.tells:
            self._contact_bytes[contact_id] = size

    def contact_bytes_at_most(self, contact_id: str) -> int:
        """What a contact weighs at most, as far as that is known."""
        return self._contact_bytes.get(contact_id, MAX_CONTACT_BYTES)

    def weigh_visitor(self, visitor_id: str, at_most: int) -> None:
        """Note that a visitor may have grown to this many bytes. Weighs it if that is much more than before."""
        known = self._visitor_bytes.get(visitor_id, _VISITOR_BYTES)
        if at_most > LARGE_BYTES and at_most > 1.5 * known:
            size = self._visitor_bytes[visitor_id] = len(encode_record(self.visitors[visitor_id]))
            self.held_bytes += size - known

    # --- reading

    def find(self, contact_id: str) -> str:
        """The id of the living contact that `contact_id` has become. Raises DamagedState if there is none."""
        while True:
            contact = self.contacts.get(contact_id)
            if type(contact) is MergedContact and contact.merged_into != ERASED:
                contact_id = contact.merged_into
            elif contact is not None:
                return contact_id
            else:
                raise _damaged(contact_id)

    def holder(self, contact_id: str) -> ContactRecord | None:
        """As `contact`, but returns None for a contact that was erased."""
        contact = self.contacts.get(contact_id)
        if type(contact) is ContactRecord:
            return contact
        if self.is_erased(contact_id):
            return None
        return self.contact(contact_id)

    def is_erased(self, contact_id: str) -> bool:
        """Whether the contact was erased."""
        contact = self.contacts.get(self.find(contact_id))
        return type(contact) is MergedContact

    def contact(self, contact_id: str) -> ContactRecord:
        """The living contact that `contact_id` has become. Raises DamagedState if there is none."""
        while True:
            contact = self.contacts.get(contact_id)
            if type(contact) is ContactRecord:
                return contact
            if type(contact) is not MergedContact:
                break
            contact_id = contact.merged_into
        raise _damaged(contact_id)

    def by_external_id(self, external_id: str) -> ContactRecord | None:
        """The contact with this external id."""
        contact_id = self.external_ids.get(external_id)
        return None if contact_id is None else self.contact(contact_id)

    def by_email(self, email_key: str) -> ContactRecord | None:
        """The contact with the address of this key."""
        contact_id = self.emails.get(email_key)
        return None if contact_id is None else self.contact(contact_id)

    def living_contacts(self) -> Iterable[ContactRecord]:
        """Yield every contact that is held and not merged."""
        return (contact for contact in self.contacts.values() if type(contact) is ContactRecord)

    # --- changing

    def visitor(self, visitor_id: str, at: str) -> VisitorRecord:
        """The visitor. Creates it, or widens its seen times to an event at `at`."""
        visitor = self.visitors.get(visitor_id)
        if visitor is None:
            visitor = self.visitors[visitor_id] = VisitorRecord(at, at)
            self._changes.new_visitors += 1
            self.held_bytes += _VISITOR_BYTES
        elif at > visitor.last_seen_at:
            visitor.last_seen_at = at
        elif at < visitor.first_seen_at:
            visitor.first_seen_at = at
        self._changes.visitors[visitor_id] = visitor
        return visitor

    def put_visitor_stamps(self, visitor_id: str, stamps: VisitorStamps) -> None:
        """Set the visitor's stamps. Empty ones are not stored."""
        if stamps.metadata or stamps.name_stamp != NEVER or stamps.image_stamp != NEVER or any(stamps.confirmed):
            self.visitor_stamps[visitor_id] = self._changes.visitor_stamps[visitor_id] = stamps
        elif self.visitor_stamps.pop(visitor_id, None) is not None:
            self._changes.visitor_stamps[visitor_id] = None

    def create_contact(self, contact_id: str, at: str) -> ContactRecord:
        """Create a contact for an event at this effective time. The caller reports the change (`changes.ChangeWriter`)."""
        contact = self.contacts[contact_id] = new_contact(contact_id, at)
        self.contact_stamps[contact_id] = self._changes.contact_stamps[contact_id] = ContactStamps()
        self._changes.created[contact_id] = True
        self._changes.new_contacts += 1
        return contact

    def put_erased(self, contact_id: str) -> None:
        """Put the tombstone of an erased contact, unless the state has a contact of that id."""
        if contact_id not in self.contacts:
            tombstone = self.contacts[contact_id] = MergedContact(contact_id, ERASED)
            self._changes.contacts[contact_id] = encode_record(tombstone)
            self._changes.new_contacts += 1
            self._changes.merges += 1

    def write_contact(self, contact: ContactRecord) -> bytes:
        """Note that the contact's record changed, as a change on the feed will show. Returns the record encoded."""
        data = self._changes.contacts[contact.id] = encode_record(contact) if self.tells else b""
        if self.tells:
            self._weigh(contact.id, len(data))
            self.told_bytes += len(data)
        return data

    def stamps_of(self, contact: ContactRecord) -> ContactStamps:
        """The contact's stamps, to be changed."""
        stamps = self._changes.contact_stamps[contact.id] = self.contact_stamps[contact.id]
        return stamps

    def put_metadata(self, contact: ContactRecord, metadata: Metadata) -> ContactStamps:
        """Set the contact's metadata and its hash. Returns the contact's stamps."""
        if metadata.values is not contact.metadata:
            contact.metadata = metadata.values
            contact.metadata_hash = metadata_hash(metadata.values) if self.tells else ""
        stamps = self.stamps_of(contact)
        stamps.metadata = metadata.stamps
        return stamps

    def put_external_id(self, external_id: str, contact_id: str) -> None:
        """Assign the external id to the contact."""
        self.external_ids[external_id] = self._changes.external_ids[external_id] = contact_id
        self._changes.new_external_ids += 1

    def move_external_id(self, external_id: str, contact_id: str) -> None:
        """Assign an external id that another contact has to this contact."""
        self.external_ids[external_id] = self._changes.external_ids[external_id] = contact_id

    def free_external_id(self, external_id: str) -> None:
        """Free the external id."""
        self.external_ids[external_id] = self._changes.external_ids[external_id] = None
        self._changes.new_external_ids -= 1

    def put_email(self, email_key: str, contact_id: str) -> None:
        """Assign the address to the contact."""
        self.emails[email_key] = self._changes.emails[email_key] = contact_id
        self._changes.new_emails += 1

    def free_email(self, email_key: str) -> None:
        """Free the address."""
        self.emails[email_key] = self._changes.emails[email_key] = None
        self._changes.new_emails -= 1

    def add_visitor(self, contact: ContactRecord, link: Link, visitor_id: str) -> None:
        """Add the visitor to the contact, by a link that names the contact or one merged into it."""
        members.add(contact, self.stamps_of(contact), self._older(contact), Membership(text_ms(link.since), visitor_id))
        self._changes.members[members.member(link.contact_id or "", link.since, visitor_id)] = True

    def remove_visitor(self, contact: ContactRecord, link: Link, visitor_id: str) -> None:
        """Remove the visitor from the contact that held it by this link."""
        if not self.tells:  # an older visitor may be listed instead, with a longer id
            self._contact_bytes.pop(contact.id, None)
        members.remove(contact, self.stamps_of(contact), self._older(contact), Membership(text_ms(link.since), visitor_id))
        self._changes.members[members.member(link.contact_id or "", link.since, visitor_id)] = False

    def merge_contact(self, contact: ContactRecord, merged: ContactRecord) -> ContactStamps:
        """Give the contact the visitors of the merged one, which becomes a tombstone. Returns the merged one's stamps."""
        stamps = self.contact_stamps.pop(merged.id)
        self._changes.contact_stamps[merged.id] = None
        if merged.visitor_count:
            self._changes.members[members.merged_member(contact.id, stamps.since[0], merged.id)] = True
            older = self.older.pop(merged.id, [])
            self.older[contact.id] = members.unite(
                contact, self.stamps_of(contact), self._older(contact), merged, stamps, older
            )
        tombstone = self.contacts[merged.id] = MergedContact(merged.id, contact.id)
        self._changes.contacts[merged.id] = encode_record(tombstone)
        self._changes.created[merged.id] = False
        self._changes.merges += 1
        return stamps

    def _older(self, contact: ContactRecord) -> list[Membership]:
        return self.older.setdefault(contact.id, [])

    def take_changes(self) -> StateChanges:
        """Return what changed since the last call. Every contact has its hash now."""
        changes, self._changes = self._changes, StateChanges()
        self.told_bytes = 0
        for contact_id, data in changes.contacts.items() if not self.tells else ():
            if not data:
                contact = self.contact(contact_id)
                contact.metadata_hash = contact.metadata_hash or metadata_hash(contact.metadata)
        return changes

    def replace(self, before: "State", after: "State") -> bool:
        """Put records in the place of others. False if the state does not hold those; then nothing is changed."""
        parts = [(getattr(self, part), getattr(before, part), getattr(after, part)) for part in _RECORDS]
        if any(held.get(each) != record for held, old, _ in parts for each, record in old.items()):
            return False
        for held, old, new in parts:
            for each in old:
                held.pop(each, None)
            held.update(new)
        for each in before.contacts:
            self._contact_bytes.pop(each, None)  # unknown, until an event adds to it
        for each in before.visitors:
            self.described_bytes.pop(each, None)
        self.described_bytes.update(after.described_bytes)
        self.large_contexts.difference_update(before.visitors)
        self.large_contexts.update(after.large_contexts)
        return True

    def dismantle(self) -> Iterator[None]:
        """Empty the state in steps, for a caller that must not pause: to free a million records at once takes half a second."""
        left = _FREED_AT_ONCE
        for part in (self.visitors, self.visitor_stamps, self.contacts, self.contact_stamps, self.external_ids, self.emails):
            while part:
                part.popitem()
                left -= 1
                if not left:
                    left = _FREED_AT_ONCE
                    yield
