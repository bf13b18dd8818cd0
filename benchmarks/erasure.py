"""Measure how long `kinfold erase` takes on a large log, while a projector folds.

    python benchmarks/erasure.py [--entries 1000000] [--many 10000] [--rate 2000] [--json FILE]

The log is that of `live.py`'s middle population. A sender appends events at a fixed rate while one person is erased, and the
latency from XADD to the change on the feed is measured for the events of that time, of a few seconds after it, and of a few
seconds before it. Afterwards many people are erased at once. Each erasure runs in a process like that which the projector
starts: fold, rewrite, search every key, and have the server rewrite its file.
"""

import argparse
import json
import os
import statistics
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import redis
import uvloop
from harness.projector import Projector
from harness.results import environment, show, significant, write
from harness.servers import BenchServer, bench_server
from harness.wire import append
from harness.workloads import MIDDLE, Producer, uniform

from kinfold_schemas.keys import key
from kinfold_services.connections import connect
from kinfold_services.privacy.eraser import Eraser
from kinfold_services.privacy.records import Receipt
from kinfold_services.runtime.garbage import collect_seldom
from kinfold_services.runtime.logs import configure_logs
from kinfold_services.settings import Settings
from kinfold_services.state.queries import Identifier

WORKSPACE: Final = "default"
BEFORE_S: Final = 5.0
AFTER_S: Final = 5.0
"""The projector may still have to do because of the erasure."""
ARRIVE_S: Final = 30.0
_NICER: Final = 10


class Load:
    """Appends events at a rate, and measures how long each takes to the feed."""

    def __init__(self, server: BenchServer, rate: int) -> None:
        self._sender: Final = redis.Redis.from_url(server.url)
        self._reader: Final = redis.Redis.from_url(server.url, socket_timeout=None)
        self._rate: Final = rate
        self._sent: Final[dict[bytes, float]] = {}
        self._came: Final[dict[bytes, float]] = {}
        """By log entry: when the event was sent, and when its change came."""
        self._last: Any = self._reader.xinfo_stream(key(WORKSPACE, "changes"))["last-generated-id"]  # type: ignore[index]
        self._sends = self._reads = True
        self._threads: Final = [threading.Thread(target=each, daemon=True) for each in (self._send, self._read)]

    def start(self) -> None:
        """Begin."""
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        """End, when every change has come."""
        sender, reader = self._threads
        self._sends = False
        sender.join()
        deadline = time.monotonic() + ARRIVE_S
        while len(self._came) < len(self._sent) and time.monotonic() < deadline:
            time.sleep(0.1)
        self._reads = False
        reader.join()
        assert self._came.keys() >= self._sent.keys(), f"{len(self._sent.keys() - self._came.keys())} changes did not come"

    def latencies_ms(self, since: float, upto: float) -> tuple[float, float, float]:
        """The median, the 99th percentile and the maximum of the events that were sent in a span of time."""
        some = sorted((self._came[entry] - at) * 1000 for entry, at in self._sent.items() if since <= at < upto)
        return significant(statistics.median(some)), significant(some[int(len(some) * 0.99)]), significant(some[-1])

    def _send(self) -> None:
        number, due = 0, time.perf_counter()
        while self._sends:
            event = {"type": "VisitorIdentified", "externalId": f"load-{number % 500}", "metadata": {"n": number}}
            at = time.perf_counter()
            entry = self._sender.xadd(key(WORKSPACE, "events"), {"event": json.dumps(event)})
            self._sent[entry] = at  # type: ignore[index]
            number += 1
            due += 1 / self._rate
            time.sleep(max(0.0, due - time.perf_counter()))

    def _read(self) -> None:
        last = self._last
        while self._reads:
            for _, entries in self._reader.xread({key(WORKSPACE, "changes"): last}, block=200, count=1000) or ():  # type: ignore[union-attr]
                now = time.perf_counter()
                last = entries[-1][0]
                for _, fields in entries:
                    cause = fields[b"change"].partition(b'"cause":"')[2].partition(b'"')[0]
                    self._came.setdefault(cause, now)


def prepare() -> None:
    """What the command does before it erases, in a process that the projector starts."""
    os.nice(_NICER)
    configure_logs(level="warning")
    collect_seldom()


def erase(url: str, identifiers: list[Identifier]) -> tuple[float, Receipt]:
    """Erase people; returns the seconds, and the receipt."""

    async def work() -> tuple[float, Receipt]:
        client = connect(url)
        started = time.perf_counter()
        eraser = Eraser(client, Settings(workspace=WORKSPACE))
        requested = await eraser.request(identifiers)
        await eraser.finish_pending()
        took_s = time.perf_counter() - started
        receipt = await eraser.records.receipt(requested.erasure)
        assert receipt is not None
        await client.aclose()
        return took_s, receipt

    return uvloop.run(work())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=2000, help="events per second meanwhile")
    parser.add_argument("--json", type=Path, help="output file; default: benchmarks/results/erasure.json")
    options: Any = parser.parse_args()
    collect_seldom()
    apart = ProcessPoolExecutor(1, get_context("spawn"), prepare)
    with bench_server() as server, Projector(server) as projector, apart:
        producer = Producer(MIDDLE)
        append(server.socket, WORKSPACE, producer.population(0, MIDDLE))
        left = options.entries - server.client.xlen(key(WORKSPACE, "events"))  # type: ignore[operator]
        last = append(server.socket, WORKSPACE, producer.mix(uniform(MIDDLE), left))
        projector.fold({WORKSPACE: last})
        apart.submit(time.sleep, 0).result()  # the process has started
        load = Load(server, options.rate)
        load.start()
        begun = time.perf_counter()
        time.sleep(BEFORE_S)
        erasing = time.perf_counter()
        one_s, one = apart.submit(erase, server.url, [Identifier(external_id="u-7")]).result()
        time.sleep(AFTER_S)
        done = time.perf_counter()
        load.stop()
        others = [Identifier(external_id=f"u-{number}") for number in range(8, 8 + options.many)]
        many_s, many = apart.submit(erase, server.url, others).result()
        before, during = load.latencies_ms(begun + 1, erasing), load.latencies_ms(erasing, done)
        rows = [
            ("one person", one.people, one_s, one.removed.entries if one.removed else 0),
            ("many people", many.people, many_s, many.removed.entries if many.removed else 0),
        ]
        result = {
            "environment": environment(server.name),
            "entries": options.entries,
            "one_s": significant(one_s),
            "many": many.people,
            "many_s": significant(many_s),
            "events_per_s": options.rate,
            "median_before_ms": before[0],
            "p99_before_ms": before[1],
            "median_during_ms": during[0],
            "p99_during_ms": during[1],
            "max_during_ms": during[2],
        }
        found = [each for receipt in (one, many) for each in receipt.checks if each.found and "too short" not in each.place]
        assert not found, found
    show(f"erasure, {options.entries} entries", ("", "people", "s", "entries"), rows)
    show(
        "live latency",
        ("", "median ms", "p99 ms", "max ms"),
        [("before", *before), ("during the erasure", *during)],
    )
    if options.json is not None or options.entries == 1_000_000:
        write("erasure", result, options.json)


if __name__ == "__main__":
    main()
