"""What an erasure removes from a state that stands for a part of the log (contract sections 10 and 11).

Where the log itself is there, its entries are redacted and folded again. Of the part that a baseline stands for, there are no
entries. So the state itself loses what those entries would not give any more:

- Of each contact a tombstone remains, without anything else.
- Visitors that were only theirs go. A shared visitor stays with its links and seen times, without what it brought while it was
  theirs and without a context of that time.
- Another contact's last conflict keeps that there was one, and not the address.
"""

from collections.abc import Callable

import msgspec

from kinfold_projections.links import holder_at
from kinfold_projections.ownership import Belongings
from kinfold_projections.records import NEVER
from kinfold_projections.state import State
from kinfold_schemas.contacts import ERASED, MergedContact
from kinfold_schemas.times import to_text

_CONTACT_ID_CHARS = 29


def forget(state: State, members: set[str], people: Belongings, token: Callable[[str], str]) -> None:
    """Remove people from a state, and from the content of its sorted set `members`.

    `token`: gives the placeholder for an address in a conflict, the same as in redacted entries.
    """
    for contact_id in people.contacts & state.contacts.keys():
        state.contacts[contact_id] = MergedContact(contact_id, ERASED)
        state.contact_stamps.pop(contact_id, None)
        state.older.pop(contact_id, None)
    for identifiers in (state.external_ids, state.emails):
        for identifier in [each for each, holder in identifiers.items() if holder in people.contacts]:
            del identifiers[identifier]
    for visitor_id in people.visitors & state.visitors.keys():
        if visitor_id in people.shared_visitors:
            _forget_times_of(state, visitor_id, people)
        else:
            del state.visitors[visitor_id]
            state.visitor_stamps.pop(visitor_id, None)
    members.difference_update([each for each in members if each[:_CONTACT_ID_CHARS] in people.contacts])
    for stamps in state.contact_stamps.values():
        if stamps.conflict is not None and stamps.conflict[1] in people.contacts:
            address, holder, reason = stamps.conflict
            stamps.conflict = (token(address), holder, reason)
        if stamps.dismissed:
            told = stamps.dismissed
            stamps.dismissed = [(token(each) if holder in people.contacts else each, holder) for each, holder in told]


def _forget_times_of(state: State, visitor_id: str, people: Belongings) -> None:
    """Remove from a shared visitor what it holds of the time when it was theirs."""
    visitor, stamps = state.visitors[visitor_id], state.visitor_stamps.get(visitor_id)
    if visitor.links and visitor.links[0].contact_id in people.contacts:
        visitor.name, visitor.image, visitor.metadata = None, None, {}
        if stamps is not None:
            state.visitor_stamps[visitor_id] = msgspec.structs.replace(stamps, metadata={}, name_stamp=NEVER, image_stamp=NEVER)
    if visitor.context_ms != NEVER and holder_at(visitor.links, to_text(visitor.context_ms)) in people.contacts:
        visitor.context, visitor.context_ms = {}, NEVER
