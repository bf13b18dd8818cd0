"""Duplicates: an event with the same id and content as one in the 65,536 entries before (contract section 3)."""

import itertools
import json
from collections.abc import Callable
from typing import Final

import msgspec
import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from kinfold_projections.duplicates import WINDOW_ENTRIES, DuplicateWindow, Occurrence, erased_content, erased_id
from kinfold_projections.entries import BadEntry, Entry
from tests.support.folding import Story, entry_of, given, identified, metadata_set, moment, seen

_NUMBERS: Final = itertools.count()


def name(value: str, event_id: str | None) -> dict[str, object]:
    """An event with an effect and its own id."""
    return {**identified("u-1", name=value), "id": event_id}


def test_repeated_event_is_dropped_and_counted() -> None:
    """An event with the same content under another id is another event."""
    story = given(name("Ada", "e-1"))
    story.when(name("Ada", "e-1")).then_nothing("duplicate")
    story.when(name("Cy", "e-2")).then("ContactUpdated")
    story.when(name("Ada", "e-1")).then_nothing("duplicate")
    assert story.contact(external_id="u-1").name == "Cy"


def test_content_is_compared_after_decoding() -> None:
    """The order of keys, white space, an explicit null, the offset of a time, and unknown fields do not count."""
    one = {"type": "MetadataSet", "id": "e-1", "visitorId": "v-1", "at": moment(1), "metadata": {"a": 1, "b": "x"}}
    other = json.dumps(
        {
            "metadata": {"b": "x", "a": 1.0},
            "hash": None,
            "visitorId": "v-1",
            "at": "2026-01-01T02:00:01+02:00",
            "id": "e-1",
            "newer": [1],
            "type": "MetadataSet",
        },
        indent=2,
    )
    given(one).when(other.encode()).then_nothing("duplicate")


def test_retry_may_have_another_sent_at() -> None:
    """`sentAt` is not part of the content."""
    event = metadata_set(visitorId="v-1", metadata={"a": 1}, id="e-1", at=1)
    story = given({**event, "sentAt": moment(1)})
    story.when({**event, "sentAt": moment(2)}).then_nothing("duplicate")
    story.when(event).then_nothing("duplicate")


@pytest.mark.parametrize(
    "other",
    [
        {"visitorId": "v-2"},
        {"at": moment(2)},
        {"metadata": {"a": 2}},
        {"metadata": {"a": True}},
        {"metadata": {"a": "1"}},
        {"metadata": {"a": 1, "b": 1}},
        {"metadata": {}},
        {"unset": ["b"]},
        {"unset": []},
        {"type": "VisitorIdentified", "externalId": "u-1"},
    ],
    ids=str,
)
def test_other_event_with_a_used_id_is_folded_and_counted(other: dict[str, object]) -> None:
    """Segment's `messageId` for two users: any difference makes it another event. A repetition of it is a duplicate."""
    event = {"type": "MetadataSet", "id": "e-1", "visitorId": "v-1", "at": moment(1), "metadata": {"a": 1}}
    story = given(event)
    result = story.when({**event, **other})
    assert result.outcome.kind != "duplicate"
    assert result.outcome.id_reused
    for again in (event, {**event, **other}):
        repeated = story.when(again).then_nothing("duplicate")
        assert not repeated.outcome.id_reused


def test_two_users_whose_events_have_one_id_both_become_contacts() -> None:
    """Both users become contacts."""
    story = given(identified("u-1", "ada@example.org", id="e-1"))
    assert story.when(identified("u-2", "ben@example.org", id="e-1")).then("ContactCreated").outcome.id_reused
    assert [contact.external_id for contact in story.contacts] == ["u-1", "u-2"]


def test_event_without_an_id_has_that_of_its_entry() -> None:
    """Two such events with the same content are two. An event whose `id` is that entry id is a duplicate."""
    story = Story()
    story.when(name("Ada", None), "1767229200000-0").then("ContactCreated")
    story.when(name("Ada", None), "1767229200000-1").then_nothing()
    story.when(name("Ada", "1767229200000-0"), "1767229200000-2").then_nothing("duplicate")
    assert story.when(name("Bob", "1767229200000-0"), "1767229200000-3").then("ContactUpdated").outcome.id_reused


def test_id_may_be_long() -> None:
    """The window stores its hash, which bounds the memory. Two different long ids stay different."""
    story = given(name("Ada", "e" * 60_000))
    story.when(name("Ada", "e" * 60_000)).then_nothing("duplicate")
    assert not story.when(name("Cy", "e" * 59_999)).then("ContactUpdated").outcome.id_reused


def test_every_time_has_a_digest() -> None:
    """The first and the last that RFC 3339 can represent, with any offset."""
    for time in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59"):
        event = {**seen(id="e-1"), "at": time}
        given(event).when(event).then_nothing("duplicate")


def test_exclusion_occurs_like_any_event() -> None:
    """Its content is its entries and its reason."""
    exclusion = {"type": "EventsExcluded", "id": "e-1", "entries": ["1-0"], "reason": "a test"}
    story = given(exclusion)
    story.when(exclusion).then_nothing("duplicate")
    assert story.when({**exclusion, "entries": ["2-0"]}).outcome.id_reused


def test_event_that_the_state_rejected_has_occurred() -> None:
    """A repetition is a duplicate, and not another reject."""
    story = Story()
    story.when(metadata_set(contactId="ct_nobody", id="e-1")).then_rejected("unknown-contact")
    story.when(metadata_set(contactId="ct_nobody", id="e-1")).then_nothing("duplicate")


def test_unreadable_entry_has_not_occurred() -> None:
    """A corrected event may keep the id."""
    story = Story()
    story.when({"type": "VisitorSeen", "visitorId": "null", "id": "e-1"}).then_rejected("blocked-identifier")
    story.when(seen(id="e-1"))
    assert "v-1" in story.state.visitors


@pytest.mark.parametrize(("entries_before", "kind"), [(65_536, "duplicate"), (65_537, "no-op")])
def test_window_is_65_536_entries(entries_before: int, kind: str) -> None:
    """The entry at the beginning of the window is remembered, an earlier one is not."""
    story = given(name("Ada", "e-1"))
    skip(story.state.window, entries_before - 1)
    outcome = story.when(name("Ada", "e-1")).outcome
    assert (outcome.kind, outcome.id_reused) == (kind, False)


@pytest.mark.parametrize(("entries_before", "reused"), [(65_536, True), (65_537, False)])
def test_id_is_reused_only_within_the_window(entries_before: int, reused: bool) -> None:  # noqa: FBT001
    """After that, the id is free."""
    story = given(name("Ada", "e-1"))
    skip(story.state.window, entries_before - 1)
    assert story.when(name("Bob", "e-1")).then("ContactUpdated").outcome.id_reused == reused


def test_duplicate_occurs_too() -> None:
    """An event that is repeated forever stays dropped, because a dropped entry is part of the window of the next."""
    window = DuplicateWindow()
    assert entered(window, "e-1", 1) == "new"
    for _ in range(5):
        skip(window, 60_000)
        assert entered(window, "e-1", 1) == "duplicate"


def test_each_content_of_an_id_has_its_own_place_in_the_window() -> None:
    """The last one does not hide the previous one, in either half of the window's memory."""
    window = DuplicateWindow()
    assert entered(window, "e-1", 1) == "new"
    skip(window, 40_000)
    assert entered(window, "e-1", 2) == "id-reused"
    skip(window, 25_534)
    assert entered(window, "e-1", 1) == "duplicate"
    skip(window, 40_001)
    assert entered(window, "e-1", 2) == "id-reused"
    assert entered(window, "e-1", 1) == "duplicate"
    assert entered(window, "e-1", 3) == "id-reused"
    assert [entered(window, "e-1", content) for content in (1, 2, 3)] == ["duplicate"] * 3


def test_id_that_every_event_has_costs_the_same_each_time() -> None:
    """The window looks an event up by its id and its content, regardless of how many contents the id had."""
    window = DuplicateWindow()
    assert [entered(window, "e-1", content) for content in range(20_000)] == ["new", *["id-reused"] * 19_999]
    assert entered(window, "e-1", 7) == "duplicate"


@given_any(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=30), st.lists(st.integers(1, 8), max_size=30)
)
def test_entries_occur_alike_in_batches_of_any_size(occurring: list[tuple[str, int]], sizes: list[int]) -> None:
    """A batch without anything unusual is entered at once, which must not make a difference."""
    entries = [entry_with(event_id, content) for event_id, content in occurring]
    one_by_one, batched = DuplicateWindow(), DuplicateWindow()
    found: list[str] = []
    expected = [one_by_one.enter([entry]).get(0, "new") for entry in entries]
    for size in [*sizes, len(entries)]:
        batch, entries = entries[:size], entries[size:]
        occurrences = batched.enter(batch)
        found += [occurrences.get(index, "new") for index in range(len(batch))]
    assert found == expected


@pytest.mark.parametrize("offset", [0, 1, 1000, WINDOW_ENTRIES - 1, WINDOW_ENTRIES, WINDOW_ENTRIES + 1, 3 * WINDOW_ENTRIES])
def test_window_does_not_depend_on_the_place_in_the_log(offset: int) -> None:
    """It is defined by the log alone, not by the entry at which a reader started to count."""

    def occurs_after(entries: int) -> bool:
        window = DuplicateWindow()
        skip(window, offset)
        entered(window, "e-1", 1)
        skip(window, entries - 1)
        return entered(window, "e-1", 1) == "duplicate"

    assert_edge(occurs_after)


def assert_edge(occurs_after: Callable[[int], bool]) -> None:
    assert occurs_after(1)
    assert occurs_after(65_536)
    assert not occurs_after(65_537)
    assert not occurs_after(200_000)


def entry_with(event_id: str, content: int) -> Entry | BadEntry:
    return entry_of("1767229200000-0", metadata_set(visitorId="v-1", metadata={"a": content}, id=event_id))


def entered(window: DuplicateWindow, event_id: str, content: int) -> Occurrence:
    return window.enter([entry_with(event_id, content)]).get(0, "new")


def skip(window: DuplicateWindow, entries: int) -> None:
    """Enter events that the window has not seen."""
    entry = entry_with("", 1)
    assert isinstance(entry, Entry)
    window.enter([msgspec.structs.replace(entry, event_id=f"skipped-{next(_NUMBERS)}") for _ in range(entries)])


def page_with(event_id: str, content: int) -> Entry | BadEntry:
    event = metadata_set(visitorId="v-1", metadata={"a": content}, id=event_id)
    return entry_of("1767229200000-0", {**event, "source": "browser"})


def skip_pages(window: DuplicateWindow, entries: int) -> None:
    """Enter events of pages that the window has not seen."""
    entry = page_with("", 1)
    assert isinstance(entry, Entry)
    window.enter([msgspec.structs.replace(entry, event_id=f"\0skipped-{next(_NUMBERS)}") for _ in range(entries)])


@pytest.mark.parametrize(("between", "occurrence"), [(65_536, "duplicate"), (131_071, "duplicate"), (131_072, "new")])
def test_pages_do_not_push_out_the_ids_of_trusted_sources(between: int, occurrence: str) -> None:
    """Up to the bound that a projector which starts can read again."""
    window = DuplicateWindow()
    skip(window, 3)
    assert entered(window, "e-1", 1) == "new"
    skip_pages(window, between)
    assert entered(window, "e-1", 1) == occurrence


@pytest.mark.parametrize(("between", "occurrence"), [(65_535, "duplicate"), (65_536, "new")])
def test_each_source_has_a_window_of_65_536_entries(between: int, occurrence: str) -> None:
    """Those of the other source between them do not count, as long as all are among the last 131,072."""
    window = DuplicateWindow()
    skip_pages(window, 10)
    assert window.enter([page_with("e-1", 1)]) == {}
    for _ in range(10):
        skip(window, 1000)
        skip_pages(window, between // 10)
    skip_pages(window, between % 10)
    assert window.enter([page_with("e-1", 1)]).get(0, "new") == occurrence
    assert entered(window, "e-1", 1) == "new"


@given_any(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.booleans()), max_size=40),
    st.lists(st.integers(1, 8), max_size=40),
)
def test_sources_do_not_meet_in_batches_of_any_size(occurring: list[tuple[str, int, bool]], sizes: list[int]) -> None:
    """Each source's entries occur as if the log had no others."""
    entries = [(page_with if is_page else entry_with)(event_id, content) for event_id, content, is_page in occurring]
    apart = {True: DuplicateWindow(), False: DuplicateWindow()}
    expected = [apart[is_page].enter([entry]).get(0, "new") for entry, (*_, is_page) in zip(entries, occurring, strict=True)]
    together, found = DuplicateWindow(), list[str]()
    for size in [*sizes, len(entries)]:
        batch, entries = entries[:size], entries[size:]
        occurrences = together.enter(batch)
        found += [occurrences.get(index, "new") for index in range(len(batch))]
    assert found == expected


_OCCURRING: Final = st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.booleans())


@given_any(
    st.lists(_OCCURRING, max_size=20),
    st.sets(_OCCURRING, min_size=1, max_size=4),
    st.lists(_OCCURRING, min_size=1, max_size=20),
)
def test_window_of_entries_finds_what_a_window_of_their_hashes_finds(
    before: list[tuple[str, int, bool]], gone: set[tuple[str, int, bool]], after: list[tuple[str, int, bool]]
) -> None:
    """So a projector may go on with its window after an erasure, until it has read the rewritten log again."""

    def entry(event_id: str, content: int, is_page: bool) -> Entry | BadEntry:  # noqa: FBT001
        return (page_with if is_page else entry_with)(event_id, content)

    as_was, rewritten = DuplicateWindow(), DuplicateWindow()
    as_was.enter([entry(*each) for each in before])
    rewritten.enter([hashed(entry(*each)) if each in gone else entry(*each) for each in before])
    assert as_was.enter([entry(*each) for each in after]) == rewritten.enter([entry(*each) for each in after])


def hashed(entry: Entry | BadEntry) -> Entry | BadEntry:
    """What an erasure leaves of an entry."""
    assert isinstance(entry, Entry)
    hashes = {"id": erased_id("salt", entry.event_id), "content": erased_content("salt", entry), "salt": "salt"}
    return entry_of(entry.id, {"type": "Erased", **hashes, **({} if entry.is_trusted else {"source": "browser"})})
