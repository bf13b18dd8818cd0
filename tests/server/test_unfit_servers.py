"""A server that would lose data, cannot write for now, or hangs: one sentence and exit status 3 (contract section 9)."""

import contextlib
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import pytest
from redis import Redis

from kinfold_services.connections import ServerEvicts, check_server, connect
from kinfold_services.server import choice
from tests.support.command_line import Kinfold
from tests.support.engines import cluster, free_port, running
from tests.support.waiting import wait_until_sync

EVENT: Final = b'{"type":"VisitorIdentified","visitorId":"v-1","externalId":"u-1"}'
WRITING: Final[dict[str, list[str]]] = {
    "projector": [],
    "gateway": ["--port=0"],
    "up": [],
    "publish": [],
    "replay": [],
    "rejects": ["--retry"],
}
ENDING: Final[dict[str, list[str]]] = {
    "publish": [],
    "replay": ["--dry-run"],
    "keys create": [],
}
"""Commands that write and end: a projector waits until the server can write."""


class Server(NamedTuple):
    """A server of this test's own, and `kinfold` with its URL."""

    process: "subprocess.Popen[bytes]"
    client: Redis
    kinfold: Kinfold
    port: int


@contextlib.contextmanager
def serving(directory: Path, *options: object) -> Generator[Server]:
    """A server with these options, whose log has one event."""
    port = free_port()
    with running(directory, "--port", port, *options) as process, Redis(port=port) as client:
        kinfold = Kinfold("--redis-url", f"redis://127.0.0.1:{port}")
        wait_until_sync(lambda: kinfold.run("status").status == 0)
        assert kinfold.run("publish", stdin=EVENT).status == 0
        yield Server(process, client, kinfold, port)


@pytest.mark.parametrize("command", WRITING)
def test_a_server_that_evicts_any_key_is_refused_with_the_command_that_mends_it(tmp_path: Path, command: str) -> None:
    """With `allkeys-lru` it deletes identifiers of living contacts, and two people come of one."""
    with serving(tmp_path, "--maxmemory", "100mb") as server:
        server.client.config_set("maxmemory-policy", "allkeys-lru")

        said = server.kinfold.run_apart(command, *WRITING[command], stdin=EVENT)

        assert (said.status, said.out) == (3, b""), said
        assert "maxmemory-policy: expected noeviction, got allkeys-lru" in said.err
        assert "CONFIG SET maxmemory-policy noeviction" in said.err
        assert server.client.xlen("kinfold:{default}:events") == 1


@pytest.mark.parametrize(
    ("maxmemory", "policy"),
    [("0", "allkeys-lru"), ("100mb", "noeviction"), ("100mb", "volatile-lru"), ("100mb", "volatile-ttl")],
)
def test_a_server_that_evicts_nothing_of_ours_is_accepted(tmp_path: Path, maxmemory: str, policy: str) -> None:
    """Without a limit none is reached; `volatile-*` deletes keys with a time to live, which may be gone at any time."""
    with serving(tmp_path, "--maxmemory", maxmemory, "--maxmemory-policy", policy) as server:
        assert server.kinfold.run("replay").status == 0


async def test_every_node_of_a_cluster_is_asked(tmp_path: Path) -> None:
    """The message names the node."""
    async with cluster(tmp_path) as url:
        client: Any = connect(url, 5)
        await client.config_set("maxmemory", "100mb", target_nodes="all")
        assert await check_server(client)
        await client.config_set("maxmemory-policy", "allkeys-lfu", target_nodes="all")
        with pytest.raises(ServerEvicts, match=r"^127\.0\.0\.1:\d+: maxmemory-policy: expected noeviction, got allkeys-lfu"):
            await check_server(client)
        await client.aclose()


@pytest.mark.parametrize("command", ENDING)
@pytest.mark.parametrize("trouble", ["full", "a replica", "short of replicas"])
def test_a_server_that_cannot_write_for_now_is_status_3(tmp_path: Path, trouble: str, command: str) -> None:
    """Not 1, which says that verify found differences: a monitor tells a broken state from a server in trouble."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path / "server"))
        if trouble == "full":
            server.client.config_set("maxmemory", "1")
        elif trouble == "short of replicas":
            server.client.config_set("min-replicas-to-write", 1)
        else:
            primary = stack.enter_context(serving(tmp_path / "primary"))
            server.client.replicaof("127.0.0.1", primary.port)
            wait_until_sync(lambda: server.client.info("replication")["master_link_status"] == "up")

        said = server.kinfold.run(*command.split(), *ENDING[command], stdin=EVENT)

        assert (said.status, said.out) == (3, b""), said
        assert said.err.count("kinfold: redis: ") == 1, said.err
        assert "Traceback" not in said.err


@pytest.mark.parametrize("command", [*ENDING, "status", "contacts", "tail", "show --visitor v-1", "rejects", "keys list"])
def test_a_server_that_hangs_is_status_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """A command waits for each answer so long and no longer."""
    with serving(tmp_path) as server:
        server.process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(choice, "ANSWER_S", 0.3)

        said = server.kinfold.run(*command.split(), *ENDING.get(command, ()), stdin=EVENT)

        assert (said.status, said.out) == (3, b""), said
        assert "Traceback" not in said.err


def test_a_quiet_feed_is_no_server_that_hangs(tmp_path: Path) -> None:
    """`tail` waits for changes again and again, each time for less than an answer may take."""
    with serving(tmp_path) as server:
        change = b'{"type":"ContactGone","contactId":"ct_1","version":1,"at":"","cause":"replay"}'

        def reads() -> int:
            stats: dict[str, Any] = server.client.info("commandstats")
            return cast("int", stats.get("cmdstat_xread", {"calls": 0})["calls"])

        with subprocess.Popen(  # it follows until it is stopped
            server.kinfold.command("tail"), env=server.kinfold.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            wait_until_sync(lambda: reads() > 1)  # one wait is over, and it goes on
            server.client.xadd("kinfold:{default}:changes", {"change": change})
            assert process.stdout is not None
            assert b"ct_1" in process.stdout.readline()
            process.terminate()
