"""Whose a visitor was, and when: its link history (contract section 5, Linking).

A history is a list of links by `since`; each holds until the next begins, and the first also covers what came before it. Two
links in a row to one contact are one. Everything here asks "the same contact?" through `find`, which follows tombstones.
"""

from bisect import bisect_right
from collections.abc import Callable
from operator import attrgetter

from kinfold_projections.records import LinkRecord, VisitorRecord

Find = Callable[[str], str]
"""From a contact's id to the living contact's, along its tombstones."""

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

    Last write wins by effective time here too: a link that was confirmed at a later time than `at` is not ended by the event,
    but interrupted: what was confirmed goes on from there.
    """
    if not links:
        return [LinkRecord(contact_id, at, at)]
    index = bisect_right(links, at, key=_since)
    before = links[index - 1] if index else None
    after = links[index] if index < len(links) else None

    if before is not None and find(before.contact_id) == contact_id:
        if at <= before.confirmed_at:
            return links
        return [*links[: index - 1], confirmed(before, at), *links[index:]]

    if before is not None and at < before.confirmed_at:
        return [
            *links[: index - 1],
            confirmed(before, before.since),
            LinkRecord(contact_id, at, at),
            LinkRecord(find(before.contact_id), before.confirmed_at, before.confirmed_at),
            *links[index:],
        ]
    if after is not None and find(after.contact_id) == contact_id:
        return [*links[:index], LinkRecord(after.contact_id, at, after.confirmed_at), *links[index + 1 :]]
    return [*links[:index], LinkRecord(contact_id, at, at), *links[index:]]


def confirmed(link: LinkRecord, at: str) -> LinkRecord:
    """The link, said again at a later time."""
    return LinkRecord(link.contact_id, link.since, at)
