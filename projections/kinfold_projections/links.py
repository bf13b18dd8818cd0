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

MAX_KEPT: Final = 64
"""How many times of one link are kept, `since` included: the first half of them and the latest half."""
AS_ONE_MS: Final = 60_000
"""What is said again within this time counts as said once."""

_DIGITS: Final = 12
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


def linked(links: list[LinkRecord], contact_id: str, at: str, find: Find) -> list[LinkRecord]:
    """The history after an event said that from `at` on the visitor is the contact's.

    Last write wins by effective time here too: where the link that held at `at` was said again later, the event does not end it
    but interrupts it, until the next time at which that was said.
    """
    if not links:
        return [LinkRecord(contact_id, at)]
    index = bisect_right(links, at, key=_since)
    before = links[index - 1] if index else None
    after = links[index] if index < len(links) else None

    if before is not None and find(before.contact_id) == contact_id:
        again = said_again(before, at)
        return links if again is before else [*links[: index - 1], again, *links[index:]]

    if before is not None and (place := _place(before.said, at)) < len(before.said):
        resumed_at = to_text(int(before.said[place : place + _DIGITS], 16))
        return [
            *links[: index - 1],
            LinkRecord(before.contact_id, before.since, before.said[:place]),
            LinkRecord(contact_id, at),
            LinkRecord(find(before.contact_id), resumed_at, before.said[place + _DIGITS :]),
            *links[index:],
        ]
    if after is not None and find(after.contact_id) == contact_id:
        joined = _thinned(LinkRecord(contact_id, at, _digits(after.since) + after.said))
        return [*links[:index], joined, *links[index + 1 :]]
    return [*links[:index], LinkRecord(contact_id, at), *links[index:]]


def said_again(link: LinkRecord, at: str) -> LinkRecord:
    """The link, said again at a time that is not before its `since`; the link itself where that time is known."""
    said, time = link.said, _digits(at)
    if time > said[-_DIGITS:]:  # nearly always
        if not said and at == link.since:
            return link
        return _thinned(LinkRecord(link.contact_id, link.since, said + time))
    place = _place(said, at)
    if at == link.since or said[place - _DIGITS : place] == time:
        return link
    return _thinned(LinkRecord(link.contact_id, link.since, said[:place] + time + said[place:]))


def _thinned(link: LinkRecord) -> LinkRecord:
    """The link, with one confirmation less where it has one too many.

    That is the latest one of which the two times beside it are within a minute of each other: who asks for a time between them
    gets an answer that is right but for that minute. Where there is none such, it is the one in the middle: then a late link
    that falls among what is forgotten ends at the oldest time kept after it.
    """
    said = link.said
    if len(said) < MAX_KEPT * _DIGITS:
        return link
    gone = MAX_KEPT // 2 * _DIGITS  # where its digits end; `since` is the first of the first half
    after, each = _time(link, len(said)), _time(link, len(said) - _DIGITS)
    for end in range(len(said) - _DIGITS, 0, -_DIGITS):
        before = _time(link, end - _DIGITS)
        if after - before <= AS_ONE_MS:
            gone = end
            break
        after, each = each, before
    return LinkRecord(link.contact_id, link.since, said[: gone - _DIGITS] + said[gone:])


def _time(link: LinkRecord, end: int) -> int:
    """The confirmation whose digits end there, in ms; before the first one stands `since`."""
    return int(link.said[end - _DIGITS : end], 16) if end else text_ms(link.since)


def _place(said: str, at: str) -> int:
    """Where, among confirmations, those begin that are later than `at`."""
    count = len(said) // _DIGITS
    return _DIGITS * bisect_right(range(count), _digits(at), key=lambda number: said[number * _DIGITS : (number + 1) * _DIGITS])


def _digits(at: str) -> str:
    return f"{text_ms(at):0{_DIGITS}x}"
