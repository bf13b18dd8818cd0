"""`kinfold replay`: the state rebuilt from the log, put in the old one's place, and the feed told what differs.

    1. rebuild beside the living state, up to where the projector is              (it goes on)
    2. compare all contacts, some at a time, each time at one position            (it goes on)
    3. hold the projector back for a moment; rebuild the last entries; compare again what was touched since 2 began;
       swap, in one script

Only 3 makes the projector wait, and its length depends on what happened during 2, not on the size of the state. Killed
anywhere before the script, a replay leaves the living state as it was: the hold ends by itself, and the next run empties the
staging area.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Final, cast

import msgspec
from redis.exceptions import ResponseError

import kinfold_services.replay
from kinfold_schemas.changes import Change, ContactGone, ContactsMerged, encode_change
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import STATE, key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.projector.store import Counts, Position, Replaced, StateStore
from kinfold_services.replay.differences import Sides, as_change
from kinfold_services.replay.log import PAGE_ENTRIES, log_extent
from kinfold_services.replay.rebuild import Progress, Rebuild
from kinfold_services.settings import Settings
from kinfold_services.tasks import end_tasks

_SWAP: Final = files(kinfold_services.replay).joinpath("swap.lua").read_text()
_HOLD: Final = files(kinfold_services.replay).joinpath("hold.lua").read_text()
_HOLD_MS: Final = 5000
"""For so long the projector is held back by a replay that was killed."""
_HOLD_AGAIN_S: Final = 1.0
_NEAR_ENTRIES: Final = 4 * PAGE_ENTRIES
_AT_ONCE: Final = 1000


class WouldLose(RuntimeError):
    """The log has lost entries, and the state rebuilt from it has lost contacts."""


class Replay:
    """One replay of one workspace."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        rules: IdentifierRules,
        also_excluded: frozenset[str] = frozenset(),
        *,
        whole_log: bool = False,
    ) -> None:
        """`whole_log`: up to the log's end, wherever the living state is; nobody may fold meanwhile."""
        self._whole_log: Final = whole_log
        workspace = settings.workspace
        self._client: Final = client
        self._workspace: Final = workspace
        self._feed_entries: Final = settings.feed_entries
        self._living: Final = StateStore(client, workspace)
        self._sides: Final = Sides(client, workspace, "replay")
        self._swap: Final = client.register_script(_SWAP)
        self._hold: Final = client.register_script(_HOLD)
        self._token: Final = uuid.uuid4().hex
        self._feed_mark = ""
        """The feed's last entry when the comparison began."""
        self._feed_added = 0
        """How many entries it had been given by then."""
        self._changes: dict[str, Change] = {}
        self._compared = 0
        """Which beginning of the rebuild `_changes` are about."""
        self.rebuild: Final = Rebuild(client, settings, "replay", rules, also_excluded)

    async def build(self, progress: Progress) -> None:
        """Step 1. Raises NoLog, and Replaced where another replay has begun."""
        await self.rebuild.begin()
        await self.rebuild.build(await self._goal(await self._living.position()), progress)
        await self._come_near(progress)

    async def compare(self) -> list[Change]:
        """Step 2: what would go to the feed. Holds nobody back. Raises Replaced as `build` does."""
        self._changes = await self._compare()
        await self.rebuild.check_place()
        return _in_order(self._changes)

    async def check_loss(self) -> None:
        """Raises WouldLose where contacts are gone because the log has lost entries."""
        gone = sum(isinstance(change, ContactGone) for change in self._changes.values())
        if not gone:
            return
        extent = await log_extent(self._client, self._workspace)  # it may have been trimmed just now
        if extent.lost:
            raise WouldLose(
                f"workspace {self._workspace}: the log has lost {extent.lost} entries, and {gone} contacts with them; "
                "nothing is replaced; --allow-truncated replaces all the same"
            )

    async def replace(self, *, allow_lost: bool) -> list[Change]:
        """Step 3, behind `compare`; the changes that went to the feed. Raises WouldLose unless `allow_lost`, and Replaced."""
        await self._come_near()  # what was folded while we compared is no reason to hold anybody back
        async with self._letting_go():
            while True:
                await self._client.set(key(self._workspace, "hold"), self._token, px=_HOLD_MS)
                living = await self._living.position()
                await self.rebuild.advance(await self._goal(living))
                if self.rebuild.beginnings != self._compared:
                    # The log, read on, excludes what was folded already: what was compared is another state than ours.
                    await self._hold(keys=[key(self._workspace, "hold")], args=[self._token, 0])
                    await self.compare()
                    continue
                await self._compare_again(self._changes)
                if not allow_lost:
                    await self.check_loss()
                await self._stage(_in_order(self._changes))
                if self.rebuild.beginnings == self._compared and await self._put_in_place(living):
                    return _in_order(self._changes)

    async def _goal(self, living: Position) -> str:
        """How far the log is to be folded."""
        return (await log_extent(self._client, self._workspace)).last if self._whole_log else living.stream_id

    async def _come_near(self, progress: Progress = lambda _: None) -> None:
        """Folds what the projector has folded meanwhile, until that is little."""
        is_near = False
        while not is_near:
            before = self.rebuild.position.counts.entries
            await self.rebuild.advance(await self._goal(await self._living.position()), progress)
            is_near = self.rebuild.position.counts.entries - before <= _NEAR_ENTRIES

    # --- comparing

    async def _compare(self) -> dict[str, Change]:
        """How the contacts differ, by id; each as of a position of its own."""
        while True:
            begun = self.rebuild.beginnings
            self.rebuild.touched.clear()
            self._feed_added = await self._feed_entries_added()
            self._feed_mark = await self._last_feed_entry()
            changes: dict[str, Change] = {}
            await self._compare_some({each async for each in self._sides.differing("contacts")}, changes)
            if self.rebuild.beginnings == begun:
                self._compared = begun
                return changes

    async def _compare_again(self, changes: dict[str, Change]) -> None:
        """In step 3: those that may be other than they were when they were compared."""
        suspects = await self._touched_on_feed()
        if suspects is None:
            suspects = {each async for each in self._sides.differing("contacts")} | changes.keys()
        suspects |= self.rebuild.touched
        # A merge tells of the surviving contact, which may be another one by now, or have changed.
        merges = ((each, change) for each, change in changes.items() if isinstance(change, ContactsMerged))
        suspects |= {each for each, change in merges if change.contact_id in suspects}
        await self._compare_some(suspects, changes)

    async def _compare_some(self, ids: set[str], changes: dict[str, Change]) -> None:
        ordered = sorted(ids)
        for first in range(0, len(ordered), _AT_ONCE):
            some = ordered[first : first + _AT_ONCE]
            position, living = await self._sides.living("contacts", some)
            if not self._whole_log:
                await self.rebuild.advance(position)
            rebuilt = await self._sides.rebuilt("contacts", some)
            survivors = await self._sides.survivors(rebuilt)
            for each, one, other, survivor in zip(some, living, rebuilt, survivors, strict=True):
                if change := as_change(each, one, other, survivor):
                    changes[each] = change
                else:
                    changes.pop(each, None)

    async def _touched_on_feed(self) -> set[str] | None:
        """The contacts that the living fold has changed meanwhile: it may have touched others than ours did.

        None where the feed has dropped entries of that time: then nobody knows.
        """
        expected = (await self._feed_entries_added()) - self._feed_added
        found: set[str] = set()
        last, read = self._feed_mark, 0
        while page := await self._feed_behind(last):
            for _, fields in page:
                try:
                    change = msgspec.json.decode(fields.get(b"change", b""), type=_Touched)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue  # somebody else has put it there
                found.update(filter(None, (change.contact_id, change.merged_contact_id)))
            last, read = page[-1][0].decode(), read + len(page)
        return found if read >= expected else None

    async def _feed_behind(self, last: str) -> list[RawEntry]:
        reply = await self._client.xrange(key(self._workspace, "changes"), min=f"({last}", count=_AT_ONCE)
        return cast("list[RawEntry]", reply)

    async def _feed_entries_added(self) -> int:
        if not await self._client.exists(key(self._workspace, "changes")):
            return 0
        info = await self._client.xinfo_stream(key(self._workspace, "changes"))
        return cast("int", cast("dict[str, object]", info)["entries-added"])

    async def _last_feed_entry(self) -> str:
        newest = await self._client.xrevrange(key(self._workspace, "changes"), count=1)
        return cast("list[RawEntry]", newest)[0][0].decode() if newest else "0-0"

    # --- replacing

    @asynccontextmanager
    async def _letting_go(self) -> AsyncGenerator[None]:
        """Keeps the hold, once it is taken, for as long as we live, and lets the projector go at the end."""
        keeping = asyncio.create_task(self._keep_holding())
        try:
            yield
        finally:
            await end_tasks([keeping])
            await self._hold(keys=[key(self._workspace, "hold")], args=[self._token, 0])

    async def _keep_holding(self) -> None:
        while True:
            await asyncio.sleep(_HOLD_AGAIN_S)
            await self._hold(keys=[key(self._workspace, "hold")], args=[self._token, _HOLD_MS])

    async def _lost(self, living: Counts) -> int:
        """How many entries up to the living position the log has not got and we have not folded.

        What it lost while we read stands nowhere, but the living state, at the same position, has folded so many more than we.
        """
        counts = self.rebuild.position.counts
        most = (await log_extent(self._client, self._workspace)).lost
        return min(most, max(counts.lost, living.entries + living.lost - counts.entries))

    async def _stage(self, changes: Sequence[Change]) -> None:
        pipeline = self._client.pipeline(transaction=True)
        differences, excluded = key(self._workspace, "differences", "replay"), key(self._workspace, "excluded", "replay")
        pipeline.delete(differences, excluded)
        pipeline.rpush(differences, self._token)
        for first in range(0, len(changes), _AT_ONCE):
            pipeline.rpush(differences, *map(encode_change, changes[first : first + _AT_ONCE]))
        if self.rebuild.excluded:
            pipeline.sadd(excluded, *self.rebuild.excluded)
        await pipeline.execute()

    async def _put_in_place(self, living: Position) -> bool:
        keys = [
            key(self._workspace, "hold"),
            key(self._workspace, "changes"),
            key(self._workspace, "position", "replay"),
            key(self._workspace, "differences", "replay"),
        ]
        for name in STATE:
            keys += [key(self._workspace, name), key(self._workspace, name, "replay")]
        lost = await self._lost(living.counts)
        try:
            reply = await self._swap(keys=keys, args=[self._token, self.rebuild.generation, self._feed_entries, lost])
        except ResponseError as error:
            if "REPLACED" in str(error):
                raise Replaced(f"workspace {self._workspace}: {error}") from error
            raise
        return bool(reply == b"done")


def _in_order(changes: dict[str, Change]) -> list[Change]:
    """By the contact's id; merges last, as for a log entry: the surviving contact is there by then."""
    return [changes[each] for each in sorted(changes, key=lambda each: (isinstance(changes[each], ContactsMerged), each))]


class _Touched(msgspec.Struct, rename="camel"):
    contact_id: str
    merged_contact_id: str | None = None
