"""`kinfold replay`: the state rebuilt from the log, put in the stored one's place where they differ, and the feed told.

    1. rebuild in memory, up to where the projector is                            (it goes on)
    2. compare, some things at a time, each time at one position                  (it goes on)
       nothing differs: that is all, and nothing was written
    3. write the rebuilt state into the staging area, in pieces                   (it goes on)
    4. hold the projector back for a moment; fold the last entries; compare again what either side has changed since, and
       write it; swap, in one script

Only 4 makes the projector wait, and its length depends on what happened during 3, not on the size of the state. Killed
anywhere before the script, a replay leaves the stored state as it was: the hold ends by itself, and the next run empties the
staging area.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from importlib.resources import files
from typing import Any, Final

import msgspec

import kinfold_services.replay
from kinfold_schemas.changes import Change, ContactGone, ContactsMerged, encode_change
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import STATE, key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.log.pages import PAGE_ENTRIES, log_extent, read_pages
from kinfold_services.replay.differences import Sides, as_change
from kinfold_services.replay.rebuild import PARTS, Forget, Part, Progress, Rebuild, nothing_touched
from kinfold_services.replay.staging import StagingArea
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.runtime.terminal import counted
from kinfold_services.settings import Settings
from kinfold_services.state.position import Position, Replaced, position_fields
from kinfold_services.state.reader import StateReader
from kinfold_services.state.writes import pack

CHECK: Final = files(kinfold_services.replay).joinpath("check.lua").read_text()
SWAP: Final = files(kinfold_services.replay).joinpath("swap.lua").read_text()
_HOLD: Final = files(kinfold_services.replay).joinpath("hold.lua").read_text()
_HOLD_MS: Final = 5000
"""How long the projector waits for a replay that was killed."""
_HOLD_AGAIN_S: Final = 1.0
_NEAR_ENTRIES: Final = 500
"""How many entries at most are folded while the projector is held, mostly. It takes about 10 ms."""
_FAR_ENTRIES: Final = 4 * PAGE_ENTRIES
"""The same while the projector is so busy that we come no nearer."""
_AT_ONCE: Final = 1000


class WouldLose(RuntimeError):
    """The log has lost entries, and the state rebuilt from it lacks contacts."""


class Replay:
    """One replay of one workspace. Call `build`, `compare`, `replace`, and `close` in any case."""

    def __init__(  # noqa: PLR0913  what a replay leaves out, and how far it goes
        self,
        client: Client,
        settings: Settings,
        rules: IdentifierRules,
        also_excluded: frozenset[str] = frozenset(),
        *,
        whole_log: bool = False,
        rewritten: Mapping[str, bytes] | None = None,
        forget: Forget | None = None,
    ) -> None:
        """`whole_log`: fold up to the log's end, and not only to the stored position. Nothing else may fold meanwhile."""
        workspace = settings.workspace
        self.rebuild: Final = Rebuild(client, settings, rules, also_excluded, rewritten=rewritten, forget=forget)
        self._client: Final = client
        self._workspace: Final = workspace
        self._whole_log: Final = whole_log
        self._feed_entries: Final = settings.feed_entries
        self._stored: Final = StateReader(client, workspace)
        self._sides: Final = Sides(client, workspace, self.rebuild, follows=not whole_log)
        self._staging: Final = StagingArea(client, workspace)
        self._swap: Final = client.register_script(CHECK + SWAP)
        self._hold: Final = client.register_script(_HOLD)
        self._token: Final = uuid.uuid4().hex
        self._feed_end = 0, "0-0"
        """The feed's end when we last looked at what the projector has changed."""
        self._changes: dict[str, Change] = {}
        """The changes for the feed, by contact."""
        self._is_other = False
        """Whether anything differs, including what readers do not see."""

    async def build(self, progress: Progress) -> None:
        """Step 1. Raises NoLog."""
        await self.rebuild.begin()
        await self._staging.claim()
        await self._build(progress)

    async def _build(self, progress: Progress) -> None:
        await self.rebuild.build(await self._goal(await self._stored.position()), progress)
        await self._come_near(progress)

    async def compare(self) -> list[Change]:
        """Step 2: the changes that would go to the feed. Raises Replaced if another replay has begun."""
        is_compared = False
        while not is_compared:
            self._feed_end = await self._end_of_feed()
            self.rebuild.uncompared = nothing_touched()
            self._changes, self._is_other = {}, False
            for part in PARTS:
                if part == "contacts" or not self._is_other:
                    await self._compare_some(part, await self._sides.suspects(part))
            is_compared = self.rebuild.is_compared  # the log, read further, may have excluded what was already folded
        await self._staging.check()
        return _in_order(self._changes)

    async def check_loss(self) -> None:
        """Raise WouldLose if contacts are gone because the log has lost entries."""
        gone = sum(isinstance(change, ContactGone) for change in self._changes.values())
        if not gone:
            return
        extent = await log_extent(self._client, self._workspace)  # it may have been trimmed just now
        if extent.lost:
            raise WouldLose(
                f"workspace {self._workspace}: the log has lost {counted(extent.lost, 'entry', 'entries')}, "
                f"and {counted(gone, 'contact is', 'contacts are')} gone; "
                "nothing is replaced; --allow-truncated replaces all the same"
            )

    async def replace(self, *, allow_lost: bool) -> list[Change]:
        """Steps 3 and 4, after `compare`. Returns the changes that went to the feed. Writes nothing if nothing differs.

        Raises WouldLose unless `allow_lost`, and Replaced if another replay has begun.
        """
        if not await self._differs():
            return []
        async with self._letting_go():
            while True:
                await self._write()
                await self._before_hold()
                await self._come_near()
                await self._client.set(key(self._workspace, "hold"), self._token, px=_HOLD_MS)
                living = await self._stored.position()
                await self.rebuild.advance(await self._goal(living))
                if self.rebuild.is_compared:
                    await self._compare_again()
                    if not allow_lost:
                        await self.check_loss()
                    await self._write_last(living)
                    if await self._put_in_place():
                        return _in_order(self._changes)
                if not self.rebuild.is_compared:
                    # The log, read further, excludes what was folded already, or was cut. So what was compared is gone.
                    await self._hold(keys=[key(self._workspace, "hold")], args=[self._token, 0])
                    await self.compare()

    async def close(self) -> None:
        """Empty the staging area, unless another replay uses it."""
        await self._staging.close()

    async def _before_hold(self) -> None:
        """What else makes the time short for which the projector is held."""

    async def _goal(self, living: Position) -> str:
        """The position up to which the log is to be folded."""
        return (await log_extent(self._client, self._workspace)).last if self._whole_log else living.stream_id

    async def _come_near(self, progress: Progress = lambda _: None) -> None:
        """Repeat what was done so far for what the projector has folded meanwhile, until that is little."""
        is_near, last = False, None
        while not is_near:
            before = self.rebuild.position.counts.entries
            await self.rebuild.advance(await self._goal(await self._stored.position()), progress)
            if self.rebuild.is_compared:
                await self._compare_again()
            if self.rebuild.unwritten is not None:
                await self._write()
            count = self.rebuild.position.counts.entries - before
            is_near = count <= _NEAR_ENTRIES or (last is not None and last <= count <= _FAR_ENTRIES)
            last = count

    # --- comparing

    async def _differs(self) -> bool:
        """Whether anything differs, up to the position where the stored state is now."""
        while True:
            await self._come_near()
            living = await self._stored.position()
            await self.rebuild.advance(await self._goal(living))
            if not self.rebuild.is_compared:
                await self.compare()
                continue
            self._is_other |= await self._differs_as_a_whole(living)
            await self._compare_again()  # which may advance our position
            await self._staging.check()
            if self.rebuild.is_compared:
                return self._is_other

    async def _differs_as_a_whole(self, living: Position) -> bool:
        """Whether position, counts, exclusions or rejects differ. The rebuilt state is at this position of the stored one."""
        ours = await self._position(living)
        if position_fields(ours) != position_fields(living) or await self._stored.excluded() != self.rebuild.excluded:
            return True
        rejects = self.rebuild.stored_rejects
        if rejects.differ or (later := await rejects.next()) is None:
            return rejects.differ
        # A reject after our position was added by the projector since, or its entry was never folded.
        return position_key(later.entry) > position_key((await self._stored.position()).stream_id)

    async def _compare_again(self) -> None:
        """Compare what either side has changed since the last comparison."""
        touched, self.rebuild.uncompared = self.rebuild.uncompared or nothing_touched(), nothing_touched()
        contacts = await self._touched_on_feed()
        if contacts is None:
            contacts = await self._sides.suspects("contacts") | self._changes.keys()
        contacts |= touched["contacts"]
        # The change of a merge shows the surviving contact, which may have changed, or may be another one by now.
        merges = ((each, change) for each, change in self._changes.items() if isinstance(change, ContactsMerged))
        contacts |= {each for each, change in merges if change.contact_id in contacts}
        touched["contacts"] = contacts
        touched["contact-stamps"] |= contacts
        for part, ids in touched.items():
            await self._compare_some(part, ids)

    async def _compare_some(self, part: Part, ids: Iterable[str]) -> None:
        """Compare some ids of a part. Notes each contact that differs; for other parts, whether any id differs."""
        if part != "contacts":
            self._is_other = self._is_other or await self._sides.is_other(part, ids)
            return
        async for each, living, rebuilt in self._sides.at_one_position(part, ids):
            self._is_other |= living != rebuilt
            if change := as_change(each, living, rebuilt, self._sides.survivor(each)):
                self._changes[each] = change
            else:
                self._changes.pop(each, None)

    async def _touched_on_feed(self) -> set[str] | None:
        """The contacts that the projector has changed since we last looked. It may have changed others than we did.

        None if the feed has dropped entries of that time, so the contacts are unknown.
        """
        (known, mark), (added, last) = self._feed_end, await self._end_of_feed()
        self._feed_end = added, last
        found, read = set[str](), 0
        async with aclosing(read_pages(self._client, self._workspace, mark, last, "changes")) as pages:
            async for page in pages:
                read += len(page)
                for _, fields in page:
                    with suppress(msgspec.DecodeError, UnicodeDecodeError):  # not written by a projector
                        change = msgspec.json.decode(fields.get(b"change", b""), type=_Touched)
                        found.update(filter(None, (change.contact_id, change.merged_contact_id)))
        return found if read >= added - known else None

    async def _end_of_feed(self) -> tuple[int, str]:
        """How many entries the feed was ever given, and the id of the last one."""
        if not await self._client.exists(key(self._workspace, "changes")):
            return 0, "0-0"
        info: dict[str, Any] = await self._client.xinfo_stream(key(self._workspace, "changes"))
        return info["entries-added"], info["last-generated-id"].decode()

    # --- replacing

    @asynccontextmanager
    async def _letting_go(self) -> AsyncGenerator[None]:
        """Keep the hold, once it is taken, during the block, and release the projector at the end."""
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

    async def _position(self, living: Position) -> Position:
        """Our position for the stored one, with how many entries up to there the log has lost and we have not folded.

        What the log lost while we read is not recorded. But the stored state, at the same position, has folded that many more
        than we have.
        """
        ours = self.rebuild.position
        most = (await log_extent(self._client, self._workspace)).lost
        lost = min(most, max(ours.counts.lost, living.counts.entries + living.counts.lost - ours.counts.entries))
        return msgspec.structs.replace(ours, counts=msgspec.structs.replace(ours.counts, lost=lost))

    async def _write(self) -> None:
        """Write into the staging area what it does not have yet."""
        rebuild = self.rebuild
        if rebuild.unwritten is None:
            await self._staging.empty()
        unwritten, rebuild.unwritten = rebuild.unwritten, nothing_touched()
        for part in PARTS:
            ids = rebuild.ids(part) if unwritten is None else unwritten[part]
            await self._staging.write(self._staging.writes.things(part, zip(ids, rebuild.stored(part, ids), strict=True)))
        rejects, self.rebuild.rejects = self.rebuild.rejects, []
        await self._staging.write(self._staging.writes.reject(reject.values()) for reject in rejects)

    async def _write_last(self, living: Position) -> None:
        """Write what is only known at the end: the last changes, those for the feed, the exclusions, and the position."""
        await self._write()
        writes, position = self._staging.writes, await self._position(living)
        differences, excluded = writes.key("differences"), writes.key("excluded")
        changes = [encode_change(change) for change in _in_order(self._changes)]
        commands = [pack(b"UNLINK", differences, excluded), writes.hash("position", position_fields(position))]
        if (baseline := self.rebuild.baseline) is not None:
            commands.append(writes.hash("position", {"begins": baseline.position}))
        commands += [
            pack(b"RPUSH", differences, *changes[first : first + _AT_ONCE]) for first in range(0, len(changes), _AT_ONCE)
        ]
        if self.rebuild.excluded:
            commands.append(pack(b"SADD", excluded, *self.rebuild.excluded))
        await self._staging.write(commands)

    async def _put_in_place(self) -> bool:
        """Swap the states. Returns False if the projector was released in between."""
        reply = await self._swap(keys=self._swapped_keys(), args=[self._token, self._staging.generation, self._feed_entries])
        if reply == b"cut":  # another state may stand for what was cut: without visitors that nobody has identified
            await self.rebuild.begin_again()
        if reply == b"replaced":
            raise Replaced(f"workspace {self._workspace}: another replay has begun")
        return bool(reply == b"done")

    def _swapped_keys(self) -> list[str]:
        """The keys that `swap.lua` expects."""
        keys = [key(self._workspace, "hold"), key(self._workspace, "changes"), key(self._workspace, "differences", "replay")]
        for name in STATE:
            keys += [key(self._workspace, name), key(self._workspace, name, "replay")]
        return keys


def _in_order(changes: dict[str, Change]) -> list[Change]:
    """Sort by the contact's id, with merges last, as for a log entry: by then the surviving contact exists."""
    return [changes[each] for each in sorted(changes, key=lambda each: (isinstance(changes[each], ContactsMerged), each))]


class _Touched(msgspec.Struct, rename="camel"):
    contact_id: str
    merged_contact_id: str | None = None
