"""Corrections by hand (contract section 5, Corrections): one event, `IdentityCorrected`, with one correction."""

from copy import copy
from typing import Final

from msgspec import UNSET

from kinfold_projections.changes import ChangeWriter, changed_fields, outcome_of
from kinfold_projections.entries import Entry
from kinfold_projections.identity import join_profile, take_email
from kinfold_projections.linking import link_visitor
from kinfold_projections.links import holder_at
from kinfold_projections.metadata import Metadata
from kinfold_projections.outcomes import NO_OP, Outcome, rejected
from kinfold_projections.patching import metadata_of, patched
from kinfold_projections.records import NEVER, ContactRecord, ContactStamps, copy_contact
from kinfold_projections.state import State
from kinfold_projections.weights import GROWTH, contact_bytes, fitting
from kinfold_schemas.changes import ConflictDismissed, ContactsMerged, ContactUpdated, Correction, VisitorUnlinked
from kinfold_schemas.contacts import MAX_CONTACT_BYTES
from kinfold_schemas.events import ErasedConflict, IdentityCorrected
from kinfold_schemas.identifiers import email_key
from kinfold_schemas.rejections import Rejection, found

MAX_DISMISSED: Final = 32
"""How many dismissed conflicts of a contact are remembered; the oldest are forgotten."""


def identity_corrected(state: State, entry: Entry, event: IdentityCorrected, conflict: ErasedConflict | None = None) -> Outcome:
    """Fold a correction. It moves no seen times except those that a merge brings, because an operator is not a visitor.

    `conflict`: the correction dismissed it, and the person who holds the address was erased since.
    """
    names = entry.names
    for field, contact_id in (("contactId", names.contact_id), ("mergeContactId", names.merge_contact_id)):
        if contact_id is not None and (contact_id not in state.contacts or state.is_erased(contact_id)):
            return rejected(Rejection("unknown-contact", field, "the id of a contact of this workspace", found(contact_id)))
    assert names.contact_id is not None  # noqa: S101  names.py
    contact = state.contact(names.contact_id)
    if names.merge_contact_id is not None:
        return _merge(state, entry, event, contact, state.contact(names.merge_contact_id))
    if names.visitor_id is not None:
        return _unlink(state, entry, event, contact, names.visitor_id)
    if event.dismiss_conflict is not None:
        if conflict is not None:
            return _dismissed(state, entry, event, contact, (conflict.email, conflict.email, conflict.held_by))
        return _dismiss(state, entry, event, contact)
    return _set(state, entry, event, contact)


# --- merge


def _merge(state: State, entry: Entry, event: IdentityCorrected, contact: ContactRecord, merged: ContactRecord) -> Outcome:
    """Merge two contacts, even if both have an external id: the merged one's id then leads to the contact."""
    if merged is contact:
        return NO_OP
    before, own = copy_contact(contact), state.stamps_of(contact)
    state.put_metadata(contact, metadata_of(state, contact).combine(metadata_of(state, merged)).bounded())
    theirs = state.merge_contact(contact, merged)
    join_profile(contact, own, merged, theirs)
    if contact.external_id is None and merged.external_id is not None:
        contact.external_id = merged.external_id
        state.move_external_id(merged.external_id, contact.id)
    if merged.email is not None:
        state.free_email(email_key(merged.email))  # unless the contact takes it:
        if theirs.email_ms > own.email_ms or (contact.email is None and own.email_ms == NEVER):
            take_email(state, contact, merged.email, theirs.email_ms)
    contact.widen(merged.first_seen_at, merged.last_seen_at)
    contact.created_at = min(contact.created_at, merged.created_at)
    own.presence_ms = max(own.presence_ms, theirs.presence_ms)
    own.merges += theirs.merges + 1
    if (excess := contact_bytes(contact) - MAX_CONTACT_BYTES) > 0:
        lighter, _ = metadata_of(state, contact).lightened(excess, trusted_too=True)
        state.put_metadata(contact, lighter)
    state.note_contact_bytes(contact.id, contact_bytes(contact))
    for each in theirs.dismissed or ():
        _remember(own, each)
    writer, correction = ChangeWriter(state, entry, None), _correction(event)
    if changed := changed_fields(before, contact):
        writer.tell(ContactUpdated, contact, changed=changed, correction=correction)
    writer.tell(ContactsMerged, contact, merged_contact_id=merged.id, correction=correction)
    return outcome_of(entry, writer)


# --- unlink


def _unlink(state: State, entry: Entry, event: IdentityCorrected, contact: ContactRecord, visitor_id: str) -> Outcome:
    """Unlink a visitor that the contact held at that time. What the visitor brought stays with the contact."""
    visitor = state.visitors.get(visitor_id)
    if visitor is None or not visitor.links:
        return NO_OP
    holder_id = holder_at(visitor.links, entry.at)
    if holder_id is not None and state.holder(holder_id) is not contact:
        return NO_OP
    state.visitor(visitor_id, visitor.last_seen_at)  # it is about to change, and was not seen
    linking = link_visitor(state, None, visitor, visitor_id, entry)
    writer, correction = ChangeWriter(state, entry, None), _correction(event)
    if linking.bystander is not None:
        writer.tell(ContactUpdated, linking.bystander, changed=["visitorIds"], correction=correction)
    if linking.previous is not None:
        visitor.name, visitor.image, visitor.metadata = None, None, {}  # it starts afresh
        writer.tell(VisitorUnlinked, linking.previous, visitor_id=visitor_id, correction=correction)
    return outcome_of(entry, writer, folded=linking.folded)


# --- dismiss a conflict


def _dismiss(state: State, entry: Entry, event: IdentityCorrected, contact: ContactRecord) -> Outcome:
    """Dismiss the conflict about an address that another contact holds: it is not reported again."""
    names = entry.names
    assert names.email is not None and names.email_key is not None  # noqa: S101, PT018  names.py
    holder = state.by_email(names.email_key)
    if holder is None or holder is contact:
        return NO_OP
    return _dismissed(state, entry, event, contact, (names.email, names.email_key, holder.id))


def _dismissed(
    state: State, entry: Entry, event: IdentityCorrected, contact: ContactRecord, about: tuple[str, str, str]
) -> Outcome:
    """`about`: the address, its key, and the contact that holds it."""
    email, key, held_by = about
    if (key, held_by) in (state.contact_stamps[contact.id].dismissed or ()):
        return NO_OP
    _remember(state.stamps_of(contact), (key, held_by))
    writer = ChangeWriter(state, entry, None)
    writer.tell(ConflictDismissed, contact, email=email, held_by=held_by, correction=_correction(event))
    return outcome_of(entry, writer)


def _remember(stamps: ContactStamps, conflict: tuple[str, str]) -> None:
    others = [each for each in stamps.dismissed or () if each != conflict]
    stamps.dismissed = [*others, conflict][-MAX_DISMISSED:]


# --- values


def _set(state: State, entry: Entry, event: IdentityCorrected, contact: ContactRecord) -> Outcome:
    """Set or remove identifiers, name, image and metadata: all of them, or nothing if the event is rejected."""
    names = entry.names
    has_id = state.by_external_id(names.external_id) if names.external_id is not None else None
    has_email = state.by_email(names.email_key) if names.email_key is not None else None
    if not event.take:
        for field, holder in (("externalId", has_id), ("email", has_email)):
            if holder is not None and holder is not contact:
                return rejected(Rejection("held-by-another", field, "one that no other contact has, or take: true", holder.id))
    own = metadata_of(state, contact)
    result = _metadata_after(state, entry, event, contact, own)
    if type(result) is Rejection:
        return rejected(result)
    metadata, late = result

    holders = [each for each in (has_id, has_email) if each is not None and each is not contact]
    before = {each.id: (each, copy_contact(each)) for each in (contact, *holders)}
    if event.external_id is not UNSET:
        _correct_external_id(state, contact, names.external_id, has_id)
    if event.email is not UNSET:
        late |= not _correct_email(state, entry, contact, has_email)
    late |= not _correct_profile(contact, state.stamps_of(contact), event, entry.stamp)
    if metadata is not own:
        state.put_metadata(contact, metadata)

    writer, correction = ChangeWriter(state, entry, None), _correction(event)
    for each, old in before.values():
        if changed := changed_fields(old, each):
            writer.tell(ContactUpdated, each, changed=changed, correction=correction)
    return outcome_of(entry, writer, late=late)


def _metadata_after(
    state: State, entry: Entry, event: IdentityCorrected, contact: ContactRecord, own: Metadata
) -> tuple[Metadata, bool] | Rejection:
    """The contact's metadata after the event, and whether some of it came too late.

    Identifiers of the event are weighed as if they did not come too late (`weights.fitting_described`).
    """
    metadata, late = own, False
    if event.metadata or event.unset:
        result = patched(own, entry, event)
        if type(result) is Rejection:
            return result
        metadata, _, late, _ = result
    after, before_bytes, stamps = copy_contact(contact), contact_bytes(contact), copy(state.contact_stamps[contact.id])
    state.note_contact_bytes(contact.id, before_bytes + GROWTH * len(entry.data))
    after.metadata = metadata.values
    if event.external_id is not UNSET:
        after.external_id = entry.names.external_id
    if event.email is not UNSET:
        after.email = entry.names.email
    _correct_profile(after, stamps, event, entry.stamp)
    excess = contact_bytes(after) - MAX_CONTACT_BYTES
    fits = fitting(metadata, excess, before_bytes, makes_room=True, is_contact=True)
    return fits if type(fits) is Rejection else (fits, late)


def lose_identifiers(writer: ChangeWriter) -> None:
    """Take from other contacts what a correction took from them for a contact that was erased since (contract section 10)."""
    state, entry = writer.state, writer.entry
    names = entry.names
    has_id = state.by_external_id(names.external_id) if names.external_id is not None else None
    has_email = state.by_email(names.email_key) if names.email_key is not None else None
    before = {each.id: (each, copy_contact(each)) for each in (has_id, has_email) if each is not None}
    if has_id is not None and names.external_id is not None:
        state.free_external_id(names.external_id)
        if has_id.external_id == names.external_id:
            has_id.external_id = None
    if has_email is not None:
        _lose_email(state, has_email, entry.at_ms)
    for each, old in before.values():
        if changed := changed_fields(old, each):
            writer.tell(ContactUpdated, each, changed=changed)


def _correct_external_id(state: State, contact: ContactRecord, external_id: str | None, holder: ContactRecord | None) -> None:
    """Set the external id, in the log's order, because it has no time. The previous one is free again."""
    if external_id == contact.external_id:
        return
    if contact.external_id is not None:
        state.free_external_id(contact.external_id)
    if holder is not None and holder.external_id == external_id:
        holder.external_id = None
    contact.external_id = external_id
    if external_id is not None and holder is not None:
        state.move_external_id(external_id, contact.id)
    elif external_id is not None:
        state.put_external_id(external_id, contact.id)


def _correct_email(state: State, entry: Entry, contact: ContactRecord, holder: ContactRecord | None) -> bool:
    """Set the address, by effective time. Returns False if it is older than the contact's address or the holder's."""
    names, at_ms, stamps = entry.names, entry.at_ms, state.contact_stamps[contact.id]
    if at_ms < stamps.email_ms:
        return False
    if names.email is None or names.email_key is None:
        _lose_email(state, contact, at_ms)
        return True
    if holder is not None and holder is not contact:
        if at_ms < state.contact_stamps[holder.id].email_ms:
            return False
        _lose_email(state, holder, at_ms)
    return take_email(state, contact, names.email, at_ms)


def _lose_email(state: State, contact: ContactRecord, at_ms: int) -> None:
    stamps = state.stamps_of(contact)
    stamps.email_ms = at_ms
    if contact.email is not None:
        state.free_email(email_key(contact.email))
        contact.email = stamps.conflict = None


def _correct_profile(contact: ContactRecord, stamps: ContactStamps, event: IdentityCorrected, stamp: int) -> bool:
    """Set name and image; None removes them. Returns False if one came too late."""
    in_time = True
    if event.name is not UNSET:
        if stamp >= stamps.name_stamp:
            stamps.name_stamp, contact.name = stamp, event.name
        else:
            in_time = False
    if event.image is not UNSET:
        if stamp >= stamps.image_stamp:
            stamps.image_stamp, contact.image = stamp, event.image
        else:
            in_time = False
    return in_time


def _correction(event: IdentityCorrected) -> Correction:
    return Correction(event.by, event.reason)
