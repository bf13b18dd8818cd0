"""The changes on the change feed, one per feed entry in the field `change` (contract section 6).

Fields and types may be added. The name, type or meaning of a field never changes. `contact` is the contact after the whole log
entry; several changes that one entry makes to a contact differ only in its `version`.
"""

from typing import Final, Literal

import msgspec

from kinfold_schemas.contacts import Contact


class Correction(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Who corrected the contact by hand, and why."""

    by: str
    reason: str | None = None


class _Change(msgspec.Struct, kw_only=True, frozen=True, rename="camel", tag_field="type", omit_defaults=True, gc=False):
    contact_id: str
    version: int
    at: str
    """Effective time."""
    cause: str
    """The id of the log entry, or `replay`."""
    correction: Correction | None = None
    """Set where the log entry is an `IdentityCorrected`."""


class ContactChange(_Change, kw_only=True, frozen=True, gc=False):
    """A change that shows the contact after it."""

    contact: Contact


class ContactCreated(ContactChange, frozen=True, tag="ContactCreated"):
    """A contact was created."""


class ContactUpdated(ContactChange, frozen=True, tag="ContactUpdated"):
    """Fields of a contact changed; `changed` lists them: `name`, `metadata.plan`, and so on."""

    changed: list[str]


class VisitorLinked(ContactChange, frozen=True, tag="VisitorLinked"):
    """A visitor was linked to the contact; `previous_contact_id` is the contact that it moved from, if any."""

    visitor_id: str
    previous_contact_id: str | None = None


class VisitorUnlinked(ContactChange, frozen=True, tag="VisitorUnlinked"):
    """A visitor moved from the contact to `next_contact_id`. Without it, a correction unlinked the visitor from everybody."""

    visitor_id: str
    next_contact_id: str | None = None


class ContactsMerged(ContactChange, frozen=True, tag="ContactsMerged"):
    """Another contact was merged into this one; `merged_contact_id` is now a tombstone."""

    merged_contact_id: str


ConflictReason = Literal["too-many-merges"]


class IdentityConflict(ContactChange, frozen=True, tag="IdentityConflict"):
    """An event named an address that another contact holds and keeps.

    Without a `reason`, the two contacts have different external ids. With `too-many-merges`, this contact has reached the
    limit of merges (contract section 5).
    """

    email: str
    held_by: str
    reason: ConflictReason | None = None


class ConflictDismissed(ContactChange, frozen=True, tag="ConflictDismissed"):
    """A correction dismissed the conflict about an address that another contact holds and keeps."""

    email: str
    held_by: str


class ContactSeen(ContactChange, frozen=True, tag="ContactSeen"):
    """The contact was seen: at most one per contact and minute of effective time. It does not change `version`."""


class ContactGone(_Change, frozen=True, tag="ContactGone"):
    """A replay removed the contact: it was in the old state and is not in the new one."""


class ContactErased(_Change, frozen=True, tag="ContactErased"):
    """The person was erased: forget everything about the contact (contract section 10)."""


Change = (
    ContactCreated
    | ContactUpdated
    | VisitorLinked
    | VisitorUnlinked
    | ContactsMerged
    | IdentityConflict
    | ConflictDismissed
    | ContactSeen
    | ContactGone
    | ContactErased
)

encode_change: Final = msgspec.json.Encoder().encode
decode_change: Final = msgspec.json.Decoder(Change).decode
