"""`kinfold tail` follows the change feed, and never skips changes silently (contract sections 6 and 9)."""

import json
import select
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from typing import Any, Self

import pytest
import redis as redis_py

from kinfold_schemas.keys import key
from tests.support.command_line import PATIENCE_S, Kinfold
from tests.support.engines import free_port
from tests.support.waiting import wait_until_sync


class Tail:
    """A running `kinfold tail`."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def next(self) -> Any:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def has_more(self) -> bool:
        """Whether it has printed a line that `next` has not returned."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def interrupt(self) -> int:
        """Send Ctrl-C, and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_S)

    def ended(self) -> tuple[int, str]:
        """Wait for its end, and return the exit status and standard error."""
        _, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, err.decode()

    def __enter__(self) -> Self:
        return self


@contextmanager
def tailing(kinfold: Kinfold, *options: str) -> Generator[Tail]:
    """Run `kinfold tail`."""
    with subprocess.Popen(
        kinfold.command("tail", *options), env=kinfold.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        try:
            yield Tail(process)
        finally:
            process.kill()


def identify(kinfold: Kinfold, *external_ids: str) -> None:
    """Create contacts, and wait until they are folded."""
    events = [{"type": "VisitorIdentified", "externalId": external_id} for external_id in external_ids]
    kinfold.json("publish", "--wait", stdin="\n".join(map(json.dumps, events)).encode())


def test_tail_since_0_prints_all_changes_and_then_new_ones(kinfold: Kinfold) -> None:
    """Each line has the change and its feed entry, from which `tail` can continue."""
    identify(kinfold, "u-1", "u-2")
    with tailing(kinfold, "--since", "0") as tail:
        lines = [tail.next(), tail.next()]
        identify(kinfold, "u-3")
        lines.append(tail.next())
        assert tail.interrupt() == 0

    assert [line["change"]["contact"]["externalId"] for line in lines] == ["u-1", "u-2", "u-3"]
    assert [line["change"]["type"] for line in lines] == ["ContactCreated"] * 3
    assert sorted(line["entry"] for line in lines) == [line["entry"] for line in lines]


def test_tail_since_an_entry_continues_after_it(kinfold: Kinfold) -> None:
    """No change is repeated, and none is missing."""
    identify(kinfold, "u-1", "u-2", "u-3")
    with tailing(kinfold, "--since", "0") as tail:
        first = tail.next()

    with tailing(kinfold, "--since", first["entry"]) as tail:
        assert tail.next()["change"]["contact"]["externalId"] == "u-2"
        assert tail.next()["change"]["contact"]["externalId"] == "u-3"


def test_tail_without_since_prints_only_new_changes(kinfold: Kinfold) -> None:
    """From the first printed change on, none is missing.

    The test cannot see when `tail` has started, so it creates contacts until `tail` prints one.
    """
    identify(kinfold, "u-1")
    numbers = count(2)
    with tailing(kinfold) as tail:

        def prints_another() -> bool:
            identify(kinfold, f"u-{next(numbers)}")
            return tail.has_more()

        wait_until_sync(prints_another, PATIENCE_S)
        last = next(numbers) - 1
        printed = [int(tail.next()["change"]["contact"]["externalId"].removeprefix("u-"))]
        while printed[-1] < last:
            printed.append(int(tail.next()["change"]["contact"]["externalId"].removeprefix("u-")))

    assert printed == list(range(printed[0], last + 1))
    assert printed[0] > 1


def is_blocked(log: redis_py.Redis) -> bool:
    """Whether a new client waits for the feed."""
    return any(client["cmd"] == "xread" and int(client["age"]) < 5 for client in log.client_list())


@pytest.mark.parametrize("since", ["0", "the second"])
def test_tail_since_a_trimmed_entry_is_status_1(kinfold: Kinfold, log: redis_py.Redis, workspace: str, since: str) -> None:
    """The message tells what to do, and no change after the gap is printed."""
    identify(kinfold, "u-1", "u-2", "u-3", "u-4")
    feed = key(workspace, "changes")
    entries: Any = log.xrange(feed)
    log.xtrim(feed, minid=entries[3][0], approximate=False)

    with tailing(kinfold, "--since", since if since == "0" else entries[1][0].decode()) as tail:
        status, said = tail.ended()

    assert status == 1
    assert "the feed keeps only newer entries; read the contacts and start from now" in said


@pytest.mark.parametrize("since", ["5-0", "between"])
def test_tail_since_an_entry_that_the_feed_never_had_is_status_1(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, since: str
) -> None:
    """A failover or a restore removed the entry, and other entries may have taken its place."""
    identify(kinfold, "u-1")
    if since == "between":
        last: Any = log.xinfo_stream(key(workspace, "changes"))["last-generated-id"]
        ms, _, seq = last.decode().partition("-")
        since = f"{ms}-{int(seq) + 1}"
        log.xadd(key(workspace, "changes"), {"change": "{}"}, id=f"{int(ms) + 1}-0")

    with tailing(kinfold, "--since", since) as tail:
        status, said = tail.ended()

    assert status == 1
    assert "this feed never had it (was it lost in a failover or a restore?)" in said


def test_tail_continues_when_its_server_is_demoted_and_promoted(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> None:
    """A primary that becomes a replica disconnects waiting clients (`UNBLOCKED`)."""
    identify(kinfold, "u-1")
    last: Any = log.xinfo_stream(key(workspace, "changes"))["last-generated-id"]
    waiting = len(log.client_list())
    with tailing(kinfold, "--since", last.decode()) as tail:  # others wait, too: nothing shows that it is `tail` that waits
        wait_until_sync(lambda: len(log.client_list()) > waiting and is_blocked(log))
        log.replicaof("127.0.0.1", str(free_port()))
        log.replicaof("NO", "ONE")
        identify(kinfold, "u-2")
        assert tail.next()["change"]["contact"]["externalId"] == "u-2"
        assert tail.interrupt() == 0


def test_tail_with_wait_gives_up_after_its_timeout(kinfold: Kinfold) -> None:
    """Like every reading command, it has status 1 if the position is never folded."""
    said = kinfold.run("tail", "--since", "0", "--wait", "99999999999999-0", "--wait-timeout", "0.1")

    assert (said.status, said.out) == (1, b"")
    assert "position 99999999999999-0 was not folded within 0.1 s" in said.err


def test_tail_skips_entries_that_are_not_changes(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> None:
    """It reports a foreign entry, and prints the changes after it."""
    foreign: Any = log.xadd(key(workspace, "changes"), {"foo": "bar"})
    identify(kinfold, "u-1")
    with tailing(kinfold, "--since", "0") as tail:
        assert tail.next()["change"]["contact"]["externalId"] == "u-1"
        assert tail.process.stderr is not None
        assert f"skipped feed entry {foreign.decode()}" in tail.process.stderr.readline().decode()
