"""Finishes erasures that are pending: those asked for over HTTP, and those that a crash interrupted (contract section 10).

An erasure folds the whole log. So it runs in a process of its own, and the projector goes on folding meanwhile. Where there are
few processors, the server and the projector go first.
"""

import asyncio
import os
import sys
from contextlib import suppress
from typing import Final

import structlog

from kinfold_services.runtime.processes import running
from kinfold_services.settings import Settings, inherited_environment

_TRY_AGAIN_S: Final = 10.0
_NICER: Final = 10
"""How much higher the niceness of the process is than that of the projector."""


async def finish_erasures(pending: asyncio.Event, settings: Settings, url: str) -> None:
    """Have the erasures of a workspace finished whenever `pending` is set, until it is cancelled."""
    log = structlog.get_logger().bind(workspace=settings.workspace)
    while True:
        await pending.wait()
        if (status := await _erase(settings, url)) != 0:
            log.error("erasure not finished", status=status, retry_in_s=_TRY_AGAIN_S)
            await asyncio.sleep(_TRY_AGAIN_S)
        pending.clear()  # if one is still pending, the lease says so again


async def _erase(settings: Settings, url: str) -> int:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kinfold_services", "erase", "--resume", "--workspace", settings.workspace),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        env={**inherited_environment(), "KINFOLD_REDIS_URL": url, "KINFOLD_DATA_DIR": str(settings.data_dir)},
    )
    async with running(process):  # if it is ended, the next one goes on where it was
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + _NICER)
        return await process.wait()
