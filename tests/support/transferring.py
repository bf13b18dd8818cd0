"""Compare logs and states byte by byte, and kill programs during an export or import."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

from redis.asyncio import Redis

from kinfold_schemas.keys import PrivateName, PublicName, key
from tests.support.event_log import append
from tests.support.projecting import KINFOLD, clean_environment
from tests.support.waiting import wait_until

_HASHES: Final[tuple[PublicName | PrivateName, ...]] = (
    "contacts",
    "visitors",
    "external-ids",
    "emails",
    "position",
    "settled-rejects",
)
_STREAMS: Final[tuple[PublicName, ...]] = ("changes", "rejects")


def names_in(directory: Path) -> list[str]:
    """The names in a directory."""
    return [path.name for path in directory.iterdir()]


def damage(file: Path, pattern: bytes, replacement: bytes) -> None:
    """Replace the first match in a file; there must be one."""
    damaged, times = re.subn(pattern, replacement, file.read_bytes(), count=1, flags=re.DOTALL)
    assert times == 1
    file.write_bytes(damaged)


async def raw(client: Redis, *command: Any) -> Any:
    """The raw reply of Redis to a command."""
    return await cast("Any", client).execute_command(*command)


async def log(client: Redis, workspace: str) -> list[tuple[bytes, list[bytes]]]:
    """Every entry with its fields as a flat list, because a name may occur twice."""
    script = "return redis.call('XRANGE', KEYS[1], '-', '+')"
    found = await raw(client, "EVAL", script, 1, key(workspace, "events"))
    return [(entry, fields) for entry, fields in found]


async def state(client: Redis, workspace: str) -> dict[str, Any]:
    """Everything that the fold derives from the log."""
    found: dict[str, Any] = {name: await raw(client, "HGETALL", key(workspace, name)) for name in _HASHES}
    for name in _STREAMS:
        found[name] = [fields for _, fields in await raw(client, "XRANGE", key(workspace, name), "-", "+")]
    del found["position"][b"owner"]
    return found


async def start(url: str, *arguments: object) -> asyncio.subprocess.Process:
    """Start `kinfold` without waiting for it."""
    return await asyncio.create_subprocess_exec(
        *KINFOLD,
        *map(str, arguments),
        env=clean_environment(KINFOLD_REDIS_URL=url),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


async def killed_import(client: Redis, url: str, file: Path, instant: int) -> int:
    """Start an import and kill it as soon as the log has `instant` entries; returns how many it has then."""
    process = await start(url, "import", file)

    async def has_come() -> bool:
        return await client.xlen(key("default", "events")) >= instant or process.returncode is not None

    await wait_until(has_come, timeout_s=60)
    if process.returncode is None:
        process.kill()
    await process.communicate()
    return await client.xlen(key("default", "events"))


@asynccontextmanager
async def producing(client: Redis, workspace: str, *, start: int) -> AsyncGenerator[None]:
    """Append events without a pause during the block, from entry `start` on."""
    done = asyncio.Event()

    async def produce() -> None:
        number = start
        while not done.is_set():
            await append(client, workspace, [{"type": "VisitorSeen", "visitorId": f"v-{number}"}], start=number)
            number += 1

    task = asyncio.create_task(produce())
    try:
        yield
    finally:
        done.set()
        await task
