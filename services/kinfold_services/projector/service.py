"""The projector as a service: which workspaces it serves, and how it starts, continues and stops.

A `Serving` handles everything that concerns one workspace. Only what concerns the whole process stops it: a signal, a server
that is too old or does not answer at the start, or a bug.
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
from kinfold_services.runtime.descriptors import allow_many_descriptors
from kinfold_services.runtime.garbage import collect_seldom
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.settings import Settings

_LOOK_FOR_WORKSPACES_S: Final = 0.05
"""How often to look for new members of `kinfold:workspaces`, which are picked up within 1 s (contract section 1)."""
_LOOK_AGAIN_S: Final = 1.0
"""How long to wait after Redis did not answer: one warning a second is enough."""
_OPENING: Final = 50
"""How many workspaces are opened at once."""


class ProjectorService:
    """Serves workspaces until it is stopped."""

    def __init__(self, settings: Settings, url: str) -> None:
        self.failure: BaseException | None = None
        """The error that stopped it, if any."""
        self.workspaces: Final[dict[str, WorkspaceProjector]] = {}
        """The workspaces that it owns and folds at the moment."""
        self._settings: Final = settings
        self._url: Final = url
        self._client: Final[Client] = connect(url, ANSWER_S)  # created here, because a signal may arrive before `_start`
        reader = connect(url, ANSWER_S)
        PatientReads(reader, self._fail_reading)
        self._broker: Final = LogBroker(reader, logger=None, middlewares=[partial(TellFailure, fail=self._fail_reading)])
        self._serving: Final[dict[str, Serving]] = {}
        self._serving_by_log: Final[dict[str, Serving]] = {}
        self._opening: Final = asyncio.Semaphore(_OPENING)
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._refused: Final[set[str]] = set()
        self._is_stopping = False
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
        """Run until a signal or a failure. Raises the failure."""
        await self.app.run()

    async def _start(self) -> None:
        collect_seldom()
        allow_many_descriptors()
        try:
            await self._check_server()
        except Exception:
            if not self._is_stopping:  # after an early signal, `_stop` closes the connection meanwhile
                raise

    async def _check_server(self) -> None:
        server = await check_server(self._client)
        if self._settings.serve is None:
            await check_right_to_workspaces(self._client, PROJECTOR)
        for workspace in sorted(self._settings.serve if self._settings.serve is not None else await self._listed()):
            await check_rights(self._client, PROJECTOR, workspace)
        self._log.info("projector starts", server=server)

    async def _serve(self) -> None:
        if self._is_stopping:
            return
        if self._settings.serve is None:
            self._spawn(self._look_for_workspaces(), "workspaces")
        else:
            self._begin(set(self._settings.serve))

    async def _stop(self) -> None:
        self._is_stopping = True
        await end_tasks(self._tasks)
        await self._client.aclose()
        self._log.info("projector stopped")

    async def _raise_failure(self) -> None:
        # Here rather than in `run`, so that `faststream run` ends with the error, too.
        if self.failure is not None:
            raise self.failure

    async def _look_for_workspaces(self) -> None:
        while True:
            try:
                self._begin(await self._listed())
            except SERVER_ERRORS as error:
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
        """Start serving the workspaces that are new."""
        for workspace in sorted(workspaces - self._serving.keys()):
            settings = self._settings.model_copy(update={"workspace": workspace})
            serving = Serving(settings, self._url, self._client, self._broker, self.workspaces, self._opening)
            self._serving[workspace] = self._serving_by_log[key(workspace, "events")] = serving
            self._spawn(serving.run(), workspace)

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        # No task may end by itself. If one does, the process stops: a projector that half works would be noticed late.
        if task.cancelled() or (error := task.exception()) is None:
            return
        self.failure = self.failure or error
        self._log.error("projector stops", task=task.get_name(), error=str(error), exc_info=error)
        self.app.exit()

    def _fail_reading(self, log: str, error: BaseException) -> None:
        if (serving := self._serving_by_log.get(log)) is not None:
            serving.fail(error)
