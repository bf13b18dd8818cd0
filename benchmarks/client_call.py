"""Measure what a producer call costs its caller, compared with other libraries in the same run.

    python benchmarks/client_call.py [CALLS]

It measures the wall time of calls in a burst; buffers are emptied between bursts, outside the measured time. The bursts of all
cases take turns, so that other load on the machine affects them equally, and a ratio is the median over the turns. Arguments
are built beforehand. The producer's thread sends after the burst, except in "sending meanwhile", where both compete for the
interpreter lock. The references are a bare `queue.Queue.put` of an existing tuple, the same of a dict built for each event, the
producer's enqueueing without validation, and `redis.xadd`, the cost of a call that waits for the log.

"an id never seen before" validates each identifier for the first time. The other cases use 1,000 known ones.
"""

import itertools
import json
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from operator import truediv
from pathlib import Path
from typing import Final

import redis
from segment.analytics.client import Client as Segment

import kinfold
from kinfold.calls.drafts import Draft
from kinfold_services.server.embedded import EmbeddedServer

BURST: Final = 1000
BURSTS: Final = 31


class Sink(BaseHTTPRequestHandler):
    """A server that accepts the uploads of Segment's client."""

    def do_POST(self) -> None:
        """Respond with success."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


Call = Callable[[str, str], object]


def measure_us(cases: dict[str, tuple[Call, Callable[[], object]]], calls: int) -> dict[str, list[float]]:
    """Microseconds per call in each burst. A case is the call and the function that empties its buffers."""
    users = [f"u-{number % 1000}" for number in range(calls)]
    people = [(user, f"{user}@example.org") for user in users]
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(BURSTS):
        for name, (call, empty) in cases.items():
            started = time.perf_counter()
            for user, email in people:
                call(user, email)
            found[name].append((time.perf_counter() - started) / calls * 1e6)
            empty()
    return found


def main() -> None:
    """Print one JSON object."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else BURST
    sink = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as directory, EmbeddedServer.start(Path(directory)) as server:
        # The batch is larger than the burst, so the call does not compete for the interpreter lock.
        visitors = kinfold.Producer(
            server.url, workspace="bench", batch_events=5000, batch_bytes=900_000, batch_age_s=10, suppress_entries=0
        )
        busy = kinfold.Producer(server.url, workspace="busy", suppress_entries=0)
        suppressing = kinfold.Producer(server.url, workspace="same", batch_events=5000, batch_age_s=10)
        segment = Segment(
            "key", host=f"http://127.0.0.1:{sink.server_port}", max_queue_size=100_000, upload_size=100, upload_interval=0.5
        )
        client = redis.Redis.from_url(server.url)
        plain: queue.Queue[object] = queue.Queue()
        put = visitors._delivery.buffer.put  # noqa: SLF001  the part of a call that is not validation
        draft: Draft = ("VisitorSeen", time.time(), 300, "v-1", {"url": "/"})
        event = b'{"type":"VisitorIdentified","visitorId":"v-1","externalId":"u-1","metadata":{"plan":"pro"}}'
        numbers = itertools.count()
        fresh = map("v_{:022d}".format, itertools.count())

        def drain() -> None:
            while not plain.empty():
                plain.get()

        def identify(producer: kinfold.Producer) -> Call:
            return lambda user, email: producer.identify("v-1", external_id=user, email=email, metadata={"plan": "pro"})

        found = measure_us(
            {
                "queue.Queue.put": (lambda _, __: plain.put(draft), drain),
                "queue.Queue.put of a new dict": (
                    lambda user, email: plain.put(
                        {
                            "type": "VisitorIdentified",
                            "visitorId": "v-1",
                            "externalId": user,
                            "email": email,
                            "metadata": {"plan": "pro"},
                        }
                    ),
                    drain,
                ),
                "kinfold seen": (lambda _, __: visitors.seen("v-1", url="/pricing"), visitors.flush),
                "kinfold seen, an id never seen before": (
                    lambda _, __: visitors.seen(next(fresh), url="/pricing"),
                    visitors.flush,
                ),
                "kinfold identify": (identify(visitors), visitors.flush),
                "kinfold identify, says nothing new": (identify(suppressing), suppressing.flush),
                "kinfold identify, sending meanwhile": (identify(busy), busy.flush),
                "kinfold set_metadata": (lambda _, __: visitors.set_metadata("v-1", {"mrr": next(numbers)}), visitors.flush),
                "kinfold enqueue alone": (lambda _, __: put(draft), visitors.flush),
                "segment identify": (
                    lambda user, email: segment.identify(user, {"email": email, "plan": "pro"}),
                    segment.flush,
                ),
                "redis.xadd": (lambda _, __: client.xadd("log", {"event": event}), lambda: None),
            },
            calls,
        )
        assert visitors.counters.sent == 5 * BURSTS * calls
        for producer in (visitors, busy, suppressing):
            producer.close()
        segment.join()
        client.close()
    sink.shutdown()
    ratios = [("kinfold identify", "segment identify"), ("kinfold identify", "redis.xadd")]
    ratios += [("kinfold identify", "queue.Queue.put of a new dict")]
    ratios += [(name, "queue.Queue.put") for name in found if name.startswith("kinfold")]
    report = {
        "us_per_call": {name: round(statistics.median(bursts), 2) for name, bursts in found.items()},
        "ratios": {
            f"{name} / {other}": round(statistics.median(map(truediv, found[name], found[other])), 3) for name, other in ratios
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
