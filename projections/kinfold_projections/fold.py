"""The fold: `evolve` takes one entry and `fold` a batch, which is the duplicate window and a loop over `evolve`.

The same fold runs live, in a replay, in `verify`, and in a test on plain dictionaries. It is total: it returns an `Outcome` for
any entry. A rejected event must not have changed anything, so every check that can reject comes first.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, Final

import msgspec

from kinfold_projections.changes import ChangeWriter, changed_fields, outcome_of
from kinfold_projections.contact_ids import make_contact_id
from kinfold_projections.corrections import identity_corrected, lose_identifiers
from kinfold_projections.duplicates import Occurrence
from kinfold_projections.entries import NEVER_OCCURRED, BadEntry, Entry
from kinfold_projections.identifications import visitor_identified
from kinfold_projections.identity import address_by_metadata, decide, take_external_id, take_profile
from kinfold_projections.linking import link_visitor
from kinfold_projections.links import holder_at
from kinfold_projections.metadata import NO_METADATA, Metadata, changed_keys
from kinfold_projections.outcomes import DUPLICATE, FOLDED, NO_OP, Outcome, rejected
from kinfold_projections.patching import metadata_of, patched, said_again
from kinfold_projections.records import NO_STAMPS, ContactRecord, ContactStamps, copy_contact, encode_record, new_contact
from kinfold_projections.state import LARGE_BYTES, State
from kinfold_projections.weights import (
    GROWTH,
    LARGE_EVENT_BYTES,
    context_too_heavy,
    described_bytes,
    fitting_described,
    fitting_visitor,
    new_contact_bytes,
    visitor_bytes,
)
from kinfold_schemas.changes import ContactCreated, ContactSeen, ContactUpdated, VisitorUnlinked
from kinfold_schemas.contacts import ERASED, MAX_CONTACT_BYTES, MAX_VISITOR_BYTES, MergedContact
from kinfold_schemas.events import (
    Erased,
    EventsExcluded,
    IdentityCorrected,
    MetadataSet,
    SubjectErased,
    VisitorIdentified,
    VisitorSeen,
)
from kinfold_schemas.names import Names
from kinfold_schemas.rejections import Rejection, found
from kinfold_schemas.times import text_ms

PRESENCE_INTERVAL_MS: Final = 60_000

LARGE_CONTEXT_BYTES: Final = LARGE_BYTES
DESCRIBED_BYTES: Final = 11_000
"""A visitor of up to this many bytes without its context stays within its limit with the context of an event of up to
`LARGE_CONTEXT_BYTES`: a context has at most five times the bytes of its event."""
_FACT_BYTES: Final = 1000
"""About how many bytes a key and its value take."""


def fold(state: State, entries: Sequence[Entry | BadEntry]) -> list[Outcome]:
    """Fold entries into the state, in the log's order. Returns the outcome of each."""
    occurrences = state.window.enter(entries)
    if not occurrences:
        return [evolve(state, entry) for entry in entries]
    return [evolve(state, entry, occurrences.get(index, "new")) for index, entry in enumerate(entries)]


def fold_while(
    state: State, entries: Sequence[Entry | BadEntry], occurrences: Mapping[int, Occurrence], most_bytes: int
) -> list[Outcome]:
    """As `fold`, for entries that have occurred. Ends after the entry with which the state tells more than `most_bytes`."""
    outcomes: list[Outcome] = []
    append = outcomes.append
    if not occurrences:
        for entry in entries:
            append(evolve(state, entry))
            if state.told_bytes > most_bytes:
                break
        return outcomes
    for index, entry in enumerate(entries):
        append(evolve(state, entry, occurrences.get(index, "new")))
        if state.told_bytes > most_bytes:
            break
    return outcomes


def evolve(state: State, entry: Entry | BadEntry, occurrence: Occurrence = "new") -> Outcome:
    """Fold one entry into the state. Changes only the state. Raises DamagedState if the state contradicts itself."""
    if type(entry) is not Entry:
        return rejected(entry.rejection) if entry.rejection is not NEVER_OCCURRED else NO_OP
    event = entry.event
    if occurrence == "new":
        return _EVOLVE[type(event)](state, entry, event)
    if occurrence == "duplicate":
        return DUPLICATE
    return msgspec.structs.replace(_EVOLVE[type(event)](state, entry, event), id_reused=True)


# --- VisitorSeen


def _visitor_seen(state: State, entry: Entry, event: VisitorSeen) -> Outcome:
    visitor_id, at_ms = entry.names.visitor_id, entry.at_ms
    assert visitor_id is not None  # noqa: S101  names.py
    if event.context is not None and (
        len(entry.data) > LARGE_CONTEXT_BYTES or state.described_bytes.get(visitor_id, 0) > DESCRIBED_BYTES
    ):
        rejection = context_too_heavy(state, entry, event, visitor_id)
        if rejection is not None:
            return rejected(rejection)
    visitor = state.visitor(visitor_id, entry.seen_at)
    if event.context is not None and at_ms >= visitor.context_ms:
        visitor.context, visitor.context_ms = event.context, at_ms
        if len(entry.data) > LARGE_CONTEXT_BYTES:
            state.weigh_visitor(visitor_id, len(entry.data))
            state.large_contexts.add(visitor_id)
    holder_id = holder_at(visitor.links, entry.at)
    if holder_id is None or entry.seen_at is not entry.at:
        return FOLDED
    contact = state.holder(holder_id)
    if contact is None:
        return FOLDED  # an erased contact is not seen
    presence_ms = state.contact_stamps[contact.id].presence_ms
    if at_ms < presence_ms + PRESENCE_INTERVAL_MS and (
        entry.at >= contact.first_seen_at or at_ms > text_ms(contact.first_seen_at) - PRESENCE_INTERVAL_MS
    ):
        return FOLDED  # presence is reported once a minute, and what is not reported is not written
    state.stamps_of(contact).presence_ms = max(presence_ms, at_ms)
    writer = ChangeWriter(state, entry, contact)
    writer.tell(ContactSeen, contact)
    return outcome_of(entry, writer)


# --- MetadataSet


def _metadata_set(state: State, entry: Entry, event: MetadataSet) -> Outcome:
    names, visitor_id = entry.names, entry.names.visitor_id
    if visitor_id is not None:
        visitor = state.visitors.get(visitor_id)
        holder_id = holder_at(visitor.links, entry.at) if visitor is not None else None
        if holder_id is None:
            return _anonymous_metadata_set(state, entry, event, visitor_id)
        contact = state.holder(holder_id)
        if contact is None:
            state.visitor(visitor_id, entry.seen_at)
            return NO_OP  # nothing is kept of an erased contact
        return _contact_metadata_set(state, entry, event, contact)
    target = _target_of_metadata(state, names)
    if type(target) is Rejection:
        return rejected(target)
    return _create_for_metadata(state, entry, event) if target is None else _contact_metadata_set(state, entry, event, target)


def _contact_metadata_set(state: State, entry: Entry, event: MetadataSet, contact: ContactRecord) -> Outcome:
    is_heavy = (len(entry.data) > LARGE_EVENT_BYTES or contact.id in state.heavy) and state.may_exceed(
        contact.id, GROWTH * len(entry.data)
    )
    if not is_heavy and event.name is None and event.image is None and said_again(state, contact, event, entry.stamp):
        if entry.names.visitor_id is not None:
            state.visitor(entry.names.visitor_id, entry.seen_at)
        return outcome_of(entry)
    result = patched(metadata_of(state, contact), entry, event)
    if type(result) is Rejection:
        return rejected(result)
    metadata, keys, late, untrusted = result
    if is_heavy:
        fits = fitting_described(state, contact, state.contact_stamps[contact.id], entry, event, metadata)
        if type(fits) is Rejection:
            return rejected(fits)
        if fits is not metadata:
            metadata, keys = fits, changed_keys(contact.metadata, fits.values)
    if entry.names.visitor_id is not None:
        state.visitor(entry.names.visitor_id, entry.seen_at)
    changed = [f"metadata.{key}" for key in sorted(keys)] if keys else keys
    stamps = state.put_metadata(contact, metadata)
    if event.name is not None or event.image is not None:
        before = copy_contact(contact)
        is_late, kept = take_profile(contact, stamps, event, entry.stamp)
        late, untrusted = late or is_late, untrusted + kept
        changed = changed_fields(before, contact) + changed
    if not changed:
        return outcome_of(entry, late=late, untrusted=untrusted)
    writer = ChangeWriter(state, entry, contact)
    writer.tell(ContactUpdated, contact, changed=changed)
    return outcome_of(entry, writer, untrusted=untrusted)


def _target_of_metadata(state: State, names: Names) -> ContactRecord | Rejection | None:
    """The contact that a MetadataSet names by an identifier or its id; None: a new one."""
    if names.contact_id is None:
        return decide(state, names).target
    contact = state.holder(names.contact_id) if names.contact_id in state.contacts else None
    if contact is None:
        return Rejection("unknown-contact", "contactId", "the id of a contact of this workspace", found(names.contact_id))
    return contact


def _create_for_metadata(state: State, entry: Entry, event: MetadataSet) -> Outcome:
    """Create a contact for metadata whose identifier no contact has: the identifying event may simply come later."""
    result = patched(NO_METADATA, entry, event)
    if type(result) is Rejection:
        return rejected(result)
    metadata, *_ = result
    most_bytes = new_contact_bytes(entry, None)
    if most_bytes > MAX_CONTACT_BYTES:
        nobody = new_contact(make_contact_id(state.workspace, entry.id), entry.seen_at)
        nobody.external_id, nobody.email = entry.names.external_id, entry.names.email
        fits = fitting_described(state, nobody, ContactStamps(), entry, event, metadata)
        if type(fits) is Rejection:
            return rejected(fits)
        metadata = fits
    contact = state.create_contact(make_contact_id(state.workspace, entry.id), entry.seen_at)
    state.note_contact_bytes(contact.id, most_bytes)
    if entry.names.external_id is not None:
        take_external_id(state, contact, entry.names.external_id)
    else:
        address_by_metadata(state, contact, entry.names)
    take_profile(contact, state.put_metadata(contact, metadata), event, entry.stamp)
    writer = ChangeWriter(state, entry, contact)
    writer.tell(ContactCreated, contact)
    return outcome_of(entry, writer)


def _anonymous_metadata_set(state: State, entry: Entry, event: MetadataSet, visitor_id: str) -> Outcome:
    """Store metadata with an anonymous visitor, until an event identifies it (contract section 4)."""
    known = state.visitors.get(visitor_id)
    if known is not None and known.contact_id is not None:  # it was unlinked at that time, and is a contact's again
        state.visitor(visitor_id, entry.seen_at)
        return outcome_of(entry, late=True)
    result = patched(_anonymous_metadata(state, visitor_id), entry, event)
    if type(result) is Rejection:
        return rejected(result)
    metadata, changed, late, untrusted = result
    described = state.described_bytes[visitor_id] = state.described_bytes.get(visitor_id, LARGE_BYTES) + GROWTH * len(
        entry.data
    )
    is_heavy = (described > DESCRIBED_BYTES or visitor_id in state.large_contexts) and (
        described + (len(encode_record(known.context)) if known is not None else 0) > MAX_VISITOR_BYTES
    )
    if is_heavy:
        fits = fitting_visitor(state, visitor_id, entry, event, metadata)
        if type(fits) is Rejection:
            return rejected(fits)
        if fits is not metadata:
            metadata, changed = fits, changed_keys(_anonymous_metadata(state, visitor_id).values, fits.values)
    visitor = state.visitor(visitor_id, entry.seen_at)
    stamps = copy(state.visitor_stamps.get(visitor_id, NO_STAMPS))
    before, stamps.metadata, visitor.metadata = (visitor.name, visitor.image), metadata.stamps, metadata.values
    is_late, kept = take_profile(visitor, stamps, event, entry.stamp)
    if is_heavy:
        state.described_bytes[visitor_id] = described_bytes(visitor)
        if visitor.context and visitor_bytes(visitor) > MAX_VISITOR_BYTES:
            visitor.context = {}  # it is of the latest page view alone
    state.weigh_visitor(visitor_id, len(entry.data) + len(visitor.metadata) * _FACT_BYTES)
    state.put_visitor_stamps(visitor_id, stamps)
    folded = bool(changed) or before != (visitor.name, visitor.image)
    return outcome_of(entry, late=late or is_late, folded=folded, untrusted=untrusted + kept)


def _anonymous_metadata(state: State, visitor_id: str) -> Metadata:
    stamps = state.visitor_stamps.get(visitor_id)
    return NO_METADATA if stamps is None else Metadata(state.visitors[visitor_id].metadata, stamps.metadata)


# --- what an erasure writes


def _erased(state: State, entry: Entry, event: Erased) -> Outcome:
    """What is left of an entry after an erasure: what it did to others (contract section 10)."""
    if type(event.kept) is VisitorIdentified:
        return visitor_identified(state, entry, event.kept, event.conflict)
    if type(event.kept) is IdentityCorrected:
        return identity_corrected(state, entry, event.kept, event.conflict)
    if event.contact_id is None:
        return NO_OP
    state.put_erased(event.contact_id)
    contact = state.contacts[event.contact_id]
    if type(contact) is not MergedContact or contact.merged_into != ERASED:
        return NO_OP
    writer = ChangeWriter(state, entry, None)
    if event.taken_external_id is not None or event.taken_email is not None:
        lose_identifiers(writer)
    folded = event.visitor_id is not None and _erased_link(writer, event, event.visitor_id, contact)
    return outcome_of(entry, writer, folded=folded)


def _erased_link(writer: ChangeWriter, event: Erased, visitor_id: str, contact: MergedContact) -> bool:
    """Link a visitor to an erased contact, or unlink it. Returns whether its history changed."""
    state, entry = writer.state, writer.entry
    visitor, seen_at = state.visitors.get(visitor_id), entry.seen_at
    if event.unlinks:
        if visitor is None or not visitor.links:
            return False
        seen_at = visitor.last_seen_at  # a correction does not see it
    visitor = state.visitor(visitor_id, seen_at)
    linking = link_visitor(state, None if event.unlinks else contact, visitor, visitor_id, entry)
    if event.unlinks and linking.moved:
        visitor.name, visitor.image, visitor.metadata = None, None, {}  # it starts over as an anonymous visitor
    if linking.bystander is not None:
        writer.tell(ContactUpdated, linking.bystander, changed=["visitorIds"])
    if linking.moved and linking.previous is not None:
        writer.tell(VisitorUnlinked, linking.previous, visitor_id=visitor_id, next_contact_id=contact.id)
    return linking.folded


def _subject_erased(_state: State, _entry: Entry, _event: SubjectErased) -> Outcome:
    return NO_OP  # a record: the entries that it names were rewritten


def _events_excluded(_state: State, _entry: Entry, _event: EventsExcluded) -> Outcome:
    return NO_OP  # the live fold only notes it; a replay leaves the entries out before they get here


_EVOLVE: Final[dict[type, Callable[[State, Entry, Any], Outcome]]] = {
    VisitorSeen: _visitor_seen,
    VisitorIdentified: visitor_identified,
    MetadataSet: _metadata_set,
    EventsExcluded: _events_excluded,
    Erased: _erased,
    SubjectErased: _subject_erased,
    IdentityCorrected: identity_corrected,
}
