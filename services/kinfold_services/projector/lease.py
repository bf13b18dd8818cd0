"""Which projector owns a workspace: a key of Redis that expires, unless its owner renews it (contract section 8).

The server's clock alone decides when a lease ends. An owner does not ask its own clock whether it still is one: who takes a
workspace writes its token into the position, in the same step, and every commit is conditional on the position. So a projector
that was stopped for a minute commits nothing when it wakes up.

The task that folds also renews, by each commit and by a beat between two batches. A projector that hangs with entries in hand
therefore loses its lease, though its process is alive.
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
"""How long a workspace is owned without a sign of life. With the time to open it, a standby folds within 5 s."""
KEEP_S: Final = 1.0
"""How often an owner renews its lease, and a standby looks whether a lease was released."""
_RELEASE_S: Final = 1.0

_LEASE: Final = files(kinfold_services.projector).joinpath("lease.lua").read_text()


class Lease:
    """One projector's claim to one workspace, from taking it until it is lost or released."""

    def __init__(self, client: Client, workspace: str) -> None:
        self.token: Final = uuid.uuid4().hex
        self._workspace: Final = workspace
        self._keys: Final = [key(workspace, "owner"), key(workspace, "position")]
        self._script: Final = client.register_script(_LEASE)
        self._keep_at = 0.0

    async def take(self) -> None:
        """Waits until the workspace is ours. Raises RedisError where the server does not answer or refuses."""
        while (owned_ms := await self._ask(LEASE_MS)) > 0:
            await asyncio.sleep(min(owned_ms / 1000, KEEP_S))

    async def keep(self) -> None:
        """Renews it, where that is due. Raises LostPlace where another projector has taken the workspace over.

        Does nothing where the server cannot do it now: either it can before the lease ends, or the next commit will tell.
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
        if owned_ms > 0:
            raise LostPlace(f"workspace {self._workspace}: another projector owns the workspace")

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None]:
        """Renews it meanwhile, for work that is no batch. Stops where it is lost: what such work writes has its own guard."""
        keeping = asyncio.create_task(self._keep_on())
        try:
            yield
        finally:
            await end_tasks([keeping])

    async def release(self) -> None:
        """Lets the next projector take over at once. Where the server does not answer, the lease ends by itself."""
        with suppress(*SERVER_ERRORS, OSError):
            await asyncio.wait_for(self._ask(0), _RELEASE_S)

    async def _keep_on(self) -> None:
        with suppress(LostPlace):
            while True:
                await self.keep()
                await asyncio.sleep(KEEP_S)

    async def _ask(self, lease_ms: int) -> int:
        return int(await self._script(keys=self._keys, args=[self.token, lease_ms]))
