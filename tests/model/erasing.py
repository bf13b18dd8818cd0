"""Erases people from a random log, as an erasure rewrites it (contract section 10)."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from kinfold_projections.batches import RawEntry
from kinfold_projections.entries import read_entries
from kinfold_projections.ownership import Belongings, Ownership
from kinfold_projections.redaction import Redactor
from tests.model.contract import Limits
from tests.model.limits import limited

Event = dict[str, Any]
LoggedEvent = tuple[str, Event]

_SALT = "0123456789abcdef"


def erase_some(
    dice: random.Random, workspace: str, entries: Sequence[LoggedEvent], limits: Limits
) -> tuple[list[LoggedEvent], dict[str, Event | None]]:
    """Erase a few people one after the other.

    Returns the rewritten log, and by entry id what was there before each `Erased` of it: None if it never occurred.
    """
    log, originals = list(entries), dict[str, Event | None]()
    with limited(limits):
        for _ in range(dice.choice([1, 1, 2, 4])):
            raws = [(entry.encode(), {b"event": json.dumps(event).encode()}) for entry, event in log]
            ownership = Ownership(workspace)
            ownership.fold(read_entries(raws))
            belongings = _somebody(dice, ownership)
            before = dict(log)
            log = _rewritten(workspace, raws, ownership, belongings)
            for entry, event in log:
                if event.get("type") == "Erased" and before[entry].get("type") != "Erased":
                    originals[entry] = before[entry] if event.get("occurred", True) else None
            if dice.random() < 0.5:
                last = _after(log)
                log.append((last, {"type": "SubjectErased", "erasure": "er_1", "contacts": sorted(belongings.contacts)}))
    return log, originals


def _somebody(dice: random.Random, ownership: Ownership) -> Belongings:
    people = sorted(each.id for each in ownership.state.living_contacts())
    visitors = sorted(ownership.anonymous)
    if visitors and (not people or dice.random() < 0.2):
        return ownership.belongings((), {dice.choice(visitors)})
    return ownership.belongings(set(dice.sample(people, min(len(people), dice.choice([1, 1, 2])))))


def _rewritten(workspace: str, raws: Sequence[RawEntry], ownership: Ownership, belongings: Belongings) -> list[LoggedEvent]:
    redactor = Redactor(workspace, belongings, _SALT)
    kinds: dict[str, Any] = dict.fromkeys(ownership.idle, "idle")
    kinds |= dict.fromkeys(ownership.unfolded, "unfolded") | dict.fromkeys(ownership.duplicates, "duplicate")
    log: list[LoggedEvent] = []
    for raw, entry in zip(raws, read_entries(raws), strict=True):
        event = redactor.redacted(entry, kinds.get(entry.id, "folded"), raw)
        log.append((entry.id, json.loads(raw[1][b"event"] if event is None else event)))
    return log


def _after(log: Sequence[LoggedEvent]) -> str:
    """The id of an entry that is appended."""
    at_ms, _, seq = log[-1][0].partition("-")
    return f"{at_ms}-{int(seq) + 1}"


def resend_some(dice: random.Random, log: list[LoggedEvent], before: Mapping[str, Event]) -> None:
    """Append events as they were before the erasures, as a spool sends them again."""
    for event in dice.choices(list(before.values()), k=dice.choice([0, 3, 10])):
        log.append((_after(log), event))
