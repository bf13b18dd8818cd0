"""When an event counts as having happened (contract section 3, Effective time)."""

import pytest

from kinfold_projections.entries import Entry
from kinfold_schemas.times import LAST_MS, from_text, to_text
from tests.support.folding import LOG_START_MS, Event, Story, entry_of, given, identified, log_at, metadata_set, moment, seen

ENTRY_AT = "2026-01-01T12:00:00.000Z"
ENTRY_MS = from_text(ENTRY_AT)
UNKNOWN = "2000-01-01T00:00:00.000Z"


def of_unknown_time(event: Event) -> Event:
    """The event with the time that says that its time is not known."""
    return {**event, "at": UNKNOWN}


def effective(at: str | None = None, sent_at: str | None = None, entry_ms: int = ENTRY_MS) -> str:
    """The effective time of an event in an entry of that millisecond."""
    times = {key: value for key, value in (("at", at), ("sentAt", sent_at)) if value}
    entry = entry_of(f"{entry_ms}-3", {"type": "VisitorSeen", "visitorId": "v-1", **times})
    assert isinstance(entry, Entry)
    assert entry.at_ms == from_text(entry.at)
    return entry.at


def test_without_at_it_is_the_entry_s_time() -> None:
    """The log's clock is all that there is; `sentAt` alone says nothing."""
    assert effective() == ENTRY_AT
    assert effective(sent_at="2020-01-01T00:00:00Z") == ENTRY_AT


@pytest.mark.parametrize("sent_at", ["2026-01-01T11:59:00.000Z", "2026-01-01T12:00:00Z", "2026-01-01T12:01:00.000Z"])
def test_a_clock_within_a_minute_of_the_log_is_right(sent_at: str) -> None:
    """The difference is the network's, so the time stands, however long the event waited on the device."""
    assert effective("2026-01-01T11:58:00Z", sent_at) == "2026-01-01T11:58:00.000Z"
    assert effective("2026-01-01T05:00:00+01:00", sent_at) == "2026-01-01T04:00:00.000Z"


def test_a_right_clock_does_not_reach_into_the_future() -> None:
    """30 seconds ahead of the log is still a right clock, and the entry's time is the latest there is."""
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
def test_a_wrong_clock_is_corrected_by_its_difference(at: str, sent_at: str, expected: str) -> None:
    """What it says of the moment of sending tells how wrong it is."""
    assert effective(at, sent_at) == expected


def test_history_that_is_sent_again_keeps_its_time() -> None:
    """A `sentAt` more than 24 hours ago is the one of its first sending, and says nothing of the clock."""
    assert effective("2019-05-01T00:00:00Z", "2019-05-01T00:00:01Z") == "2019-05-01T00:00:00.000Z"
    assert effective("2025-12-31T11:59:50Z", "2025-12-31T11:59:59.999Z") == "2025-12-31T11:59:50.000Z"


def test_an_event_that_was_sent_before_it_happened_counts_by_its_time_alone() -> None:
    """The two are not of one clock."""
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
def test_a_time_before_2000_is_of_a_clock_that_was_never_set(never_set: str) -> None:
    """It counts as absent, as `at` and as `sentAt`."""
    assert effective(never_set) == ENTRY_AT
    assert effective(never_set, never_set) == ENTRY_AT
    assert effective(never_set, "2026-01-01T11:00:00Z") == ENTRY_AT
    assert effective("2026-01-01T11:00:00Z", never_set) == "2026-01-01T11:00:00.000Z"


def test_the_first_moment_of_2000_counts() -> None:
    """Wherever its clock stands."""
    assert effective("2000-01-01T00:00:00Z") == "2000-01-01T00:00:00.000Z"
    assert effective("2000-01-01T05:30:00+05:30") == "2000-01-01T00:00:00.000Z"


def test_two_events_of_one_right_clock_keep_their_order() -> None:
    """`second` arrives first, and `first`, which the network held for 50 ms, does not take the device back."""
    story = Story()
    story.when(identified("second", visitor_id="v-1", at=3600), f"{LOG_START_MS}-0")
    held = identified("first", visitor_id="v-1", at=3570, sentAt=moment(3570.05))
    story.when(held, f"{LOG_START_MS + 100}-0").then("ContactCreated")
    assert story.contact(visitor_id="v-1").external_id == "second"


def test_at_alone_is_believed_as_far_as_the_log_allows() -> None:
    """In the past, yes; in the future, no."""
    assert effective("2026-01-01T11:00:00Z") == "2026-01-01T11:00:00.000Z"
    assert effective("2026-01-01T12:00:00.001Z") == ENTRY_AT
    assert effective("9999-12-31T23:59:59.999-23:59") == ENTRY_AT


def test_what_is_finer_than_a_millisecond_is_cut_off() -> None:
    """Time is in milliseconds inside."""
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
def test_it_stays_within_what_rfc_3339_can_write(entry_ms: int, at: str | None, sent_at: str | None, clamped_ms: int) -> None:
    """However long the delay was, and whatever ids the log has."""
    assert effective(at, sent_at, entry_ms) == to_text(clamped_ms)


# --- an event of unknown time


def test_an_event_of_unknown_time_sets_what_is_not_set_yet() -> None:
    """Anything that has a time is newer."""
    story = given(identified("u-1", name="Ada", metadata={"plan": "pro"}, at=1))
    event = identified("u-1", "ada@example.org", name="Old", image="/a.png", metadata={"plan": "old", "city": "Paris"})
    story.when(of_unknown_time(event)).then(
        {"type": "ContactUpdated", "changed": ["email", "image", "metadata.city"], "at": UNKNOWN}
    )
    contact = story.contact(external_id="u-1")
    assert (contact.name, contact.metadata) == ("Ada", {"plan": "pro", "city": "Paris"})


def test_what_an_event_of_unknown_time_set_gives_way_to_anything_newer() -> None:
    """Its stamps are the oldest time that an event can have, so a later one of unknown time wins as well."""
    story = given(of_unknown_time(identified("u-1", name="One", metadata={"plan": "one"})))
    story.when(of_unknown_time(identified("u-1", name="Two"))).then({"type": "ContactUpdated", "changed": ["name"]})
    story.when(metadata_set(externalId="u-1", metadata={"plan": "two"}, at=-(10**6))).then(
        {"type": "ContactUpdated", "changed": ["metadata.plan"]}
    )


def test_a_contact_that_an_event_of_unknown_time_creates_has_the_entry_s_time() -> None:
    """Nobody was seen in 2000. On the feed, `at` is the effective time all the same."""
    for event in (identified("u-1"), metadata_set(externalId="u-1")):
        story = given()
        story.when(of_unknown_time(event)).then({"type": "ContactCreated", "at": UNKNOWN})
        contact = story.contact(external_id="u-1")
        times = contact.created_at, contact.first_seen_at, contact.last_seen_at, contact.updated_at
        assert times == (log_at(0),) * 4


@pytest.mark.parametrize("event", [seen("v-1"), metadata_set(visitorId="v-1"), identified("u-1", visitor_id="v-1")])
def test_a_visitor_of_an_event_of_unknown_time_was_seen_at_the_entry_s_time(event: Event) -> None:
    """Its first event, and a later one."""
    story = given(of_unknown_time(event))
    assert (story.visitor().first_seen_at, story.visitor().last_seen_at) == (log_at(0), log_at(0))
    story.given(of_unknown_time(event))
    assert (story.visitor().first_seen_at, story.visitor().last_seen_at) == (log_at(0), log_at(1))


def test_a_change_of_unknown_time_widens_the_seen_times_to_the_entry_s() -> None:
    """And `updatedAt` stays, which is the greatest effective time."""
    story = given(identified("u-1", at=1))
    story.when(of_unknown_time(metadata_set(externalId="u-1", metadata={"plan": "pro"}))).then("ContactUpdated")
    contact = story.contact(external_id="u-1")
    assert (contact.first_seen_at, contact.last_seen_at, contact.updated_at) == (moment(1), log_at(1), moment(1))


def test_a_page_view_of_unknown_time_tells_no_presence() -> None:
    """It dates the visitor alone. Its context is there as long as no other is."""
    story = given(identified("u-1", visitor_id="v-1", at=1))
    story.when(of_unknown_time(seen("v-1", context={"url": "/old"}))).then_nothing("folded")
    assert story.visitor().context == {"url": "/old"}
    assert story.contact(external_id="u-1").last_seen_at == moment(1)
    story.when(seen("v-1", at=2, context={"url": "/new"})).then("ContactSeen")
    story.given(of_unknown_time(seen("v-1", context={"url": "/old"})))
    assert story.visitor().context == {"url": "/new"}


def test_an_identification_of_unknown_time_links_an_anonymous_visitor() -> None:
    """And takes no visitor from the contact that it has."""
    story = given(of_unknown_time(identified("u-1", visitor_id="v-1")), identified("u-2", visitor_id="v-2", at=1))
    assert story.contact(visitor_id="v-1").external_id == "u-1"
    story.when(of_unknown_time(identified("u-1", visitor_id="v-2"))).then_nothing("folded")
    assert story.contact(visitor_id="v-2").external_id == "u-2"


def test_any_time_but_the_first_of_2000_is_known() -> None:
    """A millisecond later is a time like any other."""
    story = given(identified("u-1", visitor_id="v-1", at=1))
    story.when({**seen("v-1"), "at": "2000-01-01T00:00:00.001Z"}).then("ContactSeen")
    assert story.contact(external_id="u-1").first_seen_at == "2000-01-01T00:00:00.001Z"
