"""One way for a batch of log entries, for the projector, a replay, `verify` and looking back.

read_batch   raw entries → what the fold takes            (needs no state)
missing      what of it the state does not hold           (`needs`; a state that is whole lacks nothing)
fold_batch   the state moves on; what came of the batch
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Self

import msgspec

from kinfold_projections.counts import Counts
from kinfold_projections.duplicates import Occurrence
from kinfold_projections.entries import BadEntry, Entry, read_entries
from kinfold_projections.fold import fold_while
from kinfold_projections.outcomes import Outcome
from kinfold_projections.state import State, StateChanges
from kinfold_schemas.changes import encode_change
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.rejections import Rejection

_NO_LIMIT: Final = 1 << 62

RawEntry = tuple[bytes, Mapping[bytes, bytes]]
"""A log entry as Redis returns it: its id and its fields."""


class Batch(msgspec.Struct, gc=False):
    """Entries to fold, in the log's order: raw and decoded, and how many others were excluded."""

    raws: Sequence[RawEntry]
    entries: list[Entry | BadEntry]
    excluded: int
    whole: Sequence[RawEntry]
    """The raw entries, including those that were left out."""
    occurrences: Mapping[int, Occurrence] | None = None
    """Which entries are not new, by index. None: they have not been entered in the window yet."""

    def cut(self, count: int) -> tuple[Self, Self]:
        """Split the batch after `count` entries. The entries have been entered in the window."""
        end = 1 + next(place for place, raw in enumerate(self.whole) if raw[0] == self.raws[count - 1][0])
        cut_off: dict[int, Occurrence] = {
            index - count: each for index, each in (self.occurrences or {}).items() if index >= count
        }
        excluded = end - count
        return (
            type(self)(self.raws[:count], self.entries[:count], excluded, self.whole[:end], {}),
            type(self)(self.raws[count:], self.entries[count:], self.excluded - excluded, self.whole[end:], cut_off),
        )


class Folded(msgspec.Struct, gc=False):
    """The result of folding a batch."""

    outcomes: list[Outcome]
    state: StateChanges
    """What to write. Empty if the state has `tells=False`: such a state keeps its changes until the caller takes them."""
    changes: list[bytes]
    """Encoded changes for the feed, in order. None if the state has `tells=False`."""
    rejects: list[tuple[RawEntry, Rejection]]
    counts: Counts
    batch: Batch
    """The part that was folded."""
    rest: Batch | None
    """The part that was not folded, because the changes so far fill a transaction."""


def read_batch(raws: Sequence[RawEntry], rules: IdentifierRules, excluded: Collection[str] = ()) -> Batch:
    """Decode entries, leaving out the excluded ones."""
    kept = [raw for raw in raws if raw[0].decode() not in excluded] if excluded else raws
    return Batch(kept, read_entries(kept, rules), len(raws) - len(kept), raws)


def fold_batch(state: State, batch: Batch, before: Counts, most_bytes: int = _NO_LIMIT) -> Folded:
    """Fold a batch into a state that holds what the batch needs. Raises DamagedState.

    If the state has `tells=False`, the caller takes its changes when it likes, and counts them then (`Counts.after`).
    """
    if batch.occurrences is None:
        batch.occurrences = state.window.enter(batch.entries)
    outcomes, rest = fold_while(state, batch.entries, batch.occurrences, most_bytes), None
    if len(outcomes) < len(batch.entries):
        batch, rest = batch.cut(len(outcomes))
    changes: list[bytes] = []
    rejects: list[tuple[RawEntry, Rejection]] = []
    for raw, outcome in zip(batch.raws, outcomes, strict=True):
        if outcome.changes:
            changes += map(encode_change, outcome.changes)
        elif outcome.rejection is not None:
            rejects.append((raw, outcome.rejection))
    state_changes = state.take_changes() if state.tells else StateChanges()
    counts = before.after(outcomes, state_changes, batch.excluded)
    return Folded(outcomes, state_changes, changes, rejects, counts, batch, rest)
