"""One workspace's life in a projector: stand by until it is ours, fold it, and stand by again when it is lost.

A failure of one workspace does not affect the others. If another projector owns the workspace, this one waits. If the server
cannot do something now, this one tries again. If the state needs a rebuild, it gets one. After any other failure the workspace
is not served: the log, the status and the metrics say why. The projector tries again after a while, and as soon as the state is
replaced.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Final, cast

import structlog
from faststream.redis import RedisBroker

from kinfold_schemas.identifiers import BadPattern
from kinfold_schemas.keys import key
from kinfold_services.connections import SERVER_ERRORS, Client, drop_idle_connections, is_passing
from kinfold_services.projector.commit import CommitFailed
from kinfold_services.projector.integrity import NeedsRebuild, WrongType, check_types
from kinfold_services.projector.lease import Lease
from kinfold_services.projector.pending_erasures import finish_erasures
from kinfold_services.projector.reading import subscribe
from kinfold_services.projector.rebuilding import rebuild_state
from kinfold_services.projector.workspace import WorkspaceProjector
from kinfold_services.retention.job import RetentionJob
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.settings import Settings
from kinfold_services.state.position import LostPlace, Replaced
from kinfold_services.state.reader import StateReader

_PAGE_ENTRIES: Final = 1000
"""How many entries to read at once. A page is cut into the batches that are folded."""
_RETRY_S: Final = 0.25
_LOOK_AGAIN_S: Final = 0.5
"""How often to check whether the state of an unserved workspace was replaced."""
TRY_AGAIN_S: Final = 10.0
"""How long to wait before trying again what failed: an unserved workspace, or work beside the fold. Its cause may be gone."""


class Serving:
    """Serves one workspace until it is cancelled."""

    def __init__(  # noqa: PLR0913, PLR0917  the others are shared by all workspaces
        self,
        settings: Settings,
        url: str,
        client: Client,
        broker: RedisBroker,
        open_ones: MutableMapping[str, WorkspaceProjector],
        opening: asyncio.Semaphore,
    ) -> None:
        """`settings` are the workspace's. `open_ones` holds the workspace while we own and fold it.

        `opening` limits how many workspaces are opened at once. If a thousand shared the time, each would take longer than the
        server may take to answer, and longer than its lease lasts.
        """
        self._workspace: Final = settings.workspace
        self._settings: Final = settings
        self._url: Final = url
        self._client: Final = client
        self._broker: Final = broker
        self._open_ones: Final = open_ones
        self._opening: Final = opening
        self._reader: Final = StateReader(client, settings.workspace)
        self._rebuilt = ""
        """The generation of the state that we rebuilt, until it is opened."""
        self._said = ""
        self._erasure_pending: Final = asyncio.Event()
        self._log: Final = structlog.get_logger().bind(workspace=settings.workspace)

    async def run(self) -> None:
        """Serve until cancelled. Never raises an error that concerns only the workspace."""
        # A turn may end while an erasure runs. The erasure goes on all the same.
        erasures = partial(finish_erasures, self._erasure_pending, self._settings, self._url)
        erasing = asyncio.create_task(self._beside("erasures", erasures))
        try:
            while True:
                try:
                    await self._try_turn(Lease(self._client, self._workspace, self._erasure_pending))
                except Exception as error:  # noqa: BLE001  an error while another one was handled
                    self._log.error("workspace not served", error=str(error), exc_info=error)
                    await asyncio.sleep(_LOOK_AGAIN_S)
        finally:
            await end_tasks([erasing])

    async def _try_turn(self, lease: Lease) -> None:
        try:
            await self._take_turn(lease)
        except LostPlace as error:
            self._log.warning("workspace lost", error=str(error))
        except Replaced as error:
            self._log.warning("state replaced meanwhile", error=str(error))
        except SERVER_ERRORS as error:  # FastStream's start can time out, too
            if is_passing(error):
                self._log.warning("workspace not open yet", error=str(error), retry_in_s=_RETRY_S, seldom=True)
                await drop_idle_connections(self._client)
                await asyncio.sleep(_RETRY_S)
            else:
                await self._wait_for_mending(lease, error)
        except Exception as error:  # noqa: BLE001  of one workspace: the others must go on
            await self._wait_for_mending(lease, error)
        finally:
            await lease.release()

    def fail(self, error: BaseException) -> None:
        """Stop the workspace, because a page of its log was lost on the way to it."""
        if (projector := self._open_ones.get(self._workspace)) is not None:
            projector.fail(error)

    async def _take_turn(self, lease: Lease) -> None:
        """Wait for the workspace, open it and fold it, until it is lost or needs something."""
        projector = WorkspaceProjector(self._client, self._settings, lease)
        async with self._opening:
            await check_types(self._client, self._workspace)  # before the lease writes anything
        try:
            while True:
                async with self._opening:
                    if not (owned_s := await lease.take()):
                        await projector.open()
                        await self._tell_mended()
                        break
                await asyncio.sleep(owned_s)
            await self._fold(projector)
        except NeedsRebuild as error:
            await self._rebuild(lease, error)

    async def _fold(self, projector: WorkspaceProjector) -> None:
        self._open_ones[self._workspace] = projector
        retention = RetentionJob(self._client, self._settings, self._url)
        retaining = asyncio.create_task(self._beside("retention", retention.run))
        try:
            while True:
                await self._follow_log(projector)
                await projector.open()
        except (CommitFailed, WrongType) as error:  # repairing the key by hand does not repair the state
            damage = str(error)
            await self._quietly(lambda: self._client.hset(key(self._workspace, "position"), "damaged", damage))
            raise
        finally:
            del self._open_ones[self._workspace]
            await end_tasks([retaining])

    async def _follow_log(self, projector: WorkspaceProjector) -> None:
        """Read the log from the projector's position, and fold it, until another state replaces the stored one.

        What was read until then, and not committed, may be of the log before an erasure.
        """
        subscriber = subscribe(
            self._broker,
            self._workspace,
            after=projector.position.stream_id,
            page_entries=max(_PAGE_ENTRIES, self._settings.batch_entries),
            handle=projector.receive,
        )
        try:
            await subscriber.start()
            await projector.run()
        except Replaced as error:
            self._log.info("state replaced", reason=str(error))
        finally:
            projector.close()  # otherwise FastStream waits for a handler that waits for us
            await subscriber.stop()

    async def _beside(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run what never ends beside the fold, and again where it fails: it must not end unnoticed."""
        while True:
            try:
                await run()
            except Exception as error:  # noqa: BLE001  the fold must go on
                self._log.error("work beside the fold failed", what=what, error=str(error), exc_info=error)
            await asyncio.sleep(TRY_AGAIN_S)

    async def _rebuild(self, lease: Lease, reason: NeedsRebuild) -> None:
        if self._rebuilt and (await self._reader.position()).generation == self._rebuilt:
            raise reason  # the rebuild did not help, so another one would not either
        self._log.error("state is rebuilt from the log", reason=str(reason))
        started = time.monotonic()
        async with lease.kept():
            changes = await rebuild_state(self._url, self._settings)
        self._rebuilt = (await self._reader.position()).generation
        took_s = round(time.monotonic() - started, 2)
        self._log.error("state was rebuilt from the log", changes=len(changes), took_s=took_s)
        watched = key(self._workspace, "projector")
        await self._client.hset(watched, "rebuild_reason", str(reason))
        await self._client.hincrby(watched, "rebuilds", 1)

    # --- not being served

    async def _wait_for_mending(self, lease: Lease, error: Exception) -> None:
        """Report that the workspace is not served, and wait until another try makes sense."""
        is_new = str(error) != self._said
        self._said = str(error)
        if is_new:
            known = isinstance(error, (BadPattern, CommitFailed, NeedsRebuild, WrongType))
            self._log.error("workspace not served", error=str(error), exc_info=None if known else error)
        await self._quietly(lambda: self._client.hset(key(self._workspace, "projector"), "damage", str(error)))
        await lease.release()  # another projector may be able to serve it
        if isinstance(error, BadPattern):
            await asyncio.sleep(_LOOK_AGAIN_S)
            return
        before = await self._generation()
        deadline = time.monotonic() + TRY_AGAIN_S
        while time.monotonic() < deadline and await self._generation() == before:
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _tell_mended(self) -> None:
        if self._said:
            self._log.info("workspace served again")
            self._said = ""
        await self._client.hdel(key(self._workspace, "projector"), "damage")

    async def _generation(self) -> str | None:
        """The generation of the stored state; None if the server does not answer. The rest of the position may be damaged."""
        generation: str | None = None

        async def look() -> None:
            nonlocal generation
            stored = await cast("Awaitable[bytes | None]", self._client.hget(key(self._workspace, "position"), "generation"))
            generation = (stored or b"").decode(errors="replace")

        await self._quietly(look)
        return generation

    async def _quietly(self, attempt: Callable[[], Awaitable[object]]) -> None:
        try:
            await attempt()
        except SERVER_ERRORS as error:
            self._log.debug("server did not answer", error=str(error))
