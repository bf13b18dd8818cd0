"""The projector's retention job: the owner of a workspace looks now and then whether a run is due, and starts one.

A run folds the whole log once more, so it is a process of its own: the projector goes on folding, and its memory stays small. A
run that fails, or is killed with the projector, has removed nothing, and is due again.
"""

import asyncio
import sys
from typing import Final

import structlog

from kinfold_services.connections import SERVER_ERRORS, Client
from kinfold_services.log.baseline import UnknownBaseline
from kinfold_services.log.pages import NoLog
from kinfold_services.retention.limits import read_limits
from kinfold_services.retention.run import RetentionRun, server_ms
from kinfold_services.runtime.processes import running
from kinfold_services.settings import Settings, inherited_environment


class RetentionJob:
    """The job for one workspace. `run` it as a task while the workspace is ours."""

    def __init__(self, client: Client, settings: Settings, url: str) -> None:
        self._client: Final = client
        self._settings: Final = settings
        self._url: Final = url
        self._log: Final = structlog.get_logger().bind(workspace=settings.workspace)

    async def run(self) -> None:
        """Start a process whenever a run is due, until cancelled. A process that was started has ended by then."""
        while True:
            try:
                if await self._is_due():
                    await self._start()
            except (*SERVER_ERRORS, OSError, NoLog, UnknownBaseline) as error:
                self._log.warning("retention not checked", error=str(error))
            await asyncio.sleep(self._settings.retention_check_s)

    async def _is_due(self) -> bool:
        limits = await read_limits(self._client, self._settings.workspace)
        if not limits:
            return False
        run = RetentionRun(self._client, self._settings, "projector", await server_ms(self._client))
        return bool(await run.due(limits, with_slack=True))

    async def _start(self) -> None:
        settings = self._settings
        names = ["batch_entries", "cache_bytes", "snapshot_entries"]
        variables = {f"KINFOLD_{name.upper()}": str(getattr(settings, name)) for name in names}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "kinfold_services", "retention", "run", "--by-projector"),
            env={
                **inherited_environment(),
                **variables,
                "KINFOLD_REDIS_URL": self._url,
                "KINFOLD_WORKSPACE": settings.workspace,
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the projector alone
        )
        async with running(process):
            output, _ = await process.communicate()
        said = output.decode(errors="replace").strip()
        if process.returncode == 0:
            self._log.info("retention run done", output=said)
        else:
            self._log.error("retention run failed", status=process.returncode, output=said)
