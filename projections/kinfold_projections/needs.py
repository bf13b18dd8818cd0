"""What a batch needs: the keys to load before it is folded.

The state is closed under references, so there are two questions. Which of the keys that the entries name are not loaded? And
which contacts do the loaded records lead to? Loading too little would fold wrongly without an error, so a property test folds
every batch both over a state loaded by these rules and over the whole one.
"""

from collections.abc import Iterable, Sequence

import msgspec

from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.state import State
from kinfold_schemas.contacts import ERASED, MergedContact
from kinfold_schemas.events import Erased, IdentityCorrected, VisitorIdentified


class Missing(msgspec.Struct):
    """What entries name that the state does not hold, each once. It may not exist in Redis."""

    visitors: dict[str, None] = {}
    external_ids: dict[str, None] = {}
    emails: dict[str, None] = {}
    """By key."""
    contacts: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self.visitors or self.external_ids or self.emails or self.contacts)


def missing(state: State, entries: Sequence[Entry | BadEntry]) -> Missing:
    """What the entries name that the state does not hold."""
    found = Missing()
    visitors, external_ids, emails, contacts = state.visitors, state.external_ids, state.emails, state.contacts
    for entry in entries:
        if type(entry) is not Entry:
            continue
        names = entry.names
        if (visitor_id := names.visitor_id) is not None and visitor_id not in visitors:
            found.visitors[visitor_id] = None
        if (external_id := names.external_id) is not None and external_id not in external_ids:
            found.external_ids[external_id] = None
        if (email_key := names.email_key) is not None and email_key not in emails:
            found.emails[email_key] = None
        if (contact_id := names.contact_id) is not None:
            if contact_id not in contacts:
                found.contacts[contact_id] = None
            if (merged_id := names.merge_contact_id) is not None and merged_id not in contacts:
                found.contacts[merged_id] = None
    return found


def contacts_behind(state: State, loaded: Missing) -> Iterable[str]:
    """The contacts that the loaded records refer to."""
    visitors = [visitor for each in loaded.visitors if (visitor := state.visitors.get(each)) is not None]
    ids = dict.fromkeys([link.contact_id for visitor in visitors for link in visitor.links if link.contact_id is not None])
    ids.update(dict.fromkeys([held for each in loaded.external_ids if (held := state.external_ids.get(each)) is not None]))
    ids.update(dict.fromkeys([held for each in loaded.emails if (held := state.emails.get(each)) is not None]))
    ids.update(loaded.contacts)
    return [contact_id for contact_id in ids if contact_id not in state.contacts]


def survivors(state: State, contact_ids: Iterable[str]) -> list[str]:
    """The contacts into which merged ones of these went. Repeat until nothing new comes."""
    contacts = [state.contacts.get(contact_id) for contact_id in contact_ids]
    merged_into = [contact.merged_into for contact in contacts if type(contact) is MergedContact]
    return [
        contact_id for contact_id in dict.fromkeys(merged_into) if contact_id != ERASED and contact_id not in state.contacts
    ]


def older_memberships(state: State, entries: Sequence[Entry | BadEntry]) -> dict[str, int]:
    """The contacts that may lose or reorder listed visitors in this batch, and how many.

    For these, the visitors that come next have to be loaded.
    """
    leaving: dict[str, int] = {}
    for entry in entries:
        if type(entry) is not Entry:
            continue
        kind = type(entry.event)
        if kind is not VisitorIdentified and kind is not IdentityCorrected and kind is not Erased:
            continue
        visitor = state.visitors.get(entry.names.visitor_id or "")
        if visitor is None or not visitor.links:
            continue
        last = visitor.links[-1]
        holder = None if last.contact_id is None else state.holder(last.contact_id)
        if holder is None or holder.visitor_count <= len(state.contact_stamps[holder.id].since):
            continue
        x = state.external_ids.get(entry.names.external_id or "")
        if x != holder.id or entry.at < last.since:
            leaving[holder.id] = leaving.get(holder.id, 0) + 1
    return leaving
