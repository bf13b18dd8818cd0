"""Links a visitor to a contact (contract section 5, Linking): the visitor's history, and both contacts' visitors."""

from typing import Final

import msgspec

from kinfold_projections.entries import Entry
from kinfold_projections.links import TIMED_LINKS, linked, shortened
from kinfold_projections.records import NO_STAMPS, ContactRecord, VisitorRecord, VisitorStamps
from kinfold_projections.state import State
from kinfold_schemas.contacts import MAX_LINKS, Link, MergedContact


class Linking(msgspec.Struct, frozen=True, gc=False):
    """The result of linking a visitor."""

    visitor_id: str = ""
    folded: bool = False
    """Whether the history changed, even if only in the past."""
    moved: bool = False
    """Whether the visitor moved to the contact."""
    previous: ContactRecord | None = None
    """The contact that had the visitor before it moved."""
    bystander: ContactRecord | None = None
    """The contact that keeps the visitor, if a late event interrupted its link and so reordered its visitors."""


_LINK_BYTES: Final = 100
"""About how many bytes a link takes encoded."""

UNLINKED: Final = Linking()
"""Nothing changed."""


def is_unlinked_after(visitor: VisitorRecord, stamps: VisitorStamps, entry: Entry) -> bool:
    """Whether a correction, later than the entry, unlinked the visitor, which belongs to no contact now."""
    confirmed = stamps.confirmed[-1] if stamps.confirmed else ()
    return entry.at < visitor.links[-1].since or bool(confirmed and entry.at_ms < confirmed[-1])


def link_visitor(
    state: State, contact: ContactRecord | MergedContact | None, visitor: VisitorRecord, visitor_id: str, entry: Entry
) -> Linking:
    """Link the visitor to the contact from the entry's time on. The first contact of a visitor gets its anonymous past."""
    old = visitor.links
    stamps = state.visitor_stamps.get(visitor_id, NO_STAMPS)
    was_confirmed = stamps.confirmed or [[] for _ in old]
    contact_id = None if contact is None else contact.id
    links, confirmed = linked((old, was_confirmed), contact_id, entry.at, entry.at_ms, state.find)
    if len(links) > TIMED_LINKS or len(links) > MAX_LINKS:
        links, confirmed = shortened((links, confirmed), state.find)
    if confirmed is not was_confirmed and (stamps is not NO_STAMPS or any(confirmed)):
        is_linked = links[-1].contact_id is not None  # then the contact has what the other stamps date
        kept = VisitorStamps(confirmed=confirmed) if is_linked else msgspec.structs.replace(stamps, confirmed=confirmed)
        state.put_visitor_stamps(visitor_id, kept)
    if links is old:
        return UNLINKED
    visitor.links, visitor.contact_id = links, links[-1].contact_id
    state.weigh_visitor(visitor_id, len(links) * _LINK_BYTES)
    now = links[-1]
    if not old and contact is not None:
        if type(contact) is ContactRecord:
            contact.widen(visitor.first_seen_at, visitor.last_seen_at)
            state.add_visitor(contact, now, visitor_id)
        return Linking(visitor_id, folded=True, moved=True)

    was = old[-1]
    folded = old != links
    if was == now:
        return Linking(visitor_id, folded=folded)
    holder = None if was.contact_id is None else state.holder(was.contact_id)
    next_holder = None if now.contact_id is None else state.holder(now.contact_id)
    visitor_ids = None if holder is None else holder.visitor_ids
    if holder is not None:
        state.remove_visitor(holder, was, visitor_id)
    if next_holder is not None:
        state.add_visitor(next_holder, now, visitor_id)
    if _holder_id(state, was) != _holder_id(state, now):
        return Linking(visitor_id, folded, moved=True, previous=holder)
    is_reordered = holder is not None and holder is not contact and holder.visitor_ids != visitor_ids
    return Linking(visitor_id, folded, bystander=holder if is_reordered else None)


def _holder_id(state: State, link: Link) -> str | None:
    return None if link.contact_id is None else state.find(link.contact_id)
