"""A contact with 100,000 visitors: linking one more, or merging it away, costs what it did before (contract section 2)."""

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
    """The entry that links one more visitor to a contact that is known by its address."""
    return entry_of(f"{START_MS + number}-0", identified(None, "ada@example.org", f"v-{number:06}"))


class Crowd:
    """A contact with many visitors, as the projector has it: what is written is not held any longer."""

    def __init__(self, visitors: int) -> None:
        self.state = State("default")
        self.visitors = visitors
        for number in range(visitors):
            fold(self.state, [link(number)])
            if number % 1000 == 0:
                self.settle()
        self.settle()

    def settle(self) -> None:
        """Ends a batch."""
        self.state.take_changes()
        self.state.older.clear()

    def cost_of(self, entry: Entry | BadEntry) -> int:
        """How many bytes one more entry makes the projector write: state and feed."""
        (outcome,) = fold(self.state, [entry])
        return len(msgspec.json.encode(self.state.take_changes())) + len(msgspec.json.encode(outcome.changes))


@pytest.fixture(scope="module")
def few() -> Crowd:
    """Just more than are listed."""
    return Crowd(LISTED + 1)


@pytest.fixture(scope="module")
def many() -> Crowd:
    """In the long form as many as the contract speaks of."""
    return Crowd(MANY)


def test_linking_one_more_costs_what_it_did(few: Crowd, many: Crowd) -> None:
    """Bytes of records and changes, but for the digits of the count; and never more than a hundred visitors can make."""
    digits = 3 * len(str(MANY))  # visitorCount and version, in the record and in both its changes
    first = Crowd(0).cost_of(link(0))
    cost_of_few, cost_of_many = few.cost_of(link(few.visitors)), many.cost_of(link(many.visitors))
    assert abs(cost_of_many - cost_of_few) <= digits
    assert cost_of_many < first + LISTED * 3 * len('"2026-01-01T00:00:00.000Z","v-000000",')


def test_merging_away_costs_what_it_did(few: Crowd, many: Crowd) -> None:
    """One tombstone, one member of the sorted set, and the list of a hundred."""
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


def test_the_list_is_of_the_100_linked_most_recently() -> None:
    """And the count is of all."""
    story = given(*(identified("u-1", visitor_id=f"v-{number:03}", at=number) for number in range(150)))
    contact = story.contact(external_id="u-1")
    assert contact.visitor_count == 150
    assert contact.visitor_ids == [f"v-{number:03}" for number in range(149, 49, -1)]


def test_a_link_from_long_ago_counts_and_is_not_listed() -> None:
    """The feed is told all the same: the count is another."""
    story = given(*(identified("u-1", visitor_id=f"v-{number:03}", at=number + 10) for number in range(150)))
    listed = story.contact(external_id="u-1").visitor_ids
    story.when(identified("u-1", visitor_id="v-old", at=1)).then("VisitorLinked")
    contact = story.contact(external_id="u-1")
    assert (contact.visitor_count, contact.visitor_ids) == (151, listed)


def test_who_comes_next_moves_up_when_one_leaves() -> None:
    """Out of the whole, which a batch has loaded as far as it needs."""
    contact = leave(*(identified("u-1", visitor_id=f"v-{number:03}", at=number) for number in range(150)))
    assert contact == [f"v-{number:03}" for number in range(148, 48, -1)]


def test_who_comes_next_may_have_come_with_a_merged_contact() -> None:
    """The whole of a contact is its own visitors and those of every contact merged into it."""
    people = (
        identified(None if number % 2 else "u-1", "ada@example.org" if number % 2 else None, f"v-{number:03}", at=number)
        for number in range(300)
    )
    contact = leave(*people, identified("u-1", "ada@example.org"))
    assert contact == [f"v-{number:03}" for number in range(298, 198, -1)]


def leave(*events: Event) -> list[str]:
    """The visitors that u-1 lists when its newest has left, after batches that know only what they need."""
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
