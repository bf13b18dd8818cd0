"""How a workspace was in the last ten minutes: samples in memory, taken while people are signed in to the screen."""

import asyncio
import time
from collections import deque
from contextvars import Context
from typing import Any, Final, NamedTuple, cast

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.gateway.changes.hub import FeedHub
from kinfold_services.gateway.failures import report_failure
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.state.queries import StateQueries
from kinfold_services.state.status import Status

EVERY_S: Final = 5.0
WINDOW_S: Final = 600.0
SAMPLES: Final = int(WINDOW_S / EVERY_S) + 1

_IDLE_S: Final = 900.0
"""Samples are taken until nobody has used the screen for so long."""


class Sample(NamedTuple):
    """One moment. Counts only grow, except when a replay replaces the state."""

    at_s: float
    lag: int
    """How many entries wait to be folded."""
    behind_s: float
    """For how long the oldest of them has waited."""
    entries: int
    """How many entries were folded, with all outcomes."""
    rejected: int
    readers: int
    """Who follows the feed at this gateway."""
    directory_s: float | None
    """How far the directory is behind; None without a directory."""
    contacts: int
    visitors: int


class Vitals:
    """The samples of one workspace in this process. There are at most `SAMPLES`."""

    def __init__(self, client: Client, workspace: str, queries: StateQueries, hub: FeedHub) -> None:
        self._client: Final = client
        self._workspace: Final = workspace
        self._queries: Final = queries
        self._hub: Final = hub
        self._samples: Final[deque[Sample]] = deque(maxlen=SAMPLES)
        self._used_at = 0.0
        self._sampler: asyncio.Task[None] | None = None

    def touch(self) -> None:
        """Take samples from now on, since somebody uses the screen."""
        self._used_at = time.monotonic()
        if self._sampler is None or self._sampler.done():
            self._sampler = asyncio.create_task(self._sample(), name=f"vitals of {self._workspace}", context=Context())

    @property
    def samples(self) -> list[Sample]:
        """The samples of the last ten minutes, oldest first."""
        begin = time.time() - WINDOW_S
        return [each for each in self._samples if each.at_s >= begin]

    async def now(self) -> tuple[Status, Sample]:
        """The status and a sample of this moment. Raises RedisError."""
        status = await self._queries.status()
        behind_s = 0.0
        if status.lag:
            log, after = key(self._workspace, "events"), f"({status.position}" if status.position else "-"
            waiting = cast("list[tuple[bytes, Any]]", await self._client.xrange(log, min=after, count=1))
            if waiting:
                behind_s = max(0.0, time.time() - position_key(waiting[0][0].decode())[0] / 1000)
        sample = Sample(
            time.time(),
            status.lag,
            behind_s,
            status.folded + status.no_op + status.stale + status.duplicate + status.rejected,
            status.rejected,
            self._hub.followers,
            None if status.directory is None else status.directory.lag_ms / 1000,
            status.contacts,
            status.visitors,
        )
        return status, sample

    async def stop(self) -> None:
        """Stop taking samples."""
        if self._sampler is not None:
            await end_tasks([self._sampler])

    async def _sample(self) -> None:
        while time.monotonic() - self._used_at < _IDLE_S:
            try:
                self._samples.append((await self.now())[1])
            except Exception as error:  # noqa: BLE001  nobody would see it
                report_failure("workspace cannot be sampled", error, workspace=self._workspace)
            await asyncio.sleep(EVERY_S)
        self._samples.clear()
