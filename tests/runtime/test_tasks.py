"""A cancelled task ends, even if a library drops the first cancellation."""

import asyncio

import pytest

from kinfold_services.runtime.tasks import cancellable, end_tasks


class Stubborn:
    """Drops the first cancellation, as `asyncio.wait_for` does if the awaited task has just ended."""

    def __init__(self) -> None:
        self.dropped = 0

    async def run(self) -> None:
        """Wait for a second cancellation."""
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if self.dropped:
                    raise
                self.dropped += 1


async def test_task_that_drops_a_cancellation_is_cancelled_again() -> None:
    stubborn = Stubborn()
    task = asyncio.create_task(stubborn.run())
    await asyncio.sleep(0)
    await end_tasks([task])
    assert (stubborn.dropped, task.cancelled()) == (1, True)


async def test_one_cancellation_ends_cancellable_work() -> None:
    """Like the first Ctrl-C of `kinfold tail`."""
    stubborn = Stubborn()
    task = asyncio.create_task(cancellable(stubborn.run()))
    while len(asyncio.all_tasks()) < 3:  # this test, the task, and the work that it starts
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 120)
    assert stubborn.dropped == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}, "the work continues"


async def test_cancellable_work_returns_its_result_and_raises_its_error() -> None:
    async def result() -> int:
        return 7

    async def failure() -> int:
        raise ValueError("expected a digit")

    assert await cancellable(result()) == 7
    with pytest.raises(ValueError, match="expected a digit"):
        await cancellable(failure())
