"""`kinfold tail`: follows the change feed, and never skips silently (contract sections 6 and 9)."""

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
    """A `kinfold tail` that runs."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def next(self) -> Any:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def has_more(self) -> bool:
        """Whether it has printed what `next` did not return yet."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def interrupt(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_S)

    def ended(self) -> tuple[int, str]:
        """Its exit status and what it said on standard error, once it has ended by itself."""
        _, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, err.decode()

    def __enter__(self) -> Self:
        return self


@contextmanager
def tailing(kinfold: Kinfold, *options: str) -> Generator[Tail]:
    """Follows the feed."""
    with subprocess.Popen(
        kinfold.command("tail", *options), env=kinfold.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        try:
            yield Tail(process)
        finally:
            process.kill()


def identify(kinfold: Kinfold, *external_ids: str) -> None:
    """Makes contacts, and waits until they are there."""
    events = [{"type": "VisitorIdentified", "externalId": external_id} for external_id in external_ids]
    kinfold.json("publish", "--wait", stdin="\n".join(map(json.dumps, events)).encode())


def test_tail_since_0_tells_everything_and_then_what_comes(kinfold: Kinfold) -> None:
    """Each line has the change, and the feed entry to go on from."""
    identify(kinfold, "u-1", "u-2")
    with tailing(kinfold, "--since", "0") as tail:
        lines = [tail.next(), tail.next()]
        identify(kinfold, "u-3")
        lines.append(tail.next())
        assert tail.interrupt() == 0

    assert [line["change"]["contact"]["externalId"] for line in lines] == ["u-1", "u-2", "u-3"]
    assert [line["change"]["type"] for line in lines] == ["ContactCreated"] * 3
    assert sorted(line["entry"] for line in lines) == [line["entry"] for line in lines]


def test_tail_since_an_entry_goes_on_behind_it(kinfold: Kinfold) -> None:
    """What was read is not told again, and nothing is left out."""
    identify(kinfold, "u-1", "u-2", "u-3")
    with tailing(kinfold, "--since", "0") as tail:
        first = tail.next()

    with tailing(kinfold, "--since", first["entry"]) as tail:
        assert tail.next()["change"]["contact"]["externalId"] == "u-2"
        assert tail.next()["change"]["contact"]["externalId"] == "u-3"


def test_tail_tells_what_comes_from_now_on(kinfold: Kinfold) -> None:
    """Without `--since` the past is past, and from the first change that it prints on none is left out.

    Nothing tells from outside whether it has begun: so contacts are made until it prints one.
    """
    identify(kinfold, "u-1")
    numbers = count(2)
    with tailing(kinfold) as tail:

        def prints_another() -> bool:
            identify(kinfold, f"u-{next(numbers)}")
            return tail.has_more()

        wait_until_sync(prints_another, PATIENCE_S)
        last = next(numbers) - 1
        told = [int(tail.next()["change"]["contact"]["externalId"].removeprefix("u-"))]
        while told[-1] < last:
            told.append(int(tail.next()["change"]["contact"]["externalId"].removeprefix("u-")))

    assert told == list(range(told[0], last + 1))
    assert told[0] > 1


def is_blocked(log: redis_py.Redis) -> bool:
    """Whether a client that has just come waits for the feed."""
    return any(client["cmd"] == "xread" and int(client["age"]) < 5 for client in log.client_list())


@pytest.mark.parametrize("since", ["0", "the second"])
def test_tail_says_when_entries_that_it_was_asked_for_are_no_longer_kept(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, since: str
) -> None:
    """Status 1 and a sentence that says what to do; not a line of what comes after the gap."""
    identify(kinfold, "u-1", "u-2", "u-3", "u-4")
    feed = key(workspace, "changes")
    entries: Any = log.xrange(feed)
    log.xtrim(feed, minid=entries[3][0], approximate=False)

    with tailing(kinfold, "--since", since if since == "0" else entries[1][0].decode()) as tail:
        status, said = tail.ended()

    assert status == 1
    assert "the feed keeps only newer ones; read the contacts and start from now" in said


@pytest.mark.parametrize("since", ["5-0", "between"])
def test_tail_says_when_the_entry_never_was_in_this_feed(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, since: str
) -> None:
    """A failover or a restored copy took it away, and others may stand in its place. The beginning is `0`."""
    identify(kinfold, "u-1")
    if since == "between":
        last: Any = log.xinfo_stream(key(workspace, "changes"))["last-generated-id"]
        ms, _, seq = last.decode().partition("-")
        since = f"{ms}-{int(seq) + 1}"
        log.xadd(key(workspace, "changes"), {"change": "{}"}, id=f"{int(ms) + 1}-0")

    with tailing(kinfold, "--since", since) as tail:
        status, said = tail.ended()

    assert status == 1
    assert "this feed never had it (did a failover or a restored copy take it away?)" in said


def test_tail_goes_on_when_its_server_is_demoted_and_promoted(kinfold: Kinfold, log: redis_py.Redis) -> None:
    """A client that waits at a primary is thrown out when that becomes a replica (`UNBLOCKED`)."""
    identify(kinfold, "u-1")
    waiting = len(log.client_list())
    with tailing(kinfold) as tail:
        wait_until_sync(lambda: len(log.client_list()) > waiting and is_blocked(log))
        log.replicaof("127.0.0.1", str(free_port()))
        log.replicaof("NO", "ONE")
        identify(kinfold, "u-2")
        assert tail.next()["change"]["contact"]["externalId"] == "u-2"
        assert tail.interrupt() == 0


def test_tail_waits_for_a_position_first(kinfold: Kinfold) -> None:
    """As every reading command can; a position that never comes is the answer no."""
    said = kinfold.run("tail", "--since", "0", "--wait", "99999999999999-0", "--wait-timeout", "0.1")

    assert (said.status, said.out) == (1, b"")
    assert "position 99999999999999-0 is not folded after 0.1 s" in said.err


def test_tail_leaves_out_what_is_no_change(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> None:
    """Somebody's hand has put it there: it is said, and what comes behind it is told."""
    foreign: Any = log.xadd(key(workspace, "changes"), {"foo": "bar"})
    identify(kinfold, "u-1")
    with tailing(kinfold, "--since", "0") as tail:
        assert tail.next()["change"]["contact"]["externalId"] == "u-1"
        assert tail.process.stderr is not None
        assert f"feed entry {foreign.decode()} was left out" in tail.process.stderr.readline().decode()
