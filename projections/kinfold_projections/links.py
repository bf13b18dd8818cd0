"""Whose a visitor was, and when: its link history (contract section 5, Linking).

A history is a list of links by `since`; each holds until the next begins, and the first also covers what came before it. A link
stands for all that was said in a row of one contact: its `since`, and the times at which it was said again, its confirmations.
A late link of another contact cuts it in two there. Everything here asks "the same contact?" through `find`, which follows
tombstones; a merge itself rewrites no history, so that two links in a row may name what is one contact now.

Confirmations are kept as text, 12 hex digits of milliseconds each, in order: a page view passes over them and reads none, a
page that says the link again appends to them, and only what comes late looks inside.
"""

from bisect import bisect_right
from collections.abc import Callable
from operator import attrgetter
from typing import Final

from kinfold_projections.records import LinkRecord, VisitorRecord
from kinfold_schemas.times import text_ms, to_text

Find = Callable[[str], str]
"""From a contact's id to the living contact's, along its tombstones."""

KEPT: Final = 64
"""How many times of one link are kept, `since` included: the first half of them and the latest half."""
AS_ONE_MS: Final = 60_000
"""What is said again within this time counts as said once."""

_DIGITS: Final = 12
_KEPT: Final = (KEPT - 1) * _DIGITS
_MIDDLE: Final = KEPT // 2 * _DIGITS
"""Where the confirmation in the middle ends: `since` is the first time of the first half."""
_since = attrgetter("since")


def holder_at(links: list[LinkRecord], at: str) -> LinkRecord | None:
    """The link that holds at a time; None where there is none at all."""
    if not links:
        return None
    if at >= links[-1].since:  # nearly always
        return links[-1]
    return links[max(0, bisect_right(links, at, key=_since) - 1)]


def contacts_to_link(visitor: VisitorRecord, at: str) -> set[str]:
    """The contacts whose sameness decides what a link from `at` on does to the history, and the one that holds at `at`."""
    links = visitor.links
    if not links:
        return set()
    index = bisect_right(links, at, key=_since)
    return {links[max(0, index - 1)].contact_id, links[min(index, len(links) - 1)].contact_id, links[-1].contact_id}


def linked(links: list[LinkRecord], contact_id: str, at: str, at_ms: int, find: Find) -> list[LinkRecord]:
    """The history after an event said that from `at` on the visitor is the contact's (the same time in two forms).

    Last write wins by effective time here too: where the link that held at `at` was said again later, the event does not end it
    but interrupts it, until the next time at which that was said.
    """
    if not links:
        return [LinkRecord(contact_id, at)]
    index = bisect_right(links, at, key=_since)
    before = links[index - 1] if index else None
    after = links[index] if index < len(links) else None

    if before is not None and find(before.contact_id) == contact_id:
        again = said_again(before, at_ms)
        return links if again is before else [*links[: index - 1], again, *links[index:]]

    if before is not None and (place := _place(before.said, _digits(at_ms))) < len(before.said):
        resumed_at = to_text(int(before.said[place : place + _DIGITS], 16))
        return [
            *links[: index - 1],
            LinkRecord(before.contact_id, before.since, before.said[:place]),
            LinkRecord(contact_id, at),
            LinkRecord(find(before.contact_id), resumed_at, before.said[place + _DIGITS :]),
            *links[index:],
        ]
    if after is not None and find(after.contact_id) == contact_id:
        joined = _thinned(LinkRecord(contact_id, at, _digits(text_ms(after.since)) + after.said))
        return [*links[:index], joined, *links[index + 1 :]]
    return [*links[:index], LinkRecord(contact_id, at), *links[index:]]


def said_again(link: LinkRecord, at_ms: int) -> LinkRecord:
    """The link, said again at a time that is not before its `since`; the link itself where that time is known."""
    said, time = link.said, _digits(at_ms)
    if said and time > said[-_DIGITS:]:  # nearly always
        if link.full:
            return _rolled_on(link, at_ms)
        return _thinned(LinkRecord(link.contact_id, link.since, said + time))
    place = _place(said, time)
    if said[place - _DIGITS : place] == time or at_ms == text_ms(link.since):
        return link
    return _thinned(LinkRecord(link.contact_id, link.since, said[:place] + time + said[place:]))


def _thinned(link: LinkRecord) -> LinkRecord:
    """The link, with no more times than are kept.

    Where there are more, those go first of which the two times beside them are within a minute of each other, from the latest
    to the first: who asks for a time between these two gets an answer that is right but for that minute. Then the one in the
    middle goes: a late link that falls among what is forgotten ends at the oldest time kept after it.
    """
    said = link.said
    if len(said) <= _KEPT:
        return link
    times = [text_ms(link.since), *(int(said[place : place + _DIGITS], 16) for place in range(0, len(said), _DIGITS))]
    after = times[-1]
    kept = [said[-_DIGITS:]]
    for number in range(len(times) - 2, 0, -1):
        if after - times[number - 1] > AS_ONE_MS:
            kept.append(said[(number - 1) * _DIGITS : number * _DIGITS])
            after = times[number]
    said = "".join(reversed(kept))
    if len(said) <= _KEPT:
        return LinkRecord(link.contact_id, link.since, said)
    return LinkRecord(link.contact_id, link.since, said[: _MIDDLE - _DIGITS] + said[_MIDDLE:], full=True)


def _rolled_on(link: LinkRecord, at_ms: int) -> LinkRecord:
    """What `_thinned` makes of a full link with a later time behind it: only its last time can be one that goes first."""
    said = link.said
    if said[-2 * _DIGITS : -_DIGITS] >= _digits(at_ms - AS_ONE_MS):
        said = said[:-_DIGITS] + _digits(at_ms)
    else:
        said = said[: _MIDDLE - _DIGITS] + said[_MIDDLE:] + _digits(at_ms)
    return LinkRecord(link.contact_id, link.since, said, full=True)


def _place(said: str, time: str) -> int:
    """Where, among confirmations, those begin that are later than a time."""
    count = len(said) // _DIGITS
    return _DIGITS * bisect_right(range(count), time, key=lambda number: said[number * _DIGITS : (number + 1) * _DIGITS])


def _digits(ms: int) -> str:
    """A time as it stands among confirmations; such texts compare as the times do."""
    return f"{ms:012x}"
