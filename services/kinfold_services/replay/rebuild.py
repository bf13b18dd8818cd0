"""A state built beside the living one, from the log's beginning on, as far as one wants.

It is built in a staging area of Redis, in the same form and by the same commits as the living one, so memory is bounded and
what is compared and swapped in is what a projector would have made. While all of it fits into memory nothing is loaded, and
records are written only now and then, each in its latest form.
"""

import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final

from kinfold_projections.entries import read_entry
from kinfold_projections.fold import fold
from kinfold_projections.needs import older_memberships
from kinfold_projections.state import State
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import Staging
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.projector.counting import counted
from kinfold_services.projector.store import Counts, Move, Position, Reject, Replaced, StateStore, entry_digest, rejects_of
from kinfold_services.replay.log import excluded_entries, excludes, log_extent, read_pages
from kinfold_services.replay.lost_rejects import LostRejects
from kinfold_services.settings import Settings

_UNWRITTEN_RECORDS: Final = 5_000
"""Written at once: some 40 ms in which the server answers nobody."""

Progress = Callable[[int], None]


class Rebuild:
    """Builds a state. One at a time in each staging area: a second one takes it over, and the first is refused (Replaced)."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        staging: Staging,
        rules: IdentifierRules,
        also_excluded: frozenset[str] = frozenset(),
    ) -> None:
        workspace = settings.workspace
        self.store: Final = StateStore(client, workspace, staging)
        self.generation: Final = uuid.uuid4().hex
        self.position = Position("", Counts(), self.generation)
        self.touched: set[str] = set()
        """The contacts that were written since somebody cleared this set."""
        self.beginnings = 0
        """How often it began: more than once where the log, read on, excluded entries that were folded already."""
        self._client: Final = client
        self._workspace: Final = workspace
        self._rules: Final = rules
        self._batch_entries: Final = settings.batch_entries
        self._cached_records: Final = settings.cached_records
        self._also_excluded: Final = also_excluded
        self.excluded: frozenset[str] = also_excluded
        """The entries that are left out."""
        self.excluded_by_log: set[str] = set()
        """Those of them that the log itself, as far as it is folded, says are to be left out."""
        self._last_exclusion = ""
        self._state = State(workspace)
        self._written = self.position
        self._rejects: list[Reject] = []
        """Not written yet."""
        self._lost_rejects = LostRejects(client, workspace)

    async def begin(self) -> None:
        """Empties the staging area, of whatever an interrupted run has left as well. Raises NoLog."""
        await self.store.clear(self.generation)
        lost = (await log_extent(self._client, self._workspace)).lost
        self.position = self._written = Position("", Counts(lost=lost), self.generation)
        self._state = State(self._workspace)
        self._rejects, self._lost_rejects = [], LostRejects(self._client, self._workspace)
        self.beginnings += 1
        self.excluded_by_log.clear()

    async def check_place(self) -> None:
        """Raises Replaced where another rebuild has taken the staging area over: what was read there may have been its."""
        found = (await self.store.position()).generation
        if found != self.generation:
            raise Replaced(f"workspace {self._workspace}: expected generation {self.generation}, got {found!r}")

    async def clean(self) -> None:
        """Empties the staging area, unless another rebuild is at work there."""
        if (await self.store.position()).generation in {"", self.generation}:
            await self.store.clear()

    async def build(self, upto: str, progress: Progress = lambda _: None) -> None:
        """As `advance`; and what the log excludes behind `upto` is left out, too.

        A replay records its exclusions at the log's end, and where the projector stands still or lags they are far behind it.
        """
        await self.advance(upto, progress)
        last = (await log_extent(self._client, self._workspace)).last
        async with aclosing(read_pages(self._client, self._workspace, self.position.stream_id, last)) as pages:
            async for page in pages:
                if self._excludes_more(page):
                    await self._begin_again(progress)
                    return await self.build(upto, progress)
        return None

    async def advance(self, upto: str, progress: Progress = lambda _: None) -> None:
        """Folds the log up to and with `upto` ('' is nothing), and writes what came of it."""
        if not upto:
            return None
        async with aclosing(read_pages(self._client, self._workspace, self.position.stream_id, upto)) as pages:
            async for page in pages:
                if self._excludes_more(page):
                    await self._begin_again(progress)
                    return await self.advance(upto, progress)
                await self._fold(page)
                progress(len(page))
        if position_key(self.position.stream_id) < position_key(upto):
            await self._pass_lost_entries(upto)
        await self._write()
        return None

    async def _begin_again(self, progress: Progress) -> None:
        """Knowing all that the log excludes: some of it may be folded already."""
        last = (await log_extent(self._client, self._workspace)).last
        excluded = await excluded_entries(self._client, self._workspace, last, self._also_excluded)
        self.excluded, self._last_exclusion = excluded
        progress(-self.position.counts.entries)
        await self.check_place()
        await self.begin()

    async def _pass_lost_entries(self, upto: str) -> None:
        """Where the log's last entries were deleted, the state stands behind them all the same.

        Not behind entries that the log never held: a position that is none of its entries would say that it is another log.
        """
        extent = await log_extent(self._client, self._workspace)
        last = min(upto, extent.last, key=position_key)
        if extent.entries and position_key(extent.first) <= position_key(last):
            last = min(last, extent.deleted, key=position_key)
        if position_key(last) > position_key(self.position.stream_id):
            self._rejects += await self._lost_rejects.beside((), last)
            self.position = Position(last, self.position.counts, self.generation)

    async def _fold(self, page: Sequence[RawEntry]) -> None:
        lost = deque(await self._lost_rejects.beside(page, page[-1][0].decode()))
        try:
            for first in range(0, len(page), self._batch_entries):
                await self._fold_batch(page[first : first + self._batch_entries], lost)
        except LookupError:
            await self.check_place()  # what was to be loaded from the staging area may have been another's
            raise
        cache = self.store.cache
        if not cache.is_whole or cache.unwritten.records > _UNWRITTEN_RECORDS or cache.held > self._cached_records:
            await self._write()
            cache.forget(self._cached_records)

    async def _fold_batch(self, batch: Sequence[RawEntry], lost: deque[Reject]) -> None:
        state, rules = self._state, self._rules
        kept = batch if not self.excluded else [raw for raw in batch if raw[0].decode() not in self.excluded]
        entries = [read_entry(entry_id, fields, rules) for entry_id, fields in kept]
        await self.store.load(state, entries)
        if leaving := older_memberships(state, entries):
            await self._write()
            await self.store.load_older(state, leaving)
        outcomes = fold(state, entries)
        self.store.cache.take(state.take_changes())
        state.clear()
        counts = counted(self.position.counts, outcomes, self.store.cache.take_grown())
        counts.excluded += len(batch) - len(kept)
        last, fields = batch[-1]
        self.position = Position(last.decode(), counts, self.generation, entry_digest(fields))
        rejects = rejects_of(kept, outcomes)
        while lost and _order(lost[0]) < position_key(self.position.stream_id):
            rejects.append(lost.popleft())
        self._rejects += sorted(rejects, key=_order)  # a later rebuild goes along them
        if len(self._rejects) >= self._batch_entries:  # as many as a projector writes at once
            await self._write()

    async def _write(self) -> None:
        if self.position.stream_id == self._written.stream_id:
            return
        batch = self.store.prepare(Move(self._written, self.position, 1), (), self._rejects)
        self.touched.update(batch.contacts)
        await self.store.commit(batch)
        self._written, self._rejects = self.position, []

    def _excludes_more(self, page: Sequence[RawEntry]) -> bool:
        """Whether the log says here that entries are to be left out that are not."""
        known = position_key(self._last_exclusion)
        for entry_id, fields in page:
            if (event := excludes(fields)) is None or entry_id.decode() in self.excluded:
                continue
            if position_key(entry_id.decode()) > known and not self.excluded.issuperset(event.entries):
                return True
            self.excluded_by_log.update(event.entries)
        return False


def _order(reject: Reject) -> tuple[int, int]:
    return position_key(reject.entry)
