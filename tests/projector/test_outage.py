"""Redis fails and recovers while events are folded: the projector continues by itself, and nothing is lost or duplicated."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from structlog.testing import capture_logs

import kinfold_services.projector.service
import kinfold_services.projector.serving
import kinfold_services.projector.workspace
from kinfold_projections.state import State
from kinfold_services.projector.integrity import Integrity, check_types
from kinfold_services.projector.service import ProjectorService
from kinfold_services.projector.workspace import WorkspaceProjector
from kinfold_services.server.embedded import EmbeddedServer
from kinfold_services.state.position import Position
from tests.support.engines import cluster
from tests.support.event_log import HISTORY_ENTRIES, append, entry_id, forget_all_but_the_log, history
from tests.support.projecting import fold_log, projecting, stored_position, wait_until_folded
from tests.support.proxy import Proxy
from tests.support.snapshots import take_snapshot
from tests.support.waiting import wait_until

WORKSPACE: Final = "default"
BATCH_ENTRIES: Final = 50
TRIES: Final = 8
REFUSALS: Final = 3
TWICE: Final = 2
NOTICED_S: Final = 60.0
"""It takes a little more than 3 s; the machine may be busy."""
EARLY: Final = entry_id(HISTORY_ENTRIES // 8)


async def stop(server: EmbeddedServer) -> None:
    """Stop the server as an operator does."""
    await asyncio.to_thread(server.stop)


async def kill(server: EmbeddedServer) -> None:
    """Kill the server as the kernel does when memory is short."""
    async with Redis.from_url(server.url) as client:
        pid = (await client.info("server"))["process_id"]
    os.kill(pid, signal.SIGKILL)
    await wait_until(lambda: not server.is_running())


@asynccontextmanager
async def serving(data_dir: Path) -> AsyncGenerator[tuple[EmbeddedServer, Redis]]:
    """A server on the directory, with its earlier data."""
    with EmbeddedServer.start(data_dir) as server:
        async with Redis.from_url(server.url) as client:
            yield server, client


@pytest.mark.slow
@pytest.mark.parametrize("end", [stop, kill])
async def test_server_that_ends_under_load_and_comes_back(tmp_path: Path, end: Callable[[EmbeddedServer], Any]) -> None:
    """The server has what it acknowledged, and the projector repeats the rest: the bytes are the same as without a failure."""
    async with serving(tmp_path) as (server, client):
        last = await append(client, WORKSPACE, history())
        await fold_log(client, server.url, WORKSPACE)
        undisturbed = await take_snapshot(client, WORKSPACE)
        await forget_all_but_the_log(client, WORKSPACE)
        url = server.url

        async with projecting(url, batch_entries=BATCH_ENTRIES) as service:
            await wait_until(lambda: has_come_to(client, EARLY))
            await end(server)
            assert not server.is_running()
            async with serving(tmp_path) as (again, client_again):
                assert again.url == url
                assert await stored_position(client_again, WORKSPACE) != last.encode(), "it was done before the outage"
                await wait_until_folded(client_again, WORKSPACE, last)
                await a_new_workspace_is_still_found(client_again, service)
                service.app.exit()
                (await take_snapshot(client_again, WORKSPACE)).must_equal(undisturbed)


@pytest.mark.parametrize(
    ("code", "begin", "end"),
    [
        ("OOM", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("NOREPLICAS", "CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ("READONLY", "REPLICAOF localhost 1", "REPLICAOF NO ONE"),
    ],
)
async def test_server_that_accepts_nothing_for_a_while(tmp_path: Path, code: str, begin: str, end: str) -> None:
    """It is full, lacks its replicas, or is a replica itself. The projector retries until it succeeds."""
    async with serving(tmp_path) as (server, client):
        last = await append(client, WORKSPACE, history())

        async def is_tried_again() -> bool:
            refused = cast("dict[str, dict[str, int]]", await client.info("errorstats")).get(f"errorstat_{code}", {})
            return refused.get("count", 0) >= REFUSALS

        async with projecting(server.url, batch_entries=BATCH_ENTRIES):
            await wait_until(lambda: has_come_to(client, EARLY))
            await cast("Any", client).execute_command(*begin.split())
            await wait_until(is_tried_again)
            await cast("Any", client).execute_command(*end.split())
            assert await stored_position(client, WORKSPACE) != last.encode(), "it was done before the outage"
            await wait_until_folded(client, WORKSPACE, last)


async def test_connections_that_go_silent_are_noticed(redis: Redis, redis_url: str, workspace: str) -> None:
    """A firewall forgot them: nothing is refused and nothing ends, but new connections work."""
    with Proxy(redis_url) as proxy:
        async with projecting(proxy.url, workspace):
            last = await append(redis, workspace, history()[:10])
            await wait_until_folded(redis, workspace, last)
            proxy.go_silent()
            last = await append(redis, workspace, history()[10:20], start=10)
            await wait_until_folded(redis, workspace, last, NOTICED_S)


async def test_hanging_server_is_asked_again(tmp_path: Path) -> None:
    """SIGSTOP for longer than a lease and every timeout. When the server continues, so does the projector."""
    async with serving(tmp_path) as (server, client):
        pid = (await client.info("server"))["process_id"]
        async with projecting(server.url) as service:
            await append(client, WORKSPACE, history()[:10])
            await wait_until_folded(client, WORKSPACE, entry_id(9))
            last = await append(client, WORKSPACE, history()[10:20], start=10)
            with capture_logs() as logs:
                os.kill(pid, signal.SIGSTOP)
                try:
                    await wait_until(lambda: any(each["event"] == "log not read" for each in logs), NOTICED_S)
                finally:
                    os.kill(pid, signal.SIGCONT)
            await wait_until_folded(client, WORKSPACE, last)
            last = await append(client, WORKSPACE, history()[20:30], start=20)
            await wait_until_folded(client, WORKSPACE, last)
            assert service.failure is None


@pytest.mark.slow
async def test_cluster_that_is_down_under_load_and_comes_back(tmp_path: Path) -> None:
    """A cluster that has lost a slot answers nothing. While it is repaired, the projector must not stop."""
    async with cluster(tmp_path) as url, Redis.from_url(url.replace("redis+cluster", "redis")) as node:
        last = await append(node, WORKSPACE, history())

        async def looked_for_nodes() -> int:
            """How often the nodes were looked up, as after every failed attempt."""
            return cast("int", (await node.info("commandstats"))["cmdstat_cluster|slots"]["calls"])

        async def is_tried_again() -> bool:
            return await looked_for_nodes() >= before + TRIES

        async with projecting(url, batch_entries=BATCH_ENTRIES):
            await wait_until(lambda: has_come_to(node, EARLY))
            before = await looked_for_nodes()
            await cast("Any", node).execute_command("CLUSTER DELSLOTS", 0)
            await wait_until(is_tried_again)
            await cast("Any", node).execute_command("CLUSTER ADDSLOTS", 0)
            assert await stored_position(node, WORKSPACE) != last.encode(), "it was done before the outage"
            await wait_until_folded(node, WORKSPACE, last)


async def has_come_to(client: Redis, target: str) -> bool:
    """Whether the entry is folded."""
    return (await stored_position(client, WORKSPACE) or b"") >= target.encode()


async def a_new_workspace_is_still_found(client: Redis, service: ProjectorService) -> None:
    """Wait until a new workspace is found: the search for workspaces still runs."""
    await client.sadd("kinfold:workspaces", "acme")
    await wait_until(lambda: "acme" in service.workspaces)


async def test_error_while_an_outage_is_handled_does_not_stop_the_projector(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that handles an outage can fail itself. One projector serves many workspaces."""
    outages: list[Exception] = [RedisConnectionError("the server went away")]

    async def fails_once(*args: Any) -> None:
        if outages:
            raise outages.pop()
        await check_types(*args)

    async def broken(_: object) -> None:
        raise RuntimeError("cannot handle it")

    monkeypatch.setattr(kinfold_services.projector.serving, "check_types", fails_once)
    monkeypatch.setattr(kinfold_services.projector.serving, "drop_idle_connections", broken)
    last = await append(redis, workspace, history()[:10])
    with capture_logs() as logs:
        async with projecting(redis_url, workspace):
            await wait_until_folded(redis, workspace, last)
    assert [each["error"] for each in logs if each["event"] == "workspace not served"] == ["cannot handle it"]


async def test_short_outage_does_not_open_a_workspace_again(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a projector loads everything of all its workspaces again, and all at once."""
    monkeypatch.setattr(kinfold_services.projector.workspace, "KEEP_S", 0.02)
    monkeypatch.setattr(kinfold_services.projector.workspace, "_LOOK_AFTER_BEATS", 1)
    checked: list[bool] = []
    check = Integrity.check

    async def fails_twice(self: Integrity, position: Position) -> None:
        checked.append(len(checked) >= TWICE)
        if not checked[-1]:
            raise RedisTimeoutError("no answer")
        await check(self, position)

    with capture_logs() as logs:
        async with projecting(redis_url, workspace):
            last = await append(redis, workspace, history()[:10])
            await wait_until_folded(redis, workspace, last)
            monkeypatch.setattr(Integrity, "check", fails_twice)
            await wait_until(lambda: True in checked)
            last = await append(redis, workspace, history()[10:20], start=10)
            await wait_until_folded(redis, workspace, last)
    assert len([each for each in logs if each["event"] == "workspace opened"]) == 1


async def test_task_beside_the_fold_that_fails_is_reported(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it ended silently, for example the freed states would stay in memory for good."""
    monkeypatch.setattr(kinfold_services.projector.serving, "TRY_AGAIN_S", 0.1)
    failures: list[Exception] = [RuntimeError("cannot free it")]
    dismantle = State.dismantle

    def fails_once(self: State) -> Iterator[None]:
        if failures:
            raise failures.pop()
        yield from dismantle(self)

    monkeypatch.setattr(State, "dismantle", fails_once)
    with capture_logs() as logs:
        async with projecting(redis_url, workspace):
            await wait_until(lambda: any(each["event"] == "workspace not served" for each in logs))
            last = await append(redis, workspace, history()[:10])
            await wait_until_folded(redis, workspace, last)


@pytest.mark.usefixtures("redis")
async def test_few_workspaces_are_opened_at_once(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a thousand were, each would take longer than the server may take to answer, and be opened again."""
    names = [f"w{number}" for number in range(12)]
    monkeypatch.setattr(kinfold_services.projector.service, "_OPENING", 3)
    at_once: list[int] = []
    opening = 0
    open_one = WorkspaceProjector.open

    async def counted(self: WorkspaceProjector) -> None:
        nonlocal opening
        opening += 1
        at_once.append(opening)
        try:
            await open_one(self)
        finally:
            opening -= 1

    monkeypatch.setattr(WorkspaceProjector, "open", counted)
    async with projecting(redis_url, *names) as service:
        await wait_until(lambda: service.workspaces.keys() == set(names))
    assert max(at_once) == 3
