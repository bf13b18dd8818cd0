"""From what an entry did to a contact to the changes on the feed, in the order of contract section 6."""

from kinfold_projections.entries import Entry
from kinfold_projections.metadata import changed_keys
from kinfold_projections.records import ContactRecord
from kinfold_schemas.changes import (
    Change,
    ConflictReason,
    ContactCreated,
    ContactSeen,
    ContactsMerged,
    ContactUpdated,
    IdentityConflict,
    VisitorLinked,
    VisitorUnlinked,
)


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
        """The fields that are other than they were, by their names on the feed."""
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
        return self.visitor_ids != self.contact.visitor_ids


class Feed:
    """Collects the changes of one entry. Each call is one change and gives the contact its next version.

    To be called when the entry has done all that it does: a change shows the contact as the whole entry left it.
    """

    __slots__ = ("_at", "_cause", "changes")

    def __init__(self, entry: Entry) -> None:
        self._at = entry.at
        self._cause = entry.id
        self.changes: list[Change] = []

    def created(self, contact: ContactRecord) -> None:
        """ContactCreated."""
        version = self._next_version(contact)
        self.changes.append(
            ContactCreated(contact_id=contact.id, version=version, at=self._at, cause=self._cause, contact=contact.public())
        )

    def updated(self, contact: ContactRecord, changed: list[str]) -> None:
        """ContactUpdated."""
        version = self._next_version(contact)
        self.changes.append(
            ContactUpdated(
                contact_id=contact.id,
                version=version,
                at=self._at,
                cause=self._cause,
                contact=contact.public(),
                changed=changed,
            )
        )

    def linked(self, contact: ContactRecord, visitor_id: str, previous_contact_id: str | None) -> None:
        """VisitorLinked."""
        version = self._next_version(contact)
        self.changes.append(
            VisitorLinked(
                contact_id=contact.id,
                version=version,
                at=self._at,
                cause=self._cause,
                contact=contact.public(),
                visitor_id=visitor_id,
                previous_contact_id=previous_contact_id,
            )
        )

    def unlinked(self, contact: ContactRecord, visitor_id: str, next_contact_id: str) -> None:
        """VisitorUnlinked."""
        version = self._next_version(contact)
        self.changes.append(
            VisitorUnlinked(
                contact_id=contact.id,
                version=version,
                at=self._at,
                cause=self._cause,
                contact=contact.public(),
                visitor_id=visitor_id,
                next_contact_id=next_contact_id,
            )
        )

    def merged(self, contact: ContactRecord, merged_contact_id: str) -> None:
        """ContactsMerged."""
        version = self._next_version(contact)
        self.changes.append(
            ContactsMerged(
                contact_id=contact.id,
                version=version,
                at=self._at,
                cause=self._cause,
                contact=contact.public(),
                merged_contact_id=merged_contact_id,
            )
        )

    def conflict(self, contact: ContactRecord, email: str, held_by: str, reason: ConflictReason | None) -> None:
        """IdentityConflict."""
        version = self._next_version(contact)
        self.changes.append(
            IdentityConflict(
                contact_id=contact.id,
                version=version,
                at=self._at,
                cause=self._cause,
                contact=contact.public(),
                email=email,
                held_by=held_by,
                reason=reason,
            )
        )

    def seen(self, contact: ContactRecord) -> None:
        """ContactSeen: presence has no version of its own."""
        self.changes.append(
            ContactSeen(
                contact_id=contact.id,
                version=contact.version,
                at=self._at,
                cause=self._cause,
                contact=contact.public(),
            )
        )

    def _next_version(self, contact: ContactRecord) -> int:
        contact.version += 1
        contact.updated_at = max(contact.updated_at, self._at)
        return contact.version
