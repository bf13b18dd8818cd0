"""From what an entry did to a contact to the changes on the feed, in the order of contract section 6."""

from typing import Any, cast

import msgspec

from kinfold_projections.entries import Entry
from kinfold_projections.metadata import changed_keys
from kinfold_projections.records import ContactRecord
from kinfold_projections.state import State
from kinfold_schemas.changes import Change, ContactChange, ContactSeen
from kinfold_schemas.contacts import Contact


class Before:
    """A contact as an entry found it, to be compared with what the entry leaves."""

    __slots__ = ("contact", "email", "external_id", "image", "metadata", "name", "visitor_ids")

    def __init__(self, contact: ContactRecord) -> None:
        self.contact = contact
        self.external_id = contact.external_id
        self.email = contact.email
        self.name = contact.name
        self.image = contact.image
        self.metadata = contact.metadata
        self.visitor_ids = contact.visitor_ids

    def changed(self) -> list[str]:
        """The fields that differ now, by their names on the feed."""
        now = self.contact
        names: list[str] = []
        if self.external_id != now.external_id:
            names.append("externalId")
        if self.email != now.email:
            names.append("email")
        if self.name != now.name:
            names.append("name")
        if self.image != now.image:
            names.append("image")
        if self.metadata is not now.metadata:
            names += [f"metadata.{key}" for key in changed_keys(self.metadata, now.metadata)]
        return names

    def reordered(self) -> bool:
        """Whether the listed visitors are others, or the same in another order."""
        return self.visitor_ids is not self.contact.visitor_ids and self.visitor_ids != self.contact.visitor_ids


class ChangeWriter:
    """Tells the changes of one entry, and writes the contact's record with each. Records are written at no other time.

    Use it after the entry has done all its work: a change shows the contact as the whole entry left it.
    """

    __slots__ = ("_about", "_entry", "_state", "changes", "told")

    def __init__(self, state: State, entry: Entry, about: ContactRecord) -> None:
        """`about` is the contact that the entry names or comes from: its changes widen its seen times."""
        self._state = state
        self._entry = entry
        self._about = about
        self.told = False
        self.changes: list[Change] = []
        """Empty where the state tells nothing; `told` says whether there was any."""

    def tell(self, change: type[ContactChange], contact: ContactRecord, **more: Any) -> None:
        """One change of a contact, with the fields of its own; it gives the contact its next version, unless it is presence."""
        entry, state = self._entry, self._state
        self.told = True
        if change is not ContactSeen:
            contact.version += 1
            contact.updated_at = max(contact.updated_at, entry.at)
        if contact is self._about:
            contact.widen(entry.seen_at, entry.seen_at)
        # Encoded once: the feed shows the very bytes that are stored.
        encoded = cast("Contact", msgspec.Raw(state.write_contact(contact)))
        if state.tells:
            told = change(contact_id=contact.id, version=contact.version, at=entry.at, cause=entry.id, contact=encoded, **more)
            self.changes.append(cast("Change", told))
