"""A Redis server that is stopped, slow, or resets connections in the middle of an answer.

8 threads or 8 tasks send 1,000 events. Each is in the log exactly once, and no call takes longer than its setting allows.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from redis import Redis
from redis.exceptions import MovedError, ResponseError

import kinfold
from kinfold.transport.redis import redis_error
from kinfold_services.server.embedded import EmbeddedServer
from tests.support.engines import free_port
from tests.support.logs import Log
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until_sync

EVENTS: Final = 1000
EACH: Final = EVENTS // 8
EXPECTED: Final = Counter({f"v-{number}-{event}": 1 for number in range(8) for event in range(EACH)})
QUICK: Final[dict[str, Any]] = {
    "batch_events": 20,
    "batch_age_s": 0.01,
    "first_retry_s": 0.01,
    "last_retry_s": 0.05,
    "timeout_s": 2.0,
}


def send_all(producer: kinfold.Producer) -> None:
    """Send all events from 8 threads."""

    def send(number: int) -> None:
        for event in range(EACH):
            producer.seen(f"v-{number}-{event}")

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def send_all_async(producer: kinfold.AsyncProducer) -> None:
    """The same from 8 tasks."""

    async def send(number: int) -> None:
        for event in range(EACH):
            await producer.seen(f"v-{number}-{event}")
            if event % 10 == 0:
                await asyncio.sleep(0)

    await asyncio.gather(*(send(number) for number in range(8)))


def run(url: str, workspace: str, how: str, during: Callable[[], object] = lambda: None, **options: Any) -> kinfold.Counters:
    """Send all events from threads or tasks, call `during`, and flush."""
    options = {**QUICK, **options}
    if how == "threads":
        with kinfold.Producer(url, workspace=workspace, **options) as producer:
            send_all(producer)
            during()
            producer.flush(timeout_s=200)
            return producer.counters

    async def main() -> kinfold.Counters:
        async with kinfold.AsyncProducer(url, workspace=workspace, **options) as producer:
            await send_all_async(producer)
            await asyncio.to_thread(during)
            await producer.flush(timeout_s=200)
            return producer.counters

    return asyncio.run(main())


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_connections_that_break_during_an_answer_lose_nothing(proxy: Proxy, client: Redis, workspace: str, how: str):
    """A quarter of the answers break off: the batch was appended, but the producer does not know it."""
    proxy.cut_share = 0.25
    counters = run(proxy.url, workspace, how)
    assert proxy.cuts > 10
    assert counters.retries >= 10
    assert counters.sent == EVENTS
    assert Log(client, workspace).visitors == EXPECTED


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_slow_server_causes_no_retries(proxy: Proxy, client: Redis, workspace: str, how: str):
    proxy.delay_s = 0.03
    counters = run(proxy.url, workspace, how, timeout_s=60.0)
    assert (counters.sent, counters.retries) == (EVENTS, 0)
    assert Log(client, workspace).visitors == EXPECTED


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_late_answers_duplicate_nothing(proxy: Proxy, client: Redis, workspace: str, how: str):
    """The answers come after the timeout, so every repeat is a duplicate."""
    proxy.delay_s = 2.3

    def recover() -> None:
        wait_until_sync(lambda: proxy.delay_s and threading.active_count() > 0)
        timer = threading.Timer(2.5, lambda: setattr(proxy, "delay_s", 0.0))
        timer.start()
        timer.join()

    counters = run(proxy.url, workspace, how, recover)
    assert counters.retries >= 1
    assert Log(client, workspace).visitors == EXPECTED


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_refused_connections_lose_nothing(proxy: Proxy, client: Redis, workspace: str, how: str):
    """No call waits for the server: it can be reached only after the last of them."""
    proxy.refuse()
    counters = run(proxy.url, workspace, how, proxy.accept)
    assert counters.sent == EVENTS
    assert Log(client, workspace).visitors == EXPECTED


@pytest.mark.slow
@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_restarted_server_loses_nothing(tmp_path: Path, workspace: str, how: str):
    """It stops after some events and starts while others wait; `appendfsync always` keeps the acknowledged ones."""
    first = EmbeddedServer.start(tmp_path / "data", fsync="always")
    url = first.url

    servers: list[EmbeddedServer] = []

    def stop_and_start() -> None:
        first.stop()
        servers.append(EmbeddedServer.start(tmp_path / "data", fsync="always"))

    counters = run(url, workspace, how, stop_and_start)
    with servers[0] as server, Redis.from_url(server.url) as client:
        assert counters.sent == EVENTS
        log = Log(client, workspace)
        assert log.folded_visitors == EXPECTED
        assert log.visitors == EXPECTED


def test_temporary_server_errors_are_retried(tmp_path: Path, workspace: str):
    """A long-running script (BUSY), a server without its replicas (NOREPLICAS): neither producer nor feed gives up."""
    with EmbeddedServer.start(tmp_path / "data") as server, Redis.from_url(server.url) as client:
        failures: list[kinfold.Failure] = []
        options: dict[str, Any] = {"on_error": failures.append, **QUICK}
        with (
            kinfold.Producer(server.url, workspace=workspace, **options) as producer,
            kinfold.Contacts(server.url, workspace=workspace) as contacts,
            kinfold.Feed(server.url, workspace=workspace).follow() as changes,
        ):
            client.config_set("min-replicas-to-write", 1)
            producer.seen("v-1")
            wait_until_sync(lambda: failures)
            assert isinstance(failures[0].error, kinfold.Unreachable), failures[0]
            client.config_set("min-replicas-to-write", 0)
            producer.flush()

            del failures[:]
            following = threading.Thread(target=lambda: list(changes))
            following.start()
            client.config_set("busy-reply-threshold", 1)
            with Redis.from_url(server.url, socket_timeout=200) as other:
                script = threading.Thread(target=run_for_ever, args=(other,))
                script.start()
                producer.seen("v-2")
                wait_until_sync(lambda: failures and "BUSY" in str(failures[-1].error))
                assert isinstance(failures[-1].error, kinfold.Unreachable)
                with pytest.raises(kinfold.Unreachable, match="BUSY"):
                    contacts.get("ct_1")
                wait_until_sync(lambda: failures[4:])
                assert following.is_alive()
                client.script_kill()
                script.join()
            producer.flush()
            changes.close()
            following.join()
        assert Log(client, workspace).visitors == Counter(["v-1", "v-2"])


def test_unreachable_cluster_is_retried():
    """redis-py raises a special error for this. The producer keeps its events, and a lookup raises."""
    url = f"redis+cluster://127.0.0.1:{free_port()}"
    failures: list[kinfold.Failure] = []
    producer = kinfold.Producer(url, on_error=failures.append, **QUICK)
    producer.seen("v-1")
    wait_until_sync(lambda: failures[2:])
    assert [(type(each.error), each.lost) for each in failures[:3]] == [(kinfold.Unreachable, False)] * 3

    with pytest.raises(kinfold.Unreachable, match="cannot be connected"):
        kinfold.Contacts(url)
    producer.close(timeout_s=0)


def run_for_ever(client: Redis) -> None:
    """Run a script until it is killed."""
    with pytest.raises(ResponseError, match="killed"):
        client.eval("while true do end", 0)


def test_error_of_a_cluster_node_names_the_right_url():
    error = redis_error(MovedError("3999 127.0.0.1:6381"))
    assert isinstance(error, kinfold.Refused)
    assert (
        str(error)
        == "Redis: expected a single server, got a node of a cluster (MOVED 3999 127.0.0.1:6381); use redis+cluster://"
    )
