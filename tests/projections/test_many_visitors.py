"""A contact with 100,000 visitors: linking one more or merging it costs as much as with few (contract section 2)."""

import msgspec
import pytest

from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.fold import fold
from kinfold_projections.state import State
from tests.support.folding import Event, Story, entry_of, given, identified
from tests.support.lengths import short_or_long
from tests.support.store import Store

START_MS = 1_767_229_200_000
MANY = short_or_long(10_000, 100_000)
LISTED = 100


def link(number: int) -> Entry | BadEntry:
    """An entry that links one more visitor to a contact that has an address."""
    return entry_of(f"{START_MS + number}-0", identified(None, "ada@example.org", f"v-{number:06}"))


class Crowd:
    """A contact with many visitors, as in the projector: records that were written are not kept."""

    def __init__(self, visitors: int) -> None:
        self.state = State("default")
        self.visitors = visitors
        for number in range(visitors):
            fold(self.state, [link(number)])
            if number % 1000 == 0:
                self.settle()
        self.settle()

    def settle(self) -> None:
        """End a batch."""
        self.state.take_changes()
        self.state.older.clear()

    def cost_of(self, entry: Entry | BadEntry) -> int:
        """The number of bytes that the projector writes for one more entry: state and feed."""
        (outcome,) = fold(self.state, [entry])
        return len(msgspec.json.encode(self.state.take_changes())) + len(msgspec.json.encode(outcome.changes))


@pytest.fixture(scope="module")
def few() -> Crowd:
    """A few more visitors than a contact lists."""
    return Crowd(LISTED + 1)


@pytest.fixture(scope="module")
def many() -> Crowd:
    """In the long form, as many visitors as the contract mentions."""
    return Crowd(MANY)


def test_cost_of_linking_does_not_depend_on_the_number_of_visitors(few: Crowd, many: Crowd) -> None:
    """Bytes of records and changes, except for the digits of the count; at most what a hundred visitors take."""
    digits = 3 * len(str(MANY))  # visitorCount and version, in the record and in both its changes
    first = Crowd(0).cost_of(link(0))
    cost_of_few, cost_of_many = few.cost_of(link(few.visitors)), many.cost_of(link(many.visitors))
    assert abs(cost_of_many - cost_of_few) <= digits
    assert cost_of_many < first + LISTED * 3 * len('"2026-01-01T00:00:00.000Z","v-000000",')


def test_cost_of_merging_does_not_depend_on_the_number_of_visitors(few: Crowd, many: Crowd) -> None:
    """A tombstone, a member of the sorted set, and the list of a hundred visitors."""
    merge = entry_of(f"{START_MS + 10**9}-0", identified("u-1", "ada@example.org"))
    claim = entry_of(f"{START_MS + 10**9 - 1}-0", identified("u-1"))
    costs: list[int] = []
    for crowd in (few, many):
        crowd.cost_of(claim)
        costs.append(crowd.cost_of(merge))
        merged = crowd.state.by_external_id("u-1")
        assert merged is not None
        assert merged.visitor_count >= crowd.visitors
        assert len(merged.visitor_ids) == LISTED
        assert merged.visitor_ids == sorted(merged.visitor_ids, reverse=True)
    assert abs(costs[1] - costs[0]) <= 3 * len(str(MANY))


def test_100_most_recently_linked_visitors_are_listed() -> None:
    """The count includes all visitors."""
    story = given(*(identified("u-1", visitor_id=f"v-{number:03}", at=number) for number in range(150)))
    contact = story.contact(external_id="u-1")
    assert contact.visitor_count == 150
    assert contact.visitor_ids == [f"v-{number:03}" for number in range(149, 49, -1)]


def test_late_link_far_in_the_past_counts_and_is_not_listed() -> None:
    """The feed gets a change, because the count changes."""
    story = given(*(identified("u-1", visitor_id=f"v-{number:03}", at=number + 10) for number in range(150)))
    listed = story.contact(external_id="u-1").visitor_ids
    story.when(identified("u-1", visitor_id="v-old", at=1)).then("VisitorLinked")
    contact = story.contact(external_id="u-1")
    assert (contact.visitor_count, contact.visitor_ids) == (151, listed)


def test_next_visitor_moves_up_when_one_leaves() -> None:
    """It comes from the whole list, which the batch loads as far as it needs."""
    contact = leave(*(identified("u-1", visitor_id=f"v-{number:03}", at=number) for number in range(150)))
    assert contact == [f"v-{number:03}" for number in range(148, 48, -1)]


def test_next_visitor_may_belong_to_a_merged_contact() -> None:
    """The whole list of a contact has its own visitors and those of every contact merged into it."""
    people = (
        identified(None if number % 2 else "u-1", "ada@example.org" if number % 2 else None, f"v-{number:03}", at=number)
        for number in range(300)
    )
    contact = leave(*people, identified("u-1", "ada@example.org"))
    assert contact == [f"v-{number:03}" for number in range(298, 198, -1)]


def leave(*events: Event) -> list[str]:
    """The visitors that u-1 lists after its newest has left, when every batch knows only what it needs."""
    newest = max(str(event.get("visitorId", "")) for event in events)
    log = [*events, identified("u-2", visitor_id=newest)]
    entries = [entry_of(f"{START_MS + number}-0", event) for number, event in enumerate(log)]
    store, whole = Store(), Story().given(*log)
    for start in range(0, len(entries), 40):
        store.fold_batch(entries[start : start + 40])
    state = State("default")
    store.load(state, [entry_of("1-0", identified("u-1"))])
    contact = state.by_external_id("u-1")
    assert contact is not None
    assert contact.visitor_ids == whole.contact(external_id="u-1").visitor_ids
    return contact.visitor_ids
