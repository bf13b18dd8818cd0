"""Wait for other processes and tasks without a fixed delay."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn, TypeVar, overload

T = TypeVar("T")

EACH_S: Final = 0.005
WAIT_S: Final = 120.0
"""A test that passes does not wait for it. A machine that does four things at once needs seconds where others need none."""


@overload
async def wait_until(predicate: Callable[[], Awaitable[T]], timeout_s: float = WAIT_S, interval_s: float = EACH_S) -> T: ...


@overload
async def wait_until(predicate: Callable[[], T], timeout_s: float = WAIT_S, interval_s: float = EACH_S) -> T: ...


async def wait_until(predicate: Callable[[], Any], timeout_s: float = WAIT_S, interval_s: float = EACH_S) -> Any:
    """Call `predicate`, sync or async, every `interval_s` until its result is truthy, and return the result.

    Raises:
        AssertionError: the result was not truthy within `timeout_s` seconds; the message shows the last one.

    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = predicate()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            _give_up(predicate, timeout_s, found)
        await asyncio.sleep(interval_s)


def wait_until_sync(predicate: Callable[[], T], timeout_s: float = WAIT_S) -> T:
    """Like `wait_until`, for a sync predicate and without an event loop.

    Raises:
        AssertionError: as `wait_until`.

    """
    deadline = time.monotonic() + timeout_s
    while not (found := predicate()):
        if time.monotonic() > deadline:
            _give_up(predicate, timeout_s, found)
        time.sleep(EACH_S)
    return found


def _give_up(predicate: Callable[[], object], timeout_s: float, found: object) -> NoReturn:
    name = getattr(predicate, "__qualname__", repr(predicate))
    raise AssertionError(f"{name} was not true within {timeout_s} s; its last value: {found!r}")
