"""Which visitors a contact has now, newest link first (contract section 5: `visitorIds`, `visitorCount`).

A contact lists the `LISTED_VISITORS` linked most recently; the whole stands in one sorted set a workspace, `members`, whose
members sort as text:

    <contact id (29 characters)> <since (24)> v <visitor id>          a visitor that was linked to the contact
    <contact id (29 characters)> <since (24)> ~ <merged contact id>   a contact that was merged into it, with all of its own

A link stands under the contact that it names, so that a merge moves one member and not 100,000 visitors. `since` of a merged
contact is its newest link's: an upper bound, good for walking the whole from the newest on.

When a listed visitor leaves, the next one has to be known. `older` of the state holds the links that follow the listed ones,
as many as the batch may need (`kinfold_projections.needs`).
"""

from bisect import bisect_left
from typing import Final, NamedTuple

from kinfold_projections.records import ContactRecord
from kinfold_schemas.contacts import LISTED_VISITORS

VISITOR: Final = "v"
MERGED: Final = "~"
"""Sorts after VISITOR: who walks from the newest on opens a merged contact before it passes a visitor of the same time."""


class Membership(NamedTuple):
    """One visitor of a contact; sorts by time, then by id."""

    since: str
    visitor_id: str


_THE_OLDEST: Final = Membership("", "")


def member(contact_id: str, since: str, visitor_id: str) -> str:
    """A visitor in the sorted set."""
    return f"{contact_id}{since}{VISITOR}{visitor_id}"


def merged_member(contact_id: str, newest: str, merged_contact_id: str) -> str:
    """A merged contact in the sorted set."""
    return f"{contact_id}{newest}{MERGED}{merged_contact_id}"


def add(contact: ContactRecord, older: list[Membership], new: Membership) -> None:
    """Makes a visitor the contact's. Mutates `older`."""
    if contact.visitor_count < LISTED_VISITORS and (not contact.visitor_ids or new > _newest(contact)):  # nearly always
        contact.visitor_count += 1
        contact.visitor_ids = [new.visitor_id, *contact.visitor_ids]
        contact.visitor_since = [new.since, *contact.visitor_since]
        return
    listed = _listed(contact)
    complete = len(listed) + len(older) == contact.visitor_count
    contact.visitor_count += 1
    last = older[-1] if older else listed[-1] if listed else new
    if complete or new > last:  # else it stands somewhere among those that are not known
        _insert(listed, older, new)
    _list(contact, listed)


def remove(contact: ContactRecord, older: list[Membership], gone: Membership) -> None:
    """Takes a visitor from the contact. Mutates `older`."""
    listed = _listed(contact)
    contact.visitor_count -= 1
    if gone in listed:
        listed.remove(gone)
        if older:
            listed.append(older.pop(0))
    else:
        place = _place(older, gone)
        if older[place : place + 1] == [gone]:
            del older[place]
    _list(contact, listed)


def unite(
    contact: ContactRecord, older: list[Membership], merged: ContactRecord, merged_older: list[Membership]
) -> list[Membership]:
    """Gives the contact the merged one's visitors; returns its `older`, one of the two, mutated.

    The fewer are put among the more: it costs the same however many those are.
    """
    own, others = _listed(contact), _listed(merged)
    known_down_to = max(_known_down_to(own, older, contact), _known_down_to(others, merged_older, merged))
    if len(older) < len(merged_older):
        own, older, others, merged_older = others, merged_older, own, older
    for each in (*others, *merged_older):
        _insert(own, older, each)
    while older and older[-1] < known_down_to:  # something may be missing from there on
        older.pop()
    contact.visitor_count += merged.visitor_count
    _list(contact, own)
    return older


def _known_down_to(listed: list[Membership], older: list[Membership], contact: ContactRecord) -> Membership:
    if len(listed) + len(older) == contact.visitor_count:
        return _THE_OLDEST
    return older[-1] if older else listed[-1]


def _newest(contact: ContactRecord) -> Membership:
    return Membership(contact.visitor_since[0], contact.visitor_ids[0])


def _listed(contact: ContactRecord) -> list[Membership]:
    return list(map(Membership, contact.visitor_since, contact.visitor_ids))


def _list(contact: ContactRecord, listed: list[Membership]) -> None:
    if len(listed) < min(contact.visitor_count, LISTED_VISITORS):
        message = f"{contact.id}: knows {len(listed)} of {contact.visitor_count} visitors, too few to list"
        raise LookupError(message)  # the state was loaded for too few keys: stop before a wrong list is stored
    visitor_ids = [each.visitor_id for each in listed]
    if visitor_ids != contact.visitor_ids:
        contact.visitor_ids = visitor_ids
    contact.visitor_since = [each.since for each in listed]


def _insert(listed: list[Membership], older: list[Membership], new: Membership) -> None:
    if len(listed) < LISTED_VISITORS or new > listed[-1]:
        listed.insert(_place(listed, new), new)
        if len(listed) > LISTED_VISITORS:
            older.insert(0, listed.pop())
    else:
        older.insert(_place(older, new), new)


def _place(newest_first: list[Membership], each: Membership) -> int:
    """Where `each` stands, or would."""
    return bisect_left(range(len(newest_first)), x=True, key=lambda index: newest_first[index] <= each)
