"""Redis is stopped and restarted under load: every acknowledged event survives (`appendfsync always`)."""

import asyncio
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.server.embedded import EmbeddedServer
from tests.support.gateways import Gateway, serving
from tests.support.projecting import projecting
from tests.support.sse import following
from tests.support.waiting import wait_until

WRITERS = 8
OUTAGES = 3


class Writer:
    """Posts events with ids, and remembers which were acknowledged."""

    def __init__(self, gateway: Gateway, name: int) -> None:
        self.acknowledged: list[str] = []
        self.statuses: set[int] = set()
        self._gateway = gateway
        self._name = name
        self.enough = asyncio.Event()

    async def write(self) -> None:
        """Post events until `enough` is set. Events that were not acknowledged are posted again, unchanged."""
        turn = 0
        async with self._gateway.client_of(self._gateway.secret) as client:
            while not self.enough.is_set():
                ids = [f"w{self._name}-{turn}-{each}" for each in range(5)]
                events: list[dict[str, Any]] = [{"type": "VisitorIdentified", "id": each, "externalId": each} for each in ids]
                while True:
                    answer = await client.post("/v1/events", json=events)
                    self.statuses.add(answer.status_code)
                    if answer.status_code == 202:
                        break
                    assert answer.headers["Retry-After"] == "1"
                    await asyncio.sleep(0.02)
                self.acknowledged += ids
                turn += 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_no_acknowledged_event_is_lost(tmp_path: Path, how: str):
    """During the outage the gateway answers 503, then it recovers by itself. An open stream gets every change once."""
    server = EmbeddedServer.start(tmp_path, fsync="always")
    redis = Redis.from_url(server.url)
    writers = list[Writer]()
    seen = list[str]()
    async with redis, projecting(server.url), serving(server.url, redis) as gateway, following(gateway.client) as stream:
        writers = [Writer(gateway, each) for each in range(WRITERS)]
        writing = [asyncio.create_task(writer.write()) for writer in writers]
        watching = asyncio.create_task(watch(stream, seen))
        for _ in range(OUTAGES):
            before = acknowledged_by(writers)
            await wait_until(partial(have_more_than, writers, before + 200))
            for writer in writers:
                writer.statuses.clear()
            await end(server, redis, how)
            await wait_until(lambda: all(503 in writer.statuses for writer in writers))
            server = EmbeddedServer.start(tmp_path, fsync="always")
        for writer in writers:
            writer.enough.set()
        await asyncio.gather(*writing)

        acknowledged = [each for writer in writers for each in writer.acknowledged]
        last = (await gateway.entries("events"))[-1][0]
        await wait_until(lambda: set(seen) >= set(acknowledged))
        contacts: Any = await redis.hkeys(key("default", "external-ids"))
        assert (await gateway.client.get("/v1/contacts", params={"after": last})).status_code == 200
        assert {each.decode() for each in contacts} == set(acknowledged)
        assert len(seen) == len(set(seen)) == len(acknowledged)
        await end_tasks([watching])
    server.stop()


def acknowledged_by(writers: list[Writer]) -> int:
    """The number of acknowledged events."""
    return sum(len(writer.acknowledged) for writer in writers)


def have_more_than(writers: list[Writer], count: int) -> bool:
    """Whether more than `count` events were acknowledged."""
    return acknowledged_by(writers) > count


async def end(server: EmbeddedServer, redis: Redis, how: str) -> None:
    """Stop a server cleanly, or kill it."""
    if how == "killed":
        os.kill((await redis.info("server"))["process_id"], signal.SIGKILL)
    server.stop()


async def watch(stream: Any, seen: list[str]) -> None:
    """Collect the external ids of new contacts."""
    while True:
        change = (await stream.message()).data
        if change["type"] == "ContactCreated":
            seen.append(change["contact"]["externalId"])
