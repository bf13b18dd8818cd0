"""Finishes erasures that are pending: those asked for over HTTP, and those that a crash interrupted (contract section 10).

An erasure folds the whole log. So it runs in a process of its own, and the projector goes on folding meanwhile.
"""

import asyncio
import sys
from typing import Any, Final

import structlog

from kinfold_schemas.keys import key
from kinfold_services.connections import SERVER_ERRORS, Client
from kinfold_services.settings import Settings, inherited_environment

_LOOK_S: Final = 1.0
_TRY_AGAIN_S: Final = 10.0


async def finish_erasures(client: Client, settings: Settings, url: str) -> None:
    """Looks for pending erasures of a workspace, and has them finished, until it is cancelled."""
    log = structlog.get_logger().bind(workspace=settings.workspace)
    while True:
        await asyncio.sleep(_LOOK_S)
        try:
            is_pending = await _is_pending(client, settings.workspace)
        except (*SERVER_ERRORS, OSError) as error:
            log.debug("pending erasures not read", error=str(error))
            continue
        if is_pending and (status := await _erase(settings, url)) != 0:
            log.error("erasure not finished", status=status, retry_in_s=_TRY_AGAIN_S)
            await asyncio.sleep(_TRY_AGAIN_S)


async def _is_pending(client: Client, workspace: str) -> bool:
    """Whether an erasure is pending, and no process is at it."""
    pipeline: Any = client.pipeline(transaction=False)
    pipeline.exists(key(workspace, "erasures-pending"))
    pipeline.exists(key(workspace, "erasing"))
    pending, at_it = await pipeline.execute()
    return bool(pending and not at_it)


async def _erase(settings: Settings, url: str) -> int:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kinfold_services.cli", "erase", "--resume", "--workspace", settings.workspace),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        env={**inherited_environment(), "KINFOLD_REDIS_URL": url, "KINFOLD_DATA_DIR": str(settings.data_dir)},
    )
    try:
        return await process.wait()
    except asyncio.CancelledError:
        process.kill()  # the next one goes on where it was
        await process.wait()
        raise
