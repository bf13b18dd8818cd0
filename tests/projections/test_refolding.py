"""A state after an erasure, made without folding the whole log again: the same as if it had been (contract section 10)."""

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from kinfold_projections.contact_ids import make_contact_id
from kinfold_projections.duplicates import Occurrence
from kinfold_projections.ownership import Ownership
from kinfold_projections.refolding import Folding, Parts
from kinfold_projections.state import State
from tests.projections.test_redaction import erased, erasures, owned
from tests.support.folding import LOG_START_MS
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


def refold(log: Log, rewritten: Log) -> Folding | None:
    """The fold of a log, after which some entries were replaced; None if the whole log has to be folded again."""
    folding, ownership, parts = folded(log)
    changed = {new[0].decode() for old, new in zip(log, rewritten, strict=True) if old != new}
    around = parts.around(changed, ownership.entries)
    occurred: dict[str, Occurrence] = {each: kind for each, kind in folding.occurred.items() if each not in changed}
    before, after = (Folding(State("default", tells=False)) for _ in range(2))
    before.fold(read([raw for raw in log if raw[0].decode() in around]), folding.occurred)
    after.fold(read([raw for raw in rewritten if raw[0].decode() in around]), occurred)
    before.take_changes()
    after.take_changes()
    return folding if folding.replace(before, after) else None


@given(erasures(st.one_of(logs(), marked_logs(), crowded_logs())))
def test_part_that_is_folded_again_gives_the_state_of_the_whole_log(case: tuple[Log, list[str]]) -> None:
    """People are erased one after the other. What is left of the first ones is part of the log of the next."""
    log, people = case
    for contact_id in people:
        ownership = owned(log)
        rewritten = erased(log, ownership.belongings({contact_id}), ownership)

        refolded, whole = refold(log, rewritten), shown(folded(rewritten)[0])

        assert refolded is not None or not whole["members"]
        if refolded is not None:
            assert shown(refolded) == whole
        log = rewritten


def test_entry_that_names_a_contact_by_id_is_folded_with_the_entry_that_created_it() -> None:
    """Ada is erased. Ben shared a browser with her, and his metadata was set by his contact id."""
    ids = [f"{LOG_START_MS + number}-0" for number in range(5)]
    events: list[dict[str, Any]] = [
        {"type": "VisitorIdentified", "externalId": "ada", "visitorId": "kiosk"},
        {"type": "VisitorIdentified", "externalId": "ben", "visitorId": "kiosk"},
        {"type": "VisitorIdentified", "externalId": "cy", "visitorId": "phone"},
        {"type": "MetadataSet", "contactId": make_contact_id("default", ids[1]), "metadata": {"plan": "pro"}},
        {"type": "MetadataSet", "contactId": make_contact_id("default", ids[2]), "metadata": {"plan": "free"}},
    ]
    log = [(each.encode(), {b"event": json.dumps(event).encode()}) for each, event in zip(ids, events, strict=True)]
    _, ownership, parts = folded(log)

    rewritten = erased(log, ownership.belongings({make_contact_id("default", ids[0])}), ownership)

    assert parts.around({ids[0]}, ownership.entries) == {ids[0], ids[1], ids[3]}
    refolded = refold(log, rewritten)
    assert refolded is not None
    assert shown(refolded) == shown(folded(rewritten)[0])


def test_state_that_holds_something_else_is_left_as_it_is() -> None:
    log = [(b"1-0", {b"event": b'{"type":"VisitorIdentified","externalId":"ada","visitorId":"laptop"}'})]
    folding, _, _ = folded(log)
    damaged, part = folded(log)[0], Folding(State("default", tells=False))
    part.fold(read(log), {})
    part.take_changes()
    damaged.state.visitors["laptop"].name = "Ada"
    before = shown(damaged)

    assert not damaged.replace(part, Folding(State("default", tells=False)))
    assert shown(damaged) == before
    assert folding.replace(part, part)
