"""Child processes end with what started them (`services.runtime.processes`)."""

import asyncio
import sys
from typing import Final

from kinfold_services.runtime.processes import running
from kinfold_services.runtime.tasks import end_tasks

SLEEP: Final = "import signal, time; print('ready', flush=True); time.sleep(20)"
STUBBORN: Final = SLEEP.replace("print", "signal.signal(signal.SIGTERM, signal.SIG_IGN); print")


async def started(program: str) -> asyncio.subprocess.Process:
    """A Python process that has written its first line."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


async def waiting_for(process: asyncio.subprocess.Process) -> "asyncio.Task[None]":
    """A task that waits for the process."""

    async def wait() -> None:
        async with running(process):
            is_inside.set()
            await process.wait()

    is_inside = asyncio.Event()
    task = asyncio.create_task(wait())
    await is_inside.wait()
    return task


async def test_process_that_ends_by_itself_is_left_alone() -> None:
    process = await started("print('ready', flush=True); raise SystemExit(3)")
    await (await waiting_for(process))

    assert process.returncode == 3


async def test_cancelled_task_ends_its_process() -> None:
    process = await started(SLEEP)
    task = await waiting_for(process)
    await end_tasks([task])

    assert process.returncode == -15


async def test_process_that_ignores_a_termination_is_killed_if_its_task_is_cancelled_again() -> None:
    """`end_tasks` cancels a task again if it takes long to clean up."""
    process = await started(STUBBORN)
    task = await waiting_for(process)
    await end_tasks([task])

    assert await process.wait() == -9
