"""The fold: `evolve` takes one entry, `fold` a batch, and a batch is the duplicate window and a loop over `evolve`.

The same fold runs live, in a replay, in `verify`, and in a test with plain dictionaries behind it. It is total: it returns an
`Outcome` for any entry. An event that is rejected has changed nothing, so everything that can refuse comes first.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Final

import msgspec

from kinfold_projections.changes import Before, ChangeWriter
from kinfold_projections.contact_ids import make_contact_id
from kinfold_projections.duplicates import Occurrence
from kinfold_projections.entries import BadEntry, Entry
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
from kinfold_projections.outcomes import DUPLICATE, FOLDED, NO_OP, STALE, Kind, Outcome, rejected
from kinfold_projections.records import NO_STAMPS, ContactRecord, VisitorRecord, VisitorStamps
from kinfold_projections.state import State
from kinfold_schemas.changes import (
    ContactCreated,
    ContactSeen,
    ContactsMerged,
    ContactUpdated,
    IdentityConflict,
    VisitorLinked,
    VisitorUnlinked,
)
from kinfold_schemas.events import MAX_METADATA_KEYS, EventsExcluded, MetadataSet, VisitorIdentified, VisitorSeen
from kinfold_schemas.rejections import Rejection, found
from kinfold_schemas.times import text_ms

PRESENCE_INTERVAL_MS: Final = 60_000

_FACT_BYTES: Final = 1000
"""Of a key and its value: about what long ones take."""


def fold(state: State, entries: Sequence[Entry | BadEntry]) -> list[Outcome]:
    """Folds entries, in the log's order, into the state; returns the outcome of each."""
    occurrences = state.window.enter(entries)
    return [evolve(state, entry, occurrences.get(index, "new")) for index, entry in enumerate(entries)]


def evolve(state: State, entry: Entry | BadEntry, occurrence: Occurrence) -> Outcome:
    """Folds one entry into the state. Mutates only the state. Raises DamagedState where that contradicts itself."""
    if not isinstance(entry, Entry):
        return rejected(entry.rejection)
    if occurrence == "duplicate":
        return DUPLICATE
    event = entry.event
    outcome = _EVOLVE[event.__class__](state, entry, event)
    return outcome if occurrence == "new" else msgspec.structs.replace(outcome, id_reused=True)


# --- VisitorSeen


def _visitor_seen(state: State, entry: Entry, event: VisitorSeen) -> Outcome:
    assert entry.names.visitor_id is not None  # noqa: S101  names.py
    visitor = state.visitor(entry.names.visitor_id, entry.seen_at)
    at_ms = entry.at_ms
    if event.context is not None and at_ms >= visitor.context_ms:
        visitor.context, visitor.context_ms = event.context, at_ms
        state.weigh_visitor(entry.names.visitor_id, len(entry.data))
    link = holder_at(visitor.links, entry.at)
    if link is None or entry.seen_at is not entry.at:
        return FOLDED
    contact = state.contact(link.contact_id)
    presence_ms = state.contact_stamps[contact.id].presence_ms
    if at_ms < presence_ms + PRESENCE_INTERVAL_MS and (
        entry.at >= contact.first_seen_at or at_ms > text_ms(contact.first_seen_at) - PRESENCE_INTERVAL_MS
    ):
        return FOLDED  # presence is told once a minute, and what is not told is not written
    state.stamps_of(contact).presence_ms = max(presence_ms, at_ms)
    writer = ChangeWriter(state, entry, contact)
    writer.tell(ContactSeen, contact)
    return _outcome(writer, entry)


# --- MetadataSet


def _metadata_set(state: State, entry: Entry, event: MetadataSet) -> Outcome:
    names = entry.names
    visitor = state.visitors.get(names.visitor_id) if names.visitor_id is not None else None
    link = holder_at(visitor.links, entry.at) if visitor is not None else None
    if names.visitor_id is not None and link is None:
        return _anonymous_metadata_set(state, entry, event, visitor)
    contact_id = link.contact_id if link is not None else names.contact_id
    if contact_id is None:
        contact = decide(state, names).target
    elif contact_id in state.contacts or link is not None:
        contact = state.contact(contact_id)
    else:
        expected = "the id of a contact of this workspace"
        return rejected(Rejection("unknown-contact", "contactId", expected, found(contact_id)))

    metadata, late = _metadata_of(state, contact).patch(event.metadata, event.unset, entry.at_ms)
    if rejection := _too_many(metadata):
        return rejected(rejection)

    if names.visitor_id is not None:
        state.visitor(names.visitor_id, entry.seen_at)
    if contact is None:  # the event may simply have come before the one that identifies
        contact = state.create_contact(make_contact_id(state.workspace, entry.id), entry.seen_at)
        if names.external_id is not None:
            take_external_id(state, contact, names.external_id)
        else:
            address_by_metadata(state, contact, names)
        state.put_metadata(contact, metadata)
        take_profile(contact, state.stamps_of(contact), event, entry.at_ms)
        writer = ChangeWriter(state, entry, contact)
        writer.tell(ContactCreated, contact)
        return _outcome(writer, entry, late=late)
    before, described = contact.metadata, (contact.name, contact.image)
    state.put_metadata(contact, metadata)
    changed = [f"metadata.{key}" for key in changed_keys(before, contact.metadata)]
    if event.name is not None or event.image is not None:
        late |= not take_profile(contact, state.stamps_of(contact), event, entry.at_ms)
        now = contact.name, contact.image
        changed = [field for field, old, new in zip(("name", "image"), described, now, strict=True) if old != new] + changed
    writer = ChangeWriter(state, entry, contact)
    if changed:
        writer.tell(ContactUpdated, contact, changed=changed)
    return _outcome(writer, entry, late=late)


def _anonymous_metadata_set(state: State, entry: Entry, event: MetadataSet, visitor: VisitorRecord | None) -> Outcome:
    """Metadata of an anonymous visitor stays with the visitor until an event identifies it (contract section 4)."""
    visitor_id = entry.names.visitor_id
    assert visitor_id is not None  # noqa: S101  the caller has looked
    own = _anonymous_metadata(state, visitor_id)
    metadata, late = own.patch(event.metadata, event.unset, entry.at_ms)
    if rejection := _too_many(metadata):
        return rejected(rejection)
    visitor = state.visitor(visitor_id, entry.seen_at)
    stamps = copy(state.visitor_stamps.get(visitor_id, NO_STAMPS))
    before, stamps.metadata, visitor.metadata = (visitor.name, visitor.image), metadata.stamps, metadata.values
    late |= not take_profile(visitor, stamps, event, entry.at_ms)
    state.weigh_visitor(visitor_id, len(entry.data) + len(visitor.metadata) * _FACT_BYTES)
    state.put_visitor_stamps(visitor_id, stamps)
    folded = before != (visitor.name, visitor.image) or bool(changed_keys(own.values, metadata.values))
    return _outcome(None, entry, late=late, folded=folded)


# --- VisitorIdentified


def _visitor_identified(state: State, entry: Entry, event: VisitorIdentified) -> Outcome:
    names, at_ms = entry.names, entry.at_ms
    decision = decide(state, names)
    metadata, late = _identified_metadata(state, entry, event, decision)
    if rejection := _too_many(metadata):  # only this can refuse the event
        return rejected(rejection)

    contact = decision.target
    if contact is None:
        contact = state.create_contact(make_contact_id(state.workspace, entry.id), entry.seen_at)
    before = Before(contact)
    if names.external_id is not None:
        take_external_id(state, contact, names.external_id)
    if decision.rule == "merges":
        merge(state, contact, decision.other, entry)
    elif names.email is not None and decision.rule != "conflict":
        late |= not take_email(state, contact, names.email, at_ms)
    if (anonymous := _anonymous(state, names.visitor_id)) is not None:
        join_profile(contact, state.stamps_of(contact), *anonymous)
    if event.name is not None or event.image is not None:
        late |= not take_profile(contact, state.stamps_of(contact), event, at_ms)
    if metadata is not NO_METADATA:
        state.put_metadata(contact, metadata)
    linking = link_visitor(state, contact, names.visitor_id, entry) if names.visitor_id is not None else UNLINKED

    writer = ChangeWriter(state, entry, contact)
    _tell(writer, state, entry, decision, before, linking)
    return _outcome(writer, entry, late=late, folded=linking.folded)


def _identified_metadata(state: State, entry: Entry, event: VisitorIdentified, decision: Decision) -> tuple[Metadata, bool]:
    """The contact's metadata after the event, and whether any came too late; NO_METADATA: as it is.

    Where contacts come together, or a visitor's anonymous past joins one, the newest keys stay. Elsewhere it may be too many.
    """
    joining: list[Metadata] = []
    if decision.rule == "merges":
        joining.append(_metadata_of(state, decision.other))
    anonymous = _anonymous(state, entry.names.visitor_id)
    if anonymous is not None and anonymous[1].metadata:  # a name alone is no metadata
        visitor, stamps = anonymous
        joining.append(Metadata(visitor.metadata, stamps.metadata))
    if not joining and not event.metadata and not event.unset:
        return NO_METADATA, False
    metadata = _metadata_of(state, decision.target)
    for other in joining:
        metadata = metadata.combine(other)
    metadata, late = metadata.patch(event.metadata, event.unset, entry.at_ms)
    return (metadata.bounded() if joining else metadata), late


def _tell(writer: ChangeWriter, state: State, entry: Entry, decision: Decision, before: Before, linking: Linking) -> None:  # noqa: PLR0913, PLR0917  all that an identification did
    """Tells the changes of an identification, in the order of the table in contract section 6."""
    contact = before.contact
    merged = decision.other if decision.rule == "merges" else None
    if decision.target is None:
        writer.tell(ContactCreated, contact)
    else:
        changed = before.changed()
        if not linking.moved and merged is None and before.reordered():
            changed.append("visitorIds")
        if changed:
            writer.tell(ContactUpdated, contact, changed=changed)
    if linking.bystander is not None and linking.bystander.reordered():
        writer.tell(ContactUpdated, linking.bystander.contact, changed=["visitorIds"])
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
        _tell_conflict(writer, state, entry, contact, decision)


def _tell_conflict(writer: ChangeWriter, state: State, entry: Entry, contact: ContactRecord, decision: Decision) -> None:
    email, key, holder = entry.names.email, entry.names.email_key, decision.other
    assert email is not None and key is not None  # noqa: S101, PT018  the second table says so
    conflict = key, holder.id, decision.reason
    if state.contact_stamps[contact.id].conflict != conflict:  # a page says it at every view: that is no news
        state.stamps_of(contact).conflict = conflict
        writer.tell(IdentityConflict, contact, email=email, held_by=holder.id, reason=decision.reason)


# --- their parts


def _metadata_of(state: State, contact: ContactRecord | None) -> Metadata:
    return NO_METADATA if contact is None else Metadata(contact.metadata, state.contact_stamps[contact.id].metadata)


def _anonymous(state: State, visitor_id: str | None) -> tuple[VisitorRecord, VisitorStamps] | None:
    """The visitor, where it brings something to the contact that identifies it first."""
    stamps = state.visitor_stamps.get(visitor_id) if visitor_id is not None else None
    if visitor_id is None or stamps is None or (visitor := state.visitors[visitor_id]).links:
        return None
    return visitor, stamps


def _anonymous_metadata(state: State, visitor_id: str) -> Metadata:
    stamps = state.visitor_stamps.get(visitor_id)
    return NO_METADATA if stamps is None else Metadata(state.visitors[visitor_id].metadata, stamps.metadata)


def _too_many(metadata: Metadata) -> Rejection | None:
    if len(metadata.values) <= MAX_METADATA_KEYS:
        return None
    expected = f"at most {MAX_METADATA_KEYS} keys in a contact"
    return Rejection("invalid", "metadata", expected, f"{len(metadata.values)} keys")


def _outcome(writer: ChangeWriter | None, entry: Entry, *, late: bool = False, folded: bool = False) -> Outcome:
    if writer is not None and writer.told:
        return Outcome("folded", tuple(writer.changes), blocked=entry.names.blocked)
    if entry.names.blocked:
        kind: Kind = "folded" if folded else "stale" if late else "no-op"
        return Outcome(kind, blocked=entry.names.blocked)
    return FOLDED if folded else STALE if late else NO_OP


def _events_excluded(_state: State, _entry: Entry, _event: EventsExcluded) -> Outcome:
    return NO_OP  # the living fold only notes it; a replay leaves the entries out before they come here


_EVOLVE: Final[dict[type, Callable[[State, Entry, Any], Outcome]]] = {
    VisitorSeen: _visitor_seen,
    VisitorIdentified: _visitor_identified,
    MetadataSet: _metadata_set,
    EventsExcluded: _events_excluded,
}
