"""What the fold knows: the part of a workspace's state that a batch names, and what the fold changed in it.

In a test a `State()` is a whole workspace, kept in dictionaries. In the projector it holds what was loaded for one batch;
`take_changes` then says what is to be written.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from kinfold_projections import members
from kinfold_projections.duplicates import DuplicateWindow
from kinfold_projections.members import Membership
from kinfold_projections.metadata import Metadata
from kinfold_projections.records import ContactRecord, VisitorRecord, new_visitor
from kinfold_schemas.canonical import metadata_hash
from kinfold_schemas.contacts import MergedContact
from kinfold_schemas.identifiers import email_key
from kinfold_schemas.times import MINUTE_CHARS


class DamagedState(LookupError):
    """The state names a contact that it does not hold. The fold cannot have done that; `kinfold replay` rebuilds it."""


class StateChanges(msgspec.Struct):
    """What is to be written, each thing once, in its last form."""

    visitors: list[VisitorRecord]
    contacts: list[ContactRecord | MergedContact]
    created: list[str]
    """The ids of those contacts that were not there before."""
    seen: list[ContactRecord]
    """Those of them that were seen last in another minute than before: where they stand in `recent` changes."""
    external_ids: dict[str, str]
    emails: dict[str, str | None]
    """By `email_key`; None where an address became free."""
    members: dict[str, bool]
    """Of the sorted set `members`: whether each is in it now."""


class State:
    """Visitors, contacts and identifiers of one workspace."""

    def __init__(self, workspace: str) -> None:
        self.workspace: Final = workspace
        self.visitors: Final[dict[str, VisitorRecord]] = {}
        self.contacts: Final[dict[str, ContactRecord | MergedContact]] = {}
        self.external_ids: Final[dict[str, str]] = {}
        self.emails: Final[dict[str, str]] = {}
        self.older: Final[dict[str, list[Membership]]] = {}
        """By contact id: the memberships that follow the listed ones (`members`)."""
        self.window: Final = DuplicateWindow()
        self._changed_visitors: dict[str, VisitorRecord] = {}
        self._changed_contacts: dict[str, ContactRecord | MergedContact] = {}
        self._created: list[str] = []
        self._seen: dict[str, None] = {}
        self._changed_external_ids: dict[str, str] = {}
        self._changed_emails: dict[str, str | None] = {}
        self._changed_members: dict[str, bool] = {}

    # --- reading

    def find(self, contact_id: str) -> str:
        """The id of the living contact that `contact_id` has become. Raises DamagedState where there is none."""
        return self.contact(contact_id).id

    def contact(self, contact_id: str) -> ContactRecord:
        """The living contact that `contact_id` has become. Raises DamagedState where there is none."""
        contact = self.contacts.get(contact_id)
        if isinstance(contact, ContactRecord):
            return contact
        while isinstance(contact, MergedContact):
            contact_id = contact.merged_into
            contact = self.contacts.get(contact_id)
        if contact is None:
            message = f"contact {contact_id}: found nothing, though the state names it; kinfold replay rebuilds the state"
            raise DamagedState(message)
        return contact

    def by_external_id(self, external_id: str) -> ContactRecord | None:
        """The contact that has this external id."""
        contact_id = self.external_ids.get(external_id)
        return None if contact_id is None else self.contact(contact_id)

    def by_email(self, email: str) -> ContactRecord | None:
        """The contact that has this address, however it is written."""
        contact_id = self.emails.get(email_key(email))
        return None if contact_id is None else self.contact(contact_id)

    def visitor(self, visitor_id: str, at: str) -> VisitorRecord:
        """The visitor, changed by an event at a time: there from now on, its seen times widened."""
        visitor = self.visitors.get(visitor_id)
        if visitor is None:
            visitor = self.visitors[visitor_id] = new_visitor(visitor_id, at)
        elif at > visitor.last_seen_at:
            visitor.last_seen_at = at
        elif at < visitor.first_seen_at:
            visitor.first_seen_at = at
        self._changed_visitors[visitor_id] = visitor
        return visitor

    # --- changing

    def put_contact(self, contact: ContactRecord | MergedContact) -> None:
        """The contact is new, or has changed."""
        if contact.id not in self.contacts:
            self._created.append(contact.id)
            self._seen[contact.id] = None
        self.contacts[contact.id] = self._changed_contacts[contact.id] = contact

    def widen(self, contact: ContactRecord, first_at: str, last_at: str) -> None:
        """Widens a contact's seen times."""
        if last_at > contact.last_seen_at:
            if last_at[:MINUTE_CHARS] != contact.last_seen_at[:MINUTE_CHARS]:
                self._seen[contact.id] = None
            contact.last_seen_at = last_at
            self._changed_contacts[contact.id] = contact
        if first_at < contact.first_seen_at:
            contact.first_seen_at = first_at
            self._changed_contacts[contact.id] = contact

    def put_metadata(self, contact: ContactRecord, metadata: Metadata) -> None:
        """The contact's metadata is this, and so is its hash."""
        if metadata.values is not contact.metadata:
            contact.metadata = metadata.values
            contact.metadata_hash = metadata_hash(metadata.values)
        contact.metadata_stamps = metadata.stamps
        self.put_contact(contact)

    def put_external_id(self, external_id: str, contact_id: str) -> None:
        """The external id is the contact's."""
        self.external_ids[external_id] = self._changed_external_ids[external_id] = contact_id

    def put_email(self, email: str, contact_id: str) -> None:
        """The address is the contact's."""
        address = email_key(email)
        self.emails[address] = self._changed_emails[address] = contact_id

    def free_email(self, email: str) -> None:
        """The address is nobody's."""
        address = email_key(email)
        self.emails.pop(address, None)
        self._changed_emails[address] = None

    def add_visitor(self, contact: ContactRecord, link_contact_id: str, since: str, visitor_id: str) -> None:
        """The visitor is the contact's now, by a link that names `link_contact_id` (the contact, or one merged into it)."""
        members.add(contact, self.older.setdefault(contact.id, []), Membership(since, visitor_id))
        self._changed_members[members.member(link_contact_id, since, visitor_id)] = True
        self.put_contact(contact)

    def remove_visitor(self, contact: ContactRecord, link_contact_id: str, since: str, visitor_id: str) -> None:
        """The visitor is the contact's no longer."""
        members.remove(contact, self.older.setdefault(contact.id, []), Membership(since, visitor_id))
        self._changed_members[members.member(link_contact_id, since, visitor_id)] = False
        self.put_contact(contact)

    def unite_visitors(self, contact: ContactRecord, merged: ContactRecord) -> None:
        """The merged contact's visitors are the contact's now."""
        if merged.visitor_count:
            newest = merged.visitor_since[0]
            self._changed_members[members.merged_member(contact.id, newest, merged.id)] = True
            self.older[contact.id] = members.unite(
                contact, self.older.get(contact.id, []), merged, self.older.pop(merged.id, [])
            )
        self.put_contact(contact)

    def take_changes(self) -> StateChanges:
        """What changed since the last call."""
        changes = StateChanges(
            list(self._changed_visitors.values()),
            list(self._changed_contacts.values()),
            self._created,
            [contact for each in self._seen if type(contact := self.contacts[each]) is ContactRecord],
            self._changed_external_ids,
            self._changed_emails,
            self._changed_members,
        )
        self._changed_visitors, self._changed_contacts, self._created, self._seen = {}, {}, [], {}
        self._changed_external_ids, self._changed_emails, self._changed_members = {}, {}, {}
        return changes

    def clear(self) -> None:
        """Holds nothing any more but which events it has seen: the next batch is loaded anew.

        Only for what is taken: nothing may have changed since `take_changes`.
        """
        self.older.clear()
        for records in (self.visitors, self.contacts, self.external_ids, self.emails):
            records.clear()

    def living_contacts(self) -> Iterable[ContactRecord]:
        """Every contact that is held and not merged."""
        return (contact for contact in self.contacts.values() if isinstance(contact, ContactRecord))
