"""Waits for a position that another program moves: the projector's in the log, or the directory's in the feed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from kinfold_schemas.positions import position_key


class Progress:
    """A position that only grows. While anybody waits for it, one poll serves all who wait."""

    def __init__(self, read: Callable[[], Awaitable[str]], interval_s: float) -> None:
        self._read: Final = read
        self._interval_s: Final = interval_s
        self._reached = ""
        self._waiting = 0
        self._watch: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()

    def has_reached(self, target: tuple[int, int]) -> bool:
        """Whether the position was seen at `target` or after it. Sends no command."""
        return position_key(self._reached) >= target

    async def wait_for(self, target: tuple[int, int]) -> None:
        """Wait until the position is `target` or after it. Raises what reading it raises. The caller bounds the time."""
        self._waiting += 1
        try:
            while not self.has_reached(target):
                if self._watch is None or self._watch.done():
                    self._watch = asyncio.create_task(self._poll())
                watch = self._watch
                await self._moved.wait()
                if watch.done() and not watch.cancelled() and (error := watch.exception()) is not None:
                    raise error
        finally:
            self._waiting -= 1

    async def _poll(self) -> None:
        """Poll the position for all waiters. Wakes them when it ends, too, so that one of them starts it again."""
        try:
            while self._waiting:
                reached = await self._read()
                if reached != self._reached:
                    self._reached = reached
                    self._wake()
                await asyncio.sleep(self._interval_s)
        finally:
            self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
