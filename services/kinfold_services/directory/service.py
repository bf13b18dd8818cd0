"""The directory as a service: which workspaces it follows, and how it starts, goes on and stops."""

import asyncio
import os
import signal
import sys
import time
from functools import partial
from typing import Any, Final

import structlog

from kinfold_services.access.rights import DIRECTORY, check_right_to_workspaces, check_rights
from kinfold_services.connections import SERVER_ERRORS, check_server, connect
from kinfold_services.directory import building
from kinfold_services.directory.building import OpenBuild
from kinfold_services.directory.database import Database
from kinfold_services.directory.errors import DirectoryUnavailable
from kinfold_services.directory.follower import Follower
from kinfold_services.directory.shapes import create_tables
from kinfold_services.directory.transactions import THREADS, Transactions, now
from kinfold_services.runtime.descriptors import allow_many_descriptors
from kinfold_services.runtime.garbage import collect_seldom
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.settings import Settings
from kinfold_services.state.queries import listed_workspaces

ANSWER_S: Final = 5.0
"""How long Redis may take for an answer; longer than a read waits for entries."""
_LOOK_FOR_WORKSPACES_S: Final = 0.25
_LOOK_AGAIN_S: Final = 1.0
_SILENT_S: Final = 5.0
"""A build that another directory began counts as abandoned when it has not changed for this long."""
_PAUSE_S: Final = 0.02


class DirectoryService:
    """Follows workspaces until it is told to stop."""

    def __init__(self, settings: Settings, url: str) -> None:
        self.failure: BaseException | None = None
        """Why it stopped by itself."""
        self._settings: Final = settings
        self._client: Final = connect(url, ANSWER_S)
        self._database: Final = Database(settings, connections=THREADS)
        self._write: Final = Transactions(self._database, at_once=1 if settings.directory_url is None else THREADS)
        self._followers: Final[dict[str, Follower]] = {}
        self._ours: Final[set[int]] = set()
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._stopping: Final = asyncio.Event()
        self._log: Final = structlog.get_logger()

    async def run(self, *, until_stdin_ends: bool = False) -> None:
        """Run until a signal, `stop`, or with `until_stdin_ends` until the parent process ends.

        Raises RedisError if Redis does not answer at the start, ServerUnfit for an unsuitable server or user.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        if until_stdin_ends:
            os.set_blocking(sys.stdin.fileno(), False)
            loop.add_reader(sys.stdin.fileno(), self.stop)
        try:
            await self.follow_until_stopped()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def follow_until_stopped(self) -> None:
        """As `run`, without signals."""
        collect_seldom()
        allow_many_descriptors()
        try:
            server = await check_server(self._client)
            if self._settings.serve is None:
                await check_right_to_workspaces(self._client, DIRECTORY)
            for workspace in await self._served():
                await check_rights(self._client, DIRECTORY, workspace)
            self._log.info("directory starts", server=server, database=self._database.name)
            self._spawn(self._serve(), "directory")
            await self._stopping.wait()
        finally:
            await end_tasks(self._tasks)
            await self._client.aclose()
            self._write.close()
        self._log.info("directory stopped")
        if self.failure is not None:
            raise self.failure

    @property
    def standing_by(self) -> set[str]:
        """The workspaces that a newer version of the tables has."""
        return {name for name, follower in self._followers.items() if follower.is_standing_by}

    def stop(self) -> None:
        """Stop as after a signal."""
        self._stopping.set()

    async def _serve(self) -> None:
        await self._create_tables()
        self._spawn(self._remove_old(), "removal")
        while True:
            try:
                for workspace in await self._served():
                    if workspace not in self._followers:
                        follower = self._followers[workspace] = Follower(self._client, workspace, self._write, self._ours)
                        self._spawn(follower.run(), workspace)
            except SERVER_ERRORS as error:
                self._log.warning("workspaces not listed", error=str(error))
                await asyncio.sleep(_LOOK_AGAIN_S)
            await asyncio.sleep(_LOOK_FOR_WORKSPACES_S)

    async def _create_tables(self) -> None:
        said = ""
        while True:
            try:
                return await self._write(create_tables)
            except DirectoryUnavailable as error:
                if str(error) != said:
                    said = str(error)
                    self._log.warning("directory's database cannot be used yet", error=said)
                await asyncio.sleep(_LOOK_AGAIN_S)

    async def _served(self) -> list[str]:
        if self._settings.serve is not None:
            return sorted(self._settings.serve)
        return await listed_workspaces(self._client)

    async def _remove_old(self) -> None:
        """Remove old builds, and those that a directory began and left."""
        seen: dict[int, tuple[OpenBuild, float]] = {}
        while True:
            await asyncio.sleep(_LOOK_AGAIN_S)
            try:
                await self._give_up_abandoned(seen)
                listed = {*self._followers, *await listed_workspaces(self._client)}
                await self._write(partial(building.retire_older_shapes, served=listed, now=now()))
                for build_id in await self._write(building.old_builds):
                    while not await self._write(partial(building.remove_some, build=build_id)):
                        await asyncio.sleep(_PAUSE_S)
            except (DirectoryUnavailable, *SERVER_ERRORS) as error:
                self._log.debug("old builds not removed yet", error=str(error))

    async def _give_up_abandoned(self, seen: dict[int, tuple[OpenBuild, float]]) -> None:
        """Give up builds of others that have not changed for a while. `seen`: each as it was, and since when."""
        for workspace, build in await self._write(building.unfinished_builds):
            if workspace not in self._followers or build.id in self._ours:
                continue
            was, since = seen.get(build.id, (None, 0.0))
            if was != build:
                seen[build.id] = (build, time.monotonic())
            elif time.monotonic() - since > _SILENT_S:
                await self._write(partial(building.give_up, build=build.id, now=now()))

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        self.failure = self.failure or error
        self._log.error("directory stops", task=task.get_name(), error=str(error), exc_info=error)
        self.stop()
