"""The change feed (contract section 6): one of these per feed entry, in the field `change`.

May change: more fields, more types. May not: a field's name, type or meaning. `contact` is the contact as the whole log
entry left it; where one entry makes several changes to a contact, they differ in `version` alone.
"""

from typing import Final, Literal

import msgspec

from kinfold_schemas.contacts import Contact


class _Change(msgspec.Struct, kw_only=True, frozen=True, rename="camel", tag_field="type", gc=False):
    contact_id: str
    version: int
    at: str
    """Effective time."""
    cause: str
    """The id of the log entry, or `replay`."""


class _ContactChange(_Change, kw_only=True, frozen=True, gc=False):
    contact: Contact


class ContactCreated(_ContactChange, frozen=True, tag="ContactCreated"):
    """A contact is there that was not."""


class ContactUpdated(_ContactChange, frozen=True, tag="ContactUpdated"):
    """Fields are other than they were; `changed` names them: `name`, `metadata.plan`, and so on."""

    changed: list[str]


class VisitorLinked(_ContactChange, frozen=True, tag="VisitorLinked", omit_defaults=True):
    """A visitor is the contact's now; `previous_contact_id`: whose it was."""

    visitor_id: str
    previous_contact_id: str | None = None


class VisitorUnlinked(_ContactChange, frozen=True, tag="VisitorUnlinked"):
    """A visitor moved away from the contact, to `next_contact_id`."""

    visitor_id: str
    next_contact_id: str


class ContactsMerged(_ContactChange, frozen=True, tag="ContactsMerged"):
    """`merged_contact_id` is a tombstone now, and what it had is this contact's."""

    merged_contact_id: str


ConflictReason = Literal["too-many-merges"]


class IdentityConflict(_ContactChange, frozen=True, tag="IdentityConflict", omit_defaults=True):
    """An event named an address that another contact holds, and keeps.

    Without a `reason`, because that contact has another external id; `too-many-merges`: because so many contacts were merged
    into this one that it takes no more (contract section 5).
    """

    email: str
    held_by: str
    reason: ConflictReason | None = None


class ContactSeen(_ContactChange, frozen=True, tag="ContactSeen"):
    """Presence: at most one a minute of effective time for each contact; leaves `version` alone."""


class ContactGone(_Change, frozen=True, tag="ContactGone"):
    """A replay found that this contact of the old state is not in the new one."""


Change = (
    ContactCreated
    | ContactUpdated
    | VisitorLinked
    | VisitorUnlinked
    | ContactsMerged
    | IdentityConflict
    | ContactSeen
    | ContactGone
)

encode_change: Final = msgspec.json.Encoder().encode
decode_change: Final = msgspec.json.Decoder(Change).decode
