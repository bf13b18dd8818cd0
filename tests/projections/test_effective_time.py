"""The effective time of an event (contract section 3, Effective time)."""

import pytest

from kinfold_projections.entries import Entry
from kinfold_schemas.times import LAST_MS, from_text, to_text
from tests.support.folding import LOG_START_MS, Event, Story, entry_of, given, identified, log_at, metadata_set, moment, seen

ENTRY_AT = "2026-01-01T12:00:00.000Z"
ENTRY_MS = from_text(ENTRY_AT)
UNKNOWN = "2000-01-01T00:00:00.000Z"


def of_unknown_time(event: Event) -> Event:
    """The event with the `at` of an unknown time."""
    return {**event, "at": UNKNOWN}


def effective(at: str | None = None, sent_at: str | None = None, entry_ms: int = ENTRY_MS) -> str:
    """The effective time of an event in an entry of this millisecond."""
    times = {key: value for key, value in (("at", at), ("sentAt", sent_at)) if value}
    entry = entry_of(f"{entry_ms}-3", {"type": "VisitorSeen", "visitorId": "v-1", **times})
    assert isinstance(entry, Entry)
    assert entry.at_ms == from_text(entry.at)
    return entry.at


def test_event_without_at_has_the_time_of_its_entry() -> None:
    """Only the log's clock is available; `sentAt` alone says nothing."""
    assert effective() == ENTRY_AT
    assert effective(sent_at="2020-01-01T00:00:00Z") == ENTRY_AT


@pytest.mark.parametrize("sent_at", ["2026-01-01T11:59:00.000Z", "2026-01-01T12:00:00Z", "2026-01-01T12:01:00.000Z"])
def test_clock_within_a_minute_of_the_log_is_right(sent_at: str) -> None:
    """The network causes the difference, so the time stays, even if the event waited on the device for long."""
    assert effective("2026-01-01T11:58:00Z", sent_at) == "2026-01-01T11:58:00.000Z"
    assert effective("2026-01-01T05:00:00+01:00", sent_at) == "2026-01-01T04:00:00.000Z"


def test_right_clock_does_not_reach_into_the_future() -> None:
    """A clock that is 30 seconds ahead of the log is right, but the entry's time is the latest possible one."""
    assert effective("2026-01-01T12:00:30Z", "2026-01-01T12:00:30Z") == ENTRY_AT


@pytest.mark.parametrize(
    ("at", "sent_at", "expected"),
    [
        ("2026-01-01T11:58:50Z", "2026-01-01T11:58:59.999Z", "2026-01-01T11:59:50.001Z"),  # slow by 60.001 s
        ("2026-01-01T12:00:51Z", "2026-01-01T12:01:00.001Z", "2026-01-01T11:59:50.999Z"),  # fast by 60.001 s
        ("2025-12-31T11:59:50Z", "2025-12-31T12:00:00Z", "2026-01-01T11:59:50.000Z"),  # slow by 24 h
        ("2027-01-01T00:00:00.5Z", "2027-01-01T00:00:01Z", "2026-01-01T11:59:59.500Z"),  # fast by a year
        ("2026-01-01T11:00:00+01:00", "2026-01-01T10:00:05Z", "2026-01-01T11:59:55.000Z"),  # two spellings of one clock
    ],
)
def test_wrong_clock_is_corrected_by_its_difference(at: str, sent_at: str, expected: str) -> None:
    """`sentAt` shows by how much the clock is wrong."""
    assert effective(at, sent_at) == expected


def test_history_that_is_sent_again_keeps_its_time() -> None:
    """A `sentAt` of more than 24 hours ago is from the first sending, and says nothing about the clock."""
    assert effective("2019-05-01T00:00:00Z", "2019-05-01T00:00:01Z") == "2019-05-01T00:00:00.000Z"
    assert effective("2025-12-31T11:59:50Z", "2025-12-31T11:59:59.999Z") == "2025-12-31T11:59:50.000Z"


def test_event_that_was_sent_before_it_happened_counts_by_at() -> None:
    """The two times are not from the same clock."""
    assert effective("2026-01-01T00:00:10Z", "2026-01-01T00:00:00Z") == "2026-01-01T00:00:10.000Z"
    assert effective("2026-01-01T13:00:00Z", "2026-01-01T10:00:00Z") == ENTRY_AT


@pytest.mark.parametrize(
    "never_set",
    [
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00Z",
        "1999-12-31T23:59:59.999Z",
        "2000-01-01T00:30:00+01:00",
        "0001-01-01T00:00:00+23:59",
    ],
)
def test_time_before_2000_is_from_a_clock_that_was_never_set(never_set: str) -> None:
    """It counts as absent, both as `at` and as `sentAt`."""
    assert effective(never_set) == ENTRY_AT
    assert effective(never_set, never_set) == ENTRY_AT
    assert effective(never_set, "2026-01-01T11:00:00Z") == ENTRY_AT
    assert effective("2026-01-01T11:00:00Z", never_set) == "2026-01-01T11:00:00.000Z"


def test_first_moment_of_2000_counts() -> None:
    """In any offset."""
    assert effective("2000-01-01T00:00:00Z") == "2000-01-01T00:00:00.000Z"
    assert effective("2000-01-01T05:30:00+05:30") == "2000-01-01T00:00:00.000Z"


def test_two_events_of_one_right_clock_keep_their_order() -> None:
    """The network delays `first` by 50 ms, so it arrives after `second`, but it does not take the device back."""
    story = Story()
    story.when(identified("second", visitor_id="v-1", at=3600), f"{LOG_START_MS}-0")
    held = identified("first", visitor_id="v-1", at=3570, sentAt=moment(3570.05))
    story.when(held, f"{LOG_START_MS + 100}-0").then("ContactCreated")
    assert story.contact(visitor_id="v-1").external_id == "second"


def test_at_alone_counts_up_to_the_time_of_the_entry() -> None:
    """A past time counts, a future one does not."""
    assert effective("2026-01-01T11:00:00Z") == "2026-01-01T11:00:00.000Z"
    assert effective("2026-01-01T12:00:00.001Z") == ENTRY_AT
    assert effective("9999-12-31T23:59:59.999-23:59") == ENTRY_AT


def test_time_is_truncated_to_milliseconds() -> None:
    """All times are whole milliseconds."""
    assert effective("2026-01-01T11:00:00.123999Z") == "2026-01-01T11:00:00.123Z"


@pytest.mark.parametrize(
    ("entry_ms", "at", "sent_at", "clamped_ms"),
    [
        (5, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.006Z", 0),
        (LAST_MS + 1, None, None, LAST_MS),
        (2**64 - 1, None, None, LAST_MS),
        (2**64 - 1, "2026-01-01T00:00:00Z", None, from_text("2026-01-01T00:00:00Z")),
    ],
)
def test_effective_time_stays_within_rfc_3339(entry_ms: int, at: str | None, sent_at: str | None, clamped_ms: int) -> None:
    """For any delay and any entry id."""
    assert effective(at, sent_at, entry_ms) == to_text(clamped_ms)


# --- an event of unknown time


def test_event_of_unknown_time_only_sets_missing_values() -> None:
    """Every known time is later."""
    story = given(identified("u-1", name="Ada", metadata={"plan": "pro"}, at=1))
    event = identified("u-1", "ada@example.org", name="Old", image="/a.png", metadata={"plan": "old", "city": "Paris"})
    story.when(of_unknown_time(event)).then(
        {"type": "ContactUpdated", "changed": ["email", "image", "metadata.city"], "at": UNKNOWN}
    )
    contact = story.contact(external_id="u-1")
    assert (contact.name, contact.metadata) == ("Ada", {"plan": "pro", "city": "Paris"})


def test_values_of_unknown_time_lose_to_any_later_value() -> None:
    """Their effective time is the oldest possible one, so even a later event of unknown time wins."""
    story = given(of_unknown_time(identified("u-1", name="One", metadata={"plan": "one"})))
    story.when(of_unknown_time(identified("u-1", name="Two"))).then({"type": "ContactUpdated", "changed": ["name"]})
    story.when(metadata_set(externalId="u-1", metadata={"plan": "two"}, at=-(10**6))).then(
        {"type": "ContactUpdated", "changed": ["metadata.plan"]}
    )


def test_contact_created_by_an_event_of_unknown_time_has_the_time_of_the_entry() -> None:
    """Nobody was seen in 2000. On the feed, `at` is still the effective time."""
    for event in (identified("u-1"), metadata_set(externalId="u-1")):
        story = given()
        story.when(of_unknown_time(event)).then({"type": "ContactCreated", "at": UNKNOWN})
        contact = story.contact(external_id="u-1")
        times = contact.created_at, contact.first_seen_at, contact.last_seen_at, contact.updated_at
        assert times == (log_at(0),) * 4


@pytest.mark.parametrize("event", [seen("v-1"), metadata_set(visitorId="v-1"), identified("u-1", visitor_id="v-1")])
def test_visitor_of_an_event_of_unknown_time_was_seen_at_the_time_of_the_entry(event: Event) -> None:
    """For its first event, and for a later one."""
    story = given(of_unknown_time(event))
    assert (story.visitor().first_seen_at, story.visitor().last_seen_at) == (log_at(0), log_at(0))
    story.given(of_unknown_time(event))
    assert (story.visitor().first_seen_at, story.visitor().last_seen_at) == (log_at(0), log_at(1))


def test_change_of_unknown_time_extends_the_seen_times_to_the_time_of_the_entry() -> None:
    """`updatedAt` stays, because it is the greatest effective time."""
    story = given(identified("u-1", at=1))
    story.when(of_unknown_time(metadata_set(externalId="u-1", metadata={"plan": "pro"}))).then("ContactUpdated")
    contact = story.contact(external_id="u-1")
    assert (contact.first_seen_at, contact.last_seen_at, contact.updated_at) == (moment(1), log_at(1), moment(1))


def test_page_view_of_unknown_time_emits_no_presence() -> None:
    """It only counts for the visitor. Its context stays until there is another one."""
    story = given(identified("u-1", visitor_id="v-1", at=1))
    story.when(of_unknown_time(seen("v-1", context={"url": "/old"}))).then_nothing("folded")
    assert story.visitor().context == {"url": "/old"}
    assert story.contact(external_id="u-1").last_seen_at == moment(1)
    story.when(seen("v-1", at=2, context={"url": "/new"})).then("ContactSeen")
    story.given(of_unknown_time(seen("v-1", context={"url": "/old"})))
    assert story.visitor().context == {"url": "/new"}


def test_identification_of_unknown_time_links_an_anonymous_visitor() -> None:
    """It does not take a visitor away from another contact."""
    story = given(of_unknown_time(identified("u-1", visitor_id="v-1")), identified("u-2", visitor_id="v-2", at=1))
    assert story.contact(visitor_id="v-1").external_id == "u-1"
    story.when(of_unknown_time(identified("u-1", visitor_id="v-2"))).then_nothing("folded")
    assert story.contact(visitor_id="v-2").external_id == "u-2"


def test_only_the_first_time_of_2000_is_unknown() -> None:
    """A millisecond later is an ordinary time."""
    story = given(identified("u-1", visitor_id="v-1", at=1))
    story.when({**seen("v-1"), "at": "2000-01-01T00:00:00.001Z"}).then("ContactSeen")
    assert story.contact(external_id="u-1").first_seen_at == "2000-01-01T00:00:00.001Z"
