"""One workspace's way from the log to the state: read, decode, load, fold, commit.

Two tasks share it. FastStream's hands over pages of the log, as they were read, into a queue of two; ours folds them in
batches, and while Redis writes one batch, it folds the next. What that one needs is asked for before, since Redis answers
nobody while it writes. So the two wait for each other as little as they can, and the order stays the log's.

A batch is folded by phases, each over all of its entries, and has 150 of them where there are so many: of more, the records
would not stay in the processor's cache from one phase to the next, and each event would cost a quarter more.

A SIGKILL anywhere here loses nothing: a batch is in the state, the feed and the position, or in none of them and read again.

The task that folds also keeps the workspace ours, and looks whether log and state still belong together (`Integrity`). A beat
once a second makes it do so where nothing else does. If it hangs, the lease ends, and another projector goes on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import structlog

from kinfold_projections.duplicates import WINDOW_ENTRIES
from kinfold_projections.entries import BadEntry, Entry, read_entry
from kinfold_projections.fold import fold, remember
from kinfold_projections.needs import older_memberships
from kinfold_projections.outcomes import Outcome
from kinfold_projections.state import State
from kinfold_schemas.identifiers import BadPattern, IdentifierRules
from kinfold_schemas.positions import position_key
from kinfold_services.connections import SERVER_ERRORS, Client, RawEntry, drop_idle_connections, is_passing
from kinfold_services.projector.counting import counted
from kinfold_services.projector.integrity import Integrity
from kinfold_services.projector.lease import KEEP_S, LEASE_MS, Lease
from kinfold_services.projector.store import Batch, Counts, Move, Position, Replaced, StateStore, entry_digest, rejects_of
from kinfold_services.settings import Settings
from kinfold_services.tasks import end_tasks

_QUEUED_PAGES: Final = 2
_FIRST_RETRY_S: Final = 0.05
_REUSED_IDS_EVERY_S: Final = 60.0
_LAST_RETRY_S: Final = 0.5
_LOOK_AFTER_BEATS: Final = 5
"""After so many beats we look whether log and state still belong together."""


class WorkspaceProjector:
    """Folds one workspace. `open` it, give it batches through `receive`, and `run` it beside."""

    def __init__(self, client: Client, settings: Settings, lease: Lease) -> None:
        """`settings` are those of the workspace."""
        workspace = settings.workspace
        self.workspace: Final = workspace
        self.position = Position("", Counts())
        """Of the last batch that was folded; it may be on its way still."""
        self._client: Final = client
        self._lease: Final = lease
        self._store = StateStore(client, workspace, token=lease.token, lease_ms=LEASE_MS)
        self._integrity: Final = Integrity(client, workspace)
        self._state = State(workspace)
        self._rules = IdentifierRules()
        self._excluded: frozenset[str] = frozenset()
        """What a replay left out for good; some of it may come only now."""
        self._batch_entries: Final = settings.batch_entries
        self._feed_entries: Final = settings.feed_entries
        self._cached_records: Final = settings.cached_records
        self._queue: Final[asyncio.Queue[Sequence[RawEntry]]] = asyncio.Queue(_QUEUED_PAGES)
        self._folded: Batch | None = None
        """A batch that is not on its way yet."""
        self._under_way: asyncio.Task[None] | None = None
        self._uncommitted: Sequence[RawEntry] = ()
        """The entries of either."""
        self._closed = False
        self._reused_ids_told_at = -_REUSED_IDS_EVERY_S
        self._failure: BaseException | None = None
        self._beat_at = 0.0
        self._beats = 0
        self._log: Final = structlog.get_logger().bind(workspace=workspace)

    async def open(self) -> None:
        """Finds out where the last projector came to, and what it would know: the rules, and the ids of the entries before.

        Raises NeedsRebuild where the state is not what the log once made, and BadPattern.
        """
        await self._store.make_group()
        await self._read_rules()
        self._state = State(self.workspace)
        self._store.cache.forget_all()
        self.position = await self._store.position()
        await self._integrity.check_opening(self.position)
        await self._store.set_group(self.position)
        self._store.cache.is_whole = not self.position.stream_id  # at the log's beginning there is nothing to load
        self._excluded = excluded = await self._store.excluded()
        if self.position.stream_id:
            count = WINDOW_ENTRIES + len(excluded)
            async for entry_id, fields in self._store.entries_before(self.position.stream_id, count, self._lease.keep):
                if entry_id.decode() in excluded:
                    continue
                remember(self._state, read_entry(entry_id, fields, self._rules))
        self._log.info("workspace opened", position=self.position.stream_id, entries=self.position.counts.entries)

    async def receive(self, page: Sequence[RawEntry]) -> None:
        """Takes the next page of the log; returns when there is room for another, or when nobody folds any more."""
        while not (self._closed or self.position.stream_id or await self._has_rules()):
            await asyncio.sleep(_LAST_RETRY_S)
        if not self._closed:
            await self._queue.put(page)

    def close(self) -> None:
        """Nothing more is folded: whoever waits in `receive` need not. The next projector reads those pages again."""
        self._closed = True
        while not self._queue.empty():
            self._queue.get_nowait()

    def fail(self, error: BaseException) -> None:
        """A page was lost on its way to us: nothing behind it may be folded. `run` raises the error."""
        self._failure = self._failure or error
        self.close()
        self._queue.put_nowait(())

    async def run(self) -> None:
        """Folds and commits what `receive` takes, until cancelled.

        Raises LostPlace, DamagedState, NeedsRebuild, what `fail` was told, or what Redis refuses.
        """
        ticking = asyncio.create_task(self._tick())
        try:
            while True:
                page = await self._waiting()
                if self._failure is not None:
                    raise self._failure
                for first in range(0, len(page), self._batch_entries):
                    await self._advance(page[first : first + self._batch_entries])
                if self._queue.empty():
                    await self._advance(())
                if time.monotonic() >= self._beat_at:
                    await self._beat()
        finally:
            ticking.cancel()
            if self._under_way is not None:
                await end_tasks([self._under_way])

    async def _waiting(self) -> Sequence[RawEntry]:
        """The next page; where several small ones wait, they are one: a batch costs the same work, however few are in it."""
        page = await self._queue.get()
        while len(page) < self._batch_entries and not self._queue.empty():
            page = [*page, *self._queue.get_nowait()]
        return page

    async def _tick(self) -> None:
        """Sees to it that there is a beat while no entries come."""
        while True:
            await asyncio.sleep(KEEP_S)
            if self._queue.empty():
                self._queue.put_nowait(())

    async def _beat(self) -> None:
        self._beat_at = time.monotonic() + KEEP_S
        await self._lease.keep()
        self._beats += 1
        if self._beats % _LOOK_AFTER_BEATS == 0:
            await self._patiently(self._look)

    async def _look(self) -> None:
        """Looks whether log and state still belong together, and whether entries were lost before we came to them."""
        await self._advance(())
        before = self.position
        await self._integrity.check(before)
        if lost := await self._integrity.lost_entries(before):
            counts = msgspec.structs.replace(before.counts, lost=before.counts.lost + lost)
            self.position = msgspec.structs.replace(before, counts=counts)
            self._folded = self._store.prepare(Move(before, self.position, self._feed_entries), (), ())
            await self._advance(())
            self._log.error("entries lost", lost=lost, reason="they were trimmed or deleted before they were folded")

    async def _advance(self, batch: Sequence[RawEntry]) -> None:
        """Folds a batch; the one before has arrived then. Without a batch: all that was folded has."""
        settles = not batch
        while True:
            try:
                if batch := self._unfolded(batch):
                    await self._fold_upon_one_state(batch)
                    batch = ()  # it is among the uncommitted now
                if settles:
                    await self._arrive()
            except Replaced:
                # A replay has put a new state in the old one's place, at the same position: what was under way is folded upon
                # that one, unless it is in there already (it was committed, and the reply was lost).
                batch = [*self._uncommitted, *batch]
                self._folded, self._uncommitted = None, ()
                await self._patiently(self.open)
            else:
                return

    def _unfolded(self, batch: Sequence[RawEntry]) -> Sequence[RawEntry]:
        """What of a batch is not folded yet."""
        position = position_key(self.position.stream_id)
        if not batch or position_key(batch[0][0].decode()) > position:
            return batch
        return [each for each in batch if position_key(each[0].decode()) > position]

    async def _has_rules(self) -> bool:
        """Reads the rules, which an import brings after `open` and before the first entry; False where they make no sense."""
        try:
            await self._patiently(self._read_rules)
        except BadPattern as error:
            self._log.error("workspace not served", error=str(error))
            return False
        return True

    async def _read_rules(self) -> None:
        self._rules = IdentifierRules(await self._store.blocked_identifiers())

    async def _fold_upon_one_state(self, batch: Sequence[RawEntry]) -> None:
        try:
            await self._fold(batch)
        except LookupError:
            # A state contradicts itself where it is damaged, and where a replay has replaced it and the one half is known from
            # before, the other read since: that is no reason to stop.
            await self._arrive()
            await self._patiently(self._check_generation)
            raise

    async def _check_generation(self) -> None:
        found, expected = (await self._store.position()).generation, self.position.generation
        if found != expected:
            raise Replaced(f"workspace {self.workspace}: expected generation {expected!r}, got {found!r}")

    async def _fold(self, batch: Sequence[RawEntry]) -> None:
        started = time.perf_counter()
        rules, state = self._rules, self._state
        if self._store.cache.held > self._cached_records:
            await self._arrive()
            self._store.cache.forget(self._cached_records)
        kept = batch if not self._excluded else [raw for raw in batch if raw[0].decode() not in self._excluded]
        entries = [read_entry(entry_id, fields, rules) for entry_id, fields in kept]
        await self._patiently(lambda: self._store.load(state, entries))
        self._send()
        await asyncio.sleep(0)  # what is to be sent is: there is no other occasion while we fold
        if leaving := older_memberships(state, entries):
            await self._arrive()
            await self._patiently(lambda: self._store.load_older(state, leaving))
        outcomes = fold(state, entries)
        self._store.cache.take(state.take_changes())
        state.clear()
        before = self.position
        counts = counted(before.counts, outcomes, self._store.cache.take_grown())
        counts.excluded += len(batch) - len(kept)
        last, fields = batch[-1]
        self.position = after = Position(last.decode(), counts, before.generation, entry_digest(fields))
        move = Move(before, after, self._feed_entries, (time.perf_counter() - started) * 1000)
        if counts.id_reused > before.counts.id_reused:
            self._tell_reused_ids(entries, outcomes)
        folded = self._store.prepare(move, outcomes, rejects_of(kept, outcomes))
        await self._arrive()
        self._folded, self._uncommitted = folded, batch
        self._log.debug(
            "batch folded",
            position=after.stream_id,
            entries=len(entries),
            changes=folded.changes,
            duration_ms=round((time.perf_counter() - started) * 1000, 2),
        )

    def _tell_reused_ids(self, entries: Sequence[Entry | BadEntry], outcomes: Sequence[Outcome]) -> None:
        """Says, once a minute at most, that a producer gives several events one id."""
        if time.monotonic() < self._reused_ids_told_at + _REUSED_IDS_EVERY_S:
            return
        self._reused_ids_told_at = time.monotonic()
        first = next(entry for entry, outcome in zip(entries, outcomes, strict=True) if outcome.id_reused)
        self._log.warning(
            "event id used again by another event, which was folded",
            entry=first.id,
            event_id=first.event.id if isinstance(first, Entry) else None,
            id_reused=self.position.counts.id_reused,
        )

    def _send(self) -> None:
        """Sends what is folded on its way."""
        if (batch := self._folded) is not None:
            self._folded = None
            self._under_way = asyncio.create_task(self._patiently(lambda: self._store.commit(batch)))

    async def _arrive(self) -> None:
        """Waits until what was folded is committed. Raises LostPlace and Replaced, which `StateStore.commit` tells of."""
        self._send()
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            await under_way
            self._uncommitted = ()

    async def _patiently(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Does it until Redis does. Loading again is harmless, and so is committing the same batch again."""
        delay_s = _FIRST_RETRY_S
        while True:
            try:
                return await attempt()
            except SERVER_ERRORS as error:
                if not is_passing(error):
                    raise
                self._log.warning("redis cannot do it now", error=str(error), retry_in_s=delay_s)
                await drop_idle_connections(self._client)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _LAST_RETRY_S)
