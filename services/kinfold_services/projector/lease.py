"""The lease of a workspace: a Redis key that expires unless the projector that owns it renews it (contract section 8).

Only the server's clock decides when a lease ends. An owner never asks its own clock whether it is still the owner. A projector
that takes a workspace writes its token into the position in the same step, and every commit is conditional on the position. So
a projector that was stopped for a minute commits nothing when it wakes up.

The task that folds also renews the lease: with each commit, and with a beat between batches. So a projector that hangs in the
middle of a batch loses its lease even though its process is alive.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Final

import kinfold_services.projector
from kinfold_schemas.keys import key
from kinfold_services.connections import SERVER_ERRORS, Client, is_passing
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.state.position import LostPlace

LEASE_MS: Final = 3000
"""How long a projector owns a workspace without renewing. A standby then needs some time to open it, and folds within 5 s."""
KEEP_S: Final = 1.0
"""How often an owner renews its lease, and how often a standby checks whether a lease was released."""
_RELEASE_S: Final = 1.0

_LEASE: Final = files(kinfold_services.projector).joinpath("lease.lua").read_text()


class Lease:
    """One projector's claim to one workspace, from taking it until it is lost or released."""

    def __init__(self, client: Client, workspace: str, erasure_pending: asyncio.Event) -> None:
        """`erasure_pending` is set where an erasure is pending and no process is at it.

        Renewing the lease finds out, so nothing else has to ask.
        """
        self.token: Final = uuid.uuid4().hex
        self._erasure_pending: Final = erasure_pending
        self._workspace: Final = workspace
        self._keys: Final = [key(workspace, name) for name in ("owner", "position", "erasures-pending", "erasing")]
        self._script: Final = client.register_script(_LEASE)
        self._keep_at = 0.0

    async def take(self) -> float:
        """Take the workspace if it is free. Returns 0, or after how many seconds it may be free.

        Raises RedisError if the server does not answer or refuses.
        """
        return min(max(0, await self._ask(LEASE_MS)) / 1000, KEEP_S)

    async def keep(self) -> None:
        """Renew the lease if that is due. Raises LostPlace if another projector has taken the workspace over.

        Does nothing if the server is temporarily unable: either it recovers before the lease ends, or the next commit fails.
        """
        now = time.monotonic()
        if now < self._keep_at:
            return
        self._keep_at = now + KEEP_S
        try:
            owned_ms = await self._ask(LEASE_MS)
        except SERVER_ERRORS as error:
            if not is_passing(error):
                raise
            return
        if owned_ms < 0:
            self._erasure_pending.set()
        if owned_ms > 0:
            raise LostPlace(f"workspace {self._workspace}: another projector owns the workspace")

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None]:
        """Renew the lease during the block, for work other than folding.

        Stops when the lease is lost: such work guards its own writes.
        """
        keeping = asyncio.create_task(self._keep_on())
        try:
            yield
        finally:
            await end_tasks([keeping])

    async def release(self) -> None:
        """Let the next projector take over at once. If the server does not answer, the lease expires."""
        with suppress(*SERVER_ERRORS):
            await asyncio.wait_for(self._ask(0), _RELEASE_S)

    async def _keep_on(self) -> None:
        with suppress(LostPlace):
            while True:
                await self.keep()
                await asyncio.sleep(KEEP_S)

    async def _ask(self, lease_ms: int) -> int:
        return int(await self._script(keys=self._keys, args=[self.token, lease_ms]))
