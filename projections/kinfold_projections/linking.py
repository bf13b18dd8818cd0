"""Linking a visitor to a contact (contract section 5, Linking): its history, and both contacts' visitors."""

from typing import Final

import msgspec

from kinfold_projections.entries import Entry
from kinfold_projections.links import linked
from kinfold_projections.records import NO_STAMPS, ContactRecord, VisitorStamps
from kinfold_projections.state import State
from kinfold_schemas.contacts import MergedContact


class Linking(msgspec.Struct, frozen=True, gc=False):
    """What linking a visitor did."""

    visitor_id: str = ""
    folded: bool = False
    """Whether the history differs now, even if only in the past."""
    moved: bool = False
    """Whether the visitor became the contact's."""
    previous: ContactRecord | None = None
    """Whose it was before it moved. None: nobody's, or an erased contact's."""
    bystander: ContactRecord | None = None
    """Whose it stays, where a late event interrupted that contact's link and so reordered its visitors."""


_LINK_BYTES: Final = 100
"""Of a link: about what it takes encoded."""

UNLINKED: Final = Linking()
"""Nothing differs."""


def link_visitor(state: State, contact: ContactRecord | MergedContact, visitor_id: str, entry: Entry) -> Linking:
    """Links the visitor to the contact from the entry's time on. The first contact of a visitor gets its anonymous past.

    An erased contact, which is a tombstone, has no list of visitors.
    """
    visitor = state.visitor(visitor_id, entry.seen_at)
    old = visitor.links
    stamps = state.visitor_stamps.get(visitor_id, NO_STAMPS)
    was_confirmed = stamps.confirmed or [[] for _ in old]
    links, confirmed = linked((old, was_confirmed), contact.id, entry.at, entry.at_ms, state.find)
    if confirmed is not was_confirmed and (stamps is not NO_STAMPS or any(confirmed)):
        state.put_visitor_stamps(visitor_id, VisitorStamps(confirmed=confirmed))
    if links is old:
        return UNLINKED
    visitor.links, visitor.contact_id = links, links[-1].contact_id
    state.weigh_visitor(visitor_id, len(links) * _LINK_BYTES)
    now = links[-1]
    if not old:
        if type(contact) is ContactRecord:
            contact.widen(visitor.first_seen_at, visitor.last_seen_at)
            state.add_visitor(contact, now, visitor_id)
        return Linking(visitor_id, folded=True, moved=True)

    was = old[-1]
    folded = old != links
    if was == now:
        return Linking(visitor_id, folded=folded)
    holder, taker = state.holder(was.contact_id), state.holder(now.contact_id)
    moved = state.find(now.contact_id) != state.find(was.contact_id)
    visitor_ids = [] if holder is None else holder.visitor_ids
    if holder is not None:
        state.remove_visitor(holder, was, visitor_id)
    if taker is not None:
        state.add_visitor(taker, now, visitor_id)
    if moved:
        return Linking(visitor_id, folded, moved, holder)
    is_reordered = holder is not None and holder is not contact and holder.visitor_ids != visitor_ids
    return Linking(visitor_id, folded, bystander=holder if is_reordered else None)
