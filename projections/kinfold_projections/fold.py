"""The fold: `evolve` takes one entry, `fold` a batch, and a batch is the duplicate window and a loop over `evolve`.

The same fold runs live, in a replay, in `verify`, and in a test with plain dictionaries behind it. It is total: it returns an
`Outcome` for any entry. An event that is rejected has changed nothing, so everything that can refuse comes first.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Final, cast

import msgspec

from kinfold_projections.changes import ChangeWriter, changed_fields
from kinfold_projections.contact_ids import make_contact_id
from kinfold_projections.duplicates import Occurrence
from kinfold_projections.entries import NEVER_OCCURRED, BadEntry, Entry
from kinfold_projections.identity import (
    Decision,
    address_by_metadata,
    decide,
    join_profile,
    merge,
    take_email,
    take_external_id,
    take_profile,
)
from kinfold_projections.linking import UNLINKED, Linking, link_visitor
from kinfold_projections.links import holder_at
from kinfold_projections.metadata import NO_METADATA, Metadata, changed_keys
from kinfold_projections.outcomes import DUPLICATE, FOLDED, NO_OP, STALE, Outcome, rejected
from kinfold_projections.records import NO_STAMPS, TRUSTED, ContactRecord, VisitorRecord, VisitorStamps, copy_contact
from kinfold_projections.state import LARGE_BYTES, State
from kinfold_schemas.changes import (
    ConflictReason,
    ContactCreated,
    ContactSeen,
    ContactsMerged,
    ContactUpdated,
    IdentityConflict,
    VisitorLinked,
    VisitorUnlinked,
)
from kinfold_schemas.contacts import ERASED, MergedContact
from kinfold_schemas.events import (
    MAX_METADATA_KEYS,
    MAX_UNTRUSTED_KEYS,
    Erased,
    ErasedConflict,
    EventsExcluded,
    MetadataSet,
    SubjectErased,
    VisitorIdentified,
    VisitorSeen,
)
from kinfold_schemas.names import Names
from kinfold_schemas.rejections import Rejection, found
from kinfold_schemas.times import text_ms

PRESENCE_INTERVAL_MS: Final = 60_000

_Anonymous = tuple[VisitorRecord, VisitorStamps]

_FACT_BYTES: Final = 1000
"""Of a key and its value: about what long ones take."""


def fold(state: State, entries: Sequence[Entry | BadEntry]) -> list[Outcome]:
    """Folds entries, in the log's order, into the state; returns the outcome of each."""
    occurrences = state.window.enter(entries)
    if not occurrences:
        return [evolve(state, entry) for entry in entries]
    return [evolve(state, entry, occurrences.get(index, "new")) for index, entry in enumerate(entries)]


def evolve(state: State, entry: Entry | BadEntry, occurrence: Occurrence = "new") -> Outcome:
    """Folds one entry into the state. Mutates only the state. Raises DamagedState where that contradicts itself."""
    if not isinstance(entry, Entry):
        return rejected(entry.rejection) if entry.rejection is not NEVER_OCCURRED else NO_OP
    if occurrence == "duplicate":
        return DUPLICATE
    event = entry.event
    outcome = _EVOLVE[event.__class__](state, entry, event)
    return outcome if occurrence == "new" else msgspec.structs.replace(outcome, id_reused=True)


# --- VisitorSeen


def _visitor_seen(state: State, entry: Entry, event: VisitorSeen) -> Outcome:
    visitor_id, at_ms = entry.names.visitor_id, entry.at_ms
    assert visitor_id is not None  # noqa: S101  names.py
    visitor = state.visitor(visitor_id, entry.seen_at)
    if event.context is not None and at_ms >= visitor.context_ms:
        visitor.context, visitor.context_ms = event.context, at_ms
        if len(entry.data) > LARGE_BYTES:
            state.weigh_visitor(visitor_id, len(entry.data))
    link = holder_at(visitor.links, entry.at)
    if link is None or entry.seen_at is not entry.at:
        return FOLDED
    contact = state.holder(link.contact_id)
    if contact is None:
        return FOLDED  # an erased contact is not seen
    presence_ms = state.contact_stamps[contact.id].presence_ms
    if at_ms < presence_ms + PRESENCE_INTERVAL_MS and (
        entry.at >= contact.first_seen_at or at_ms > text_ms(contact.first_seen_at) - PRESENCE_INTERVAL_MS
    ):
        return FOLDED  # presence is told once a minute, and what is not told is not written
    state.stamps_of(contact).presence_ms = max(presence_ms, at_ms)
    writer = ChangeWriter(state, entry, contact)
    writer.tell(ContactSeen, contact)
    return _outcome(entry, writer)


# --- MetadataSet


def _metadata_set(state: State, entry: Entry, event: MetadataSet) -> Outcome:  # noqa: PLR0911  a refusal each
    names, visitor_id = entry.names, entry.names.visitor_id
    contact: ContactRecord | None
    if visitor_id is not None:
        visitor = state.visitors.get(visitor_id)
        link = holder_at(visitor.links, entry.at) if visitor is not None else None
        if link is None:
            return _anonymous_metadata_set(state, entry, event, visitor_id)
        contact = state.holder(link.contact_id)
        if contact is None:
            return NO_OP  # nothing is kept of an erased contact
    else:
        target = _target_of_metadata(state, names)
        if type(target) is Rejection:
            return rejected(target)
        contact = target

    patched = _patched(_metadata_of(state, contact), entry, event)
    if type(patched) is Rejection:
        return rejected(patched)
    metadata, keys, late, untrusted = patched
    if contact is None:
        return _create_for_metadata(state, entry, event, metadata)
    if visitor_id is not None:
        state.visitor(visitor_id, entry.seen_at)
    changed = [f"metadata.{key}" for key in sorted(keys)] if keys else keys
    stamps = state.put_metadata(contact, metadata)
    if event.name is not None or event.image is not None:
        before = copy_contact(contact)
        is_late, kept = take_profile(contact, stamps, event, entry.stamp)
        late, untrusted = late or is_late, untrusted + kept
        changed = changed_fields(before, contact) + changed
    if not changed:
        return _outcome(entry, late=late, untrusted=untrusted)
    writer = ChangeWriter(state, entry, contact)
    writer.tell(ContactUpdated, contact, changed=changed)
    return _outcome(entry, writer, untrusted=untrusted)


def _target_of_metadata(state: State, names: Names) -> ContactRecord | Rejection | None:
    """The contact that a MetadataSet names by an identifier or its id; None: a new one."""
    if names.contact_id is None:
        return decide(state, names).target
    contact = state.holder(names.contact_id) if names.contact_id in state.contacts else None
    if contact is None:
        return Rejection("unknown-contact", "contactId", "the id of a contact of this workspace", found(names.contact_id))
    return contact


def _create_for_metadata(state: State, entry: Entry, event: MetadataSet, metadata: Metadata) -> Outcome:
    """Metadata for an identifier that no contact has: the event may simply have come before the one that identifies."""
    contact = state.create_contact(make_contact_id(state.workspace, entry.id), entry.seen_at)
    if entry.names.external_id is not None:
        take_external_id(state, contact, entry.names.external_id)
    else:
        address_by_metadata(state, contact, entry.names)
    take_profile(contact, state.put_metadata(contact, metadata), event, entry.stamp)
    writer = ChangeWriter(state, entry, contact)
    writer.tell(ContactCreated, contact)
    return _outcome(entry, writer)


def _anonymous_metadata_set(state: State, entry: Entry, event: MetadataSet, visitor_id: str) -> Outcome:
    """Metadata of an anonymous visitor stays with the visitor until an event identifies it (contract section 4)."""
    patched = _patched(_anonymous_metadata(state, visitor_id), entry, event)
    if type(patched) is Rejection:
        return rejected(patched)
    metadata, changed, late, untrusted = patched
    visitor = state.visitor(visitor_id, entry.seen_at)
    stamps = copy(state.visitor_stamps.get(visitor_id, NO_STAMPS))
    before, stamps.metadata, visitor.metadata = (visitor.name, visitor.image), metadata.stamps, metadata.values
    is_late, kept = take_profile(visitor, stamps, event, entry.stamp)
    state.weigh_visitor(visitor_id, len(entry.data) + len(visitor.metadata) * _FACT_BYTES)
    state.put_visitor_stamps(visitor_id, stamps)
    folded = bool(changed) or before != (visitor.name, visitor.image)
    return _outcome(entry, late=late or is_late, folded=folded, untrusted=untrusted + kept)


# --- VisitorIdentified


def _visitor_identified(
    state: State, entry: Entry, event: VisitorIdentified, conflict: ErasedConflict | None = None
) -> Outcome:
    """`conflict`: the event also named an address of a person who was erased."""
    names, at_ms = entry.names, entry.at_ms
    decision = decide(state, names)
    anonymous = _anonymous(state, names.visitor_id)
    combined = _identified_metadata(state, entry, event, decision, anonymous)
    if type(combined) is Rejection:  # only this can refuse the event
        return rejected(combined)
    metadata, late, untrusted = combined

    contact = decision.target
    if contact is None:
        contact = state.create_contact(make_contact_id(state.workspace, entry.id), entry.seen_at)
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
    linking = _linked(state, entry, event, contact)
    if linking is None:
        linking, untrusted = UNLINKED, untrusted + 1

    writer = ChangeWriter(state, entry, contact)
    _tell(writer, decision, before, linking)
    _tell_erased_conflict(writer, contact, conflict)
    return _outcome(entry, writer, late=late, folded=linking.folded, untrusted=untrusted)


def _identified_metadata(
    state: State, entry: Entry, event: VisitorIdentified, decision: Decision, anonymous: _Anonymous | None
) -> tuple[Metadata, bool, int] | Rejection:
    """The contact's metadata after the event, NO_METADATA: as it is.

    Also whether any came too late, and how many keys a page may not change.
    """
    joining: list[Metadata] = []
    if decision.rule == "merges":
        joining.append(_metadata_of(state, decision.other))
    if anonymous is not None and anonymous[1].metadata:  # a name alone is no metadata
        visitor, stamps = anonymous
        joining.append(Metadata(visitor.metadata, stamps.metadata))
    if not joining and not event.metadata and not event.unset:
        return NO_METADATA, False, 0
    metadata = _metadata_of(state, decision.target)
    for other in joining:
        metadata = metadata.combine(other)
    patched = _patched(metadata, entry, event, joins=bool(joining))
    if type(patched) is Rejection:
        return patched
    metadata, _, late, untrusted = patched
    return metadata, late, untrusted


def _linked(state: State, entry: Entry, event: VisitorIdentified, contact: ContactRecord) -> Linking | None:
    """Links the event's visitor to the contact. None where a page may not.

    Without a token for the visitor, a page links only one that no other contact held at that time.
    """
    visitor_id = entry.names.visitor_id
    if visitor_id is None:
        return UNLINKED
    if entry.stamp < TRUSTED and event.visitor_proven is not True:
        visitor = state.visitor(visitor_id, entry.seen_at)
        link = holder_at(visitor.links, entry.at)
        if link is not None and state.find(link.contact_id) != contact.id:
            return None
    return link_visitor(state, contact, visitor_id, entry)


def _tell(writer: ChangeWriter, decision: Decision, before: ContactRecord, linking: Linking) -> None:
    """Tells the changes of an identification, in the order of the table in contract section 6."""
    contact = writer.about
    assert contact is not None  # noqa: S101  an identification is about a living contact
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
    if state.contact_stamps[contact.id].conflict != conflict:  # a page says it at every view: that is no news
        state.stamps_of(contact).conflict = conflict
        writer.tell(IdentityConflict, contact, email=email, held_by=conflict[1], reason=conflict[2])


# --- their parts


def _metadata_of(state: State, contact: ContactRecord | None) -> Metadata:
    return NO_METADATA if contact is None else Metadata(contact.metadata, state.contact_stamps[contact.id].metadata)


def _anonymous(state: State, visitor_id: str | None) -> _Anonymous | None:
    """The visitor, where it brings something to the contact that identifies it first."""
    visitor = state.visitors.get(visitor_id) if visitor_id is not None else None
    if visitor_id is None or visitor is None or visitor.links or (stamps := state.visitor_stamps.get(visitor_id)) is None:
        return None
    return visitor, stamps


def _anonymous_metadata(state: State, visitor_id: str) -> Metadata:
    stamps = state.visitor_stamps.get(visitor_id)
    return NO_METADATA if stamps is None else Metadata(state.visitors[visitor_id].metadata, stamps.metadata)


def _patched(
    metadata: Metadata, entry: Entry, event: MetadataSet | VisitorIdentified, *, joins: bool = False
) -> tuple[Metadata, list[str], bool, int] | Rejection:
    """Metadata after an event's patch, the keys that differ, whether any came too late, and how many a page may not change.

    With `joins`, several things have come together, and the greatest stamps stay. Else too many keys are a rejection.
    """
    values, unset, untrusted = event.metadata, event.unset, 0
    if entry.stamp < TRUSTED:
        values, unset, untrusted = metadata.permitted(values, unset)
    after, changed, late = metadata.patch(values, unset, entry.stamp)
    if joins:
        return after.bounded(), [], late, untrusted
    if len(after.values) > MAX_METADATA_KEYS or entry.stamp < TRUSTED:
        fitting = _fitting(after, entry)
        if type(fitting) is Rejection:
            return fitting
        if fitting is not after:
            after, changed = fitting, changed_keys(metadata.values, fitting.values)
    return after, changed, late, untrusted


def _fitting(metadata: Metadata, entry: Entry) -> Metadata | Rejection:
    """The metadata of a contact or a visitor within its limits (contract section 2). The keys of pages make room for others."""
    count, untrusted = len(metadata.values), metadata.untrusted()
    if entry.stamp >= TRUSTED:
        if count - untrusted <= MAX_METADATA_KEYS:
            return metadata.bounded()
        expected, count = f"at most {MAX_METADATA_KEYS} keys in a contact", count - untrusted
    elif untrusted > MAX_UNTRUSTED_KEYS:
        expected, count = f"at most {MAX_UNTRUSTED_KEYS} keys from pages in a contact", untrusted
    elif count > MAX_METADATA_KEYS:
        expected = f"at most {MAX_METADATA_KEYS} keys in a contact"
    else:
        return metadata
    return Rejection("invalid", "metadata", expected, f"{count} keys")


def _outcome(
    entry: Entry, writer: ChangeWriter | None = None, *, late: bool = False, folded: bool = False, untrusted: int = 0
) -> Outcome:
    if writer is not None and writer.told:
        return Outcome("folded", tuple(writer.changes), blocked=entry.names.blocked, untrusted=untrusted)
    outcome = FOLDED if folded else STALE if late else NO_OP
    if entry.names.blocked or untrusted:
        return msgspec.structs.replace(outcome, blocked=entry.names.blocked, untrusted=untrusted)
    return outcome


# --- what an erasure writes


def _erased(state: State, entry: Entry, event: Erased) -> Outcome:
    """What an entry of an erased person did to others (contract section 10)."""
    if event.kept is not None:
        return _visitor_identified(state, entry, event.kept, event.conflict)
    if event.contact_id is None:
        return NO_OP
    state.put_erased(event.contact_id)
    contact = state.contacts[event.contact_id]
    if event.visitor_id is None or type(contact) is not MergedContact or contact.merged_into != ERASED:
        return NO_OP
    linking = link_visitor(state, contact, event.visitor_id, entry)
    writer = ChangeWriter(state, entry, None)
    if linking.bystander is not None:
        writer.tell(ContactUpdated, linking.bystander, changed=["visitorIds"])
    if linking.moved and linking.previous is not None:
        writer.tell(VisitorUnlinked, linking.previous, visitor_id=event.visitor_id, next_contact_id=contact.id)
    return _outcome(entry, writer, folded=linking.folded)


def _subject_erased(_state: State, _entry: Entry, _event: SubjectErased) -> Outcome:
    return NO_OP  # a record: the entries that it names were rewritten, or are as they are read


def _events_excluded(_state: State, _entry: Entry, _event: EventsExcluded) -> Outcome:
    return NO_OP  # the living fold only notes it; a replay leaves the entries out before they come here


_EVOLVE: Final[dict[type, Callable[[State, Entry, Any], Outcome]]] = {
    VisitorSeen: _visitor_seen,
    VisitorIdentified: _visitor_identified,
    MetadataSet: _metadata_set,
    EventsExcluded: _events_excluded,
    Erased: _erased,
    SubjectErased: _subject_erased,
}
