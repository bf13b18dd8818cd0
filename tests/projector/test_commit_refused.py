"""A server that accepts no writes for a while: it refuses the whole batch, which is committed when the server recovers."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError
from structlog.testing import capture_logs
from structlog.typing import EventDict

from kinfold_projections.batches import RawEntry
from kinfold_schemas.keys import COMMITTED, key
from kinfold_services.connections import connect
from kinfold_services.server.embedded import EmbeddedServer
from kinfold_services.state.position import LostPlace
from tests.support.committing import Committing, committed
from tests.support.cutting import CuttingProxy
from tests.support.event_log import entry_id
from tests.support.nodes import Node, ask
from tests.support.topologies import three_node_cluster
from tests.support.waiting import wait_until

WORKSPACE: Final = "shop"
WAITS_S: Final = 120.0
RELEASED_S: Final = 60.0
LEFT_MS: Final = 200
"""The rest of a lease, so that no test waits for a whole one."""
REFUSALS: Final = pytest.mark.parametrize(
    ("code", "begin", "end"),
    [
        ("OOM", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("NOREPLICAS", "CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ("READONLY", "REPLICAOF localhost 1", "REPLICAOF NO ONE"),
    ],
)


class Server(NamedTuple):
    """A separate server, and the owner of a workspace on it, which connects through a proxy."""

    admin: Redis
    proxy: CuttingProxy
    committing: Committing


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """Start it, and commit one batch."""
    with EmbeddedServer.start(tmp_path) as server:
        async with Redis.from_url(server.url) as admin, CuttingProxy(server.url) as proxy, connect(proxy.url) as client:
            committing = Committing(client, admin, WORKSPACE)
            await committing.own()
            await committing.commit(identified(1))
            yield Server(admin, proxy, committing)
            await committing.committer.close()


def identified(number: int) -> dict[str, Any]:
    """An identification of a visitor."""
    return {"type": "VisitorIdentified", "externalId": f"u-{number}", "email": f"u{number}@b", "visitorId": f"v-{number}"}


def refusals(logs: list[EventDict], code: str) -> list[EventDict]:
    """The committer's log lines about refusals."""
    return [each for each in logs if each["event"] == "redis cannot do it now" and each["error"].startswith(code)]


@REFUSALS
async def test_batch_that_is_refused_when_it_is_queued_waits(server: Server, code: str, begin: str, end: str) -> None:
    """Nothing of it is written at first, and then all of it."""
    batch = await server.committing.fold(identified(2), b"{")
    before = await committed(server.admin, WORKSPACE)
    await ask(server.admin, *begin.split())
    with capture_logs() as logs:
        sending = asyncio.create_task(server.committing.send(batch))
        await wait_until(lambda: len(refusals(logs, code)) >= 2, WAITS_S)
    assert await committed(server.admin, WORKSPACE) == before
    await ask(server.admin, *end.split())
    await asyncio.wait_for(sending, WAITS_S)
    await server.committing.commit(identified(3))
    await server.committing.assert_stored()


@REFUSALS
async def test_batch_that_is_refused_when_it_is_executed_waits(server: Server, code: str, begin: str, end: str) -> None:
    """The server still accepted the commands when they were queued."""
    batch = await server.committing.fold(identified(2), b"{")
    before = await committed(server.admin, WORKSPACE)
    server.proxy.pause_after("request", len(b"*1\r\n$5\r\nMULTI\r\n") + sum(map(len, batch.commands)))
    with capture_logs() as logs:
        sending = asyncio.create_task(server.committing.send(batch))
        await wait_until(lambda: are_queued(server.admin, len(batch.commands)), WAITS_S)
        await ask(server.admin, *begin.split())
        server.proxy.resume()
        await wait_until(lambda: len(refusals(logs, code)) >= 2, WAITS_S)
    assert await committed(server.admin, WORKSPACE) == before
    await ask(server.admin, *end.split())
    await asyncio.wait_for(sending, WAITS_S)
    await server.committing.commit(identified(3))
    await server.committing.assert_stored()


async def are_queued(admin: Redis, count: int) -> bool:
    """Whether a connection has this many commands in its transaction."""
    return str(count) in [each["multi"] for each in await admin.client_list()]


async def test_committer_waits_for_a_server_that_loads_its_data(tmp_path: Path) -> None:
    """It answers LOADING. Then the batch is committed after the earlier ones."""
    options = ["--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024", "--save", ""]
    node = await Node(tmp_path / "server", *options).start()
    try:
        async with node.client() as admin, connect(f"redis://127.0.0.1:{node.port}") as client:
            committing = Committing(client, admin, WORKSPACE)
            await committing.own()
            await committing.commit(identified(1))
            batch = await committing.fold(identified(2))
            await admin.mset({f"ballast-{number}": os.urandom(2000) for number in range(200)})
            await admin.config_set("key-load-delay", 10_000)
            with capture_logs() as logs:
                reloading = asyncio.create_task(node.ask("DEBUG", "RELOAD"))
                await wait_until(lambda: is_loading(node), WAITS_S)
                await asyncio.wait_for(asyncio.gather(reloading, committing.send(batch)), WAITS_S)
            assert refusals(logs, "LOADING") or refusals(logs, "Redis is loading")
            await committing.assert_stored()
            await committing.committer.close()
    finally:
        node.kill()


async def is_loading(node: Node) -> bool:
    """Whether the server answers LOADING."""
    async with connect(f"redis://127.0.0.1:{node.port}") as client:  # this client does not retry
        try:
            await client.get("ballast-0")
        except BusyLoadingError:
            return True
    return False


@pytest.mark.parametrize("bytes_arrive", ["none", "half", "all but EXEC"])
async def test_takeover_in_the_middle_of_a_commit(server: Server, bytes_arrive: str) -> None:
    """The first owner's transaction hangs, its lease expires, and another owner commits: never both, and nothing is lost."""
    first = server.committing
    batch = await first.fold(identified(2))
    size = sum(map(len, batch.commands))
    server.proxy.pause_after("request", {"none": 0, "half": size // 2, "all but EXEC": size}[bytes_arrive])
    sending = asyncio.create_task(first.send(batch))
    await server.proxy.reached.wait()
    await server.admin.pexpire(key(WORKSPACE, "owner"), LEFT_MS)

    second = Committing(server.admin, server.admin, WORKSPACE)
    await asyncio.wait_for(second.own(), RELEASED_S)
    raws = await server.admin.xrange(key(WORKSPACE, "events"), entry_id(0), entry_id(0))
    second.expected.fold(cast("list[RawEntry]", raws))  # it read what the first owner had committed
    await second.send(await second.fold())
    server.proxy.resume()

    with pytest.raises(LostPlace, match="another projector owns the workspace"):
        await asyncio.wait_for(sending, WAITS_S)
    await second.commit(identified(3))
    await second.assert_stored()
    await second.committer.close()


def is_done(task: "asyncio.Task[None] | None") -> bool:
    """Whether the task has ended."""
    return task is not None and task.done()


@pytest.mark.slow
async def test_slot_that_moves_while_batches_are_committed(tmp_path: Path) -> None:
    """Some keys are on one node and some on the other: the batch is refused, and committed once when the slot has moved."""
    async with three_node_cluster(tmp_path, key(WORKSPACE, "events")) as servers, connect(servers.url) as client:
        source, target = await servers.primary(), servers.others[0]
        committing = Committing(client, client, WORKSPACE)
        await committing.own()
        await committing.commit(identified(1))
        batch = await committing.fold(identified(2))
        sending: asyncio.Task[None] | None = None
        with capture_logs() as logs:

            async def send_and_be_refused() -> None:
                nonlocal sending
                sending = sending or asyncio.create_task(committing.send(batch))
                said = len(logs)
                await wait_until(lambda: len(logs) > said or is_done(sending), WAITS_S)

            await servers.migrate(source, target, send_and_be_refused)
            assert sending is not None
            await asyncio.wait_for(sending, WAITS_S)
        refused = [each for each in logs if each["event"] == "redis cannot do it now"]
        assert refused
        await committing.commit(identified(3))
        async with target.client() as owner:
            found = await committed(owner, WORKSPACE)
        await committing.assert_stored()
        assert found.keys() == set(COMMITTED)
        await committing.committer.close()
