"""Decides who is who, following the tables of contract section 5 line by line.

One principle: a device is never evidence that two identities are the same person. Only an event that names both is. Two
contacts for one person are better than one contact for two, because a wrong merge shows one person's data to another.
"""

from typing import Literal

import msgspec

from kinfold_projections.entries import Entry
from kinfold_projections.records import TRUSTED, ContactRecord, ContactStamps, VisitorRecord, VisitorStamps
from kinfold_projections.rules import MAX_MERGES
from kinfold_projections.state import State
from kinfold_schemas.changes import ConflictReason
from kinfold_schemas.events import MetadataSet, VisitorIdentified
from kinfold_schemas.identifiers import email_key
from kinfold_schemas.names import Names

_Described = ContactRecord | VisitorRecord
_Dated = ContactStamps | VisitorStamps

EmailRule = Literal["not named", "takes", "has", "merges", "conflict"]


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What an event that names people means for the existing contacts. It changes nothing yet."""

    target: ContactRecord | None
    """The contact; None for a new one."""
    rule: EmailRule
    """The line of the second table."""
    holder: ContactRecord | None = None
    """The contact that holds the address, if that is not the target."""
    reason: ConflictReason | None = None
    """The reason of a conflict, if it is not the holder's external id."""

    @property
    def other(self) -> ContactRecord:
        """The holder, if the rule is `merges` or `conflict`."""
        assert self.holder is not None  # noqa: S101  the second table says so
        return self.holder


def decide(state: State, names: Names) -> Decision:
    """Apply the two tables of contract section 5 to the identifiers of an event. It has at least one."""
    x = state.by_external_id(names.external_id) if names.external_id is not None else None
    e = state.by_email(names.email_key) if names.email_key is not None else None

    # The first table: which contact it is.
    if names.external_id is None:
        target = e  # `e` alone: E, or a new contact
    elif x is not None:
        target = x  # `x`, X exists: X
    elif e is not None and e.external_id is None:
        target = e  # `x`, `e`; no X; E exists and has no external id: E gains `x` and keeps its contact id
    else:
        target = None  # `x`, otherwise: a new contact

    # The second table: what becomes of the address.
    if names.email is None:
        return Decision(target, "not named")
    if e is None:
        return Decision(target, "takes")
    if e is target:
        return Decision(target, "has")
    if e.external_id is not None:
        return Decision(target, "conflict", e)
    if target is not None and state.contact_stamps[target.id].merges >= MAX_MERGES:
        return Decision(target, "conflict", e, "too-many-merges")
    return Decision(target, "merges", e)


def take_external_id(state: State, contact: ContactRecord, external_id: str) -> None:
    """Give a contact an external id if it has none. An external id is never replaced."""
    if contact.external_id is None:
        contact.external_id = external_id
        state.put_external_id(external_id, contact.id)


def take_email(state: State, contact: ContactRecord, email: str, at_ms: int) -> bool:
    """Give T the address `e`, by effective time, and free the address that it had. Returns False if the event came too late."""
    stamps = state.stamps_of(contact)
    if at_ms < stamps.email_ms:
        return False
    stamps.email_ms = at_ms
    if contact.email != email:
        new_key, old_key = email_key(email), email_key(contact.email) if contact.email is not None else None
        if old_key != new_key:
            if old_key is not None:
                state.free_email(old_key)
            state.put_email(new_key, contact.id)
            stamps.conflict = None  # the same conflict is reported again if it recurs
        contact.email = email
    return True


def address_by_metadata(state: State, contact: ContactRecord, names: Names) -> None:
    """Give a new contact the address that its metadata was addressed to.

    It gets no stamp, so any identification is newer: metadata does not say whose address it is.
    """
    assert names.email_key is not None  # noqa: S101  the caller has looked
    contact.email = names.email
    state.put_email(names.email_key, contact.id)


def take_profile(record: _Described, stamps: _Dated, event: VisitorIdentified | MetadataSet, stamp: int) -> tuple[bool, int]:
    """Set name and image of a contact or an anonymous visitor; absent and null change nothing.

    Returns whether one came too late, and how many a page may not change.
    """
    late, untrusted = False, 0
    if event.name is not None:
        if stamp >= stamps.name_stamp:
            stamps.name_stamp, record.name = stamp, event.name
        elif stamp < TRUSTED <= stamps.name_stamp:
            untrusted += record.name != event.name
        else:
            late = True
    if event.image is not None:
        if stamp >= stamps.image_stamp:
            stamps.image_stamp, record.image = stamp, event.image
        elif stamp < TRUSTED <= stamps.image_stamp:
            untrusted += record.image != event.image
        else:
            late = True
    return late, untrusted


def join_profile(contact: ContactRecord, stamps: ContactStamps, other: _Described, theirs: _Dated) -> None:
    """Join name and image of what comes together with a contact, by their stamps. At equal stamps, the contact's stay."""
    if theirs.name_stamp > stamps.name_stamp:
        stamps.name_stamp, contact.name = theirs.name_stamp, other.name
    if theirs.image_stamp > stamps.image_stamp:
        stamps.image_stamp, contact.image = theirs.image_stamp, other.image


def merge(state: State, contact: ContactRecord, merged: ContactRecord, entry: Entry) -> None:
    """Merge E into T: the event names both. The caller combines their metadata.

    Afterwards E is a tombstone, so an old id always finds the living contact. At equal times T's values stay.
    """
    theirs, own = state.merge_contact(contact, merged), state.stamps_of(contact)
    is_said = entry.at_ms >= theirs.email_ms  # the event confirms E's address
    email, email_ms = (entry.names.email, entry.at_ms) if is_said else (merged.email, theirs.email_ms)
    join_profile(contact, own, merged, theirs)
    assert merged.email is not None and email is not None  # noqa: S101, PT018  E was found by it; the event names it
    state.free_email(email_key(merged.email))  # unless T takes it:
    if is_said or email_ms > own.email_ms:
        take_email(state, contact, email, email_ms)
    contact.widen(merged.first_seen_at, merged.last_seen_at)
    contact.created_at = min(contact.created_at, merged.created_at)
    own.presence_ms = max(own.presence_ms, theirs.presence_ms)
    own.merges += theirs.merges + 1
