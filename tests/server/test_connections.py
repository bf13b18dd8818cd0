"""Every way to reach a server: the same code, and the same contacts (contract section 8)."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ClusterError, RedisError, SlotNotCoveredError

from kinfold_services.connections import (
    OLDEST,
    Client,
    ServerTooOld,
    check_server,
    check_url,
    connect,
    drop_idle_connections,
    is_passing,
)
from kinfold_services.server.binary import ServerBinary, find_server_binary
from kinfold_services.server.embedded import EmbeddedServer
from kinfold_services.state.queries import StateQueries
from tests.support.command_line import Kinfold
from tests.support.engines import cluster, fail_over, free_port, running, sentinel, tls_server
from tests.support.event_log import append, history
from tests.support.projecting import fold_log, projecting, wait_until_folded
from tests.support.snapshots import take_snapshot

EVENTS: Final = 2000
WORKSPACE: Final = "acme"


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Client]:
    """A client of kinfold's own."""
    client = connect(url)
    try:
        yield client
    finally:
        await client.aclose()


async def assert_folds_there(url: str, redis: Redis, redis_url: str) -> None:
    """The projector and the command line do there what they do on an ordinary server."""
    await append(redis, WORKSPACE, history()[:EVENTS])
    await fold_log(redis, redis_url, WORKSPACE)
    expected = await take_snapshot(redis, WORKSPACE)
    async with connected(url) as client:
        assert (await check_server(client)).startswith(("redis ", "valkey "))
        last = await append(client, WORKSPACE, history()[:EVENTS])
        await client.sadd("kinfold:workspaces", WORKSPACE)
        async with projecting(url, batch_entries=100):
            await wait_until_folded(client, WORKSPACE, last)

        (await take_snapshot(client, WORKSPACE)).must_equal(expected)
        status = await StateQueries(client, WORKSPACE).status()
        assert (status.entries, status.lag) == (EVENTS, 0)

    kinfold = Kinfold("--redis-url", url)
    shown = await asyncio.to_thread(kinfold.run, "contacts", "--workspace", WORKSPACE)
    assert len(shown.lines) == status.contacts
    event = b'{"type":"VisitorSeen","visitorId":"v-1"}'
    published = await asyncio.to_thread(kinfold.run, "publish", "--workspace", WORKSPACE, stdin=event)
    assert published.lines[0]["workspace"] == WORKSPACE


async def test_projector_folds_over_a_unix_socket(tmp_path: Path, redis: Redis, redis_url: str) -> None:
    """`unix:///path?db=0`, as the embedded server has it; a space in the path is written %20."""
    with EmbeddedServer.start(tmp_path / "two words") as server:
        assert "%20" in server.url
        await assert_folds_there(server.url, redis, redis_url)


async def test_projector_folds_over_tcp_with_a_password(tmp_path: Path, redis: Redis, redis_url: str) -> None:
    """`redis://host:port/3`, with a password."""
    port = free_port()
    with running(tmp_path, "--port", port, "--requirepass", "s3cret"):
        await assert_folds_there(f"redis://:s3cret@127.0.0.1:{port}/3", redis, redis_url)


async def test_projector_folds_over_tls(tmp_path: Path, redis: Redis, redis_url: str) -> None:
    """`rediss://`, the certificate checked."""
    async with tls_server(tmp_path) as url:
        await assert_folds_there(url, redis, redis_url)


async def test_projector_folds_on_a_cluster(tmp_path: Path, redis: Redis, redis_url: str) -> None:
    """`redis+cluster://`: a workspace is one slot, and every command finds its node."""
    async with cluster(tmp_path) as url:
        await assert_folds_there(url, redis, redis_url)


async def test_projector_folds_on_a_cluster_over_tls(tmp_path: Path, redis: Redis, redis_url: str) -> None:
    """`rediss+cluster://`."""
    async with cluster(tmp_path, tls=True) as url:
        await assert_folds_there(url, redis, redis_url)


async def test_projector_folds_behind_sentinel(tmp_path: Path, redis: Redis, redis_url: str) -> None:
    """`redis+sentinel://`: Sentinel is asked who the master is; the password is the master's."""
    async with sentinel(tmp_path) as (url, _):
        await assert_folds_there(url, redis, redis_url)


@pytest.mark.slow
async def test_a_failover_behind_sentinel_is_survived(tmp_path: Path) -> None:
    """The projector finds the new master by itself and goes on."""
    async with sentinel(tmp_path) as (url, watcher), projecting(url, WORKSPACE):
        async with connected(url) as client:
            last = await append(client, WORKSPACE, history()[:EVENTS])
            await wait_until_folded(client, WORKSPACE, last)
            await client.wait(1, 10_000)
        await fail_over(watcher)
        async with connected(url) as client:
            last = await append(client, WORKSPACE, history()[EVENTS : 2 * EVENTS], start=EVENTS)
            await wait_until_folded(client, WORKSPACE, last)
            status = await StateQueries(client, WORKSPACE).status()
            assert (status.entries, status.lag, status.duplicate) == (2 * EVENTS, 0, 0)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server on PATH")
async def test_redis_and_valkey_give_the_same_bytes(tmp_path: Path, redis: Redis, redis_url: str) -> None:
    """Debian's Redis 7.0, and the server of the other tests."""
    binary = ServerBinary.at(Path(shutil.which("redis-server") or ""))
    assert binary.engine == "redis" or binary != find_server_binary()
    with EmbeddedServer.start(tmp_path, binary=binary) as server:
        await assert_folds_there(server.url, redis, redis_url)


@pytest.mark.parametrize(
    "answer",
    [
        *("BUSY Redis is busy", "CLUSTERDOWN Hash slot not served", "LOADING Redis is loading", "MASTERDOWN Link is down"),
        *("MISCONF Redis is configured", "MOVED 3999 127.0.0.1:6381", "ASK 3999 127.0.0.1:6381", "NOREPLICAS Not enough"),
        *("OOM command not allowed", "READONLY You can't write", "TRYAGAIN Multiple keys", "UNBLOCKED force unblock"),
    ],
)
async def test_what_a_server_refuses_for_a_while_is_passing(answer: str) -> None:
    """As redis-py reads each from the wire: it is asked again, and nothing stops for it."""
    assert is_passing(await answered(answer))


@pytest.mark.parametrize("answer", ["WRONGTYPE Operation against", "NOPERM this user", "ERR unknown command"])
async def test_what_a_server_refuses_for_good_is_not(answer: str) -> None:
    """Asking again would change nothing."""
    assert not is_passing(await answered(answer))


def test_errors_about_a_clusters_layout_are_passing() -> None:
    """A slot that moves, and one that no node has for a moment."""
    assert is_passing(ClusterError("TTL exhausted."))
    assert is_passing(SlotNotCoveredError("Slot 3999 is not covered by the cluster"))


async def answered(answer: str) -> BaseException:
    """The error that a client raises for this answer of a server's."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(f"-{answer}\r\n".encode() if b"XLEN" in data else b"+OK\r\n" * data.count(b"*"))
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server, connected(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}?protocol=2") as client:
        with pytest.raises((RedisError,)) as refused:
            await client.xlen("log")
    return refused.value


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis+sentinel://localhost:26379", "expected the name of the primary"),
        ("redis+sentinel://localhost:26379/", "expected the name of the primary"),
        ("redis+sentinel://localhost:26379/master/x", "database, got 'x'"),
        ("redis://localhost/zzz", "database, got 'zzz'"),
        ("rediss://localhost:6380/3/4", "database, got '3/4'"),
        ("redis://localhost/-1", "database, got '-1'"),
        ("redis+cluster://localhost/x", "database, got 'x'"),
        ("http://localhost", "scheme"),
        ("redis+http://localhost:port", "port"),
        ("", "scheme"),
    ],
)
def test_text_that_is_not_a_redis_url_is_refused(url: str, found: str) -> None:
    """The sentence says how they are written."""
    with pytest.raises(
        ValueError, match=rf"redis URL: .*{found}.*; a Redis URL is redis\[s\]://host:port/0, unix://"
    ) as refused:
        check_url(url)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis://localhost", "rediss://localhost/", "redis://localhost/3", "unix:///run/redis.sock"])
def test_a_url_that_is_one_is_taken_as_it_is(url: str) -> None:
    """With a database or without."""
    assert check_url(url) == url


async def test_a_server_that_is_too_old_is_refused(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of 6.2 lacks what the projector needs: it says so before it touches anything."""
    assert OLDEST == {"redis": (7, 0), "valkey": (8, 0)}
    running = (await check_server(redis)).split()[0]
    for engine in OLDEST:  # each engine by its own number
        if engine != running:
            monkeypatch.setitem(OLDEST, engine, (99, 0))
    assert (await check_server(redis)).startswith(running)
    monkeypatch.setattr("kinfold_services.connections.OLDEST", dict.fromkeys(OLDEST, (99, 0)))
    with pytest.raises(ServerTooOld, match=r"expected Redis 7\.0, Valkey 8 or newer, got version \d+\.\d+"):
        await check_server(redis)


async def test_workspaces_that_drop_connections_at_once_do_not_wait_for_each_other(redis_url: str) -> None:
    """After an outage, each of a thousand workspaces closes all connections that are idle."""
    async with connected(redis_url) as client:
        pool = cast("Any", client.connection_pool)
        idle = [await pool.get_connection() for _ in range(200)]
        for connection in idle:
            await pool.release(connection)
            connection.socket_connect_timeout = 0.05  # also limits how long closing may take

        await asyncio.gather(*[drop_idle_connections(client) for _ in idle])

        assert not any(connection.is_connected for connection in idle)
        assert await client.ping()
