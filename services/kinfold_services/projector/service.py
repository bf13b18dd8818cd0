"""The projector as a service: which workspaces it serves, and how it starts, goes on and stops."""

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Any, Final, cast

import structlog
from faststream import FastStream
from redis.exceptions import RedisError

from kinfold_schemas.identifiers import BadPattern
from kinfold_schemas.keys import DEFAULT_WORKSPACE, WORKSPACES, check_workspace
from kinfold_services.collector import collect_seldom
from kinfold_services.connections import Client, check_server, connect
from kinfold_services.projector.broker import make_broker
from kinfold_services.projector.reading import StopOnFailure, as_pages, subscribe
from kinfold_services.projector.workspace import WorkspaceProjector
from kinfold_services.rights import PROJECTOR, check_right_to_workspaces, check_rights
from kinfold_services.settings import Settings

_PAGE_ENTRIES: Final = 1000
"""Read at once. A page is cut into the batches that are folded."""
_LOOK_FOR_WORKSPACES_S: Final = 0.05
"""A new member of `kinfold:workspaces` is picked up within 1 s (contract section 1)."""
_LOOK_AGAIN_S: Final = 1.0
"""After Redis gave no answer: one warning a second is enough."""


class ProjectorService:
    """Serves workspaces until it is told to stop, or one of them fails."""

    def __init__(self, settings: Settings, url: str) -> None:
        self.failure: BaseException | None = None
        """Why it stopped by itself."""
        self.workspaces: Final[dict[str, WorkspaceProjector]] = {}
        self._settings: Final = settings
        self._broker: Final = make_broker(url, logger=None, middlewares=[partial(StopOnFailure, fail=self._fail)])
        self._client: Final[Client] = connect(url)  # from the start on: a signal may come before `_start`
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._refused: Final[set[str]] = set()
        self._log: Final = structlog.get_logger()
        self.app: Final = FastStream(
            self._broker,
            logger=None,
            on_startup=[self._start],
            after_startup=[self._watch],
            on_shutdown=[self._stop],
            after_shutdown=[self._raise_failure],
        )

    async def run(self) -> None:
        """Runs until a signal or a failure, which it raises."""
        await self.app.run()

    async def _start(self) -> None:
        collect_seldom()
        server = await check_server(self._client)
        if self._settings.serve is None:
            await check_right_to_workspaces(self._client, PROJECTOR)
        wanted = sorted(await self._wanted())
        for workspace in wanted:
            await check_rights(self._client, PROJECTOR, workspace)
        reader: Any = await self._broker.connect()
        reader.set_response_callback("XREAD", as_pages)
        self._log.info("projector starts", server=server)
        for workspace in wanted:
            await self._serve(workspace)

    async def _watch(self) -> None:
        if self._settings.serve is None:
            self._spawn(self._look_for_workspaces(), "workspaces")

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for projector in self.workspaces.values():
            projector.close()  # else FastStream waits for a handler that waits for us
        await self._client.aclose()
        self._log.info("projector stopped")

    async def _raise_failure(self) -> None:
        # Here and not in `run`, so that `faststream run` too ends with an error.
        if self.failure is not None:
            raise self.failure

    async def _look_for_workspaces(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_FOR_WORKSPACES_S)
            try:
                new = await self._wanted() - self.workspaces.keys()
                for workspace in sorted(new):
                    if (subscriber := await self._serve(workspace)) is not None:
                        await subscriber.start()
            except (RedisError, OSError) as error:
                self._log.warning("workspaces not listed", error=str(error))
                await asyncio.sleep(_LOOK_AGAIN_S)

    async def _wanted(self) -> set[str]:
        if self._settings.serve is not None:
            return set(self._settings.serve)
        members = await cast("Awaitable[set[bytes]]", self._client.smembers(WORKSPACES))
        return {DEFAULT_WORKSPACE} | {name for member in members if (name := self._checked(member))}

    def _checked(self, member: bytes) -> str | None:
        name = member.decode(errors="replace")
        try:
            return check_workspace(name)
        except ValueError as error:
            self._refuse(name, error)
            return None

    def _refuse(self, workspace: str, error: ValueError) -> None:
        if workspace not in self._refused:
            self._refused.add(workspace)
            self._log.error("workspace not served", workspace=workspace, error=str(error))

    async def _serve(self, workspace: str) -> Any:
        """Begins with a workspace; None where what it blocks makes no sense, which is nobody's affair but its own."""
        projector = WorkspaceProjector(
            self._client,
            workspace,
            batch_entries=self._settings.batch_entries,
            feed_entries=self._settings.feed_entries,
            cached_records=self._settings.cached_records,
        )
        try:
            await projector.open()
        except BadPattern as error:
            if self._settings.serve is not None:  # nobody would look at it again
                raise
            self._refuse(workspace, error)
            return None
        self._refused.discard(workspace)
        subscriber = subscribe(
            self._broker,
            workspace,
            after=projector.position.stream_id,
            page_entries=max(_PAGE_ENTRIES, self._settings.batch_entries),
            handle=projector.receive,
        )
        self.workspaces[workspace] = projector
        self._spawn(projector.run(), workspace)
        return subscriber

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        # One workspace that cannot go on stops all: a projector that half works is noticed late.
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._fail(error, task.get_name())

    def _fail(self, error: BaseException, workspace: str | None = None) -> None:
        self.failure = self.failure or error
        self._log.error("projector stops", workspace=workspace, error=str(error), exc_info=error)
        self.app.exit()
