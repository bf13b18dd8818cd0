"""A state that is no longer needed is freed in steps, so that a projector does not pause for it."""

import itertools

from kinfold_projections.state import State
from tests.support.folding import given, identified

VISITORS = 1200


def test_every_record_is_freed_in_steps_of_a_thousand() -> None:
    state = given(*[identified(f"u-{each}", visitor_id=f"v-{each}", email=f"a{each}@x.org") for each in range(VISITORS)]).state
    left = [records(state)]
    assert left[0] >= 5 * VISITORS

    left += [records(state) for _ in state.dismantle()]

    assert records(state) == 0
    assert all(before - after <= 1000 for before, after in itertools.pairwise(left))
    assert left[-1] < 1000


def records(state: State) -> int:
    """How many records the state holds."""
    return (
        len(state.visitors)
        + len(state.visitor_stamps)
        + len(state.contacts)
        + len(state.contact_stamps)
        + len(state.external_ids)
        + len(state.emails)
    )
