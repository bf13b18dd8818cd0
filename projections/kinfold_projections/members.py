"""Which visitors a contact has now, newest link first (contract section 5: `visitorIds`, `visitorCount`).

A contact lists the `LISTED_VISITORS` linked most recently; the whole stands in one sorted set a workspace, `members`, whose
members sort as text:

    <contact id (29 characters)> <since (24)> v <visitor id>          a visitor that was linked to the contact
    <contact id (29 characters)> <since (24)> ~ <merged contact id>   a contact that was merged into it, with all of its own

A link stands under the contact that it names, so that a merge moves one member and not 100,000 visitors. `since` of a merged
contact is its newest link's: an upper bound, good for walking the whole from the newest on.

The record shows as many of those as fit into `LISTED_BYTES`, since an id can be long; the rest of them stand in the stamps
(`unlisted`).

When a listed visitor leaves, the next one has to be known. `older` of the state holds the links that follow the listed ones,
as many as the batch may need (`kinfold_projections.needs`).
"""

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import Final, NamedTuple

from kinfold_projections.records import ContactRecord, ContactStamps, encode_record
from kinfold_schemas.contacts import LISTED_BYTES, LISTED_VISITORS
from kinfold_schemas.times import to_text

VISITOR: Final = "v"
MERGED: Final = "~"
"""Sorts after VISITOR, so a walk from the newest opens a merged contact before it passes a visitor of the same time."""


class Membership(NamedTuple):
    """One visitor of a contact, linked since an effective time in ms. Sorts by time, then by id."""

    since_ms: int
    visitor_id: str


_THE_OLDEST: Final = Membership(-1, "")
_SURELY_SHOWN: Final = 10
"""How many ids always fit into `LISTED_BYTES`: as JSON, 255 characters have at most 1,532 bytes."""
_ESCAPED_BYTES: Final = 6
"""Of a character, as JSON, at most. The quotes and commas of a hundred ids have no 8 KiB."""


def member(contact_id: str, since: str, visitor_id: str) -> str:
    """The member of the sorted set for a visitor."""
    return f"{contact_id}{since}{VISITOR}{visitor_id}"


def merged_member(contact_id: str, newest_ms: int, merged_contact_id: str) -> str:
    """The member of the sorted set for a merged contact."""
    return f"{contact_id}{to_text(newest_ms)}{MERGED}{merged_contact_id}"


def add(contact: ContactRecord, stamps: ContactStamps, older: list[Membership], new: Membership) -> None:
    """Add a visitor to a contact. Mutates everything but `new`."""
    newest = (stamps.since[0], contact.visitor_ids[0]) if stamps.since else _THE_OLDEST
    if contact.visitor_count < LISTED_VISITORS and new > newest and not stamps.unlisted:  # nearly always
        visitor_ids = [new.visitor_id, *contact.visitor_ids]
        if contact.visitor_count < _SURELY_SHOWN or shown_visitors(visitor_ids) == len(visitor_ids):
            contact.visitor_count += 1
            contact.visitor_ids = visitor_ids
            stamps.since = [new.since_ms, *stamps.since]
            return
    listed = _listed(contact, stamps)
    complete = len(listed) + len(older) == contact.visitor_count
    contact.visitor_count += 1
    last = older[-1] if older else listed[-1] if listed else new
    if complete or new > last:  # otherwise it is among those that are not loaded
        _insert(listed, older, new)
    _list(contact, stamps, listed)


def remove(contact: ContactRecord, stamps: ContactStamps, older: list[Membership], gone: Membership) -> None:
    """Remove a visitor from a contact. Mutates everything but `gone`."""
    listed = _listed(contact, stamps)
    contact.visitor_count -= 1
    if gone in listed:
        listed.remove(gone)
        if older:
            listed.append(older.pop(0))
    else:
        place = _place(older, gone)
        if older[place : place + 1] == [gone]:
            del older[place]
    _list(contact, stamps, listed)


def unite(  # noqa: PLR0913, PLR0917  both contacts, each with its stamps and its older memberships
    contact: ContactRecord,
    stamps: ContactStamps,
    older: list[Membership],
    merged: ContactRecord,
    merged_stamps: ContactStamps,
    merged_older: list[Membership],
) -> list[Membership]:
    """Give the contact the merged one's visitors. Returns its `older`, which is one of the two, mutated.

    Inserts the shorter list into the longer one, so the cost does not grow with the longer one.
    """
    own, others = _listed(contact, stamps), _listed(merged, merged_stamps)
    known_down_to = max(_known_down_to(own, older, contact), _known_down_to(others, merged_older, merged))
    if len(older) < len(merged_older):
        own, older, others, merged_older = others, merged_older, own, older
    for each in (*others, *merged_older):
        _insert(own, older, each)
    while older and older[-1] < known_down_to:  # something may be missing from there on
        older.pop()
    contact.visitor_count += merged.visitor_count
    _list(contact, stamps, own)
    return older


def _known_down_to(listed: list[Membership], older: list[Membership], contact: ContactRecord) -> Membership:
    if len(listed) + len(older) == contact.visitor_count:
        return _THE_OLDEST
    return older[-1] if older else listed[-1]


def _listed(contact: ContactRecord, stamps: ContactStamps) -> list[Membership]:
    return list(map(Membership, stamps.since, [*contact.visitor_ids, *stamps.unlisted]))


def _list(contact: ContactRecord, stamps: ContactStamps, listed: list[Membership]) -> None:
    if len(listed) < min(contact.visitor_count, LISTED_VISITORS):
        message = f"{contact.id}: knows {len(listed)} of {contact.visitor_count} visitors, too few to list"
        raise LookupError(message)  # too little was loaded: stop before a wrong list is stored
    visitor_ids = [each.visitor_id for each in listed]
    shown = shown_visitors(visitor_ids)
    stamps.unlisted = visitor_ids[shown:]
    if visitor_ids[:shown] != contact.visitor_ids:
        contact.visitor_ids = visitor_ids[:shown]
    stamps.since = [each.since_ms for each in listed]


def shown_visitors(visitor_ids: list[str]) -> int:
    """How many ids, from the first on, fit into the list of a contact."""
    if _ESCAPED_BYTES * sum(map(len, visitor_ids)) < LISTED_BYTES // 2 or len(encode_record(visitor_ids)) <= LISTED_BYTES:
        return len(visitor_ids)
    ends = accumulate([len(encode_record(each)) + 1 for each in visitor_ids], initial=1)
    return bisect_right(list(ends), LISTED_BYTES) - 1


def _insert(listed: list[Membership], older: list[Membership], new: Membership) -> None:
    if len(listed) < LISTED_VISITORS or new > listed[-1]:
        listed.insert(_place(listed, new), new)
        if len(listed) > LISTED_VISITORS:
            older.insert(0, listed.pop())
    else:
        older.insert(_place(older, new), new)


def _place(newest_first: list[Membership], each: Membership) -> int:
    """The index of `each`, or where it would be inserted."""
    return bisect_left(range(len(newest_first)), x=True, key=lambda index: newest_first[index] <= each)
