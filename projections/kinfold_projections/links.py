"""The link history of a visitor: which contact held it, and when (contract section 5, Linking).

A history is a list of links by `since`. Each link holds until the next one begins, and the first also covers the time before
it. `confirmed` is parallel to it: the times in ms at which events confirmed each link. A late link to another contact holds
until the next confirmation. Contacts are compared through `find`, which follows tombstones.
"""

from bisect import bisect_right
from collections.abc import Callable
from operator import attrgetter
from typing import Final

from kinfold_schemas.contacts import MAX_LINKS, Link
from kinfold_schemas.times import text_ms, to_text

Find = Callable[[str], str]
"""From a contact's id to the living contact's, following tombstones."""

History = tuple[list[Link], list[list[int]]]
"""The links, and `confirmed`, which is parallel."""

KEPT: Final = 64
"""How many times of one link are kept, including `since`: the first half of them and the latest half."""
TIMED_LINKS: Final = 64
"""How many links of a visitor, the latest ones, have times besides `since`. Every event of the visitor writes all of them."""
AS_ONE_MS: Final = 60_000
"""Times of one link that are this close count as one, if there are more than are kept."""

_since = attrgetter("since")


def holder_at(links: list[Link], at: str) -> str | None:
    """The id of the contact that held the visitor at a time, as the link names it; None if no contact did."""
    if not links:
        return None
    if at >= links[-1].since:  # nearly always
        return links[-1].contact_id
    return links[max(0, bisect_right(links, at, key=_since) - 1)].contact_id


def shortened(history: History, find: Find) -> History:
    """The history shortened to at most `MAX_LINKS` links. Only the latest `TIMED_LINKS` have times.

    The first link stays, and the oldest ones after it go. Two neighbouring links of one contact become one.
    """
    links, confirmed = history
    while len(links) > MAX_LINKS:
        if _contact_of(links[0], find) == _contact_of(links[2], find):
            times = _thinned(links[0].since, [*confirmed[0], text_ms(links[2].since), *confirmed[2]])
            links, confirmed = [links[0], *links[3:]], [times, *confirmed[3:]]
        else:
            links, confirmed = [links[0], *links[2:]], [confirmed[0], *confirmed[2:]]
    if any(confirmed[:-TIMED_LINKS]):
        confirmed = [*([] for _ in confirmed[:-TIMED_LINKS]), *confirmed[-TIMED_LINKS:]]
    return links, confirmed


def linked(history: History, contact_id: str | None, at: str, at_ms: int, find: Find) -> History:
    """The history after an event said that from `at` on (the same time in two forms) the visitor is the contact's.

    The last write wins by effective time here, too. If the link that held at `at` was confirmed later, the event does not end
    that link but interrupts it, until the next time at which it was confirmed. Returns the same `links` if no link begins
    elsewhere.
    """
    links, confirmed = history
    if not links:
        return [Link(contact_id, at)], [[]]
    index = len(links) if at >= links[-1].since else bisect_right(links, at, key=_since)
    if index:
        before, times = links[index - 1], confirmed[index - 1]
        if before.contact_id == contact_id or _is_now(before, contact_id, find):
            if (again := _confirmed(before.since, times, at_ms)) is times:
                return history
            confirmed = confirmed.copy()
            confirmed[index - 1] = again
            return links, confirmed
        if times and times[-1] > at_ms:
            cut = bisect_right(times, at_ms)
            resumed = Link(before.contact_id and find(before.contact_id), to_text(times[cut]))
            return (
                [*links[:index], Link(contact_id, at), resumed, *links[index:]],
                [*confirmed[: index - 1], times[:cut], [], times[cut + 1 :], *confirmed[index:]],
            )
    if index < len(links) and _is_now(links[index], contact_id, find):  # the contact's next link begins earlier
        times = _thinned(at, [text_ms(links[index].since), *confirmed[index]])
        return (
            [*links[:index], Link(contact_id, at), *links[index + 1 :]],
            [*confirmed[:index], times, *confirmed[index + 1 :]],
        )
    return [*links[:index], Link(contact_id, at), *links[index:]], [*confirmed[:index], [], *confirmed[index:]]


def _is_now(link: Link, contact_id: str | None, find: Find) -> bool:
    """Whether a link leads to the living contact, directly or through a merge; or whether both lead to no contact."""
    return (None if link.contact_id is None else find(link.contact_id)) == contact_id


def _contact_of(link: Link, find: Find) -> str | None:
    return None if link.contact_id is None else find(link.contact_id)


def _confirmed(since: str, times: list[int], at_ms: int) -> list[int]:
    """A link's confirmations with one more, not before its `since`. Returns the same list if the time is already in it."""
    place = bisect_right(times, at_ms)
    if at_ms == (times[place - 1] if place else text_ms(since)):
        return times
    more = times.copy()
    more.insert(place, at_ms)
    return more if len(more) < KEPT else _thinned(since, more)


def _thinned(since: str, times: list[int]) -> list[int]:
    """Reduce the times of a link to as many as are kept.

    If there are more, first each time goes whose two neighbours are within a minute of each other, from the latest to the
    first: answers stay right to a minute. Then the middle ones go. A late link that falls among forgotten times ends at the
    oldest one kept after it.
    """
    if len(times) < KEPT:
        return times
    since_ms, kept = text_ms(since), [times[-1]]
    for number in range(len(times) - 2, -1, -1):
        if kept[-1] - (times[number - 1] if number else since_ms) > AS_ONE_MS:
            kept.append(times[number])
    kept.reverse()
    if len(kept) < KEPT:
        return kept
    middle = KEPT // 2 - 1
    return [*kept[:middle], *kept[middle + 1 - KEPT :]]
