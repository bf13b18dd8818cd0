"""The projector as a service: which workspaces it serves, and how it starts, goes on and stops.

What happens to one workspace is the affair of its `Serving`. Only what concerns the whole process stops it: a signal, a server
that is too old or does not answer at the start, a mistake in our own code.
"""

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Any, Final, cast

import structlog
from faststream import FastStream

from kinfold_schemas.keys import DEFAULT_WORKSPACE, WORKSPACES, check_workspace, key
from kinfold_services.access.rights import PROJECTOR, check_right_to_workspaces, check_rights
from kinfold_services.connections import SERVER_ERRORS, Client, check_server, connect
from kinfold_services.projector.broker import LogBroker
from kinfold_services.projector.reading import ANSWER_S, PatientReads, TellFailure
from kinfold_services.projector.serving import Serving
from kinfold_services.projector.workspace import WorkspaceProjector
from kinfold_services.runtime.garbage import collect_seldom
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.settings import Settings

_LOOK_FOR_WORKSPACES_S: Final = 0.05
"""A new member of `kinfold:workspaces` is picked up within 1 s (contract section 1)."""
_LOOK_AGAIN_S: Final = 1.0
"""After Redis gave no answer: one warning a second is enough."""


class ProjectorService:
    """Serves workspaces until it is told to stop."""

    def __init__(self, settings: Settings, url: str) -> None:
        self.failure: BaseException | None = None
        """Why it stopped by itself."""
        self.workspaces: Final[dict[str, WorkspaceProjector]] = {}
        """Those that it owns and folds at the moment."""
        self._settings: Final = settings
        self._url: Final = url
        self._client: Final[Client] = connect(url, ANSWER_S)  # from the start on: a signal may come before `_start`
        reader = connect(url, ANSWER_S)
        PatientReads(reader, self._fail_reading)
        self._broker: Final = LogBroker(reader, logger=None, middlewares=[partial(TellFailure, fail=self._fail_reading)])
        self._serving: Final[dict[str, Serving]] = {}
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._refused: Final[set[str]] = set()
        self._log: Final = structlog.get_logger()
        self.app: Final = FastStream(
            self._broker,
            logger=None,
            on_startup=[self._start],
            after_startup=[self._serve],
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
        for workspace in sorted(self._settings.serve if self._settings.serve is not None else await self._listed()):
            await check_rights(self._client, PROJECTOR, workspace)
        self._log.info("projector starts", server=server)

    async def _serve(self) -> None:
        if self._settings.serve is None:
            self._spawn(self._look_for_workspaces(), "workspaces")
        else:
            self._begin(set(self._settings.serve))

    async def _stop(self) -> None:
        await end_tasks(self._tasks)
        await self._client.aclose()
        self._log.info("projector stopped")

    async def _raise_failure(self) -> None:
        # Here and not in `run`, so that `faststream run` too ends with an error.
        if self.failure is not None:
            raise self.failure

    async def _look_for_workspaces(self) -> None:
        while True:
            try:
                self._begin(await self._listed())
            except (*SERVER_ERRORS, OSError) as error:
                self._log.warning("workspaces not listed", error=str(error))
                await asyncio.sleep(_LOOK_AGAIN_S)
            await asyncio.sleep(_LOOK_FOR_WORKSPACES_S)

    async def _listed(self) -> set[str]:
        members = await cast("Awaitable[set[bytes]]", self._client.smembers(WORKSPACES))
        return {DEFAULT_WORKSPACE} | {name for member in members if (name := self._checked(member))}

    def _checked(self, member: bytes) -> str | None:
        name = member.decode(errors="replace")
        try:
            return check_workspace(name)
        except ValueError as error:
            if name not in self._refused:
                self._refused.add(name)
                self._log.error("workspace not served", workspace=name, error=str(error))
            return None

    def _begin(self, workspaces: set[str]) -> None:
        """Begins with those of the workspaces that are new."""
        for workspace in sorted(workspaces - self._serving.keys()):
            settings = self._settings.model_copy(update={"workspace": workspace})
            serving = Serving(settings, self._url, self._client, self._broker, self.workspaces)
            self._serving[workspace] = serving
            self._spawn(serving.run(), workspace)

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        # None of them ends by itself: a projector that half works would be noticed late.
        if task.cancelled() or (error := task.exception()) is None:
            return
        self.failure = self.failure or error
        self._log.error("projector stops", task=task.get_name(), error=str(error), exc_info=error)
        self.app.exit()

    def _fail_reading(self, log: str, error: BaseException) -> None:
        for workspace, serving in self._serving.items():
            if key(workspace, "events") == log:
                serving.fail(error)
