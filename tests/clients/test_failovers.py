"""A server that is demoted, hangs, or comes back without its newest entries."""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import pytest
from redis import Redis, exceptions
from redis._parsers.base import BaseParser

import kinfold
from kinfold.feed.reader import as_created
from kinfold.transport.redis import close, connect, redis_error
from kinfold_schemas.contacts import Contact
from kinfold_schemas.keys import key
from kinfold_services.server.embedded import EmbeddedServer
from tests.support.engines import cluster, free_port, sentinel
from tests.support.waiting import wait_until_sync

WORKSPACE: Final = "acme"
FEED: Final = key(WORKSPACE, "changes")
NOTICED_S: Final = 20.0
"""The promise is 5 s; the machine may be busy."""
parse_error: Final = cast("Callable[[str], Exception]", BaseParser.parse_error)
"""How redis-py parses an error reply."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    """Give a client of a new server without a projector."""
    with EmbeddedServer.start(tmp_path / "data") as server, Redis.from_url(server.url) as client:
        yield client


def url_of(server: Redis) -> str:
    """The URL of the client's server."""
    return f"unix://{server.connection_pool.connection_kwargs['path']}"


def tell(server: Redis, name: str, entry: str = "*") -> str:
    """Append a change to the feed. Returns its position."""
    at = "2026-01-01T00:00:00.000Z"
    seen: dict[str, Any] = {"created_at": at, "updated_at": at, "first_seen_at": at, "last_seen_at": at}
    who: dict[str, Any] = {"external_id": None, "email": None, "image": None, "metadata": {}, "visitor_ids": []}
    who |= {"metadata_hash": "", "visitor_count": 0}
    contact = Contact(id="ct_1", version=1, name=name, **seen, **who)
    change = msgspec.json.encode(as_created(contact))
    return cast("bytes", server.xadd(FEED, {"change": change}, id=entry)).decode()


@pytest.mark.parametrize("snapshot", [False, True])
def test_feed_continues_when_its_server_is_demoted_and_promoted(server: Redis, snapshot: bool):  # noqa: FBT001
    """A primary that becomes a replica disconnects a waiting reader with the error `UNBLOCKED`."""
    changes = kinfold.Feed(url_of(server), workspace=WORKSPACE).follow(since=None if snapshot else "0", snapshot=snapshot)
    seen: list[str | None] = []
    reader = threading.Thread(target=lambda: seen.extend(cast("Any", change).contact.name for change in changes))
    reader.start()
    expected: list[str | None] = []
    for number in range(4):
        wait_until_sync(lambda: server.info("clients")["blocked_clients"] == 1)
        server.replicaof("127.0.0.1", str(free_port()))
        server.replicaof("NO", "ONE")
        expected.append(f"number {number}")
        tell(server, f"number {number}")
        wait_until_sync(lambda: seen == expected)
    changes.close()
    reader.join()


@pytest.mark.parametrize(
    "answer",
    [
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "ASK 3999 127.0.0.1:6381",
        "NOREPLICAS Not enough good replicas to write.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "UNKILLABLE Sorry the script already executed write commands against the dataset.",
        "ERR max number of clients reached",
        "NOQUORUM an error of a future server",
        "no upstream host",
    ],
)
def test_temporary_error_replies_are_unreachable(answer: str):
    """For producers, the feed and lookups, which all use `redis_error`."""
    assert isinstance(redis_error(parse_error(answer)), kinfold.Unreachable)


@pytest.mark.parametrize(
    "error", [exceptions.ClusterError("TTL exhausted."), exceptions.SlotNotCoveredError("Slot 1"), exceptions.TimeoutError()]
)
def test_temporary_cluster_errors_are_unreachable(error: Exception):
    """A moving slot is not a reason to give up."""
    assert isinstance(redis_error(error), kinfold.Unreachable)


@pytest.mark.parametrize(
    "answer",
    [
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOPERM this user has no permissions to run the 'evalsha' command",
        "ERR unknown command 'XADD'",
    ],
)
def test_permanent_error_replies_are_refused(answer: str):
    """The reader of a feed gets the exception."""
    assert isinstance(redis_error(parse_error(answer)), kinfold.Refused)


@contextmanager
def following(server: Redis, since: str, **options: Any) -> Generator[Any]:
    """Follow the feed after a position."""
    with kinfold.Feed(url_of(server), workspace=WORKSPACE).follow(since=since, **options) as changes:
        yield changes


def test_position_of_the_last_entry_continues(server: Redis):
    """Nothing is lost, and the next change comes."""
    last = [tell(server, name) for name in ("a", "b")][-1]
    with following(server, last) as changes:
        tell(server, "c")
        assert next(changes).contact.name == "c"


def test_position_of_the_last_entry_that_was_trimmed_is_truncated(server: Redis):
    """Nothing is after it at first. Once a change comes, it is unknown whether others were trimmed."""
    last = [tell(server, name) for name in ("a", "b")][-1]
    server.xtrim(FEED, maxlen=0, approximate=False)
    with following(server, last) as changes:
        reading = threading.Thread(target=_next, args=(changes, errors := list[Exception]()))
        reading.start()
        wait_until_sync(lambda: server.info("clients")["blocked_clients"] == 1)
        assert errors == []
        tell(server, "c")
        reading.join()
        assert "may have been trimmed" in str(errors[0])


def _next(changes: Any, errors: list[Exception]) -> None:
    try:
        next(changes)
    except kinfold.FeedTruncated as error:
        errors.append(error)


def test_position_of_a_deleted_entry_continues(server: Redis):
    """XDEL of a single entry, which Redis does not count as trimming."""
    entries = [tell(server, name) for name in ("a", "b", "c")]
    server.xdel(FEED, entries[1])
    with following(server, entries[1]) as changes:
        assert next(changes).contact.name == "c"


def test_trimmed_position_is_truncated(server: Redis):
    entries = [tell(server, name) for name in ("a", "b", "c", "d")]
    server.xtrim(FEED, maxlen=1, approximate=False)
    with following(server, entries[1]) as changes, pytest.raises(kinfold.FeedTruncated, match="may have been trimmed"):
        next(changes)


@pytest.mark.parametrize("others", [0, 1, 3])
def test_position_lost_in_a_failover_is_truncated(server: Redis, others: int):
    """A failover removed the end of the feed, and the new primary has appended other changes since."""
    for entry in (1, 2):
        tell(server, f"kept {entry}", f"{entry}-0")
    for entry in range(others):
        tell(server, f"told since {entry}", f"{entry + 10}-0")
    with (
        following(server, "5-0") as changes,
        pytest.raises(kinfold.FeedTruncated, match="there never was such an entry") as raised,
    ):
        next(changes)
    assert raised.value.position == "5-0"


def test_position_of_another_feed_is_truncated(server: Redis):
    """An empty server took over: the position is older than all entries, and nothing was removed."""
    tell(server, "new", "10-0")
    with following(server, "5-0") as changes, pytest.raises(kinfold.FeedTruncated, match="there never was such an entry"):
        next(changes)


def test_position_lost_while_reading_is_truncated(server: Redis):
    """A failover replaces the server between two pages; with `snapshot` the reader starts again."""
    for entry in (1, 2, 3):
        tell(server, str(entry), f"{entry}-0")
    resets: list[bool] = []
    with (
        following(server, "0") as changes,
        following(server, "0", snapshot=True, on_reset=lambda: resets.append(True)) as other,
    ):
        assert [next(changes).contact.name for _ in range(3)] == ["1", "2", "3"]
        assert [next(other).contact.name for _ in range(3)] == ["1", "2", "3"]
        server.delete(FEED)
        for entry in (1, 2, 4):
            tell(server, f"again {entry}", f"{entry}-0")
        with pytest.raises(kinfold.FeedTruncated, match="there never was such an entry"):
            next(changes)
        late = threading.Timer(0.3, tell, (server, "5", "5-0"))
        late.start()
        assert next(other).contact.name == "5"
        late.join()
        assert resets == [True]


@asynccontextmanager
async def alone(directory: Path) -> AsyncGenerator[str]:
    """Run one server."""
    with await asyncio.to_thread(EmbeddedServer.start, directory / "data") as server:
        yield server.url


@asynccontextmanager
async def behind_sentinel(directory: Path) -> AsyncGenerator[str]:
    """Yield only the URL."""
    async with sentinel(directory) as (url, _):
        yield url


@pytest.mark.parametrize("kind", [alone, cluster, behind_sentinel])
async def test_hanging_server_is_noticed_soon(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: Callable[[Path], AbstractAsyncContextManager[str]]
):
    """It is stopped by SIGSTOP: connections stay open, but get no answers. Producer, feed and lookups notice."""
    caplog.set_level(logging.INFO, "kinfold")
    async with kind(tmp_path) as url:
        await asyncio.to_thread(assert_noticed, url, caplog)


def assert_noticed(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Stop the server, and wait until every part of the client has noticed."""
    noticed: dict[str, float] = {}
    failures: list[kinfold.Failure] = []
    client = connect(url, 5.0)
    info: Any = cast("Any", client).execute_command("INFO", "server", **_one_node(url))
    close(client)
    pid = int(info["process_id"])
    producer = kinfold.Producer(url, workspace=WORKSPACE, on_error=failures.append, batch_age_s=0)
    producer.seen("v-1")
    producer.flush()
    contacts = kinfold.Contacts(url, workspace=WORKSPACE)
    contacts.get("ct_1")
    changes = kinfold.Feed(url, workspace=WORKSPACE).follow(since="0")
    reader = threading.Thread(target=lambda: list(changes))
    reader.start()

    def note(what: str, wait: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            wait()
            noticed[what] = time.monotonic() - started

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def look_up() -> None:
        with pytest.raises(kinfold.Unreachable):
            contacts.get("ct_1")

    async def ask() -> None:
        async with kinfold.AsyncContacts(url, workspace=WORKSPACE) as asynchronous:
            with pytest.raises(kinfold.Unreachable):
                await asynchronous.get("ct_1")

    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        producer.seen("v-2")
        threads = [
            note("producer", lambda: wait_until_sync(lambda: failures)),
            note("lookup", look_up),
            note("asynchronous lookup", lambda: asyncio.run(ask())),
            note("feed", lambda: wait_until_sync(lambda: "cannot read the feed" in caplog.text)),
        ]
        for thread in threads:
            thread.join()
    finally:
        os.kill(pid, signal.SIGCONT)
    changes.close()
    reader.join()
    producer.close()
    contacts.close()
    assert len(noticed) == 4
    assert max(noticed.values()) < NOTICED_S, noticed


def _one_node(url: str) -> dict[str, str]:
    return {"target_nodes": "random"} if "cluster" in url else {}
