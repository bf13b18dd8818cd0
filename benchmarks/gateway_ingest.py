"""Compare HTTP ingest with redis-py: the same events in batches of 100, each sent after the reply to the last.

    python benchmarks/gateway_ingest.py [BATCHES]

Three cases take turns for five rounds: `redis` is a redis-py pipeline of XADDs without checks; `judged` is the same after
checking each event like the gateway; `http` is the gateway, in its own process, over a persistent connection. Then `redis` and
`http` run with eight batches at once, where the round trips overlap. Each ratio is relative to `redis` with the same
concurrency in the same round.
"""

import asyncio
import json
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import httpx
import msgspec
import uvloop
from harness.results import Figure, environment, figure, ratio, show, write
from redis.asyncio import Redis

from kinfold_schemas.codec import decode_event
from kinfold_schemas.events import VisitorIdentified
from kinfold_schemas.identifiers import CONTRACT_RULES
from kinfold_schemas.keys import key
from kinfold_schemas.names import Names, named_by
from kinfold_services.access.keys import create_key
from kinfold_services.connections import check_server
from kinfold_services.server.embedded import EmbeddedServer

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.gateways import GatewayProcess  # noqa: E402  the repository's root comes first

BATCH: Final = 100
ROUNDS: Final = 5
CONNECTIONS: Final = 8

Send = Callable[[list[bytes]], Awaitable[None]]


def make_batches(count: int) -> list[list[bytes]]:
    """Events as a backend sends them, about 200 bytes each."""
    return [
        [
            json.dumps(
                {
                    "type": "VisitorIdentified",
                    "id": f"{batch}-{number}",
                    "visitorId": f"v-{number}",
                    "externalId": f"u-{number}",
                    "email": f"{number}@example.org",
                    "metadata": {"plan": "pro", "turn": batch},
                }
            ).encode()
            for number in range(BATCH)
        ]
        for batch in range(count)
    ]


async def seconds(batches: list[list[bytes]], send: Send, at_once: int = 1) -> float:
    """Send all batches, `at_once` at a time."""
    waiting = iter(batches)

    async def work() -> None:
        for batch in waiting:
            await send(batch)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return time.perf_counter() - started


async def main(count: int) -> None:
    """Print a table and write `benchmarks/results/gateway_ingest.json`."""
    batches = make_batches(count)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as directory, EmbeddedServer.start(Path(directory) / "data") as server:
        settings = {"gateway_requests_per_s": 1_000_000, "log_level": "warning"}
        with GatewayProcess(server.url, port, Path(directory) / "log", **settings) as gateway:
            async with Redis.from_url(server.url) as redis:
                headers = {"Authorization": f"Bearer {await create_key(redis, 'default', 'secret')}"}
                async with httpx.AsyncClient(base_url=gateway.url, headers=headers) as client:
                    figures = await measure(batches, redis, client)
                where = environment(await check_server(redis))
    rows = [(each.name, each.events_per_s, *each.ratios.values()) for each in figures]
    show("into the log, in batches of 100", ("", "events/s", "× redis"), rows)
    write("gateway_ingest", {"environment": where, "figures": msgspec.to_builtins(figures)})


async def measure(batches: list[list[bytes]], redis: Redis, client: httpx.AsyncClient) -> list[Figure]:
    """The figures of each case, relative to redis-py with the same concurrency."""
    log = key("default", "events")

    async def direct(batch: list[bytes]) -> None:
        pipeline = redis.pipeline(transaction=False)
        for data in batch:
            pipeline.xadd(log, {"event": data})
        await pipeline.execute()

    async def judged(batch: list[bytes]) -> None:
        for data in batch:
            event = decode_event(data)
            assert isinstance(event, VisitorIdentified)
            assert isinstance(named_by(event, CONTRACT_RULES), Names)
        await direct(batch)

    async def http(batch: list[bytes]) -> None:
        answer = await client.post("/v1/events", content=b"\n".join(batch))
        assert answer.is_success, answer.text

    ways: dict[str, tuple[Send, int]] = {
        "redis": (direct, 1),
        "judged": (judged, 1),
        "http": (http, 1),
        f"redis, {CONNECTIONS} at once": (direct, CONNECTIONS),
        f"http, {CONNECTIONS} at once": (http, CONNECTIONS),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (send, at_once) in ways.items():
            await redis.delete(log)
            took[name].append(await seconds(batches, send, at_once))
    figures = {name: figure(name, len(batches) * BATCH, each) for name, each in took.items()}
    for name, each in figures.items():
        beside = figures[name.replace("judged", "redis").replace("http", "redis")]
        each.ratios["redis"] = ratio(each, beside)
    return list(figures.values())


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
