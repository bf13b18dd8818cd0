"""A visitor has at most 1,000 links (contract section 5, Linking); the tests have fewer."""

from itertools import pairwise
from operator import attrgetter

import pytest
from hypothesis import given as generated
from hypothesis import strategies as st

from kinfold_projections import linking, links
from kinfold_projections.links import TIMED_LINKS, holder_at, linked, shortened
from kinfold_projections.records import VisitorStamps, encode_stamps
from kinfold_schemas.contacts import MAX_LINKS, Link
from kinfold_schemas.times import to_text
from tests.support.folding import Story, given, identified, moment

SAID = st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abc")), max_size=60)
"""Events that name the contact of a visitor, in the log's order, each with its time in seconds."""


def limit_links(patch: pytest.MonkeyPatch, most: int) -> None:
    """Give a visitor this many links."""
    for module in (links, linking):
        patch.setattr(module, "MAX_LINKS", most)


def history_of(said: list[tuple[int, str]], most: int) -> list[Link]:
    """The links of a visitor after these events."""
    history: links.History = [], []
    with pytest.MonkeyPatch.context() as patch:
        limit_links(patch, most)
        for second, contact in said:
            at_ms = second * 1000
            history = shortened(linked(history, contact, to_text(at_ms), at_ms, str), str)
            found, confirmed = history
            assert len(found) <= most
            assert len(confirmed) == len(found)
            assert found == sorted(found, key=attrgetter("since"))
    return history[0]


@generated(SAID, st.integers(2, 6))
def test_first_and_latest_links_stay(said: list[tuple[int, str]], most: int) -> None:
    """A visitor belongs to the same contact now, and before the first link, as with any number of links."""
    if not said:
        return
    few, all_links = history_of(said, most), history_of(said, 10_000)
    assert few[0].since == to_text(min(second for second, _ in said) * 1000)
    assert few[-1].contact_id == all_links[-1].contact_id
    assert all(one.contact_id != other.contact_id for one, other in pairwise(few))


@generated(SAID, st.integers(2, 6))
def test_visitor_that_has_few_links_keeps_them_all(said: list[tuple[int, str]], most: int) -> None:
    everything = history_of(said, 10_000)
    if all(len(history_of(said[:count], 10_000)) <= most for count in range(len(said) + 1)):
        assert history_of(said, most) == everything


@generated(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.integers(3, 6))
def test_oldest_links_after_the_first_are_dropped(contacts: list[str], most: int) -> None:
    """Events in the order of their times: the latest links answer as they did."""
    said = list(enumerate(contacts))
    few, everything = history_of(said, most), history_of(said, 10_000)
    for link in few[2:]:
        assert holder_at(everything, link.since) == link.contact_id


def move(count: int) -> Story:
    """A visitor that moves so often between two contacts."""
    return given(*(identified(f"u-{number % 3}", visitor_id="v-1", at=number) for number in range(count)))


def test_visitor_that_moves_on_and_on_has_1000_links() -> None:
    """The first link and the latest 999; the contact of each time is known from then on."""
    story = move(2 * MAX_LINKS)
    visitor = story.visitor()
    assert len(visitor.links) == MAX_LINKS
    assert visitor.links[0].since == moment(0)
    assert [each.since for each in visitor.links[1:]] == [moment(second) for second in range(1001, 2000)]
    assert visitor.contact_id == story.contact(external_id="u-1").id
    assert sum(contact.visitor_count for contact in story.contacts) == 1


def test_two_links_of_one_contact_that_come_together_become_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one confirms the first, so a late link ends there."""
    limit_links(monkeypatch, 3)
    story = given(
        identified("a", visitor_id="v-1", at=10),
        identified("b", visitor_id="v-1", at=20),
        identified("a", visitor_id="v-1", at=30),
        identified("c", visitor_id="v-1", at=40),
    )
    assert story.holders() == [("a", moment(10)), ("c", moment(40))]
    limit_links(monkeypatch, 4)
    story.when(identified("d", visitor_id="v-1", at=25))
    assert story.holders() == [("a", moment(10)), ("d", moment(25)), ("a", moment(30)), ("c", moment(40))]


def test_late_link_that_is_the_oldest_of_too_many_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing new about the contact of now."""
    limit_links(monkeypatch, 3)
    story = given(*(identified(name, visitor_id="v-1", at=at) for name, at in (("a", 10), ("b", 20), ("c", 30))))
    story.when(identified("d", visitor_id="v-1", at=12)).then("ContactCreated")
    assert story.holders() == [("a", moment(10)), ("b", moment(20)), ("c", moment(30))]
    assert story.contact(external_id="d").visitor_count == 0


def test_only_the_latest_64_links_keep_times() -> None:
    """A late event that falls into an older link ends it. In one of the latest it only interrupts it, as with few links."""
    count = TIMED_LINKS + 10
    twice = [
        identified(f"u-{number % 2}", visitor_id="v-1", at=100 * number + later) for number in range(count) for later in (0, 50)
    ]
    for number, resumes in ((count - TIMED_LINKS - 2, False), (count - TIMED_LINKS + 1, True)):
        story = given(*twice, identified("late", visitor_id="v-1", at=100 * number + 20))
        since = [each.since for each in story.visitor().links]
        assert moment(100 * number + 20) in since
        assert (moment(100 * number + 50) in since) is resumes


def test_times_of_links_take_at_most_40_kib() -> None:
    """Each event of the visitor writes them."""
    since = to_text(0)
    history: links.History = (
        [Link("a" if number % 2 else "b", since) for number in range(MAX_LINKS)],
        [[links.AS_ONE_MS * each for each in range(1, 2**6)] for _ in range(MAX_LINKS)],
    )
    _, confirmed = shortened(history, str)

    assert len(confirmed) == MAX_LINKS
    assert len(encode_stamps(VisitorStamps(confirmed=confirmed))) <= 40 * 1024
