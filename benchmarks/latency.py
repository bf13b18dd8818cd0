"""How long it takes from XADD until the change is on the feed.

    python benchmarks/latency.py [--rates 1000,5000,20000] [--seconds 1.5] [--rounds 5] [--json FILE]

Every millisecond a sender appends what is due, whether the last has arrived or not (an open loop), and a reader waits for the
feed in blocking reads; each is a process of its own with a bare socket. An event counts from the millisecond in which it was
due. The mix of `live.py` on the middle population; measured are the events that make a change, a good third. The reference is a
reader of the log itself, while the projector stands still. p50 and p99 are medians of rounds, p99.9 and max of all together.
"""

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from harness.projector import Projector, stopped
from harness.results import environment, show, significant, write
from harness.servers import BenchServer, bench_server
from harness.wire import Wire, append, append_command
from harness.workloads import MIDDLE, Producer, uniform

from kinfold_schemas.keys import key

WORKSPACE: Final = "default"
TICK_S: Final = 0.001
FIRST_WAIT_MS: Final = 5000
LAST_WAIT_MS: Final = 400
"""When nothing has come for so long, nothing comes any more."""
REFERENCE_SHARE: Final = 0.5
"""Of a round's time: what a bare read takes varies little."""
CAUSE: Final = b'"cause":"'


class Sent(msgspec.Struct):
    """Of each event in turn: its entry's id, and when it was due; and by how much the sender was late at most."""

    ids: list[str]
    due_s: list[float]
    late_s: float


class Latency(msgspec.Struct):
    """Of one rate, in milliseconds."""

    events_per_s: int
    changes: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    reference_p50_ms: float
    reference_p99_ms: float
    sender_late_ms: float
    """How late the sender was at most: that much of `max_ms` may be its own."""


class Found(NamedTuple):
    """One round's latencies in seconds, in order, and how late the sender was."""

    latencies: list[float]
    late_s: float


def send(path: str, rate: int, seconds: float, seed: int) -> Sent:
    """Appends so many events a second."""
    count = round(rate * seconds)
    events = list(Producer(MIDDLE, seed).mix(uniform(MIDDLE), count))
    before, after = append_command(key(WORKSPACE, "events"))
    packed = [b"%b%d\r\n%b%b" % (before, len(each), each, after) for each in events]
    sent = Sent([], [], 0.0)
    with Wire(path) as wire:
        begins = time.monotonic() + 0.05
        tick = 0
        while len(sent.due_s) < count:
            due = begins + tick * TICK_S
            if (early := due - time.monotonic()) > 0:
                time.sleep(early)
            sent.late_s = max(sent.late_s, time.monotonic() - due)
            tick += 1
            upto = min(count, round(tick * rate * TICK_S))
            some = packed[len(sent.due_s) : upto]
            wire.socket.sendall(b"".join(some))
            sent.due_s += [due] * len(some)
            sent.ids += _replies(wire)
        while len(sent.ids) < count:
            sent.ids.append(wire.receive().decode())
    return sent


def _replies(wire: Wire) -> list[str]:
    # What has come by now, and no wait: else the loop would not be open.
    with contextlib.suppress(BlockingIOError):
        wire.feed(wire.socket.recv(1 << 16, socket.MSG_DONTWAIT))
    return [each.decode() for each in wire.arrived()]


def receive(path: str, stream: str) -> dict[str, float]:
    """When the first change came of each entry that made one; of the log itself, when the entry came."""
    is_log = stream.endswith(":events")
    came: dict[bytes, float] = {}
    last, wait_ms = "$", FIRST_WAIT_MS
    with Wire(path) as wire:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            wire.send("XREAD", "COUNT", 1000, "BLOCK", wait_ms, "STREAMS", stream, last)
            reply = wire.receive()
            now = time.monotonic()
            if reply is None:
                return {entry.decode(): at for entry, at in came.items()}
            entries = reply[0][1]
            last, wait_ms = entries[-1][0], LAST_WAIT_MS
            for entry_id, fields in entries:
                came.setdefault(entry_id if is_log else _cause(fields[1]), now)


def _cause(change: bytes) -> bytes:
    first = change.index(CAUSE) + len(CAUSE)
    return change[first : change.index(b'"', first)]


def _round(server: BenchServer, stream: str, rate: int, seconds: float, seed: int) -> Found:
    own = [sys.executable, __file__]
    reader = subprocess.Popen([*own, "receive", server.socket, stream], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"ready\n"
    arguments = ["send", server.socket, str(rate), str(seconds), str(seed)]
    sent = msgspec.json.decode(subprocess.run([*own, *arguments], stdout=subprocess.PIPE, check=True).stdout, type=Sent)
    came = msgspec.json.decode(reader.stdout.read(), type=dict[str, float])
    reader.wait()
    due_s = dict(zip(sent.ids, sent.due_s, strict=True))
    return Found(sorted(at - due_s[entry] for entry, at in came.items() if entry in due_s), sent.late_s)


def measure(server: BenchServer, projector: Projector, rate: int, seconds: float, seed: int) -> tuple[Found, Found]:
    """One round: the feed behind the projector, and the bare log."""
    feed = _round(server, key(WORKSPACE, "changes"), rate, seconds, seed)
    with stopped(projector):
        log = _round(server, key(WORKSPACE, "events"), rate, seconds * REFERENCE_SHARE, seed + 1)
    newest: Any = server.client.xrevrange(key(WORKSPACE, "events"), count=1)
    projector.fold({WORKSPACE: newest[0][0].decode()})
    assert len(feed.latencies) > rate * seconds * 0.25, f"{len(feed.latencies)} changes of {rate * seconds:g} events"
    return feed, log


def summed_up(rate: int, rounds: list[tuple[Found, Found]]) -> Latency:
    """A rate's figures."""
    everything = sorted(each for feed, _ in rounds for each in feed.latencies)

    def median_ms(which: int, share: float) -> float:
        return significant(statistics.median(_quantile(each[which].latencies, share) for each in rounds) * 1000)

    return Latency(
        rate,
        len(everything),
        median_ms(0, 0.5),
        median_ms(0, 0.99),
        significant(_quantile(everything, 0.999) * 1000),
        significant(everything[-1] * 1000),
        median_ms(1, 0.5),
        median_ms(1, 0.99),
        significant(max(feed.late_s for feed, _ in rounds) * 1000),
    )


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def main() -> None:
    """Runs it, or one of its processes."""
    if sys.argv[1:2] == ["send"]:
        sys.stdout.buffer.write(msgspec.json.encode(send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))))
        return
    if sys.argv[1:2] == ["receive"]:
        sys.stdout.buffer.write(msgspec.json.encode(receive(sys.argv[2], sys.argv[3])))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rates", default="1000,5000,20000", help="events a second, separated by commas")
    parser.add_argument("--seconds", type=float, default=1.5, help="that a round lasts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the result goes; default: benchmarks/results/latency.json")
    options: Any = parser.parse_args()
    rates = [int(each) for each in options.rates.split(",")]
    rounds: dict[int, list[tuple[Found, Found]]] = {rate: [] for rate in rates}
    with bench_server() as server, Projector(server) as projector:
        projector.fold({WORKSPACE: append(server.socket, WORKSPACE, Producer(MIDDLE).population(0, MIDDLE))})
        for turn in range(options.rounds):
            for number, rate in enumerate(rates):
                seed = 100 + 2 * (turn * len(rates) + number)  # a producer of its own: no event twice
                rounds[rate].append(measure(server, projector, rate, options.seconds, seed))
        where = environment(server.name)
    found = [summed_up(rate, each) for rate, each in rounds.items()]
    rows = [msgspec.structs.astuple(each) for each in found]
    columns = ("events/s", "changes", "p50 ms", "p99", "p99.9", "max", "bare log p50", "bare log p99", "sender late")
    show("from XADD to the feed", columns, rows)
    write("latency", {"environment": where, "rates": found}, options.json)


if __name__ == "__main__":
    main()
