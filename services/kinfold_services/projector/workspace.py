"""One workspace's way from the log to the state: read, load, fold, commit.

Two tasks share it. FastStream's puts pages of the log into a queue of two. Ours folds them in batches, and folds one batch
while Redis executes the one before. What a batch needs is loaded before that, because Redis answers nothing while it executes a
transaction. So the two rarely wait for each other, and the log's order is kept.

A batch has up to 150 entries. Each phase goes over all of them, and the records of more entries would not stay in the
processor's cache from one phase to the next.

A SIGKILL at any point loses nothing: a batch is in the state, the feed and the position, or in none of them and will be read
again.

The task that folds also renews the lease, and checks that log and state still belong together (`Integrity`). A beat once a
second makes it do so when there is nothing to fold. If the task hangs, the lease expires, and another projector continues.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
from redis.exceptions import ResponseError

from kinfold_projections.batches import Batch, Folded, RawEntry, fold_batch, read_batch
from kinfold_projections.counts import Counts
from kinfold_projections.entries import Entry
from kinfold_projections.needs import older_memberships
from kinfold_projections.state import State
from kinfold_schemas.identifiers import REMEMBERED_IDENTIFIERS, BadPattern, IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import SERVER_ERRORS, Client, drop_idle_connections, is_passing
from kinfold_services.projector.commit import BATCH_BYTES, TOLD_BYTES, Committer, Move, Refused, Transaction
from kinfold_services.projector.discarded import DiscardedStates
from kinfold_services.projector.integrity import Integrity
from kinfold_services.projector.lease import KEEP_S, LEASE_MS, Lease
from kinfold_services.projector.stream_length import StreamLength
from kinfold_services.projector.window import ProjectorWindow
from kinfold_services.rejects.entries import as_rejects, refused_by_server
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.settings import Settings
from kinfold_services.state.group import make_group, set_group
from kinfold_services.state.loading import Loader
from kinfold_services.state.position import Position, Replaced, entry_digest
from kinfold_services.state.reader import StateReader
from kinfold_services.state.writes import REJECTS_BYTES, REJECTS_ENTRIES, Writes

ANSWER_S: Final = 3.0
"""How long the server may take to answer. A dead connection is noticed after this time."""
_QUEUED_PAGES: Final = 2
_RULES_AGAIN_S: Final = 0.5
_RENEW_AGAIN_S: Final = 0.5
_REUSED_IDS_EVERY_S: Final = 60.0
_LONGEST_ID: Final = 100
"""The most characters of an event's id in a log line: an id may have 64 KiB."""
_LOOK_AFTER_BEATS: Final = 5
"""How many beats pass between two checks that log and state still belong together."""


class WorkspaceProjector:
    """Folds one workspace. Call `open`, then `run`, and pass it pages through `receive`."""

    def __init__(self, client: Client, settings: Settings, lease: Lease) -> None:
        """`settings` are those of the workspace."""
        workspace = settings.workspace
        self.workspace: Final = workspace
        self.position = Position("", Counts())
        """The position of the last batch that was folded. It may still be in flight."""
        self._client: Final = client
        self._lease: Final = lease
        self._reader: Final = StateReader(client, workspace)
        self._committer: Final = Committer(client, workspace, lease.token, LEASE_MS, ANSWER_S)
        self._loader: Final = Loader(client, workspace, self._committer.ask)
        self._writes: Final = Writes(workspace)
        self._integrity: Final = Integrity(client, workspace)
        self._state = State(workspace)
        self._discarded: Final = DiscardedStates()
        self._window = ProjectorWindow(client, workspace)
        self._is_whole = False
        """Whether the state holds everything that is stored."""
        self._rules = IdentifierRules()
        self._excluded: frozenset[str] = frozenset()
        """Entries that a replay left out for good. Some of them may come only now."""
        self._batch_entries: Final = settings.batch_entries
        self._feed: Final = StreamLength(settings.feed_entries, settings.feed_bytes)
        self._rejects: Final = StreamLength(REJECTS_ENTRIES, REJECTS_BYTES)
        self._cache_bytes: Final = settings.cache_bytes
        self._queue: Final[asyncio.Queue[Sequence[RawEntry]]] = asyncio.Queue(_QUEUED_PAGES)
        self._folded: Transaction | None = None
        """A folded batch that was not sent yet."""
        self._uncommitted: Sequence[RawEntry] = ()
        """The entries of that batch, or of the one in flight."""
        self._most_entries = settings.batch_entries
        """In a batch. Fewer than in the settings, for a while, after one was too large."""
        self._closed = False
        self._reused_ids_told_at = -_REUSED_IDS_EVERY_S
        self._failure: BaseException | None = None
        self._beat_at, self._beats = 0.0, 0
        self._log: Final = structlog.get_logger().bind(workspace=workspace)

    async def open(self) -> None:
        """Load what the last projector left: the position, the rules, and the events before the position.

        Also goes on with a state that has replaced the stored one: then the log has to be read again from the position. Raises
        NeedsRebuild if the state does not belong to the log, and BadPattern.
        """
        await self._committer.close()
        self._folded, self._uncommitted = None, ()
        self.close()
        self._closed = False
        await make_group(self._client, self.workspace)
        await self._read_rules()
        self._discard_state()
        self.position = await self._reader.position()
        await self._integrity.check_opening(self.position)
        await set_group(self._client, self.workspace, self.position)
        self._is_whole = not self.position.stream_id  # at the log's beginning there is nothing to load
        self._excluded = await self._reader.excluded()
        await self._feed.measure(self._client, key(self.workspace, "changes"))
        await self._rejects.measure(self._client, key(self.workspace, "rejects"))
        committed = self._committer.committed.stream_id
        await self._window.open(self.position, committed, self._rules, self._excluded, self._lease.keep)
        self._committer.committed = self.position
        self._log.info("workspace opened", position=self.position.stream_id, entries=self.position.counts.entries)

    async def receive(self, page: Sequence[RawEntry]) -> None:
        """Take the next page of the log. Returns when there is room for another, or when folding has ended."""
        while not (self._closed or self.position.stream_id or await self._has_rules()):
            await asyncio.sleep(_RULES_AGAIN_S)
        if not self._closed:
            await self._queue.put(page)

    def close(self) -> None:
        """End folding, so `receive` does not wait any longer. The next projector reads those pages again."""
        self._closed = True
        while not self._queue.empty():
            self._queue.get_nowait()

    def fail(self, error: BaseException) -> None:
        """Stop, because a page was lost on its way here and nothing after it may be folded. `run` raises the error."""
        self._failure = self._failure or error
        self.close()
        self._queue.put_nowait(())

    async def run(self) -> None:
        """Fold and commit what `receive` takes, until cancelled.

        Raises Replaced, after which `open` goes on; LostPlace, DamagedState, CommitFailed, NeedsRebuild, the error given to
        `fail`, or an error that is not temporary.
        """
        besides = [asyncio.create_task(each) for each in (self._tick(), self._renew_window(), self._discarded.free())]
        for each in besides:
            each.add_done_callback(self._fail_with)
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
            await end_tasks(besides)
            await self._committer.close()

    async def _waiting(self) -> Sequence[RawEntry]:
        """The next page. Joins small pages that wait, because a batch has the same overhead however small it is."""
        page = await self._queue.get()
        while len(page) < self._batch_entries and not self._queue.empty():
            page = [*page, *self._queue.get_nowait()]
        return page

    # --- keeping the workspace

    async def _tick(self) -> None:
        """Make sure that there is a beat while no entries arrive."""
        while True:
            await asyncio.sleep(KEEP_S)
            if self._queue.empty():
                self._queue.put_nowait(())

    async def _renew_window(self) -> None:
        """After an erasure, fill the duplicate window again without what was erased, while folding goes on."""
        while True:
            try:
                return await self._window.renew()
            except SERVER_ERRORS as error:
                if not is_passing(error):
                    raise
                self._log.warning("duplicate window not renewed", error=str(error), retry_in_s=_RENEW_AGAIN_S, seldom=True)
                await drop_idle_connections(self._client)
                await asyncio.sleep(_RENEW_AGAIN_S)

    def _fail_with(self, task: "asyncio.Task[None]") -> None:
        """Let `run` raise the error of a task beside it, which nobody would see otherwise."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def _discard_state(self) -> None:
        """Begin with an empty state, which loads what it needs."""
        self._discarded.add(self._state)
        self._state, self._is_whole = State(self.workspace), False

    async def _beat(self) -> None:
        self._beat_at = time.monotonic() + KEEP_S
        await self._lease.keep()
        self._beats += 1
        if self._beats % _LOOK_AFTER_BEATS == 0:
            try:
                await self._look()
            except SERVER_ERRORS as error:  # to open the workspace again would be more work for a server that is away
                if not is_passing(error):
                    raise
                self._log.warning("log and state not compared", error=str(error), retry_in_s=KEEP_S, seldom=True)
                self._beats -= 1

    async def _look(self) -> None:
        """Check that log and state still belong together, and whether entries were lost before they were folded."""
        await self._advance(())
        before = self.position
        try:
            await self._integrity.check(before)
        finally:  # what was found is of another state, perhaps
            await self._check_generation()
        if lost := await self._integrity.lost_entries(before):
            counts = msgspec.structs.replace(before.counts, lost=before.counts.lost + lost)
            self.position = msgspec.structs.replace(before, counts=counts)
            self._folded = self._committer.transaction((), (), Move(before, self.position, 0.0))
            await self._advance(())
            self._log.error("entries lost", lost=lost, reason="they were trimmed or deleted before they were folded")

    async def _check_generation(self) -> None:
        """Raise Replaced where a replay or an erasure has replaced the state: nothing of the old one stays in memory."""
        found, expected = (await self._reader.position()).generation, self.position.generation
        if found != expected:
            raise Replaced(f"workspace {self.workspace}: another state, {found!r}, replaced {expected!r}")

    # --- folding

    async def _advance(self, raws: Sequence[RawEntry]) -> None:
        """Fold a batch and commit the one before it. Without entries, commit everything that was folded."""
        settles = not raws
        while True:
            try:
                while raws := self._unfolded(raws):
                    some = raws[: self._most_entries]
                    await self._fold_upon_one_state(some)
                    raws = raws[len(some) :]  # the others are among the uncommitted now
                if settles:
                    await self._arrive()
            except Refused as error:
                raws = await self._retreat(raws, error)
            else:
                return

    def _unfolded(self, raws: Sequence[RawEntry]) -> Sequence[RawEntry]:
        position = position_key(self.position.stream_id)
        if not raws or position_key(raws[0][0].decode()) > position:
            return raws
        unfolded: list[RawEntry] = []
        for raw in raws:  # some may be here twice
            if (at := position_key(raw[0].decode())) > position:
                position = at
                unfolded.append(raw)
        return unfolded

    async def _retreat(self, raws: Sequence[RawEntry], error: Refused) -> Sequence[RawEntry]:
        """Go back to the stored state because a batch was too large; return the entries that are not folded yet.

        The next batch has half as many entries. Where it had one, that one is left out.
        """
        refused, raws = self._uncommitted, [*self._uncommitted, *raws]
        self._window = ProjectorWindow(self._client, self.workspace)  # it may be that an entry has to be left out of it
        await self.open()
        self._most_entries = max(1, len(refused) // 2)
        self._log.warning("batch was too large", entries=len(refused), error=str(error), next_entries=self._most_entries)
        if len(refused) == 1 and self._unfolded(refused):
            await self._leave_out(refused[0], error)
        return raws

    async def _leave_out(self, raw: RawEntry, error: Refused) -> None:
        """Commit that an entry counts as excluded, here and in every replay. Raises ResponseError if that is refused, too."""
        before, (entry_id, fields) = self.position, raw
        entry = entry_id.decode()
        counts = msgspec.structs.replace(before.counts, excluded=before.counts.excluded + 1)
        self.position = Position(entry, counts, before.generation, entry_digest(fields))
        writes, reject = self._writes.exclusion(entry), refused_by_server(raw, str(error))
        self._folded = self._committer.transaction(writes, [reject], Move(before, self.position, 0.0))
        try:
            await self._arrive()
        except Refused as again:
            raise ResponseError(str(again)) from again
        self._excluded |= {entry}
        self._log.error("entry left out", entry=entry, reason="the server refuses what it makes of the state", error=str(error))

    async def _fold_upon_one_state(self, raws: Sequence[RawEntry]) -> None:
        try:
            await self._fold(raws)
        except LookupError:  # mainly DamagedState
            # A state contradicts itself if it is damaged, or if a replay has replaced it between two loads. The latter does
            # not stop the projector.
            await self._arrive()
            await self._check_generation()
            raise

    async def _fold(self, raws: Sequence[RawEntry]) -> None:
        started = time.perf_counter()
        if self._state.held_bytes > self._cache_bytes:
            await self._arrive()
            self._discard_state()
        state, batch = self._state, read_batch(raws, self._rules, self._excluded)
        if not self._is_whole:
            state.older.clear()
            await self._loader.load(state, batch.entries)
        await self._send()
        if not self._is_whole and (leaving := older_memberships(state, batch.entries)):
            await self._arrive()
            await self._loader.load_older(state, leaving)
        batch.occurrences = self._window.enter(batch, self._committer.committed.stream_id)
        rest: Batch | None = batch
        while rest is not None:
            await self._send()
            rest = await self._fold_some(rest, started)

    async def _fold_some(self, batch: Batch, started: float) -> Batch | None:
        """Fold a batch, or as much of it as goes into a transaction; return the rest. `started`: by `time.perf_counter`."""
        before = self.position
        folded = fold_batch(self._state, batch, before.counts, TOLD_BYTES)
        raws = folded.batch.whole
        last, fields = raws[-1]
        self.position = after = Position(last.decode(), folded.counts, before.generation, entry_digest(fields), log=before.log)
        if folded.counts.id_reused > before.counts.id_reused:
            self._tell_reused_ids(folded)
        feed_entries = self._feed.add(len(folded.changes), sum(map(len, folded.changes)))
        writes = [*self._writes.state(folded.state), *self._writes.feed(folded.changes, feed_entries)]
        rejects = as_rejects(folded.rejects)
        if rejects:
            writes.append(self._writes.fewer_rejects(self._rejects.add(len(rejects), sum(reject.size for reject in rejects))))
        await self._arrive()
        took_ms = (time.perf_counter() - started) * 1000
        self._folded = transaction = self._committer.transaction(writes, rejects, Move(before, after, took_ms))
        self._uncommitted = raws
        if len(raws) > 1 and transaction.size > BATCH_BYTES:
            raise Refused(f"a batch has {transaction.size:,} bytes, and may have {BATCH_BYTES:,}")
        self._log.debug(
            "batch folded",
            position=after.stream_id,
            entries=len(folded.batch.entries),
            changes=len(folded.changes),
            duration_ms=round(took_ms, 2),
        )
        return folded.rest

    async def _send(self) -> None:
        """Send the folded batch, if there is one."""
        if (transaction := self._folded) is not None:
            self._folded = None
            await self._committer.start(transaction)

    async def _arrive(self) -> None:
        """Wait until everything that was folded is committed. Raises LostPlace, Replaced and NeedsRebuild."""
        await self._send()
        if await self._committer.finish():
            self._uncommitted = ()
            self._most_entries = min(self._batch_entries, 2 * self._most_entries)
            await self._integrity.check_committed(self._committer.left, self._committer.left_entry)

    # --- rules and warnings

    async def _has_rules(self) -> bool:
        """Read the rules, which an import writes after `open` and before the first entry. Returns False if they are invalid."""
        try:
            await self._read_rules()
        except BadPattern as error:
            self._log.error("workspace not served", error=str(error))
            return False
        return True

    async def _read_rules(self) -> None:
        blocked = await self._reader.blocked_identifiers()
        self._rules = IdentifierRules(blocked, remembered=REMEMBERED_IDENTIFIERS)

    def _tell_reused_ids(self, folded: Folded) -> None:
        """Warn, at most once a minute, that a producer uses one id for several events."""
        if time.monotonic() < self._reused_ids_told_at + _REUSED_IDS_EVERY_S:
            return
        self._reused_ids_told_at = time.monotonic()
        pairs = zip(folded.batch.entries, folded.outcomes, strict=True)
        first = next(entry for entry, outcome in pairs if outcome.id_reused and isinstance(entry, Entry))
        self._log.warning(
            "event id used again by another event, which was folded",
            entry=first.id,
            event_id=first.event_id.removeprefix("\0")[:_LONGEST_ID],
            id_reused=folded.counts.id_reused,
        )
