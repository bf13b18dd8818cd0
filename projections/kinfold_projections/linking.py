"""Linking a visitor to a contact (contract section 5, Linking): its history, and both contacts' visitors."""

from typing import Final

import msgspec

from kinfold_projections.entries import Entry
from kinfold_projections.feed import Before
from kinfold_projections.links import linked, said_again
from kinfold_projections.records import ContactRecord
from kinfold_projections.state import State


class Linking(msgspec.Struct, frozen=True, gc=False):
    """What linking a visitor did."""

    visitor_id: str = ""
    folded: bool = False
    """Whether the history is another one, were it only in the past."""
    moved: bool = False
    """Whether the visitor is the contact's now and was not before."""
    previous: ContactRecord | None = None
    """Whose it was before it moved."""
    bystander: Before | None = None
    """Whose it stays, where a late event interrupted that contact's link: its visitors may stand in another order now."""


UNLINKED: Final = Linking()
"""Nothing is other than it was."""


def link_visitor(state: State, contact: ContactRecord, visitor_id: str, entry: Entry) -> Linking:
    """Links the visitor to the contact from the entry's time on. The first contact of a visitor gets its anonymous past."""
    at, at_ms = entry.at, entry.stamp[0]
    visitor = state.visitor(visitor_id, at)
    old = visitor.links
    if old and old[-1].contact_id == contact.id and at >= old[-1].since:  # said again, as most pages do at every view
        if (again := said_again(old[-1], at_ms)) is not old[-1]:
            visitor.links = [*old[:-1], again]
        return UNLINKED
    if not old:
        state.widen(contact, visitor.first_seen_at, visitor.last_seen_at)
    links = linked(old, contact.id, at, at_ms, state.find)
    visitor.links, visitor.contact_id = links, links[-1].contact_id
    if not old:
        state.add_visitor(contact, links[-1].contact_id, links[-1].since, visitor_id)
        return Linking(visitor_id, folded=True, moved=True)

    was, now = old[-1], links[-1]
    folded = [(link.contact_id, link.since) for link in old] != [(link.contact_id, link.since) for link in links]
    if (was.contact_id, was.since) == (now.contact_id, now.since):
        return Linking(visitor_id, folded=folded)
    holder = state.contact(was.contact_id)
    moved = state.find(now.contact_id) != holder.id
    bystander = Before(holder) if not moved and holder is not contact else None
    state.remove_visitor(holder, was.contact_id, was.since, visitor_id)
    state.add_visitor(state.contact(now.contact_id), now.contact_id, now.since, visitor_id)
    return Linking(visitor_id, folded, moved, holder if moved else None, bystander)
