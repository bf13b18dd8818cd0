"""A state after an erasure, made without folding the whole log again: the same as if it had been (contract section 10)."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from kinfold_projections.duplicates import Occurrence
from kinfold_projections.ownership import Ownership
from kinfold_projections.refolding import Folding, Parts
from kinfold_projections.state import State
from tests.projections.test_redaction import erased, erasures
from tests.support.strategies import Log, crowded_logs, logs, marked_logs, read

RECORDS = ("visitors", "visitor_stamps", "contacts", "contact_stamps", "external_ids", "emails")


def folded(log: Log) -> tuple[Folding, Ownership, Parts]:
    """A log, folded as an erasure does."""
    ownership, parts = Ownership("default"), Parts()
    folding = Folding(ownership.state)
    for first in range(0, len(log), 7):
        entries = read(log[first : first + 7])
        parts.note(entries)
        folding.note(entries, ownership.fold(entries))
    folding.take_changes()
    return folding, ownership, parts


def shown(folding: Folding) -> dict[str, Any]:
    """Everything of a fold that is stored, byte by byte."""
    state = folding.state
    records = {part: {each: msgspec.json.encode(record) for each, record in getattr(state, part).items()} for part in RECORDS}
    return {**records, "members": folding.members, "counts": folding.counts, "rejections": folding.rejections}


@given(erasures(st.one_of(logs(), marked_logs(), crowded_logs())))
def test_part_that_is_folded_again_gives_the_state_of_the_whole_log(case: tuple[Log, list[str]]) -> None:
    """People are erased one after the other. What is left of the first ones is part of the log of the next."""
    log, people = case
    for contact_id in people:
        folding, ownership, parts = folded(log)
        rewritten = erased(log, ownership.belongings({contact_id}), ownership)
        changed = {new[0].decode() for old, new in zip(log, rewritten, strict=True) if old != new}
        around = parts.around(changed, ownership.entries)
        occurred: dict[str, Occurrence] = {each: kind for each, kind in folding.occurred.items() if each not in changed}
        before, after = (Folding(State("default", tells=False)) for _ in range(2))
        before.fold(read([raw for raw in log if raw[0].decode() in around]), folding.occurred)
        after.fold(read([raw for raw in rewritten if raw[0].decode() in around]), occurred)
        before.take_changes()
        after.take_changes()

        is_replaced = folding.replace(before, after)

        whole = shown(folded(rewritten)[0])
        assert is_replaced or not whole["members"]
        if is_replaced:
            assert shown(folding) == whole
        log = rewritten
