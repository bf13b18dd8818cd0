"""Ending tasks reliably."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

_CANCEL_AGAIN_S: Final = 1.5
"""Longer than what a task does when it ends: it must not be cancelled in the middle of that."""

T = TypeVar("T")


async def end_tasks(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancels tasks until they have ended; what they raise is dropped.

    Once is not enough. Python 3.11's `asyncio.wait_for`, in which redis-py sends each command of a connection with a timeout,
    drops a cancellation that comes in the moment in which the command was sent. A task with a loop would then go on for ever.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)


async def cancellable(work: Coroutine[Any, Any, T]) -> T:
    """Awaits work that only reads, so that a cancellation ends it although the work may drop one (see `end_tasks`)."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task})
    finally:
        await end_tasks([task])
    return task.result()
