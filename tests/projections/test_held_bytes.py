"""A state knows the size of its content, so that a projector can limit its memory (`cache_bytes`)."""

from collections.abc import Mapping
from typing import Any

import pytest

from kinfold_projections.records import encode_record
from kinfold_projections.state import State
from tests.support.folding import given, identified, metadata_set, seen

PAGES: list[Mapping[str, Any]] = [seen(f"v-{each}", context={"page": "x" * 5000}) for each in range(50)]
FACTS: list[Mapping[str, Any]] = [
    metadata_set(visitorId=f"v-{visitor}", metadata={f"k{each}": "x" * 400 for each in range(20)}) for visitor in range(50)
]
MOVES: list[Mapping[str, Any]] = [identified(f"u-{each % 2}", visitor_id="v-1", at=each) for each in range(500)]


def encoded_bytes(state: State) -> int:
    """The encoded size of the visitors and contacts in the state."""
    return sum(len(encode_record(each)) for each in [*state.visitors.values(), *state.contacts.values()])


@pytest.mark.parametrize("events", [PAGES, FACTS, MOVES], ids=["large pages", "many facts", "many links"])
def test_growth_of_visitors_is_counted(events: list[Mapping[str, Any]]) -> None:
    """A visitor is small at first, and can grow. A repeated event adds nothing."""
    state = given(*events, *events).state
    held = encoded_bytes(state)
    assert held / 2 < state.held_bytes < held * 2
