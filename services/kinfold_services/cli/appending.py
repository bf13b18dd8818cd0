"""Appends events for `kinfold publish` and `kinfold import-contacts`, and reports how much of them is in the log."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

from kinfold_schemas.positions import position_key
from kinfold_services.cli.hints import warn_if_not_served
from kinfold_services.cli.ndjson import append
from kinfold_services.cli.output import DONE, INTERRUPTED, NO, complain, print_json
from kinfold_services.cli.progress import progress
from kinfold_services.connections import Client
from kinfold_services.state.queries import NotFolded, StateQueries

_LOOK_AGAIN_S: Final = 0.05
_LAST_PAGE_S: Final = 5.0
"""How long Ctrl-C waits for the reply to the events that were sent; a second Ctrl-C ends the wait."""

T = TypeVar("T")


class Appender:
    """Appends events to one log, and knows at any time how many of them are in it."""

    def __init__(self, client: Client, workspace: str) -> None:
        self.position: str | None = None
        """The position of the last event in the log."""
        self.events = 0
        """How many events are in the log."""
        self._sent = 0
        """How many events were sent but not acknowledged."""
        self._client: Final = client
        self._workspace: Final = workspace

    @property
    def unsure(self) -> str:
        """What to say about the events that were sent but not acknowledged; empty if there are none."""
        return f" (and none, some or all of the {self._sent} after it)" if self._sent else ""

    async def append(self, events: Iterable[bytes], acknowledged: Callable[[int], None]) -> None:
        """Append events in order, and call `acknowledged` with the number of events of each round trip.

        Raises RedisError, and CancelledError once the events that were sent are acknowledged.
        """
        pages = append(self._client, self._workspace, self._counted(events))
        while (page := await _whole(anext(pages, None))) is not None:
            count, self.position = page
            self.events += count
            self._sent -= count
            acknowledged(count)
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError

    def _counted(self, events: Iterable[bytes]) -> Iterator[bytes]:
        for event in events:
            self._sent += 1
            yield event


async def report(client: Client, workspace: str, position: str, answer: Mapping[str, object], wait_s: float | None) -> int:
    """Print the answer of a command that appended events up to `position`.

    With `wait_s` it returns when the projector has folded the events. It raises NotFolded when the projector has folded nothing
    for that time, in seconds. Exit status 1 if no projector serves the workspace: then it does not wait.
    """
    print_json(answer)
    is_not_served = await warn_if_not_served(client, workspace)
    if wait_s is None:
        return DONE
    if is_not_served:
        return complain("the events are in the log; --wait does not wait, because no projector serves the workspace", NO)
    try:
        await _until_folded(StateQueries(client, workspace), position, wait_s)
    except asyncio.CancelledError:
        return complain("interrupted while waiting; the events are in the log", INTERRUPTED)
    return DONE


async def _whole(page: Awaitable[T]) -> T:
    """Await a page. After Ctrl-C it still waits, up to _LAST_PAGE_S, for the reply to events that were already sent."""
    task = asyncio.ensure_future(page)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=_LAST_PAGE_S)
        if not task.done():
            task.cancel()
            raise
        return task.result()


async def _until_folded(workspace: StateQueries, position: str, patience_s: float) -> None:
    status = await workspace.status()
    moved_at = time.monotonic()
    with progress("folding the remaining events", status.lag) as advance:
        while position_key(status.position or "") < position_key(position):
            if time.monotonic() - moved_at > patience_s:
                raise NotFolded(f"position {position} was not folded within {patience_s:g} s; is a projector running?")
            await asyncio.sleep(_LOOK_AGAIN_S)
            before, status = status, await workspace.status()
            if status.position != before.position:
                moved_at = time.monotonic()
            advance(max(0, before.lag - status.lag))  # the lag grows when others append
