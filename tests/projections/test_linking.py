"""The contact of a visitor, now and in the past (contract section 5, Linking)."""

import copy
from itertools import permutations

import pytest

from tests.support.folding import Story, given, identified, metadata_set, moment, seen


def sign_in(external_id: str, at: float) -> dict[str, object]:
    """A person identifies on the device."""
    return dict(identified(external_id, visitor_id="v-1", at=at))


def history(*links: tuple[str, float]) -> list[tuple[str, str]]:
    """The expected result of `Story.holders`."""
    return [(external_id, moment(second)) for external_id, second in links]


def owner_of_a_page_view(story: Story, at: float) -> str | None:
    """The external id of the contact that gets metadata of the visitor at that time."""
    probe = f"probe {at}"
    story.given(metadata_set(visitorId="v-1", metadata={probe: True}, at=at))
    return next((contact.external_id for contact in story.contacts if probe in contact.metadata), None)


def test_first_link_has_no_previous_contact() -> None:
    """There is no previous contact."""
    story = given(seen())
    story.when(sign_in("u-1", 5)).then(
        "ContactCreated", {"type": "VisitorLinked", "visitorId": "v-1", "previousContactId": None, "version": 2}
    )
    assert story.holders() == history(("u-1", 5))
    assert story.contact(external_id="u-1").visitor_ids == ["v-1"]


def test_repeated_link_is_the_same_link() -> None:
    """Two links in a row to one contact are one."""
    story = given(sign_in("u-1", 5))
    story.when(sign_in("u-1", 9)).then_nothing()
    assert story.holders() == history(("u-1", 5))


def test_link_before_the_first_one_moves_it_back() -> None:
    """The visitor belonged to the contact already; only the order of the contact's visitors may change."""
    story = given(sign_in("u-1", 5))
    story.when(sign_in("u-1", 3)).then_nothing("folded")
    assert story.holders() == history(("u-1", 3))


def test_shared_device_moves_to_the_next_person() -> None:
    """The visitor belongs to the later person. Its history before that stays with the earlier one."""
    story = given(sign_in("u-1", 5))
    one = story.contact(external_id="u-1").id
    story.when(sign_in("u-2", 8)).then(
        "ContactCreated",
        {"type": "VisitorLinked", "visitorId": "v-1", "previousContactId": one},
        {"type": "VisitorUnlinked", "visitorId": "v-1", "contactId": one, "nextContactId": story.contacts[1].id},
    )
    assert story.holders() == history(("u-1", 5), ("u-2", 8))
    assert (story.contact(external_id="u-1").visitor_count, story.contact(external_id="u-2").visitor_ids) == (0, ["v-1"])


def test_shared_device_moves_back() -> None:
    """Each turn is a link."""
    story = given(sign_in("u-1", 1), sign_in("u-2", 2), sign_in("u-1", 3))
    assert story.holders() == history(("u-1", 1), ("u-2", 2), ("u-1", 3))


def test_event_of_a_visitor_belongs_to_the_contact_at_that_time() -> None:
    """This includes late events. An event before the first link belongs to the first contact."""
    story = given(sign_in("u-1", 5), sign_in("u-2", 8))
    assert [owner_of_a_page_view(story, at) for at in (9, 8, 7.999, 5, 1)] == ["u-2", "u-2", "u-1", "u-1", "u-1"]


def test_presence_belongs_to_the_contact_at_that_time() -> None:
    """So a late page view does not show the later person as present."""
    story = given(sign_in("u-1", 5), sign_in("u-2", 500))
    story.when(seen(at=100)).then({"type": "ContactSeen", "contactId": story.contact(external_id="u-1").id})
    assert story.contact(external_id="u-2").first_seen_at == moment(500)


def test_late_link_takes_its_place_in_the_history() -> None:
    """The visitor belongs to the contact with the latest `since`, so the feed only gets the change of the late contact."""
    story = given(sign_in("u-1", 1), sign_in("u-2", 9))
    story.when(sign_in("u-3", 5)).then({"type": "ContactCreated"})
    assert story.holders() == history(("u-1", 1), ("u-3", 5), ("u-2", 9))
    assert story.contact(external_id="u-3").visitor_ids == []
    assert [owner_of_a_page_view(story, at) for at in (4, 6, 10)] == ["u-1", "u-3", "u-2"]


def test_late_link_before_the_first_one_gets_later_events() -> None:
    """Events that were folded before it arrived do not move."""
    story = given(metadata_set(visitorId="v-1", metadata={"theme": "dark"}, at=2), sign_in("u-2", 5))
    story.given(sign_in("u-1", 3))
    assert story.contact(external_id="u-2").metadata == {"theme": "dark"}
    assert owner_of_a_page_view(story, 1) == "u-1"


def test_late_link_interrupts_one_that_was_confirmed_later() -> None:
    """`u-1 @1, u-1 @9`, then `u-2 @5`: the visitor belongs to u-1 until 5 and from 9 on. It does not move."""
    story = given(sign_in("u-1", 1), sign_in("u-1", 9))
    story.when(sign_in("u-2", 5)).then("ContactCreated")
    assert story.holders() == history(("u-1", 1), ("u-2", 5), ("u-1", 9))
    assert [owner_of_a_page_view(story, at) for at in (2, 6, 10)] == ["u-1", "u-2", "u-1"]


def test_earlier_confirmation_does_not_remove_a_later_one() -> None:
    """`u-1 @1, u-1 @5`, u-2 from 9 on, then `u-1 @3`: the link is still confirmed until 5, so `u-3 @4` interrupts it."""
    story = given(sign_in("u-1", 1), sign_in("u-1", 5), sign_in("u-2", 9))
    story.when(sign_in("u-1", 3)).then_nothing()
    story.given(sign_in("u-3", 4))
    assert story.holders() == history(("u-1", 1), ("u-3", 4), ("u-1", 5), ("u-2", 9))


def test_every_confirmation_of_a_link_is_remembered() -> None:
    """`u-1 @1, @30, @50`, then, late, `u-2 @20`: an event at 40 belongs to u-1, whose link was confirmed at 30."""
    story = given(sign_in("u-1", 1), sign_in("u-1", 30), sign_in("u-1", 50), sign_in("u-2", 20))
    assert owner_of_a_page_view(story, 40) == "u-1"
    assert story.holders() == history(("u-1", 1), ("u-2", 20), ("u-1", 30))
    story.given(sign_in("u-3", 40))
    assert story.holders() == history(("u-1", 1), ("u-2", 20), ("u-1", 30), ("u-3", 40), ("u-1", 50))


def test_late_confirmation_is_remembered() -> None:
    """It counts by its time, not by its arrival. Another one at the same time adds nothing."""
    story = given(sign_in("u-1", 1), sign_in("u-1", 50), sign_in("u-1", 30), sign_in("u-1", 30), sign_in("u-1", 50))
    story.given(sign_in("u-2", 20))
    assert story.holders() == history(("u-1", 1), ("u-2", 20), ("u-1", 30))


def test_link_that_was_moved_back_keeps_its_confirmation() -> None:
    """`u-1 @50`, then @1: the time 50 is now a confirmation."""
    story = given(sign_in("u-1", 50), sign_in("u-1", 60), sign_in("u-1", 1), sign_in("u-2", 20))
    assert story.holders() == history(("u-1", 1), ("u-2", 20), ("u-1", 50))


@pytest.mark.parametrize("late", [True, False])
def test_first_and_latest_32_confirmations_of_a_long_run_are_remembered(late: bool) -> None:  # noqa: FBT001
    """100 confirmations, two minutes apart, the 32nd at 62 minutes and the 69th at 136; links between them end at the 69th."""
    times = [minute(2 * number) for number in range(100)]
    story = given(*(sign_in("u-1", at) for at in (reversed(times) if late else times)))
    for at, back_at in ((61.9, 62), (62.1, 136), (100, 136), (197.9, 198)):
        branch = copy.deepcopy(story).given(sign_in("u-2", minute(at)))
        assert branch.holders() == history(("u-1", minute(0)), ("u-2", minute(at)), ("u-1", minute(back_at)))
    story.given(sign_in("u-2", minute(198)))
    assert story.holders() == history(("u-1", minute(0)), ("u-2", minute(198)))


def test_64_confirmations_are_all_remembered() -> None:
    """The 65th is the first that removes one: the 33rd."""
    story = given(*(sign_in("u-1", minute(2 * number)) for number in range(64)))
    for back_at in (64, 66):
        branch = copy.deepcopy(story).given(sign_in("u-2", minute(63)))
        assert branch.holders()[-1] == ("u-1", moment(minute(back_at)))
        story.given(sign_in("u-1", minute(128)))


def test_confirmations_within_a_minute_count_as_one() -> None:
    """A page that identifies every second for ten minutes is exact to the minute, and removes no earlier confirmation."""
    times = [*(minute(2 * number) for number in range(30)), *(minute(60) + second for second in range(600))]
    story = given(*(sign_in("u-1", at) for at in times))
    for at in (*times[1:30], *times[31::37]):
        late = at - 0.5
        back_at = copy.deepcopy(story).given(sign_in("u-2", late)).holders()[-1][1]
        assert moment(late) < back_at <= moment(at + 60 * (at > minute(60)))


def minute(number: float) -> float:
    """Minutes in seconds of the story, after the first four hours."""
    return number * 60 - 4 * 3600


def test_page_view_does_not_read_confirmations() -> None:
    """They are stored as one text, which a page view leaves unchanged."""
    story = given(*(sign_in("u-1", at) for at in range(-6000, 0, 60)))
    links = story.visitor().links
    story.when(seen(at=500))
    assert story.visitor().links is links


def test_merge_does_not_rewrite_history() -> None:
    """So two links in a row may name contacts that are now one."""
    story = given(
        sign_in("u-1", 1), identified(None, "ada@example.org", "v-1", at=5), identified("u-1", "ada@example.org", at=9)
    )
    assert story.holders() == history(("u-1", 1), ("u-1", 5))
    story.given(sign_in("u-1", 20), sign_in("u-2", 3), sign_in("u-2", 10))
    assert story.holders() == history(("u-1", 1), ("u-2", 3), ("u-1", 5), ("u-2", 10), ("u-1", 20))


def test_interrupted_contact_gets_a_change_for_the_order_of_its_visitors() -> None:
    """The link that continues is newer. A reader of the feed must learn this."""
    story = given(sign_in("u-1", 1), identified("u-1", visitor_id="v-2", at=3), sign_in("u-1", 9))
    assert story.contact(external_id="u-1").visitor_ids == ["v-2", "v-1"]
    story.when(sign_in("u-2", 5)).then(
        "ContactCreated",
        {"type": "ContactUpdated", "contactId": story.contact(external_id="u-1").id, "changed": ["visitorIds"]},
    )
    assert story.contact(external_id="u-1").visitor_ids == ["v-1", "v-2"]


def test_history_of_three_people_does_not_depend_on_the_order_of_arrival() -> None:
    """The history is sorted by `since`, not by arrival."""
    for order in permutations([sign_in("u-1", 1), sign_in("u-2", 2), sign_in("u-3", 3)]):
        assert given(*order).holders() == history(("u-1", 1), ("u-2", 2), ("u-3", 3))


def test_later_entry_wins_at_equal_times() -> None:
    """There is always exactly one answer."""
    story = given(sign_in("u-1", 5), sign_in("u-2", 5))
    assert owner_of_a_page_view(story, 5) == "u-2"
    assert story.contact(visitor_id="v-1").external_id == "u-2"


def test_visitors_are_listed_by_their_newest_link() -> None:
    """`visitorIds` are sorted by the time of the link, then by id."""
    links = [("v-1", 3), ("v-2", 1), ("v-3", 2), ("v-4", 3)]
    for order in permutations(links):
        story = given(*(identified("u-1", visitor_id=visitor_id, at=at) for visitor_id, at in order))
        assert story.contact(external_id="u-1").visitor_ids == ["v-4", "v-1", "v-3", "v-2"]


def test_anonymous_visitor_has_no_contact() -> None:
    """`contactId` is null."""
    visitor = given(seen(), metadata_set(visitorId="v-1", metadata={"a": 1})).visitor()
    assert (visitor.contact_id, visitor.links) == (None, [])
