"""Answers that fold the whole log, one at a time in this process: explanations, and people as they were."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from kinfold_services.connections import Client, connect
from kinfold_services.gateway.problems import unavailable
from kinfold_services.gateway.workspaces import ANSWER_S
from kinfold_services.server.choice import server_url
from kinfold_services.settings import Settings

T = TypeVar("T")

FOLD_S: Final = 30.0
_folding: Final = asyncio.Semaphore(1)


async def fold_log(settings: Settings, work: Callable[[Client, Settings], Awaitable[T]]) -> T:
    """Do work that folds the log, in a thread with an event loop and a connection of its own.

    The settings that `work` gets keep no snapshots, since the gateway does not write to history.

    Raises Problem (503) if other such work is being done, or this takes longer than 30 s.
    """
    if _folding.locked():
        raise unavailable("Somebody else is asking the history right now, which folds the whole log. Try again in a moment.")
    async with _folding:
        try:
            return await asyncio.to_thread(_run, settings.model_copy(update={"snapshot_entries": 0}), work)
        except TimeoutError:
            detail = f"The log is too long to fold here within {FOLD_S:g} s."
            raise unavailable(f"{detail} `kinfold show --at`, `kinfold explain` and `kinfold erase` have no limit.") from None


def _run(settings: Settings, work: Callable[[Client, Settings], Awaitable[T]]) -> T:
    async def run() -> T:
        async with asyncio.timeout(FOLD_S), connect(server_url(settings), ANSWER_S) as client:
            return await work(client, settings)

    return asyncio.run(run())
