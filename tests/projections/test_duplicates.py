"""Duplicates: an event whose own id occurred among the 65,536 entries before it (contract section 3)."""

from collections.abc import Callable

import pytest

from kinfold_projections.duplicates import WINDOW_ENTRIES, DuplicateWindow
from tests.support.folding import Story, given, identified, metadata_set, seen


def name(value: str, event_id: str | None) -> dict[str, object]:
    """An event that leaves a mark, with an id of its own."""
    return {**identified("u-1", name=value), "id": event_id}


def test_an_event_that_comes_again_is_dropped_and_counted() -> None:
    """Whatever it says the second time."""
    story = given(name("Ada", "e-1"))
    story.when(name("Bob", "e-1")).then_nothing("duplicate")
    story.when(name("Cy", "e-2")).then("ContactUpdated")
    assert story.contact(external_id="u-1").name == "Cy"


def test_without_an_id_of_its_own_an_event_has_its_entry_s() -> None:
    """So two that say the same are two; an event that takes another's entry id for its own is a duplicate of it."""
    story = Story()
    story.when(name("Ada", None), "1767229200000-0").then("ContactCreated")
    story.when(name("Bob", None), "1767229200000-1").then("ContactUpdated")
    story.when(name("Cy", "1767229200000-0"), "1767229200000-2").then_nothing("duplicate")


def test_an_id_may_be_long() -> None:
    """It is kept as its hash, so that the window's memory has a bound; another long one is another."""
    story = given(name("Ada", "e" * 60_000))
    story.when(name("Bob", "e" * 60_000)).then_nothing("duplicate")
    story.when(name("Cy", "e" * 59_999)).then("ContactUpdated")


def test_the_type_of_the_event_does_not_matter() -> None:
    """An id is an id."""
    given(seen(id="e-1")).when(metadata_set(visitorId="v-1", id="e-1")).then_nothing("duplicate")


def test_an_event_that_the_state_rejected_has_occurred() -> None:
    """It was an event, and its turn is over: a repetition is a duplicate and not one more reject."""
    story = Story()
    story.when(metadata_set(contactId="ct_nobody", id="e-1")).then_rejected("unknown-contact")
    story.when(metadata_set(contactId="ct_nobody", id="e-1")).then_nothing("duplicate")


def test_what_cannot_be_read_has_not_occurred() -> None:
    """Who mends the event may keep its id."""
    story = Story()
    story.when({"type": "VisitorSeen", "visitorId": "null", "id": "e-1"}).then_rejected("blocked-identifier")
    story.when(seen(id="e-1"))
    assert "v-1" in story.state.visitors


@pytest.mark.parametrize(("entries_before", "kind"), [(65_536, "duplicate"), (65_537, "folded")])
def test_the_window_is_65_536_entries(entries_before: int, kind: str) -> None:
    """The first of the entries before may be the one with the id; one earlier may not. Bad entries count as well."""
    story = given(name("Ada", "e-1"))
    for _ in range(entries_before - 1):
        story.state.window.enter(None)
    assert story.when(name("Bob", "e-1")).outcome.kind == kind


def test_a_duplicate_occurs_too() -> None:
    """Among the entries before is among them, dropped or not: so an event that is repeated for ever stays dropped."""
    window = DuplicateWindow()
    assert not window.enter("e-1")
    for _ in range(5):
        skip(window, 60_000)
        assert window.enter("e-1")


@pytest.mark.parametrize("offset", [0, 1, 1000, WINDOW_ENTRIES - 1, WINDOW_ENTRIES, WINDOW_ENTRIES + 1, 3 * WINDOW_ENTRIES])
def test_the_window_is_the_same_wherever_in_the_log(offset: int) -> None:
    """It is defined on the log alone, not on where somebody started to count."""

    def occurs_after(entries: int) -> bool:
        window = DuplicateWindow()
        skip(window, offset)
        window.enter("e-1")
        skip(window, entries - 1)
        return window.enter("e-1")

    assert_edge(occurs_after)


def assert_edge(occurs_after: Callable[[int], bool]) -> None:
    assert occurs_after(1)
    assert occurs_after(65_536)
    assert not occurs_after(65_537)
    assert not occurs_after(200_000)


def skip(window: DuplicateWindow, entries: int) -> None:
    for _ in range(entries):
        window.enter(None)
