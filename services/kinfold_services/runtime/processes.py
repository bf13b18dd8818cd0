"""Ends child processes reliably."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

_STOP_S: Final = 5.0


@asynccontextmanager
async def running(process: asyncio.subprocess.Process) -> AsyncGenerator[None]:
    """Make sure that a process has ended after the block.

    A process that still runs is terminated. It is killed if it does not end within 5 s, or if this task is cancelled meanwhile
    (`end_tasks` does that): nothing would end it later.
    """
    try:
        yield
    finally:
        if process.returncode is None:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):  # it may have ended just now
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
    await process.wait()
