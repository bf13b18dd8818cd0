"""Load on the feed: server, projector and gateway as processes, many readers, and changes at a fixed rate."""

import asyncio
import json
import resource
import sys
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.access.keys import create_key
from kinfold_services.server.embedded import EmbeddedServer
from tests.support.engines import free_port
from tests.support.gateways import GatewayProcess, stream_of
from tests.support.projecting import ProjectorProcess

_TICK_S = 0.05


async def run_feed_load(directory: Path, readers: int, changes: int, per_s: int, **settings: Any) -> dict[str, Any]:
    """Return the readers' results, the gateway's peak memory (`rss_mib`) and the ids on the feed (`feed`)."""
    allow_files(readers + 1000)
    port = free_port()
    settings |= {"gateway_requests_per_s": 100_000, "gateway_connections_per_address": readers + 100}
    with (
        EmbeddedServer.start(directory / "data") as server,
        ProjectorProcess(server.url, "default", directory / "projector.log"),
        GatewayProcess(server.url, port, directory / "gateway.log", **settings) as gateway,
    ):
        async with Redis.from_url(server.url) as redis:
            secret = await create_key(redis, "default", "secret")
            command = [
                sys.executable,
                "-m",
                "tests.support.many_readers",
                "127.0.0.1",
                str(port),
                secret,
                str(readers),
                str(changes),
            ]
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            assert process.stdout is not None
            try:
                assert json.loads(await process.stdout.readline()) == {"ready": readers}
                await _append(redis, changes, per_s)
                result: dict[str, Any] = json.loads(await process.stdout.readline())
            finally:
                if process.returncode is None:
                    process.terminate()
                await process.wait()
            feed = [entry for entry, _ in await stream_of(redis, "default", "changes")]
        return {**result, "feed": feed, "rss_mib": _peak_mib(Path(f"/proc/{gateway.process.pid}/status"))}


def _peak_mib(status: Path) -> float | None:
    """Peak memory of a process in MiB, or None if the system does not report it."""
    try:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    except OSError:
        return None
    return int(lines["VmHWM"].split()[0]) / 1024


async def _append(redis: Redis, changes: int, per_s: int) -> None:
    """Append events at a fixed rate. Each one makes a change. This sleeps, because it has to keep the rate."""
    loop = asyncio.get_running_loop()
    started, sent = loop.time(), 0
    while sent < changes:
        due = min(changes, int((loop.time() - started) * per_s) + 1)
        pipeline = redis.pipeline(transaction=False)
        for number in range(sent, due):
            event = {"type": "VisitorIdentified", "externalId": f"u-{number % 500}", "name": f"name {number}"}
            pipeline.xadd(key("default", "events"), {"event": json.dumps(event)})
        await pipeline.execute()
        sent = due
        await asyncio.sleep(_TICK_S)


def allow_files(wanted: int) -> None:
    """Raise the limit of open files for this process and its children, up to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard > 0 else wanted, hard))
