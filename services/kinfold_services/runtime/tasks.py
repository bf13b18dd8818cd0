"""Cancels tasks reliably."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

_CANCEL_AGAIN_S: Final = 1.5
"""Longer than a task takes to clean up: it must not be cancelled in the middle of that."""

T = TypeVar("T")


async def end_tasks(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel tasks until they have ended. Their exceptions are dropped.

    Cancelling once is not enough. redis-py sends each command of a connection with a timeout in `asyncio.wait_for`, which in
    Python 3.11 drops a cancellation that arrives just when the command was sent. A task with a loop would then run forever.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)


async def cancellable(work: Coroutine[Any, Any, T]) -> T:
    """Await work that only reads. A cancellation ends it, even if the work drops the first one (see `end_tasks`)."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task})
    finally:
        await end_tasks([task])
    return task.result()
