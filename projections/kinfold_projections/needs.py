"""What a batch needs to know: the keys to load before it is folded, and no others.

Two rounds: what the entries name, then the contacts behind it. Loading too little would fold wrongly without a word, so a
property test folds every batch over a state loaded by these rules and over the whole one.
"""

from collections.abc import Iterable

import msgspec

from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.links import contacts_to_link
from kinfold_projections.records import ContactRecord, VisitorRecord
from kinfold_projections.state import State
from kinfold_schemas.events import VisitorIdentified
from kinfold_schemas.identifiers import email_key


class NamedKeys(msgspec.Struct):
    """What the entries name, and the state does not hold yet."""

    visitors: list[str]
    external_ids: list[str]
    emails: list[str]
    """By `email_key`."""
    contacts: list[str]


def named_keys(state: State, entries: Iterable[Entry | BadEntry]) -> NamedKeys:
    """The first round: what the entries themselves name."""
    visitors: dict[str, None] = {}
    external_ids: dict[str, None] = {}
    emails: dict[str, None] = {}
    contacts: dict[str, None] = {}
    for entry in entries:
        if not isinstance(entry, Entry):
            continue
        names = entry.names
        if names.visitor_id is not None and names.visitor_id not in state.visitors:
            visitors[names.visitor_id] = None
        if names.external_id is not None and names.external_id not in state.external_ids:
            external_ids[names.external_id] = None
        if names.email is not None and (address := email_key(names.email)) not in state.emails:
            emails[address] = None
        if names.contact_id is not None and names.contact_id not in state.contacts:
            contacts[names.contact_id] = None
    return NamedKeys(list(visitors), list(external_ids), list(emails), list(contacts))


def contacts_behind(state: State, entries: Iterable[Entry | BadEntry]) -> list[str]:
    """The second round, to be repeated until it is empty: the contacts that those point to, and the state does not hold."""
    ids = dict.fromkeys(state.external_ids.values())
    ids.update(dict.fromkeys(state.emails.values()))
    moved: dict[str, VisitorRecord] = {}
    for visitor in state.visitors.values():
        links = visitor.links
        if links:
            ids[links[-1].contact_id] = None
            if len(links) > 1:
                moved[visitor.id] = visitor
    for entry in entries if moved else ():
        if isinstance(entry, Entry) and entry.names.visitor_id in moved:
            ids.update(dict.fromkeys(contacts_to_link(moved[entry.names.visitor_id], entry.at)))
    for contact in state.contacts.values():
        if not isinstance(contact, ContactRecord):
            ids[contact.merged_into] = None
    return [contact_id for contact_id in ids if contact_id not in state.contacts]


def older_memberships(state: State, entries: Iterable[Entry | BadEntry]) -> dict[str, int]:
    """The contacts that may lose or reorder listed visitors in this batch, and how many: those have to know who comes next."""
    leaving: dict[str, int] = {}
    for entry in entries:
        if not isinstance(entry, Entry) or entry.event.__class__ is not VisitorIdentified:
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
