"""The last write wins by effective time, for each key separately (contract section 3)."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from tests.support.folding import Event, Story, given, identified, metadata_set, moment, seen

Write = Callable[[str, float], Event]


def plan(value: str, at: float) -> Event:
    """An event that sets one metadata key."""
    return metadata_set(externalId="u-1", metadata={"plan": value}, at=at)


def name(value: str, at: float) -> Event:
    """A name."""
    return identified("u-1", name=value, at=at)


def image(value: str, at: float) -> Event:
    """An image."""
    return identified("u-1", image=value, at=at)


def email(value: str, at: float) -> Event:
    """An address."""
    return identified("u-1", f"{value}@example.org", at=at)


def link(value: str, at: float) -> Event:
    """An event that links the visitor."""
    return identified(value, visitor_id="v-1", at=at)


def held(story: Story, write: Write) -> Any:
    """The value after the writes."""
    if write is link:
        return story.contact(visitor_id="v-1").external_id
    contact = story.contact(external_id="u-1")
    fields = {"plan": contact.metadata.get("plan"), "name": contact.name, "image": contact.image}
    return fields.get(write.__name__, (contact.email or "").split("@")[0])


KEYS = [plan, name, image, email, link]


@pytest.mark.parametrize("write", KEYS)
def test_late_event_does_not_change_newer_values(write: Write) -> None:
    """Neither a metadata key nor name, image, address or link."""
    assert held(given(write("new", 5), write("old", 4)), write) == "new"


@pytest.mark.parametrize("write", KEYS)
def test_repeated_value_counts_from_the_later_time(write: Write) -> None:
    """`a=x @1, a=x @3, a=y @2` leaves `x`, in any order of arrival."""
    writes = [write("x", 1), write("x", 3), write("y", 2)]
    for order in permutations(writes):
        assert held(given(*order), write) == "x"


@pytest.mark.parametrize("write", KEYS)
def test_at_equal_times_the_later_entry_wins(write: Write) -> None:
    """The order of the log decides."""
    assert held(given(write("x", 1), write("y", 1)), write) == "y"
    assert held(given(write("y", 1), write("x", 1), write("y", 1)), write) == "y"


def test_at_equal_milliseconds_the_sequence_number_decides() -> None:
    """Entry ids are numbers: 10 comes after 9."""
    story = Story()
    for seq in (9, 10):
        story.when(metadata_set(externalId="u-1", metadata={"plan": seq}), f"1767229200000-{seq}")
    assert story.contact(external_id="u-1").metadata == {"plan": 10}


def test_every_key_has_its_own_time() -> None:
    """One event may be late for one key and in time for another."""
    story = given(plan("pro", 5))
    result = story.when(metadata_set(externalId="u-1", metadata={"plan": "free", "city": "Paris"}, at=4))
    result.then({"type": "ContactUpdated", "changed": ["metadata.city"], "at": moment(4)})
    assert story.contact(external_id="u-1").metadata == {"plan": "pro", "city": "Paris"}


def test_removal_is_a_write() -> None:
    """A key that was removed later does not come back, and a key that was set later is not removed."""
    unset = metadata_set(externalId="u-1", unset=["plan"], at=3)
    for first, second in ((plan("pro", 2), unset), (unset, plan("pro", 2))):
        assert given(first, second).contact(external_id="u-1").metadata == {}
    for first, second in ((plan("pro", 4), unset), (unset, plan("pro", 4))):
        assert given(first, second).contact(external_id="u-1").metadata == {"plan": "pro"}


def test_late_value_is_counted_as_stale() -> None:
    """It differs from the current value, which is newer."""
    given(plan("pro", 5)).when(plan("free", 4)).then_nothing("stale")
    given(name("Ada", 5)).when(name("Bob", 4)).then_nothing("stale")
    given(email("new", 5)).when(email("old", 4)).then_nothing("stale")


def test_context_of_a_visitor_is_replaced_as_a_whole() -> None:
    """By effective time. An event without a context leaves it unchanged."""
    story = given(seen(context={"url": "/b"}, at=5), seen(context={"url": "/a", "locale": "en"}, at=4), seen(at=6))
    assert story.visitor().context == {"url": "/b"}
    assert given(seen(context={"url": "/a"}, at=4), seen(context={}, at=4)).visitor().context == {}


def test_range_of_seen_times_only_grows() -> None:
    """In any order of arrival."""
    for order in permutations([3, 1, 5]):
        visitor = given(*(seen(at=second) for second in order)).visitor()
        assert (visitor.first_seen_at, visitor.last_seen_at) == (moment(1), moment(5))


@pytest.mark.parametrize("first", [seen(at=5), identified("u-1", visitor_id="v-1", at=5)])
@pytest.mark.parametrize("at", [4, 6])
def test_seen_times_of_a_visitor_cover_every_event_that_names_it(first: Event, at: float) -> None:
    """A page view, an identification, metadata; anonymous or not."""
    for event in (seen(at=at), identified("u-1", visitor_id="v-1", at=at), metadata_set(visitorId="v-1", at=at)):
        visitor = given(first, event).visitor()
        assert (visitor.first_seen_at, visitor.last_seen_at) == (moment(min(5, at)), moment(max(5, at)))


def test_seen_times_of_a_contact_cover_the_anonymous_past_of_its_visitors() -> None:
    """It was the same person before the identification."""
    story = given(seen(at=1), seen(at=9), identified("u-1", visitor_id="v-1", at=5))
    contact = story.contact(external_id="u-1")
    assert (contact.first_seen_at, contact.last_seen_at, contact.created_at) == (moment(1), moment(9), moment(5))


def test_seen_times_of_a_contact_cover_its_own_events_and_those_of_its_visitors() -> None:
    """As of its last change. Events of a visitor that belonged to another contact at the time do not count."""
    story = given(identified("u-1", visitor_id="v-1", at=100), seen(at=107), identified("u-2", visitor_id="v-1", at=110))
    story.given(seen(at=112), seen(at=20))
    one, two = story.contact(external_id="u-1"), story.contact(external_id="u-2")
    assert (one.first_seen_at, one.last_seen_at) == (moment(20), moment(107))
    assert (two.first_seen_at, two.last_seen_at) == (moment(110), moment(112))


def test_no_op_does_not_change_seen_times() -> None:
    """The record of a contact changes only with a change on the feed."""
    story = given(identified("u-1", name="Ada", at=5), identified("u-1", name="Ada", at=13))
    assert story.contact(external_id="u-1").last_seen_at == moment(5)


def test_visitor_does_not_extend_the_past_of_its_second_contact() -> None:
    """The anonymous past of a device belongs to the first contact that used it."""
    story = given(seen(at=1), identified("u-1", visitor_id="v-1", at=5), identified("u-2", visitor_id="v-1", at=6))
    assert story.contact(external_id="u-1").first_seen_at == moment(1)
    assert story.contact(external_id="u-2").first_seen_at == moment(6)
