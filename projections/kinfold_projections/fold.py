"""The fold: `evolve` takes one entry, `fold` a batch, and a batch is a loop over `evolve` and nothing else.

The same fold runs live, in a replay, in `verify`, and in a test with plain dictionaries behind it. It is total: whatever an
entry is, it returns an `Outcome`. An event that is rejected has changed nothing, so everything that can refuse comes first.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from kinfold_projections.contact_ids import make_contact_id
from kinfold_projections.duplicates import Occurrence, content_digest
from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.feed import Before, Feed
from kinfold_projections.identity import (
    Decision,
    address_by_metadata,
    decide,
    merge,
    take_email,
    take_external_id,
    take_profile,
)
from kinfold_projections.linking import UNLINKED, Linking, link_visitor
from kinfold_projections.links import holder_at
from kinfold_projections.metadata import NO_METADATA, Metadata, changed_keys
from kinfold_projections.outcomes import DUPLICATE, FOLDED, NO_OP, STALE, Kind, Outcome, rejected
from kinfold_projections.records import NEVER, ContactRecord, VisitorRecord, new_contact
from kinfold_projections.state import State
from kinfold_schemas.changes import Change
from kinfold_schemas.events import MAX_METADATA_KEYS, EventsExcluded, MetadataSet, VisitorIdentified, VisitorSeen
from kinfold_schemas.identifiers import email_key
from kinfold_schemas.rejections import Rejection, found

PRESENCE_INTERVAL_MS: Final = 60_000
_LONG_ID_CHARS: Final = 64


def fold(state: State, entries: Iterable[Entry | BadEntry]) -> list[Outcome]:
    """Folds entries, in the log's order, into the state; what each came to."""
    return [evolve(state, entry) for entry in entries]


def evolve(state: State, entry: Entry | BadEntry) -> Outcome:
    """Folds one entry into the state. Mutates only the state. Raises DamagedState where that contradicts itself."""
    occurrence = remember(state, entry)
    if not isinstance(entry, Entry):
        return rejected(entry.rejection)
    if occurrence == "duplicate":
        return DUPLICATE
    event = entry.event
    outcome = _EVOLVE[event.__class__](state, entry, event)
    return outcome if occurrence == "new" else msgspec.structs.replace(outcome, id_reused=True)


def remember(state: State, entry: Entry | BadEntry) -> Occurrence:
    """Takes note of an entry in the duplicate window, and tells what it is to the entries before (contract section 3).

    Called on its own for the entries before the position, from which a restarted projector gets its window back.
    """
    if not isinstance(entry, Entry):
        state.window.skip()
        return "new"
    return state.window.enter(_event_id(entry), content_digest(entry.event))


def _event_id(entry: Entry) -> str:
    event_id = entry.event.id or entry.id
    if len(event_id) <= _LONG_ID_CHARS:
        return event_id
    return hashlib.sha256(event_id.encode()).hexdigest()  # 131,072 of them are kept, and each could have 64 KiB


def _visitor_seen(state: State, entry: Entry, event: VisitorSeen) -> Outcome:
    assert entry.names.visitor_id is not None  # noqa: S101  names.py
    visitor = state.visitor(entry.names.visitor_id, entry.at)
    stamp, at = entry.stamp, entry.at
    if event.context is not None and stamp > (visitor.context_stamp or NEVER):
        visitor.context, visitor.context_stamp = event.context, stamp
    link = holder_at(visitor.links, at)
    if link is None:
        return FOLDED
    contact = state.contact(link.contact_id)
    state.widen(contact, at, at)
    if stamp[0] < contact.presence_ms + PRESENCE_INTERVAL_MS:
        return FOLDED
    contact.presence_ms = stamp[0]
    state.put_contact(contact)
    feed = Feed(entry)
    feed.seen(contact)
    return Outcome("folded", tuple(feed.changes))


def _metadata_set(state: State, entry: Entry, event: MetadataSet) -> Outcome:
    names = entry.names
    visitor = state.visitors.get(names.visitor_id) if names.visitor_id is not None else None
    link = holder_at(visitor.links, entry.at) if visitor is not None else None
    if names.visitor_id is not None and link is None:
        return _anonymous_metadata_set(state, entry, event, visitor)
    contact_id = link.contact_id if link is not None else names.contact_id
    if contact_id is None:
        contact = decide(state, names.external_id, names.email).target
    elif contact_id in state.contacts or link is not None:
        contact = state.contact(contact_id)
    else:
        expected = "the id of a contact of this workspace"
        return rejected(Rejection("unknown-contact", "contactId", expected, found(contact_id)))

    metadata, late = _metadata_of(contact).patch(event.metadata, event.unset, entry.stamp)
    if rejection := _too_many(metadata):
        return rejected(rejection)

    if names.visitor_id is not None:
        state.visitor(names.visitor_id, entry.at)
    if contact is None:  # the event may simply have come before the one that identifies
        contact = new_contact(make_contact_id(state.workspace, entry.stamp), entry.at)
        _name(state, contact, entry)
        state.put_metadata(contact, metadata)
        feed = Feed(entry)
        feed.created(contact)
        return _outcome(feed.changes, names.blocked, late=late)
    before = contact.metadata
    state.put_metadata(contact, metadata)
    state.widen(contact, entry.at, entry.at)
    changed = changed_keys(before, contact.metadata)
    if not changed:
        return _outcome([], names.blocked, late=late)
    feed = Feed(entry)
    feed.updated(contact, [f"metadata.{key}" for key in changed])
    return _outcome(feed.changes, names.blocked, late=late)


def _name(state: State, contact: ContactRecord, entry: Entry) -> None:
    """Gives a new contact the name by which an event that sets metadata asked for it."""
    if entry.names.external_id is not None:
        take_external_id(state, contact, entry.names.external_id)
    if entry.names.email is not None:
        address_by_metadata(state, contact, entry.names.email)


def _anonymous_metadata_set(state: State, entry: Entry, event: MetadataSet, visitor: VisitorRecord | None) -> Outcome:
    """Metadata of a visitor that nobody has identified stays with the visitor (contract section 4)."""
    assert entry.names.visitor_id is not None  # noqa: S101  the caller has looked
    own = _anonymous_metadata(visitor)
    metadata, late = own.patch(event.metadata, event.unset, entry.stamp)
    if rejection := _too_many(metadata):
        return rejected(rejection)
    visitor = state.visitor(entry.names.visitor_id, entry.at)
    visitor.metadata, visitor.metadata_stamps = metadata.values, metadata.stamps
    return _outcome([], entry.names.blocked, late=late, folded=bool(changed_keys(own.values, metadata.values)))


def _visitor_identified(state: State, entry: Entry, event: VisitorIdentified) -> Outcome:
    names, stamp = entry.names, entry.stamp
    decision = decide(state, names.external_id, names.email)
    merging = decision.holder if decision.rule == "merges" else None
    visitor = state.visitors.get(names.visitor_id) if names.visitor_id is not None else None

    # What may refuse the event: more metadata than a contact can have. Where contacts come together nothing is refused.
    own = alone = _metadata_of(decision.target)
    if merging is not None:
        own = own.combine(_metadata_of(merging))
    if visitor is not None and not visitor.links:
        own = own.combine(_anonymous_metadata(visitor))
    metadata, late = own.patch(event.metadata, event.unset, stamp) if event.metadata or event.unset else (own, False)
    if merging is not None or own is not alone:
        metadata = metadata.newest()
    if rejection := _too_many(metadata):
        return rejected(rejection)

    contact = decision.target or new_contact(make_contact_id(state.workspace, stamp), entry.at)
    before = Before(contact)
    if names.external_id is not None:
        take_external_id(state, contact, names.external_id)
    if merging is not None:
        merge(state, contact, merging, entry)
    elif names.email is not None and decision.rule != "conflict":
        late |= not take_email(state, contact, names.email, stamp)
    if event.name is not None or event.image is not None:
        late |= not take_profile(contact, event, stamp)
    state.put_metadata(contact, metadata)
    state.widen(contact, entry.at, entry.at)
    linking = link_visitor(state, contact, names.visitor_id, entry) if names.visitor_id is not None else UNLINKED

    changes = _changes(entry, decision, before, linking)
    return _outcome(changes, names.blocked, late=late, folded=linking.folded)


def _changes(entry: Entry, decision: Decision, before: Before, linking: Linking) -> list[Change]:
    """The changes of an identification, in the order of the table in contract section 6."""
    feed, contact = Feed(entry), before.contact
    merged = decision.holder if decision.rule == "merges" else None
    changed = before.changed()
    if not linking.moved and merged is None and before.reordered():
        changed.append("visitorIds")
    if decision.target is None:
        feed.created(contact)
    elif changed:
        feed.updated(contact, changed)
    if linking.bystander is not None and linking.bystander.reordered():
        feed.updated(linking.bystander.contact, ["visitorIds"])
    if linking.moved:
        previous = linking.previous
        feed.linked(contact, linking.visitor_id, previous.id if previous else None)
        if previous is not None:
            feed.unlinked(previous, linking.visitor_id, contact.id)
    if merged is not None:
        feed.merged(contact, merged.id)
    if decision.rule == "conflict" and decision.holder is not None and decision.email is not None:
        conflict = email_key(decision.email), decision.holder.id, decision.reason
        if contact.conflict != conflict:  # a page says it at every view, and says nothing new
            contact.conflict = conflict
            feed.conflict(contact, decision.email, decision.holder.id, decision.reason)
    return feed.changes


def _metadata_of(contact: ContactRecord | None) -> Metadata:
    return NO_METADATA if contact is None else Metadata(contact.metadata, contact.metadata_stamps)


def _anonymous_metadata(visitor: VisitorRecord | None) -> Metadata:
    return NO_METADATA if visitor is None else Metadata(visitor.metadata, visitor.metadata_stamps or {})


def _too_many(metadata: Metadata) -> Rejection | None:
    if len(metadata.values) <= MAX_METADATA_KEYS:
        return None
    expected = f"at most {MAX_METADATA_KEYS} keys in a contact"
    return Rejection("invalid", "metadata", expected, f"{len(metadata.values)} keys once set")


def _outcome(changes: list[Change], blocked: int, *, late: bool, folded: bool = False) -> Outcome:
    if changes or blocked:
        kind: Kind = "folded" if changes or folded else "stale" if late else "no-op"
        return Outcome(kind, tuple(changes), blocked=blocked)
    return FOLDED if folded else STALE if late else NO_OP


def _events_excluded(_state: State, _entry: Entry, _event: EventsExcluded) -> Outcome:
    return NO_OP  # the living fold only notes it; who folds a log again leaves the entries out before they come here


_EVOLVE: Final[dict[type, Callable[[State, Entry, Any], Outcome]]] = {
    VisitorSeen: _visitor_seen,
    VisitorIdentified: _visitor_identified,
    MetadataSet: _metadata_set,
    EventsExcluded: _events_excluded,
}
