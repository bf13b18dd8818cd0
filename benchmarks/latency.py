"""Measure the latency from XADD to the change on the feed.

    python benchmarks/latency.py [--rates 1000,5000,20000] [--seconds 1.5] [--rounds 5] [--json FILE]

Every millisecond a sender appends the events that are due, without waiting for earlier ones (an open loop), and a reader waits
for the feed in blocking reads. Each is a process with a bare socket. The latency of an event counts from the millisecond in
which it was due. The events are the mix of `live.py` on the middle population. Just over a third of them make a change, and
only these are measured. The reference is a reader of the log itself, while the projector is paused. p50 and p99 are medians
over the rounds; p99.9 and max are over all rounds together.
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
"""A reader that has received nothing for this long is done."""
REFERENCE_SHARE: Final = 0.5
"""The reference takes this share of a round's time, because it varies little."""
CAUSE: Final = b'"cause":"'


class Sent(msgspec.Struct):
    """The entry id and due time of each event, in order, and the maximum delay of the sender."""

    ids: list[str]
    due_s: list[float]
    late_s: float


class Latency(msgspec.Struct):
    """The latency at one rate, in milliseconds."""

    events_per_s: int
    changes: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    reference_p50_ms: float
    reference_p99_ms: float
    sender_late_ms: float
    """The maximum delay of the sender itself, which may be part of `max_ms`."""


class Found(NamedTuple):
    """The sorted latencies of one round in seconds, and the maximum delay of the sender."""

    latencies: list[float]
    late_s: float


def send(path: str, rate: int, seconds: float, seed: int) -> Sent:
    """Append `rate` events per second."""
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
    # Only the replies that have arrived: waiting would close the loop.
    with contextlib.suppress(BlockingIOError):
        wire.feed(wire.socket.recv(1 << 16, socket.MSG_DONTWAIT))
    return [each.decode() for each in wire.arrived()]


def receive(path: str, stream: str) -> dict[str, float]:
    """When the first change of each entry arrived, or the entry itself if `stream` is the log."""
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
    """Measure one round of the feed and one of the bare log."""
    feed = _round(server, key(WORKSPACE, "changes"), rate, seconds, seed)
    with stopped(projector):
        log = _round(server, key(WORKSPACE, "events"), rate, seconds * REFERENCE_SHARE, seed + 1)
    newest: Any = server.client.xrevrange(key(WORKSPACE, "events"), count=1)
    projector.fold({WORKSPACE: newest[0][0].decode()})
    assert len(feed.latencies) > rate * seconds * 0.25, f"{len(feed.latencies)} changes of {rate * seconds:g} events"
    return feed, log


def summed_up(rate: int, rounds: list[tuple[Found, Found]]) -> Latency:
    """Summarise the rounds of one rate."""
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
    """Run the benchmark, or one of its processes."""
    if sys.argv[1:2] == ["send"]:
        sys.stdout.buffer.write(msgspec.json.encode(send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))))
        return
    if sys.argv[1:2] == ["receive"]:
        sys.stdout.buffer.write(msgspec.json.encode(receive(sys.argv[2], sys.argv[3])))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rates", default="1000,5000,20000", help="events per second, separated by commas")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="output file; default: benchmarks/results/latency.json")
    options: Any = parser.parse_args()
    rates = [int(each) for each in options.rates.split(",")]
    rounds: dict[int, list[tuple[Found, Found]]] = {rate: [] for rate in rates}
    with bench_server() as server, Projector(server) as projector:
        projector.fold({WORKSPACE: append(server.socket, WORKSPACE, Producer(MIDDLE).population(0, MIDDLE))})
        for turn in range(options.rounds):
            for number, rate in enumerate(rates):
                seed = 100 + 2 * (turn * len(rates) + number)  # another producer in each round, so that no event is repeated
                rounds[rate].append(measure(server, projector, rate, options.seconds, seed))
        where = environment(server.name)
    found = [summed_up(rate, each) for rate, each in rounds.items()]
    rows = [msgspec.structs.astuple(each) for each in found]
    columns = ("events/s", "changes", "p50 ms", "p99", "p99.9", "max", "bare log p50", "bare log p99", "sender late")
    show("from XADD to the feed", columns, rows)
    write("latency", {"environment": where, "rates": found}, options.json)


if __name__ == "__main__":
    main()
