"""What a page may change (contract sections 2 to 5, Trust)."""

from typing import Any

import pytest

from kinfold_projections.outcomes import Outcome
from kinfold_schemas.times import to_text
from tests.support.folding import LOG_START_MS, Event, Story, given, identified, metadata_set, moment, seen

DAY_S = 86_400


def page(event: Event, **fields: Any) -> Event:
    """The event, as the gateway writes it when a page sent it."""
    return {**event, "source": "browser", **fields}


def metadata(story: Story) -> dict[str, Any]:
    return dict(story.contact(external_id="u-1").metadata)


def came_to(outcome: Outcome) -> tuple[str, int]:
    return outcome.kind, outcome.untrusted


# --- metadata


def test_page_does_not_overwrite_what_a_trusted_source_set() -> None:
    """Neither with a later time nor by removing it. Each dropped key is counted, and keys that a page may set are set."""
    story = given(identified("u-1", None, "v-1", metadata={"plan": "pro", "seats": 3}, at=1))
    result = story.when(page(metadata_set(visitorId="v-1", metadata={"plan": "free", "theme": "dark"}, unset=["seats"], at=9)))

    result.then({"type": "ContactUpdated", "changed": ["metadata.theme"]})
    assert came_to(result.outcome) == ("folded", 2)
    assert metadata(story) == {"plan": "pro", "seats": 3, "theme": "dark"}
    assert came_to(story.when(page(metadata_set(visitorId="v-1", metadata={"plan": "free"}, at=9))).outcome) == ("no-op", 1)


def test_page_that_repeats_what_a_trusted_source_set_drops_nothing() -> None:
    """`kinfold.identify` often says what the backend says. The value stays the backend's."""
    story = given(identified("u-1", None, "v-1", metadata={"plan": "pro"}, at=1))
    result = story.when(page(metadata_set(visitorId="v-1", metadata={"plan": "pro"}, unset=["unknown"], at=9)))

    assert came_to(result.outcome) == ("no-op", 0)
    story.when(metadata_set(externalId="u-1", metadata={"plan": "free"}, at=2)).then("ContactUpdated")


def test_trusted_source_overwrites_what_a_page_set_also_when_it_is_late() -> None:
    """And from then on the key is the trusted source's, even where it repeats the value."""
    story = given(identified("u-1", None, "v-1"), page(metadata_set(visitorId="v-1", metadata={"plan": "free", "a": 1}, at=9)))
    story.when(metadata_set(externalId="u-1", metadata={"plan": "pro", "a": 1}, at=2)).then("ContactUpdated")

    page_again = page(metadata_set(visitorId="v-1", metadata={"plan": "free", "a": 2}, at=9))
    assert came_to(story.when(page_again).outcome) == ("no-op", 2)
    assert metadata(story) == {"plan": "pro", "a": 1}


def test_page_does_not_bring_back_what_a_trusted_source_removed() -> None:
    story = given(
        identified("u-1", None, "v-1", metadata={"debt": 5}, at=1), metadata_set(externalId="u-1", unset=["debt"], at=2)
    )

    assert came_to(story.when(page(metadata_set(visitorId="v-1", metadata={"debt": 1}, at=9))).outcome) == ("no-op", 1)
    assert metadata(story) == {}


def test_among_pages_the_last_write_wins_by_effective_time() -> None:
    story = given(identified("u-1", None, "v-1"), page(metadata_set(visitorId="v-1", metadata={"a": 1}, at=5)))

    assert came_to(story.when(page(metadata_set(visitorId="v-1", metadata={"a": 0}, at=4))).outcome) == ("stale", 0)
    story.when(page(metadata_set(visitorId="v-1", metadata={"a": 2}, at=6))).then("ContactUpdated")
    assert metadata(story) == {"a": 2}


@pytest.mark.parametrize("source", [None, "shop", "BROWSER", ["browser"], 1])
def test_any_other_source_is_trusted(source: object) -> None:
    """An old log may hold any value in a field that was unknown when it was written."""
    story = given(identified("u-1", None, "v-1", metadata={"a": 1}))
    story.when({**metadata_set(visitorId="v-1", metadata={"a": 2}), "source": source}).then("ContactUpdated")


def test_name_and_image_of_a_trusted_source_stay() -> None:
    story = given(identified("u-1", None, "v-1", name="Ada", at=1))
    result = story.when(page(identified("u-1", None, "v-1", name="Eve", image="/e", at=9), visitorProven=True))

    result.then({"type": "ContactUpdated", "changed": ["image"]})
    assert came_to(result.outcome) == ("folded", 1)
    story.when(metadata_set(externalId="u-1", image="/a", at=2)).then("ContactUpdated")
    contact = story.contact(external_id="u-1")
    assert (contact.name, contact.image) == ("Ada", "/a")


def test_address_of_a_page_counts_like_any() -> None:
    """Its token proves it."""
    story = given(identified("u-1", "ada@x.org", at=1))
    story.when(page(identified("u-1", "lovelace@x.org", at=2))).then({"type": "ContactUpdated", "changed": ["email"]})


# --- limits


def keys(count: int, first: int = 0) -> dict[str, int]:
    return {f"k{number:03}": number for number in range(first, first + count)}


def test_pages_set_at_most_128_keys() -> None:
    story = given(identified("u-1", None, "v-1"), page(metadata_set(visitorId="v-1", metadata=keys(128))))

    story.when(page(metadata_set(visitorId="v-1", metadata={"one-more": 1}))).then_rejected(
        "invalid", "at most 128 keys", "129"
    )
    story.when(page(metadata_set(visitorId="v-1", metadata={"k000": "again"}))).then("ContactUpdated")
    story.when(metadata_set(externalId="u-1", metadata=keys(128, 500))).then("ContactUpdated")
    assert len(metadata(story)) == 256


def test_anonymous_visitor_has_at_most_128_keys_from_pages() -> None:
    story = given(page(metadata_set(visitorId="v-1", metadata=keys(128))))

    story.when(page(metadata_set(visitorId="v-1", metadata={"one-more": 1}))).then_rejected(
        "invalid", "at most 128 keys", "129"
    )


def test_pages_cannot_fill_a_contact_so_that_a_trusted_source_is_rejected() -> None:
    """The keys that pages set longest ago make room."""
    story = given(identified("u-1", None, "v-1", metadata=keys(128, 500)))
    for number in range(128):
        story.when(page(metadata_set(visitorId="v-1", metadata={f"k{number:03}": 1}, at=number)))
    story.when(page(metadata_set(visitorId="v-1", metadata={"x": 1}))).then_rejected("invalid", "at most 128 keys")
    result = story.when(metadata_set(externalId="u-1", metadata={"plan": "pro", "seats": 3}))

    result.then({"type": "ContactUpdated", "changed": ["metadata.k000", "metadata.k001", "metadata.plan", "metadata.seats"]})
    assert len(metadata(story)) == 256
    assert keys(128, 500).items() <= metadata(story).items()
    story.when(metadata_set(externalId="u-1", metadata=keys(127, 700))).then_rejected("invalid", "at most 256 keys", "257")


def test_merge_does_not_let_keys_of_pages_push_out_others() -> None:
    """They are newer, and still they go first; of them at most 128 stay."""
    story = given(
        identified("u-1", None, metadata=keys(100, 500), at=1),
        identified(None, "ada@x.org", "v-1", metadata=keys(100, 700), at=1),
        page(metadata_set(visitorId="v-1", metadata=keys(100), at=9)),
        identified("u-1", None, "v-2"),
        page(metadata_set(visitorId="v-2", metadata=keys(100, 200), at=8)),
        identified("u-1", "ada@x.org", at=2),
    )

    assert metadata(story) == keys(100, 500) | keys(100, 700) | keys(56, 44)


def test_first_identification_does_not_let_keys_of_pages_push_out_others() -> None:
    story = given(
        identified("u-1", metadata=keys(200, 500), at=1),
        page(metadata_set(visitorId="v-1", metadata=keys(100) | {"k500": "page"}, at=9)),
        page(identified("u-1", None, "v-1", metadata=keys(20, 100), at=9)),
    )

    assert metadata(story) == keys(200, 500) | keys(56, 64)


def test_removals_by_pages_do_not_push_out_others() -> None:
    """A trusted source's removal is remembered, so that no page brings the value back."""
    story = given(
        identified("u-1", None, "v-1", metadata={"debt": 5}, at=1), metadata_set(externalId="u-1", unset=["debt"], at=2)
    )
    for first in (0, 200):
        story.when(page(metadata_set(visitorId="v-1", unset=list(keys(200, first)), at=9)))

    assert came_to(story.when(page(metadata_set(visitorId="v-1", metadata={"debt": 1}, at=9))).outcome) == ("no-op", 1)


# --- links


def test_page_without_a_token_for_the_visitor_links_only_one_that_no_other_contact_holds() -> None:
    """The rest of the event counts. An event of the contact that holds the visitor is as before."""
    story = given(page(identified("u-1", None, "v-1", at=1)))
    result = story.when(page(identified("u-2", None, "v-1", name="Eve", at=2)))

    result.then("ContactCreated")
    assert came_to(result.outcome) == ("folded", 1)
    assert story.contact(visitor_id="v-1").external_id == "u-1"
    assert story.contact(external_id="u-2").visitor_count == 0
    assert came_to(story.when(page(identified("u-1", None, "v-1", at=3))).outcome) == ("no-op", 0)
    assert came_to(story.when(page(identified("u-2", None, "v-1", at=0.5))).outcome) == ("no-op", 1)


@pytest.mark.parametrize("event", [{"source": "browser", "visitorProven": True}, {}], ids=["with a token for it", "trusted"])
def test_visitor_moves_with_a_token_for_it(event: dict[str, Any]) -> None:
    story = given(page(identified("u-1", None, "v-1", at=1)))
    story.when({**identified("u-2", None, "v-1", at=2), **event}).then("ContactCreated", "VisitorLinked", "VisitorUnlinked")


@pytest.mark.parametrize("proven", [None, False, "true", 1, [True]])
def test_only_true_means_that_the_visitor_is_proven(proven: object) -> None:
    story = given(page(identified("u-1", None, "v-1", at=1)))
    story.when(page(identified("u-2", None, "v-1", at=2), visitorProven=proven)).then("ContactCreated")


def test_visitor_of_a_contact_that_the_event_merges_is_linked() -> None:
    """The event names both, so no other contact holds the visitor."""
    story = given(identified("u-1"), page(identified(None, "ada@x.org", "v-1", at=1)))
    result = story.when(page(identified("u-1", "ada@x.org", "v-1", at=2)))

    assert came_to(result.outcome) == ("folded", 0)
    assert story.contact(visitor_id="v-1").external_id == "u-1"


def test_visitor_that_moved_on_can_be_confirmed_by_its_holder() -> None:
    """Without a token for it: the contact of that time is the one that the event names."""
    story = given(identified("u-1", None, "v-1", at=1), identified("u-2", None, "v-1", at=5))

    assert came_to(story.when(page(identified("u-2", None, "v-1", at=6))).outcome) == ("no-op", 0)
    assert came_to(story.when(page(identified("u-1", None, "v-1", at=2))).outcome) == ("no-op", 0)
    assert came_to(story.when(page(identified("u-1", None, "v-1", at=7))).outcome) == ("no-op", 1)
    assert story.contact(visitor_id="v-1").external_id == "u-2"


# --- times


@pytest.mark.parametrize("event", [seen(), identified("u-1", None, "v-1", visitorProven=True)], ids=["seen", "identified"])
def test_page_dates_nothing_more_than_seven_days_back(event: Event) -> None:
    story = given()
    story.when(page(event, at=moment(-100 * DAY_S)))

    assert story.state.visitors["v-1"].first_seen_at == to_text(LOG_START_MS - 7 * DAY_S * 1000)


@pytest.mark.parametrize("days", [0, 6.9])
def test_page_dates_its_events_within_seven_days(days: float) -> None:
    story = given()
    story.when(page(seen(), at=moment(-days * DAY_S)))

    assert story.state.visitors["v-1"].first_seen_at == moment(-days * DAY_S)


def test_page_with_a_wrong_clock_dates_nothing_more_than_seven_days_back() -> None:
    """`sentAt` corrects the clock first."""
    story = given()
    story.when(page(seen(), at="2001-01-01T00:00:00Z", sentAt=moment(3600 - 7200)))

    assert story.state.visitors["v-1"].first_seen_at == to_text(LOG_START_MS - 7 * DAY_S * 1000)


def test_unknown_time_of_a_page_dates_nothing() -> None:
    story = given(identified("u-1", None, "v-1"), metadata_set(visitorId="v-1", metadata={"a": 1}))
    story.when(page(metadata_set(visitorId="v-1", metadata={"b": 1}), at="2000-01-01T00:00:00Z")).then("ContactUpdated")

    assert story.state.visitors["v-1"].first_seen_at == to_text(LOG_START_MS)


# --- duplicates


def test_page_cannot_take_the_id_of_a_trusted_event() -> None:
    """Neither is a duplicate of the other, nor a reuse of its id."""
    story = given(page(metadata_set(visitorId="v-1", metadata={"a": 1}, id="e-1")))
    result = story.when(metadata_set(visitorId="v-1", metadata={"a": 1}, id="e-1"))

    assert (result.outcome.kind, result.outcome.id_reused) == ("no-op", False)
    story.when(metadata_set(visitorId="v-1", metadata={"a": 1}, id="e-1")).then_nothing("duplicate")
    story.when(page(metadata_set(visitorId="v-1", metadata={"a": 1}, id="e-1"))).then_nothing("duplicate")


def test_page_event_that_is_sent_again_with_proof_is_another_event() -> None:
    story = given(identified("u-2", None, "v-1"), page(identified("u-1", None, "v-1", id="e-1")))
    result = story.when(page(identified("u-1", None, "v-1", id="e-1"), visitorProven=True))

    result.then("VisitorLinked", "VisitorUnlinked")
    assert result.outcome.id_reused
