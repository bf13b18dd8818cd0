"""States that a projector does not need any more, freed in steps while folding goes on."""

import asyncio
from typing import Final

from kinfold_projections.state import State

_PAUSE_S: Final = 0.002


class DiscardedStates:
    """Call `free` as a task, and `add` the states."""

    def __init__(self) -> None:
        self._states: Final[asyncio.Queue[State]] = asyncio.Queue()

    def add(self, state: State) -> None:
        """Take a state that nobody else uses."""
        self._states.put_nowait(state)

    async def free(self) -> None:
        """Free each state, some records at a time, until cancelled."""
        while True:
            for _ in (await self._states.get()).dismantle():
                await asyncio.sleep(_PAUSE_S)
