"""Run the real projector: as a service in this process, or as `kinfold projector`."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self, cast

from redis.asyncio import Redis

from kinfold_schemas.keys import PublicName, key
from kinfold_services.projector.service import ProjectorService
from kinfold_services.settings import Settings
from tests.support.prefork import start_service
from tests.support.waiting import wait_until

FOLD_S: Final = 120.0
KINFOLD: Final = [sys.executable, "-m", "kinfold_services"]


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without KINFOLD_… settings, plus these variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KINFOLD_")}
    return {**kept, **variables}


def variables(settings: Mapping[str, object]) -> dict[str, str]:
    """The environment with these settings, given by their names in `Settings`."""
    return clean_environment(**{f"KINFOLD_{name.upper()}": str(value) for name, value in settings.items()})


@asynccontextmanager
async def projecting(url: str, *workspaces: str, **options: Any) -> AsyncGenerator[ProjectorService]:
    """Run the service beside the test, for these workspaces or for all. Raises its error as soon as it fails."""
    serve = frozenset(workspaces) if workspaces else None
    service = ProjectorService(Settings(serve=serve, redis_url=url, **options), url)
    try:
        async with asyncio.TaskGroup() as group:  # cancels the test if the service fails
            running = group.create_task(service.run())
            try:
                yield service
            finally:
                service.app.exit()
                await asyncio.wait([running])
    except BaseExceptionGroup as error:
        raise error.exceptions[0] from None


async def fold_log(client: Redis, url: str, workspace: str, **options: Any) -> None:
    """Fold a workspace's log to its end, then stop."""
    last = await newest_entry(client, workspace, "events")
    async with projecting(url, workspace, **options):
        await wait_until_folded(client, workspace, last)


async def newest_entry(client: Redis, workspace: str, name: PublicName) -> bytes:
    """The id of the last entry of a stream."""
    ((entry_id, _),) = cast("list[tuple[bytes, object]]", await client.xrevrange(key(workspace, name), count=1))
    return entry_id


async def wait_until_folded(client: Redis, workspace: str, last: str | bytes, timeout_s: float = FOLD_S) -> None:
    """Wait until the projector has committed the entry `last`."""
    wanted = last.encode() if isinstance(last, str) else last

    async def position() -> bool:
        return await stored_position(client, workspace) == wanted

    await wait_until(position, timeout_s)


async def stored_position(client: Redis, workspace: str) -> bytes | None:
    """The id of the last folded entry."""
    return await cast("Awaitable[bytes | None]", client.hget(key(workspace, "position"), "stream_id"))


class ProjectorProcess:
    """A `kinfold projector` process that can be killed. Without a workspace, it serves those of `serve`, or all."""

    def __init__(self, url: str, workspace: str | None, log: Path, **settings: object) -> None:
        self.log = log
        served = [] if workspace is None else ["--workspace", workspace]
        self.process = start_service(["projector", "--redis-url", url, *served], variables(settings), log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL; does nothing if the process has ended."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """Send SIGTERM and wait; returns the exit status."""
        self.process.terminate()
        return self.process.wait(FOLD_S)
