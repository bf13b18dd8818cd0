"""One workspace's way from the feed to its tables: find a build or make one, bring it up to the feed, and follow the feed.

Everything that the follower knows is in the database, so that it can die at any time: the next one reads the build's position
and continues after it. If anything fails, it looks for the build again. Nothing is applied twice, because rows and position are
one transaction. Nothing is skipped, because each page of the feed shows whether it continues after the position.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from kinfold_projections.directory_feed import ERASED, ERASURE
from kinfold_projections.directory_rows import may_relink, named_contacts, relinked_visitors
from kinfold_schemas.contacts import Link
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import SERVER_ERRORS, Client, RawEntry, drop_idle_connections, is_passing
from kinfold_services.directory import building, store
from kinfold_services.directory.building import BEGINNING, NO_POSITION, OpenBuild
from kinfold_services.directory.contact_writes import Numbered, load_contacts
from kinfold_services.directory.erased_rows import linked_visitors, unlinked_visitors
from kinfold_services.directory.errors import DirectoryUnavailable
from kinfold_services.directory.snapshot_build import SnapshotBuild
from kinfold_services.directory.store import Overtaken
from kinfold_services.directory.transactions import Transactions, now
from kinfold_services.log.feed import FeedPage, read_feed_page
from kinfold_services.state.scans import absent_visitors, links_of
from kinfold_services.state.snapshot import FeedOverran, entry_of

PAGE_ENTRIES: Final = 1000
"""The most entries that one transaction applies."""
_BLOCK_MS: Final = 1000
_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 2.0
_LOOK_AGAIN_S: Final = 0.25
_REPORT_EVERY_S: Final = 1.0
_NEAR: Final = 5 * PAGE_ENTRIES
"""A build becomes current when it is about this near to the feed's end."""


class Lost(Exception):
    """The feed does not continue after the build's position."""


class Incomplete(Exception):
    """The feed does not tell of all contacts, although it was never trimmed."""


class Follower:
    """Keeps one workspace's directory current until it is cancelled."""

    def __init__(self, client: Client, workspace: str, write: Transactions, ours: set[int]) -> None:
        """`ours` is the set of builds that this process fills or finishes: it does not take them for abandoned."""
        self._client: Final = client
        self._workspace: Final = workspace
        self._write: Final = write
        self._ours: Final = ours
        self._feed: Final = key(workspace, "changes")
        self._sources: Final[dict[int, int | None]] = {}
        """The build that a build has the past from, for those that were filled from a snapshot here."""
        self.is_standing_by = False
        """Whether a newer version of the tables has the workspace."""
        self._distrusts_feed = False
        self._must_clean = True
        """Whether a contact may have been erased since the files were cleaned."""
        self._told = ""
        self._reported = ("", "")
        self._report_at = 0.0
        self._log: Final = structlog.get_logger().bind(workspace=workspace)

    async def run(self) -> None:
        """Follow the feed until cancelled. An error is logged, and the next try begins with the build as it is."""
        delay_s = _FIRST_RETRY_S
        while True:
            started = time.monotonic()
            try:
                await self._follow(await self._open())
            except Overtaken as error:
                self._log.debug("another directory was faster", reason=str(error))
                continue
            except (Lost, FeedOverran, Incomplete) as error:
                self._log.warning("directory is built again", reason=str(error))
                self._distrusts_feed = self._distrusts_feed or isinstance(error, Incomplete)
                continue
            except (*SERVER_ERRORS, OSError) as error:
                self._tell("feed cannot be read", error, is_known=is_passing(error) or isinstance(error, OSError))
                await drop_idle_connections(self._client)
            except DirectoryUnavailable as error:
                self._tell("directory's database cannot be written", error, is_known=True)
            except Exception as error:  # noqa: BLE001  of one workspace: the others must go on
                self._tell("workspace not followed", error, is_known=False)
            if time.monotonic() - started > _LAST_RETRY_S:
                delay_s = _FIRST_RETRY_S
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, _LAST_RETRY_S)

    def _tell(self, what: str, error: Exception, *, is_known: bool) -> None:
        """Log an error when it begins, and not at each try."""
        if str(error) == self._told:
            return
        self._told = str(error)
        (self._log.warning if is_known else self._log.error)(what, error=str(error), exc_info=None if is_known else error)

    # --- following

    async def _follow(self, build: OpenBuild) -> None:
        """Apply what comes. Raises Lost and Overtaken."""
        position = build.position
        while True:
            page = await self._page(position)
            if self._told:
                self._log.info("directory is followed again", position=position)
                self._told = ""
            if page.entries:
                position = await self._apply(build.id, position, page.entries)
            if self._must_clean and not page.entries:
                await self._write.clean()
                self._must_clean = False
            await self._report("current", position, at_once=not page.entries)
            if not page.entries:
                await self._client.xread({self._feed: position}, count=1, block=_BLOCK_MS)

    async def _report(self, state: str, position: str, *, at_once: bool = False) -> None:
        """Tell `kinfold status` how far the directory is, once a second or at once."""
        if (state, position) == self._reported or not (at_once or time.monotonic() > self._report_at):
            return
        self._report_at = time.monotonic() + _REPORT_EVERY_S
        values = ["state", state, "position", position]
        await self._client.hset(key(self._workspace, "directory"), items=values)
        self._reported = state, position

    async def _page(self, position: str) -> FeedPage:
        page = await read_feed_page(self._client, self._feed, position, PAGE_ENTRIES)
        if not page.goes_on:
            raise Lost(f"the feed does not continue after {position}; it was trimmed, or lost entries")
        return page

    async def _apply(self, build: int, before: str, raws: Sequence[RawEntry]) -> str:
        entries = [each for entry, fields in raws if (each := entry_of(entry.decode(), fields)) is not None]
        page = store.Page(before, raws[-1][0].decode(), entries)
        links: dict[str, list[Link]] = {}
        known: dict[str, Numbered] = {}
        if any(map(may_relink, entries)):  # seldom
            known = await self._write(partial(load_contacts, build=build, ids=named_contacts(entries)))
            links = await links_of(self._client, self._workspace, relinked_visitors(entries, known))
        gone = list[str]()
        if erased := {entry.change.contact_id for entry in entries if entry.change.type == ERASED}:
            # Those that others share stay, with the links that the log has now.
            of_erased = await self._write(lambda connection: linked_visitors(connection, build, erased))
            of_erased |= relinked_visitors([each for each in entries if each.change.cause == ERASURE], known)
            links |= await links_of(self._client, self._workspace, of_erased)
            gone = [visitor_id for visitor_id in of_erased if not links[visitor_id]]
            unlinked = await self._write(lambda connection: unlinked_visitors(connection, build))
            unlinked.update(visitor_id for visitor_id in links if not links[visitor_id])
            gone += await absent_visitors(self._client, self._workspace, unlinked.difference(of_erased))
        await self._write(lambda connection: store.apply(connection, build, page, links, now(), gone))
        self._must_clean = self._must_clean or bool(erased)
        return page.after

    # --- finding or making a build

    async def _open(self) -> OpenBuild:
        """A current build after whose position the feed continues. Readers see the one before until it is there."""
        while True:
            if await self._write(lambda connection: building.has_newer_shape(connection, self._workspace)):
                self._tell("workspace not followed", DirectoryUnavailable("a newer kinfold keeps its directory"), is_known=True)
                self.is_standing_by = True
                await asyncio.sleep(_LAST_RETRY_S)
                continue
            self.is_standing_by = False
            found = await self._write(lambda connection: building.open_builds(connection, self._workspace))
            for build in found:
                if build.position == NO_POSITION:
                    continue
                if (await read_feed_page(self._client, self._feed, build.position, 1)).goes_on:
                    if build.state == "building":
                        return await self._finish(build)
                    self._ours.difference_update(each.id for each in found)
                    return build
                if build.state == "building":
                    await self._give_up(build.id)
            if not any(build.position == NO_POSITION for build in found):
                return await self._finish(await self._build())
            await asyncio.sleep(_LOOK_AGAIN_S)  # another directory builds, or has died: then its build is given up

    async def _build(self) -> OpenBuild:
        """Begin a build: from the feed's first entry if the feed holds every change, else from a snapshot."""
        extent = (await read_feed_page(self._client, self._feed, BEGINNING, 1)).extent
        if not self._distrusts_feed and extent.removed == 0 and position_key(extent.max_deleted) == (0, 0):
            self._log.info("directory is built from the feed")
            return await self._write(lambda connection: building.begin_build(connection, self._workspace, BEGINNING, now()))
        self._log.info("directory is built from a snapshot")
        return await self._build_from_snapshot()

    async def _build_from_snapshot(self) -> OpenBuild:
        since = now()
        build = await self._write(lambda connection: building.begin_build(connection, self._workspace, NO_POSITION, since))
        self._ours.add(build.id)
        try:
            filled = SnapshotBuild(self._client, self._workspace, self._write, build.id, since)
            self._sources[build.id] = await filled.fill()
        except BaseException:
            with suppress(DirectoryUnavailable):  # then it is given up as an abandoned one
                await asyncio.shield(self._give_up(build.id))
            raise
        finally:
            self._ours.discard(build.id)
        return await self._read(build.id)

    async def _finish(self, build: OpenBuild) -> OpenBuild:
        """Bring a build up to the feed and make it current. Raises Lost, Overtaken and Incomplete."""
        self._ours.add(build.id)  # even while Redis is away: the next try continues it
        while True:
            target, size = await self._extent()
            applied, position = 0, build.position
            while position_key(position) < position_key(target):
                page = await self._page(position)
                upto = [each for each in page.entries if position_key(each[0].decode()) <= position_key(target)]
                if not upto:
                    break
                position = await self._apply(build.id, position, upto)
                if build.state == "building":
                    await self._report("building", position)
                applied += len(upto)
            build = await self._read(build.id)
            if build.position == target and build.contacts != size and not self._distrusts_feed:
                await self._give_up(build.id)
                raise Incomplete(f"expected {size} contacts after {target}, got {build.contacts}")
            if applied <= _NEAR:
                break
        replaced = await self._replaced_by(build.id)
        await self._write(lambda connection: building.make_current(connection, self._workspace, build.id, replaced, now()))
        self._ours.discard(build.id)
        self._log.info("directory is current", position=build.position, contacts=build.contacts)
        return build

    async def _replaced_by(self, build: int) -> int | None:
        """The current build that another one is to replace. Raises Overtaken if another directory was faster.

        If the feed continues after its build, that one may be further than ours, and readers must not be set back. If not, its
        timeline may have changes that ours was never told, unless ours has its past from there.
        """
        for each in await self._write(lambda connection: building.open_builds(connection, self._workspace)):
            if each.state != "current" or each.id == build:
                continue
            goes_on = (await read_feed_page(self._client, self._feed, each.position, 1)).goes_on
            if goes_on or each.id != self._sources.get(build, each.id):
                await self._give_up(build)
                raise Overtaken(f"build {each.id} is current already")
            return each.id
        return None

    async def _extent(self) -> tuple[str, int]:
        """The feed's last entry, and how many contacts are living after it."""
        pipeline = self._client.pipeline(transaction=True)
        pipeline.zcard(key(self._workspace, "created"))
        pipeline.xrevrange(self._feed, count=1)
        size, last = await pipeline.execute()
        return (last[0][0].decode() if last else BEGINNING), size

    async def _read(self, build: int) -> OpenBuild:
        return await self._write(lambda connection: building.read_build(connection, build))

    async def _give_up(self, build: int) -> None:
        await self._write(lambda connection: building.give_up(connection, build, now()))
        self._ours.discard(build)
