"""Events that could not be sent stay on disk, over restarts of the producer and of the machine."""

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest
from redis import Redis

import kinfold
from kinfold.calls.encoding import encode_drafts
from kinfold.producer.spool import Spool
from tests.clients.drafting import DRAFTING
from tests.support.logs import Log
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until_sync

EVENT: Final = encode_drafts([DRAFTING.seen("v-1")])
NOWHERE: Final = "redis://127.0.0.1:1/0"
QUICK: Final[dict[str, Any]] = {"first_retry_s": 0.01, "last_retry_s": 0.05, "batch_age_s": 0.01}


def test_next_producer_sends_what_the_first_could_not(folding_url: str, client: Redis, workspace: str, tmp_path: Path):
    spool = tmp_path / "spool"
    first = kinfold.Producer(NOWHERE, workspace=workspace, spool=spool, **QUICK)
    first.seen("v-1")
    wait_until_sync(lambda: first.counters.spooled == 1)
    first.seen("v-2")
    first.close(timeout_s=0.05)
    assert first.counters.lost == 0

    with kinfold.Producer(folding_url, workspace=workspace, spool=spool) as second:
        second.seen("v-3")
        second.flush()
        assert second.counters.sent == 1, "the events of the first producer do not count here"
    log = Log(client, workspace)
    assert [event["visitorId"] for event in log.events] == ["v-1", "v-2", "v-3"]
    assert all(event["sentAt"] >= event["at"] for event in log.events)
    assert not any(spool.iterdir())


def test_spooled_events_keep_their_order_through_an_outage(folding_url: str, client: Redis, workspace: str, tmp_path: Path):
    """During the outage events leave the memory for the disk. After it each is in the log once, in order."""
    with Proxy(folding_url) as proxy:
        proxy.refuse()
        with kinfold.Producer(
            proxy.url, workspace=workspace, spool=tmp_path, buffer_events=20, batch_events=10, when_full="wait", **QUICK
        ) as visitors:
            for number in range(200):
                visitors.seen(f"v-{number}")
            wait_until_sync(lambda: visitors.counters.spooled == 200)
            proxy.accept()
            visitors.flush()
            assert visitors.counters.sent == 200
            visitors.seen("v-200")
    assert [event["visitorId"] for event in Log(client, workspace).events] == [f"v-{number}" for number in range(201)]


def test_new_event_does_not_overtake_spooled_events(folding_url: str, client: Redis, workspace: str, tmp_path: Path):
    """The server is back, but the next attempt is not due: a new event waits behind those on disk."""
    options: dict[str, Any] = {"first_retry_s": 600, "last_retry_s": 600, "batch_age_s": 0}
    with (
        Proxy(folding_url) as proxy,
        kinfold.Producer(proxy.url, workspace=workspace, spool=tmp_path, **options) as visitors,
    ):
        proxy.refuse()
        visitors.seen("v-0")
        wait_until_sync(lambda: visitors.counters.spooled == 1)
        proxy.accept()
        visitors.seen("v-1")
        wait_until_sync(lambda: visitors.counters.buffered == 0)
        assert (visitors.counters.spooled, visitors.counters.sent) == (2, 0)
        visitors.flush()
    assert [event["visitorId"] for event in Log(client, workspace).events] == ["v-0", "v-1"]


def test_events_of_a_killed_process_remain_in_the_spool(folding_url: str, client: Redis, workspace: str, tmp_path: Path):
    """SIGKILL: no close, no exit handler. The kernel releases the lock with the process."""
    script = f"""
import kinfold, os, signal, time
visitors = kinfold.Producer({NOWHERE!r}, workspace={workspace!r}, spool={str(tmp_path)!r}, first_retry_s=0.01)
for number in range(10):
    visitors.seen(f"v-{{number}}")
while visitors.counters.spooled < 10:
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=200).returncode == -9
    with kinfold.Producer(folding_url, workspace=workspace, spool=tmp_path) as visitors:
        visitors.seen("v-10")
    assert Log(client, workspace).visitors == Counter({f"v-{number}": 1 for number in range(11)})


def test_spools_of_two_processes_are_separate(tmp_path: Path):
    first, second = Spool(str(tmp_path), 1000), Spool(str(tmp_path), 1000)
    first.put(1, EVENT)
    assert second.oldest(1) is None
    second.close()
    first.close()
    third = Spool(str(tmp_path), 1000)
    chunk = third.oldest(1)
    assert chunk is not None
    assert (chunk.events, chunk.own) == (EVENT, False)
    third.close()


def test_full_spool_accepts_no_more(workspace: str, tmp_path: Path):
    """Then the buffer fills, and the settings of a full buffer apply."""
    visitors = kinfold.Producer(
        NOWHERE, workspace=workspace, spool=tmp_path, spool_bytes=1000, buffer_events=10, batch_events=1, **QUICK
    )
    for _ in range(200):
        visitors.seen("v-1")
        wait_until_sync(lambda: visitors.counters.retries > 0)
    wait_until_sync(lambda: visitors.counters.dropped > 0)
    visitors.close(timeout_s=0.05)
    wait_until_sync(lambda: visitors.counters.lost > 0)
    counters = visitors.counters
    assert counters.spooled > 0
    assert counters.lost > 0
    assert counters.lost + counters.spooled == counters.accepted
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*.ndjson")) <= 1000


def test_close_spools_the_batch_in_flight(folding_url: str, client: Redis, workspace: str, tmp_path: Path):
    """The server accepts the connection and does not answer: `close` does not wait for it, and the events are safe."""
    with Proxy(folding_url) as proxy:
        proxy.delay_s = 3.0
        visitors = kinfold.Producer(proxy.url, workspace=workspace, spool=tmp_path, **QUICK)
        visitors.seen("v-1")
        wait_until_sync(lambda: visitors._delivery.outbox.in_flight is not None)
        visitors.close(timeout_s=0.1)
        assert (visitors.counters.lost, visitors.counters.spooled) == (0, 1)
        assert list(tmp_path.glob("*/*.ndjson"))
        thread = visitors._delivery._thread
        assert isinstance(thread, threading.Thread)
    thread.join(120)
    assert visitors.counters.sent == 0, "these events are already counted as spooled"
    with kinfold.Producer(folding_url, workspace=workspace, spool=tmp_path) as again:
        again.seen("v-2")
    assert Log(client, workspace).folded_visitors == Counter({"v-1": 1, "v-2": 1})


@pytest.mark.parametrize("broken", [b'{"type":"VisitorSeen","visitorId":"v-l', b"\0" * 100 + b"\n", b"{}\n", b""])
def test_invalid_data_in_the_spool_does_not_stop_the_rest(  # noqa: PLR0917  fixtures are arguments
    folding_url: str, client: Redis, workspace: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: bytes
):
    """Truncated files or zeros, as after a power failure: only these lines are lost. The log does not show them."""
    with kinfold.Producer(NOWHERE, workspace=workspace, spool=tmp_path, exit_timeout_s=0, **QUICK) as first:
        first.seen("v-1")
        wait_until_sync(lambda: first.counters.spooled == 1)
        first.close(timeout_s=0)
    (file,) = tmp_path.glob("*/*.ndjson")
    file.write_bytes(file.read_bytes() + broken)
    file.with_name("0.ndjson").write_bytes(broken)
    (tmp_path / "left" / "0.ndjson").mkdir(parents=True)  # unreadable, even for root
    failures: list[kinfold.Failure] = []
    with kinfold.Producer(folding_url, workspace=workspace, spool=tmp_path, on_error=failures.append) as second:
        second.seen("v-2")
        second.flush()
        assert (second.counters.sent, second.counters.lost) == (1, 0), "the events of the first producer do not count here"
    assert Log(client, workspace).visitors == Counter(["v-1", "v-2"])
    assert [failure.lost for failure in failures] == [True] * 2 * bool(broken)
    assert [path.name for path in tmp_path.glob("*/0.*")] == ["0.unread"]
    lines = [record.getMessage() for record in caplog.records if "as a producer spools them" in record.getMessage()]
    assert bool(lines) == bool(broken)
    assert not any("visitorId" in line for line in lines)


def test_spooled_events_that_disappear_are_counted_as_lost(workspace: str, tmp_path: Path, folding_url: str):
    """The files were removed: the producer does not wait for them."""
    with Proxy(folding_url) as proxy:
        proxy.refuse()
        only_on_flush: dict[str, Any] = {**QUICK, "first_retry_s": 600, "last_retry_s": 600}
        with kinfold.Producer(proxy.url, workspace=workspace, spool=tmp_path, **only_on_flush) as visitors:
            visitors.seen("v-1")
            wait_until_sync(lambda: visitors.counters.spooled == 1)
            for path in tmp_path.glob("*/*.ndjson"):
                path.unlink()
            proxy.accept()
            visitors.flush()
            counters = visitors.counters
    assert (counters.accepted, counters.lost, counters.sent, counters.buffered, counters.spooled) == (1, 1, 0, 0, 0)


def test_full_disk_keeps_no_partial_files(workspace: str, tmp_path: Path):
    """The kernel limits files to 1,000 bytes: a larger event stays in memory, and no part of it stays on the disk."""
    script = f"""
import kinfold, resource, time
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
visitors = kinfold.Producer({NOWHERE!r}, workspace={workspace!r}, spool={str(tmp_path)!r}, last_retry_s=0.01)
visitors.seen("v-1")
while visitors.counters.spooled < 1:
    time.sleep(0.01)
visitors.seen("v-2", context={{"text": "x" * 2000}})
before = visitors.counters.retries
while visitors.counters.retries < before + 5:
    time.sleep(0.01)
assert (visitors.counters.spooled, visitors.counters.buffered) == (1, 1), visitors.counters
visitors.close(timeout_s=0)
assert (visitors.counters.spooled, visitors.counters.lost) == (1, 1), visitors.counters
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.suffix for path in tmp_path.glob("*/*")) == ["", ".ndjson"]


def test_many_spools_that_open_and_close_concurrently(tmp_path: Path):
    """Like the workers of a server: none fails, none removes a directory of another one, and no event is lost."""
    errors: list[BaseException] = []

    def live() -> None:
        try:
            for _ in range(30):
                spool = Spool(str(tmp_path), 10_000)
                assert spool.put(1, EVENT)
                spool.close()
        except BaseException as error:  # noqa: BLE001  it is raised below
            errors.append(error)

    threads = [threading.Thread(target=live) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(list(tmp_path.glob("*/*.ndjson"))) == 240


def test_directory_that_cannot_be_created_is_rejected_when_the_producer_is_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        kinfold.Producer(NOWHERE, spool=tmp_path / "file" / "spool")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o720, 0o702])
def test_directory_that_others_can_write_to_is_rejected(tmp_path: Path, mode: int):
    """What is in a spool is sent as events of the application. The message has the command that mends it."""
    spool = tmp_path / "our spool"
    spool.mkdir()
    spool.chmod(mode)

    with pytest.raises(ValueError, match=rf"mode {mode:04o}; to fix this, run: chmod go-w '.*/our spool'") as refused:
        kinfold.Producer(NOWHERE, spool=spool)

    subprocess.run(["bash", "-c", str(refused.value).partition("run: ")[2]], check=True)
    kinfold.Producer(NOWHERE, spool=spool).close(timeout_s=0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_directory_of_another_user_is_rejected(tmp_path: Path):
    os.chown(tmp_path, 12345, -1)

    with pytest.raises(ValueError, match=r"expected a directory of this process's user, got .* of user 12345"):
        kinfold.Producer(NOWHERE, spool=tmp_path)


def test_what_others_put_into_a_spool_is_not_sent(tmp_path: Path):
    """A directory that others may write to, or a link. A process of ours makes neither."""
    planted, elsewhere = tmp_path / "spool" / "0-planted", tmp_path / "elsewhere"
    for directory in (planted, elsewhere):
        directory.mkdir(parents=True)
        (directory / "1.ndjson").write_bytes(EVENT[0] + b"\n")
    planted.chmod(0o777)
    (tmp_path / "spool").chmod(0o700)
    (tmp_path / "spool" / "1-link").symlink_to(elsewhere)

    spool = Spool(str(tmp_path / "spool"), 1000)

    assert spool.is_empty
    spool.close()


def test_spooled_events_are_for_their_owner_alone(tmp_path: Path):
    before = os.umask(0)
    try:
        spool = Spool(str(tmp_path / "spool"), 1000)
        assert spool.put(1, EVENT)
        spool.close()
    finally:
        os.umask(before)

    assert [path for path in (tmp_path / "spool").rglob("*") if path.stat().st_mode & 0o077] == []


def test_spooled_batch_and_its_name_are_on_disk_when_put_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a sync of the directory, a power failure could lose the name."""
    synced = list[int]()

    def see(opened: int) -> None:
        synced.append(os.fstat(opened).st_ino)

    monkeypatch.setattr(os, "fsync", see)
    spool = Spool(str(tmp_path), 1000)
    assert spool.put(1, [b'{"type":"VisitorSeen","visitorId":"v-1"}'])

    (own,) = tmp_path.iterdir()
    (batch,) = own.glob("*.ndjson")
    assert synced == [each.stat().st_ino for each in (tmp_path, batch, own)]
    spool.close()


def test_closed_spool_still_keeps_events(tmp_path: Path):
    """`close` may time out just when the background thread ends: the second of the two must not lose events."""
    spool = Spool(str(tmp_path), 1000)
    spool.close()
    assert not any(tmp_path.iterdir())
    assert spool.put(0, EVENT)
    after = Spool(str(tmp_path), 1000)
    chunk = after.oldest(1)
    assert chunk is not None
    assert chunk.events == EVENT
    after.drop_oldest()
    after.close()
    assert not any(tmp_path.iterdir())


def test_concurrent_put_and_close_lose_nothing(tmp_path: Path):
    """The batch is on disk afterwards, in either order."""
    for number in range(200):
        spool = Spool(str(tmp_path / str(number)), 1000)
        closing = threading.Thread(target=spool.close)
        closing.start()
        assert spool.put(0, EVENT)
        closing.join()
        if spool._locks:
            spool.close()
        assert len(list(tmp_path.glob(f"{number}/*/*.ndjson"))) == 1


def test_counting_while_the_spool_grows(tmp_path: Path):
    """Any thread may read the counters, for example for metrics, and does so during an outage."""
    spool = Spool(str(tmp_path / "spool"), 1 << 20)
    filling = threading.Thread(target=lambda: [spool.put(number, EVENT) for number in range(1, 301)])
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        filling.start()
        while filling.is_alive():
            assert spool.events <= 300
    finally:
        filling.join()
        sys.setswitchinterval(interval)
    assert spool.events == 300
    spool.close()


def test_event_is_spooled_when_the_producer_is_closed_at_once(workspace: str, tmp_path: Path):
    """The background thread has not opened the spool yet, or is doing so."""
    for number in range(20):
        visitors = kinfold.Producer(NOWHERE, workspace=workspace, spool=tmp_path / str(number))
        visitors.seen("v-1")
        visitors.close(timeout_s=0)
        counters = visitors.counters
        assert (counters.accepted, counters.spooled, counters.lost) == (1, 1, 0)


def test_event_is_spooled_when_the_producer_is_closed_while_encoding(
    folding_url: str, client: Redis, workspace: str, tmp_path: Path
):
    """The batch is in hand and not yet in flight: `close` spools it, and the background thread does not send it."""
    visitors = kinfold.Producer(folding_url, workspace=workspace, spool=tmp_path, batch_age_s=0)
    delivery = visitors._delivery
    is_encoding, may_continue = threading.Event(), threading.Event()

    def is_news(_: object) -> bool:
        is_encoding.set()
        return may_continue.wait(120)

    with mock.patch.object(delivery._suppression, "is_news", is_news):
        visitors.set_metadata("v-1", {"a": 1})
        assert is_encoding.wait(120)
        visitors.close(timeout_s=0.01)
        assert (visitors.counters.accepted, visitors.counters.spooled, visitors.counters.lost) == (1, 1, 0)
        may_continue.set()
        assert isinstance(delivery._thread, threading.Thread)
        delivery._thread.join(120)
    assert (visitors.counters.accepted, visitors.counters.spooled, visitors.counters.sent) == (1, 1, 0)
    assert not Log(client, workspace).events
    with kinfold.Producer(folding_url, workspace=workspace, spool=tmp_path) as again:
        again.seen("v-2")
    assert Log(client, workspace).visitors == Counter({"v-1": 1, "v-2": 1})
