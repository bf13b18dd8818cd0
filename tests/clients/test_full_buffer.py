"""A full buffer: calls wait while the server accepts events, and drop their events when it does not."""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from redis import Redis

import kinfold
from kinfold_schemas.keys import key
from tests.support.logs import Log
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until, wait_until_sync

NOWHERE: Final = "redis://127.0.0.1:1/0"
ROWS: Final = 25_000
WAIT_S: Final = 3.0
OUTAGE_S: Final = 10.0
AT_ONCE_S: Final = 9.0
"""The longest time of three calls that do not wait, on a busy machine; less than `OUTAGE_S`."""
TINY: Final[dict[str, Any]] = {
    "buffer_events": 10,
    "batch_events": 5,
    "batch_age_s": 0.01,
    "first_retry_s": 0.01,
    "last_retry_s": 0.05,
    "timeout_s": 2.0,
}


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_loop_over_many_rows_loses_nothing(folding_url: str, client: Redis, workspace: str, how: str):
    """More rows than fit into the buffer, as fast as possible, with the default settings."""
    counters: list[kinfold.Counters] = []
    if how == "threads":
        with kinfold.Producer(folding_url, workspace=workspace) as producer:
            for number in range(ROWS):
                producer.identify(external_id=f"u-{number}", name="Somebody")
        counters.append(producer.counters)
    else:

        async def main() -> None:
            async with kinfold.AsyncProducer(folding_url, workspace=workspace) as producer:
                for number in range(ROWS):
                    await producer.identify(external_id=f"u-{number}", name="Somebody")
            counters.append(producer.counters)

        asyncio.run(main())
    assert (counters[0].sent, counters[0].dropped, counters[0].lost) == (ROWS, 0, 0)
    assert client.xlen(key(workspace, "events")) == ROWS


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_calls_wait_as_long_as_batches_are_sent(proxy: Proxy, client: Redis, workspace: str, how: str):
    """Forty batches of 0.1 s each with `wait_s` of 3 s, which applies to a batch and not to the whole."""
    proxy.delay_s = 0.1
    started = time.monotonic()
    if how == "threads":
        with kinfold.Producer(proxy.url, workspace=workspace, wait_s=WAIT_S, **TINY) as producer:
            for number in range(200):
                producer.seen(f"v-{number}")
    else:

        async def main() -> None:
            async with kinfold.AsyncProducer(proxy.url, workspace=workspace, wait_s=WAIT_S, **TINY) as producer:
                await asyncio.gather(*(producer.seen(f"v-{number}") for number in range(200)))

        asyncio.run(main())
    assert time.monotonic() - started > WAIT_S
    assert len(Log(client, workspace).visitors) == 200


@pytest.mark.parametrize("how", ["threads", "tasks"])
@pytest.mark.parametrize("limit", ["buffer_events", "buffer_bytes"])
def test_waiting_call_sends_an_incomplete_batch_at_once(folding_url: str, client: Redis, workspace: str, how: str, limit: str):
    """The buffer is smaller than a batch, and `batch_age_s` is ten minutes."""
    options: Any = {limit: 3 if limit == "buffer_events" else 1000, "batch_age_s": 600}
    if how == "threads":
        with kinfold.Producer(folding_url, workspace=workspace, **options) as producer:
            for number in range(20):
                producer.seen(f"v-{number}")
    else:

        async def main() -> None:
            async with kinfold.AsyncProducer(folding_url, workspace=workspace, **options) as producer:
                for number in range(20):
                    await producer.seen(f"v-{number}")

        asyncio.run(main())
    assert len(Log(client, workspace).events) == 20


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_outage_delays_calls_once_and_then_they_drop_at_once(  # noqa: C901  two ways to call
    proxy: Proxy, client: Redis, workspace: str, how: str, caplog: pytest.LogCaptureFixture
):
    """With 8 concurrent callers. When the server is back, calls wait again, and `close` reports the loss."""
    proxy.refuse()
    slowest: list[float] = []

    def note(started: float) -> None:
        slowest.append(time.monotonic() - started)

    def in_threads(producer: kinfold.Producer) -> None:
        def call() -> None:
            started = time.monotonic()
            for number in range(3):
                producer.seen(f"v-{number}")
            note(started)

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def in_tasks(producer: kinfold.AsyncProducer) -> None:
        async def call() -> None:
            started = time.monotonic()
            for number in range(3):
                await producer.seen(f"v-{number}")
            note(started)

        await asyncio.gather(*(call() for _ in range(8)))

    def run(talk: Callable[[], object], counters: Callable[[], kinfold.Counters]) -> None:
        talk()
        assert max(slowest) < OUTAGE_S + AT_ONCE_S
        dropped = counters().dropped
        assert dropped >= 24 - 10 - 5
        del slowest[:]
        talk()
        assert max(slowest) < AT_ONCE_S
        assert counters().dropped == dropped + 24

        proxy.accept()
        wait_until_sync(lambda: counters().buffered == 0)
        proxy.delay_s = 0.02
        for _ in range(3):
            talk()
        assert counters().dropped == dropped + 24

    if how == "threads":
        with kinfold.Producer(proxy.url, workspace=workspace, wait_s=OUTAGE_S, **TINY) as producer:
            run(lambda: in_threads(producer), lambda: producer.counters)
        counters = producer.counters
    else:
        loop = asyncio.new_event_loop()
        asynchronous = kinfold.AsyncProducer(proxy.url, workspace=workspace, wait_s=OUTAGE_S, **TINY)
        run(lambda: loop.run_until_complete(in_tasks(asynchronous)), lambda: asynchronous.counters)
        loop.run_until_complete(asynchronous.close())
        loop.close()
        counters = asynchronous.counters
    assert counters.lost == 0
    assert len(Log(client, workspace).events) == counters.sent == 5 * 24 - counters.dropped
    (logged,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    lost = f"{counters.dropped} of 120 events were lost: {counters.dropped} found no room in the buffer, 0 were accepted"
    assert logged.getMessage().startswith(lost)


def test_close_reports_how_many_of_how_many_were_lost(workspace: str, caplog: pytest.LogCaptureFixture):
    """Only once if it is called twice; including the dropped events."""
    options: dict[str, Any] = {**TINY, "wait_s": 0}
    producer = kinfold.Producer(NOWHERE, workspace=workspace, **options)
    producer.seen("v-0")
    wait_until_sync(lambda: producer.counters.retries)
    for number in range(1, 15):
        producer.seen(f"v-{number}")
    counters = producer.counters
    producer.close(timeout_s=0.1)
    producer.close(timeout_s=0.1)
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    what = f"{counters.dropped} found no room in the buffer, {counters.accepted} were accepted and could not be sent"
    assert logged == [f"15 of 15 events were lost: {what}"]
    assert (producer.counters.lost, producer.counters.dropped) == (counters.accepted, counters.dropped)


def test_close_continues_as_long_as_the_server_accepts_events(proxy: Proxy, client: Redis, workspace: str):
    """At the end of the process: four seconds of sending, with a limit of three seconds for each batch."""
    proxy.delay_s = 0.1
    options: dict[str, Any] = {**TINY, "buffer_events": 1000}
    producer = kinfold.Producer(proxy.url, workspace=workspace, exit_timeout_s=WAIT_S, **options)
    for number in range(200):
        producer.seen(f"v-{number}")
    started = time.monotonic()
    producer._delivery.at_exit()
    assert time.monotonic() - started > WAIT_S
    assert producer.counters.lost == 0
    assert len(Log(client, workspace).events) == 200


def test_blocking_call_in_an_event_loop_does_not_wait(workspace: str):
    """It would block all other requests."""
    producer = _full(workspace)

    async def main() -> None:
        producer.seen("v-late")

    started = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - started < 60
    assert producer.counters.dropped == 1
    producer.close(timeout_s=0)


def test_call_in_a_notebook_cell_waits(proxy: Proxy, client: Redis, workspace: str, monkeypatch: pytest.MonkeyPatch):
    """The kernel runs cells inside an event loop, and bulk loads often run in notebooks."""
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    proxy.delay_s = 0.02

    async def cell() -> None:
        with kinfold.Producer(proxy.url, workspace=workspace, **TINY) as producer:
            for number in range(100):
                producer.seen(f"v-{number}")

    asyncio.run(cell())
    assert len(Log(client, workspace).events) == 100


def test_never_waiting_calls_do_not_wait(workspace: str):
    """The middlewares use them: a lost event is better than a late page."""
    producer = _full(workspace)
    started = time.monotonic()
    producer.never_waiting.identify("v-late", external_id="u-1")
    assert time.monotonic() - started < 60
    assert producer.counters.dropped == 1
    producer.close(timeout_s=0)


def test_on_error_that_calls_the_producer_does_not_deadlock(workspace: str):
    """It runs in the background thread, which would have to make room."""
    told: list[kinfold.Failure] = []

    def again(failure: kinfold.Failure) -> None:
        for _ in range(20):
            producer.seen("v-again")
        told.append(failure)

    producer = kinfold.Producer(NOWHERE, workspace=workspace, on_error=again, wait_s=600, **TINY)
    producer.seen("v-1")
    wait_until_sync(lambda: told)
    assert producer.counters.dropped > 0
    producer.close(timeout_s=0)


def _full(workspace: str) -> kinfold.Producer:
    """A producer whose buffer is full and whose calls wait for ten minutes."""
    producer = kinfold.Producer(NOWHERE, workspace=workspace, wait_s=600, exit_timeout_s=0, **TINY)
    producer.seen("v-0")
    wait_until_sync(lambda: producer.counters.retries)  # it is in flight
    for number in range(10):
        producer.seen(f"v-{number}")
    assert producer.counters.dropped == 0
    return producer


@pytest.mark.parametrize("policy", ["drop", "raise", "wait"])
def test_full_buffer_follows_the_setting(workspace: str, policy: str):
    options: dict[str, Any] = {"when_full": policy}
    visitors = kinfold.Producer(
        NOWHERE, workspace=workspace, buffer_events=3, batch_events=1, wait_s=0.05, exit_timeout_s=0, **options
    )
    visitors.seen("v-0")
    wait_until_sync(lambda: visitors.counters.retries > 0)  # it is in flight, and the buffer is empty
    for number in range(3):
        visitors.seen(f"v-{number}")
    if policy != "raise":
        visitors.seen("v-4")
        assert visitors.counters.dropped == 1
    else:
        with pytest.raises(kinfold.BufferFull, match=r"3 event\(s\) wait, the limits are 3 events"):
            visitors.seen("v-4")
    assert visitors.counters.accepted == 4
    visitors.close(timeout_s=0)


def test_buffer_is_limited_in_bytes(workspace: str):
    visitors = kinfold.Producer(NOWHERE, workspace=workspace, buffer_bytes=6_000, when_full="raise", batch_age_s=600)
    for _ in range(2):
        visitors.seen("v-1", context={"text": "x" * 2000})
    with pytest.raises(kinfold.BufferFull):
        visitors.seen("v-1", context={"text": "x" * 2000})
    visitors.close(timeout_s=0)


def test_thread_that_waits_for_room_stops_when_the_producer_is_closed(workspace: str):
    """Waiting for ten minutes would delay the end of the application."""
    options: dict[str, Any] = {"when_full": "wait", "wait_s": 600, "buffer_events": 1, "batch_events": 1}
    producer = kinfold.Producer(NOWHERE, workspace=workspace, **options)
    producer.seen("v-1")
    wait_until_sync(lambda: producer.counters.retries)  # it is in flight, and leaves room for one
    threads = [threading.Thread(target=producer.seen, args=(f"v-{number}",), daemon=True) for number in range(2, 10)]
    for thread in threads:
        thread.start()
    wait_until_sync(lambda: producer.counters.accepted == 2)
    producer.close(timeout_s=0)
    wait_until_sync(lambda: not any(thread.is_alive() for thread in threads))
    assert (producer.counters.lost, producer.counters.dropped) == (2, 7)


async def test_task_that_waits_for_room_stops_when_the_producer_is_closed(workspace: str):
    options: dict[str, Any] = {"when_full": "wait", "wait_s": 600, "buffer_events": 1, "batch_events": 1}
    producer = kinfold.AsyncProducer(NOWHERE, workspace=workspace, **options)
    await producer.seen("v-1")
    await wait_until(lambda: producer.counters.retries)
    tasks = [asyncio.create_task(producer.seen(f"v-{number}")) for number in range(2, 10)]
    await wait_until(lambda: producer.counters.accepted == 2)
    await producer.close(timeout_s=0)
    await producer.seen("v-10")
    await asyncio.wait_for(asyncio.gather(*tasks), 120)
    assert (producer.counters.lost, producer.counters.dropped) == (2, 8)
