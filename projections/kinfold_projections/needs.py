"""What a batch needs to know: the keys to load before it is folded, and no others.

In rounds: what the entries name, the contacts behind it, and those that these have been merged into. Loading too little would
fold wrongly without a word, so a property test folds every batch over a state loaded by these rules and over the whole one.
"""

from collections.abc import Iterable, Sequence

import msgspec

from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.links import contacts_to_link
from kinfold_projections.state import State
from kinfold_schemas.contacts import MergedContact
from kinfold_schemas.events import VisitorIdentified
from kinfold_schemas.identifiers import email_key


class NamedKeys(msgspec.Struct):
    """What the entries name, each once."""

    visitors: Iterable[str]
    external_ids: Iterable[str]
    emails: Iterable[str]
    """By `email_key`."""
    contacts: Iterable[str]


def named_keys(entries: Sequence[Entry | BadEntry]) -> NamedKeys:
    """The first round: what the entries themselves name."""
    names = [entry.names for entry in entries if type(entry) is Entry]
    return NamedKeys(
        visitors=dict.fromkeys([each.visitor_id for each in names if each.visitor_id is not None]),
        external_ids=dict.fromkeys([each.external_id for each in names if each.external_id is not None]),
        emails=dict.fromkeys([email_key(each.email) for each in names if each.email is not None]),
        contacts=dict.fromkeys([each.contact_id for each in names if each.contact_id is not None]),
    )


def contacts_behind(state: State, entries: Sequence[Entry | BadEntry]) -> Iterable[str]:
    """The second round: the contacts that what the entries name points to, as it was loaded into the state."""
    ids = dict.fromkeys([visitor.links[-1].contact_id for visitor in state.visitors.values() if visitor.links])
    ids.update(dict.fromkeys(state.external_ids.values()))
    ids.update(dict.fromkeys(state.emails.values()))
    moved = {visitor.id: visitor for visitor in state.visitors.values() if len(visitor.links) > 1}
    for entry in entries if moved else ():
        if type(entry) is Entry and entry.names.visitor_id in moved:
            ids.update(dict.fromkeys(contacts_to_link(moved[entry.names.visitor_id], entry.at)))
    return ids


def survivors(state: State, contact_ids: Iterable[str]) -> list[str]:
    """The third round, to be repeated until there are none: where those of the contacts went that have been merged."""
    contacts = [state.contacts.get(contact_id) for contact_id in contact_ids]
    merged_into = [contact.merged_into for contact in contacts if type(contact) is MergedContact]
    return [contact_id for contact_id in dict.fromkeys(merged_into) if contact_id not in state.contacts]


def older_memberships(state: State, entries: Sequence[Entry | BadEntry]) -> dict[str, int]:
    """The contacts that may lose or reorder listed visitors in this batch, and how many: those have to know who comes next."""
    leaving: dict[str, int] = {}
    for entry in entries:
        if type(entry) is not Entry or type(entry.event) is not VisitorIdentified:
            continue
        visitor = state.visitors.get(entry.names.visitor_id or "")
        if visitor is None or not visitor.links:
            continue
        last = visitor.links[-1]
        holder = state.contact(last.contact_id)
        if holder.visitor_count <= len(holder.visitor_ids):
            continue
        x = state.external_ids.get(entry.names.external_id or "")
        if x != holder.id or entry.at < last.since:
            leaving[holder.id] = leaving.get(holder.id, 0) + 1
    return leaving
