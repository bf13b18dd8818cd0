"""Tasks that are told to end do end, whatever they are in the middle of."""

import asyncio

from kinfold_services.tasks import end_tasks


async def test_a_task_that_drops_a_cancellation_is_cancelled_again() -> None:
    """As `asyncio.wait_for` does it in the moment in which what it waits for is done."""
    dropped = 0

    async def stubborn() -> None:
        nonlocal dropped
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if dropped:
                    raise
                dropped += 1

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await end_tasks([task])
    assert (dropped, task.cancelled()) == (1, True)
