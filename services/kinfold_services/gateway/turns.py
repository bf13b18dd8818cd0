"""Parses large bodies one at a time.

Without turns, a burst of 60 bodies of 64 KiB, all within the limits, is parsed at once: 0.6 s in which nobody gets an answer.
"""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

SMALL: Final = 8 * 1024
"""A body of at most this many bytes is parsed at once."""

T = TypeVar("T")


class Turns:
    """The order in which the large bodies of a gateway are parsed."""

    def __init__(self) -> None:
        self._turn: Final = asyncio.Lock()

    async def parse(self, body: bytes, parse: Callable[[bytes], T]) -> T:
        """What `parse` makes of a body. Before each large one, everything else that is ready runs."""
        if len(body) <= SMALL:
            return parse(body)
        async with self._turn:
            await asyncio.sleep(0)
            return parse(body)
