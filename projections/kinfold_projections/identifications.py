"""A visitor is identified: the event `VisitorIdentified`, by the tables of contract section 5.

Everything that can reject the event comes before the first change.
"""

from typing import Any, cast

from kinfold_projections.changes import ChangeWriter, changed_fields, outcome_of
from kinfold_projections.contact_ids import make_contact_id
from kinfold_projections.entries import Entry
from kinfold_projections.identity import Decision, decide, join_profile, merge, take_email, take_external_id, take_profile
from kinfold_projections.linking import UNLINKED, Linking, is_unlinked_after, link_visitor
from kinfold_projections.links import holder_at
from kinfold_projections.metadata import NO_METADATA, Metadata
from kinfold_projections.outcomes import Outcome, rejected
from kinfold_projections.patching import metadata_of, patched, said_again
from kinfold_projections.records import TRUSTED, ContactRecord, copy_contact
from kinfold_projections.state import State
from kinfold_projections.weights import (
    LARGE_EVENT_BYTES,
    Anonymous,
    contact_bytes,
    fitting_identified,
    may_be_heavy,
    new_contact_bytes,
)
from kinfold_schemas.changes import (
    ConflictReason,
    ContactCreated,
    ContactsMerged,
    ContactUpdated,
    IdentityConflict,
    VisitorLinked,
    VisitorUnlinked,
)
from kinfold_schemas.contacts import MAX_CONTACT_BYTES
from kinfold_schemas.events import ErasedConflict, VisitorIdentified
from kinfold_schemas.rejections import Rejection


def visitor_identified(state: State, entry: Entry, event: VisitorIdentified, conflict: ErasedConflict | None = None) -> Outcome:
    """`conflict`: the event also named an address of a person who was erased."""
    names, at_ms = entry.names, entry.at_ms
    decision = decide(state, names)
    anonymous = _anonymous(state, names.visitor_id, entry)
    combined = _identified_metadata(state, entry, event, decision, anonymous)
    if type(combined) is Rejection:  # only this can refuse the event
        return rejected(combined)
    metadata, late, untrusted, is_heavy = combined

    contact = decision.target
    if contact is None:
        contact = state.create_contact(make_contact_id(state.workspace, entry.id), entry.seen_at)
        state.note_contact_bytes(contact.id, new_contact_bytes(entry, anonymous))
    before = copy_contact(contact)
    if names.external_id is not None:
        take_external_id(state, contact, names.external_id)
    if decision.rule == "merges":
        merge(state, contact, decision.other, entry)
    elif names.email is not None and decision.rule != "conflict":
        late |= not take_email(state, contact, names.email, at_ms)
    if anonymous is not None:
        join_profile(contact, state.stamps_of(contact), *anonymous)
    if event.name is not None or event.image is not None:
        is_late, kept = take_profile(contact, state.stamps_of(contact), event, entry.stamp)
        late, untrusted = late or is_late, untrusted + kept
    if metadata is not NO_METADATA:
        state.put_metadata(contact, metadata)
    linking, dropped = _linked(state, entry, event, contact)
    untrusted += dropped
    if is_heavy and (excess := contact_bytes(contact) - MAX_CONTACT_BYTES) > 0:
        lighter, _ = metadata_of(state, contact).lightened(excess, trusted_too=True)
        state.put_metadata(contact, lighter)

    writer = ChangeWriter(state, entry, contact)
    _tell(writer, contact, decision, before, linking)
    _tell_erased_conflict(writer, contact, conflict)
    return outcome_of(entry, writer, late=late, folded=linking.folded, untrusted=untrusted)


def _identified_metadata(
    state: State, entry: Entry, event: VisitorIdentified, decision: Decision, anonymous: Anonymous | None
) -> tuple[Metadata, bool, int, bool] | Rejection:
    """The contact's metadata after the event; NO_METADATA if it does not change.

    Also returns whether any came too late, and how many keys a page may not change.
    """
    target = decision.target
    is_heavy = (
        len(entry.data) > LARGE_EVENT_BYTES or decision.rule == "merges" or (target is not None and target.id in state.heavy)
    ) and may_be_heavy(state, entry, decision, anonymous)
    joining: list[Metadata] = []
    if decision.rule == "merges":
        joining.append(metadata_of(state, decision.other))
    if anonymous is not None and anonymous[1].metadata:  # a name is not metadata
        visitor, stamps = anonymous
        joining.append(Metadata(visitor.metadata, stamps.metadata))
    if target is not None and not (is_heavy or joining) and said_again(state, target, event, entry.stamp):
        return NO_METADATA, False, 0, False
    metadata, late, untrusted = NO_METADATA, False, 0
    if joining or event.metadata or event.unset:
        metadata = metadata_of(state, decision.target)
        for other in joining:
            metadata = metadata.combine(other)
        result = patched(metadata, entry, event, joins=bool(joining))
        if type(result) is Rejection:
            return result
        metadata, _, late, untrusted = result
    if is_heavy and not joining:
        fits = fitting_identified(state, entry, event, decision, anonymous, metadata)
        if type(fits) is Rejection:
            return fits
        metadata = fits
    return metadata, late, untrusted, is_heavy and bool(joining)


def _linked(state: State, entry: Entry, event: VisitorIdentified, contact: ContactRecord) -> tuple[Linking, int]:
    """Link the event's visitor to the contact. Returns None if a page may not.

    Without a token for the visitor, a page links only a visitor that no other contact held at that time.
    """
    visitor_id = entry.names.visitor_id
    if visitor_id is None:
        return UNLINKED, 0
    visitor = state.visitor(visitor_id, entry.seen_at)
    if entry.stamp < TRUSTED and event.visitor_proven is not True:
        holder_id = holder_at(visitor.links, entry.at)
        if holder_id is not None and state.find(holder_id) != contact.id:
            return UNLINKED, 1
    return link_visitor(state, contact, visitor, visitor_id, entry), 0


def _tell(writer: ChangeWriter, contact: ContactRecord, decision: Decision, before: ContactRecord, linking: Linking) -> None:
    """Report the changes of an identification, in the order of the table in contract section 6."""
    merged = decision.other if decision.rule == "merges" else None
    if decision.target is None:
        writer.tell(ContactCreated, contact)
    else:
        changed = changed_fields(before, contact)
        if not linking.moved and merged is None and before.visitor_ids != contact.visitor_ids:
            changed.append("visitorIds")
        if changed:
            writer.tell(ContactUpdated, contact, changed=changed)
    if linking.bystander is not None:
        writer.tell(ContactUpdated, linking.bystander, changed=["visitorIds"])
    if linking.moved:
        previous = linking.previous
        writer.tell(
            VisitorLinked,
            contact,
            visitor_id=linking.visitor_id,
            previous_contact_id=previous.id if previous is not None else None,
        )
        if previous is not None:
            writer.tell(VisitorUnlinked, previous, visitor_id=linking.visitor_id, next_contact_id=contact.id)
    if merged is not None:
        writer.tell(ContactsMerged, contact, merged_contact_id=merged.id)
    if decision.rule == "conflict":
        names = writer.entry.names
        assert names.email is not None and names.email_key is not None  # noqa: S101, PT018  the second table says so
        _tell_conflict(writer, contact, names.email, (names.email_key, decision.other.id, decision.reason))


def _tell_erased_conflict(writer: ChangeWriter, contact: ContactRecord, conflict: ErasedConflict | None) -> None:
    if conflict is not None:
        _tell_conflict(writer, contact, conflict.email, (conflict.email, conflict.held_by, cast("Any", conflict.reason)))


def _tell_conflict(
    writer: ChangeWriter, contact: ContactRecord, email: str, conflict: tuple[str, str, ConflictReason | None]
) -> None:
    """`conflict`: the key of the address, the contact that holds it, and the reason."""
    state = writer.state
    told = state.contact_stamps[contact.id]
    if told.conflict != conflict and conflict[:2] not in (told.dismissed or ()):  # a page says it at every view
        state.stamps_of(contact).conflict = conflict
        writer.tell(IdentityConflict, contact, email=email, held_by=conflict[1], reason=conflict[2])


def _anonymous(state: State, visitor_id: str | None, entry: Entry) -> Anonymous | None:
    """The visitor, if it brings something to the contact that identifies it first."""
    visitor = state.visitors.get(visitor_id) if visitor_id is not None else None
    if visitor_id is None or visitor is None or visitor.contact_id is not None:
        return None
    stamps = state.visitor_stamps.get(visitor_id)
    if stamps is None or (visitor.links and is_unlinked_after(visitor, stamps, entry)):
        return None
    return visitor, stamps
