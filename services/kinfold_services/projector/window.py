"""The projector's duplicate window, where batches are folded again and logs are rewritten (contract sections 3 and 10).

A batch enters the window before it is committed. If another state replaces the stored one meanwhile, the batch is read and
folded again. The window then repeats what it found the first time.

An erasure leaves hashes in place of log entries. With the entries and with their hashes a window finds the same duplicates, so
the projector goes on with the window that it has, and nothing waits. But nothing that was erased may stay in memory. So `renew`
fills another window from the rewritten log, a few entries at a time while the projector folds, and replaces the old one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from kinfold_projections.batches import Batch, read_batch
from kinfold_projections.duplicates import LOOKBACK_ENTRIES, DuplicateWindow, Occurrence
from kinfold_projections.entries import BadEntry, Entry
from kinfold_schemas.events import Erased
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.state.baseline import window_before
from kinfold_services.state.position import Position

_SLICE_ENTRIES: Final = 100
_PAUSE_S: Final = 0.002
"""After each slice. A slice takes up to 1 ms, and events wait for it."""


class ProjectorWindow:
    """The duplicate window of one workspace's projector."""

    def __init__(self, client: Client, workspace: str) -> None:
        self._client: Final = client
        self._workspace: Final = workspace
        self._window = DuplicateWindow()
        self._upto = ""
        """The last entry that was entered, or left out of the window because it is excluded."""
        self._found: dict[str, Occurrence] = {}
        """What `enter` found for the entries that are not committed, by id, without the new ones."""
        self._rules = IdentifierRules()
        self._excluded: frozenset[str] = frozenset()
        self._log = ""
        """Which rewriting of the log the window was filled from (`Position.log`)."""
        self._log_now = ""
        self._entered_since: list[Sequence[Entry | BadEntry]] | None = None
        """While another window is filled: the entries that were entered meanwhile."""

    async def open(
        self,
        position: Position,
        committed: str,
        rules: IdentifierRules,
        excluded: frozenset[str],
        between: Callable[[], Awaitable[None]],
    ) -> None:
        """Make sure that the window holds the entries up to `position`, and perhaps later ones that will be entered again.

        `committed`: the last entry that the projector committed; empty at the start. Awaits `between` after each read.
        """
        count_alike = (rules.blocked, excluded) == (self._rules.blocked, self._excluded)
        is_within = position_key(committed) <= position_key(position.stream_id) <= position_key(self._upto)
        self._rules, self._excluded, self._log_now, self._entered_since = rules, excluded, position.log, None
        if self._upto and count_alike and is_within:
            return
        self._window, self._upto, self._found, self._log = DuplicateWindow(), "", {}, position.log
        if position.stream_id:
            recalled, pages = await window_before(
                self._client, self._workspace, position.stream_id, LOOKBACK_ENTRIES + len(excluded), between
            )
            self._window.recall(recalled)
            for page in pages:
                self._window.enter(read_batch(page, rules, excluded).entries)
            self._upto = position.stream_id

    def enter(self, batch: Batch, committed: str) -> Mapping[int, Occurrence]:
        """Enter the next batch of the log. Returns the entries that are not new, by index (`DuplicateWindow.enter`).

        `committed` is the last entry that was committed.
        """
        known, entries = self._known(batch), batch.entries
        if known:
            entries = entries[known:]
        found = self._window.enter(entries)
        if self._entered_since is not None:
            self._entered_since.append(entries)
        if position_key(last := batch.whole[-1][0].decode()) > position_key(self._upto):
            self._upto = last
        if self._found:
            done = position_key(committed)
            self._found = {entry: each for entry, each in self._found.items() if position_key(entry) > done}
        if not (found or known):
            return found
        both: dict[int, Occurrence] = {known + index: each for index, each in found.items()}
        both.update((i, self._found[entry.id]) for i, entry in enumerate(batch.entries[:known]) if self._is_found(entry))
        self._found.update((entries[index].id, each) for index, each in found.items())
        return both

    async def renew(self) -> None:
        """Fill the window again if the log was rewritten since it was filled, while `enter` goes on."""
        if self._log == self._log_now:
            return
        log, window, self._entered_since = self._log_now, DuplicateWindow(), []
        rules, excluded, upto = self._rules, self._excluded, self._upto
        recalled, pages = await window_before(
            self._client, self._workspace, upto, LOOKBACK_ENTRIES + len(excluded), _pause, page_entries=_SLICE_ENTRIES
        )
        for first in range(0, len(recalled), _SLICE_ENTRIES):
            window.recall(recalled[first : first + _SLICE_ENTRIES])
            await _pause()
        for page in pages:
            window.enter(read_batch(page, rules, excluded).entries)
            await _pause()
        while self._entered_since:
            window.enter(self._entered_since.pop(0))
            await asyncio.sleep(0)
        self._window, self._log, self._entered_since = window, log, None

    def _known(self, batch: Batch) -> int:
        """How many entries of a batch, the first ones, were entered before."""
        upto = position_key(self._upto)
        if not batch.entries or position_key(batch.entries[0].id) > upto:
            return 0
        return sum(position_key(entry.id) <= upto for entry in batch.entries)

    def _is_found(self, entry: Entry | BadEntry) -> bool:
        """Whether the entry was not new when it was entered. An entry that was erased since is new to the fold."""
        return entry.id in self._found and not (isinstance(entry, Entry) and type(entry.event) is Erased)


async def _pause() -> None:
    await asyncio.sleep(_PAUSE_S)
