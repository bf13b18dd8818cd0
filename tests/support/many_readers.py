"""Many readers of the feed in one process: `python -m tests.support.many_readers HOST PORT KEY COUNT CHANGES`.

It prints `{"ready": COUNT}` when all readers are on the feed, and a summary when each has received CHANGES changes: `readers`
(how many got every change once and in order), `order` (first and last id), and latencies in ms from the log entry that caused
a change to its arrival. It parses bytes instead of HTTP, because of up to 200,000 messages per second.
"""

import asyncio
import json
import re
import sys
import time
from functools import partial
from typing import Final, cast

import uvloop

_MESSAGE: Final = re.compile(rb'id: (\d+-\d+)\r\ndata: [^\r]*?"cause":"(\d+)-')
_SAMPLED: Final = 20
_END: Final = b"\r\n\r\n"


class Readers:
    """State that all readers share. The first reader to receive a change defines the order."""

    def __init__(self, count: int, changes: int) -> None:
        self.changes = changes
        self.order: list[bytes] = []
        self.latencies_ms: list[float] = []
        self.wrong: list[str] = []
        self.waiting = count
        self.ready = asyncio.Event()
        self.done = asyncio.Event()
        self.unfinished = count

    def is_ready(self) -> None:
        """Note that one more reader is on the feed."""
        self.waiting -= 1
        if self.waiting == 0:
            self.ready.set()

    def has_ended(self) -> None:
        """Note that one more reader has received everything, or has failed."""
        self.unfinished -= 1
        if self.unfinished == 0:
            self.done.set()


class Reader(asyncio.Protocol):
    """The connection of one reader."""

    def __init__(self, readers: Readers, number: int, request: bytes) -> None:
        self.readers = readers
        self.is_sampled = number % _SAMPLED == 0
        self.request = request
        self.rest = b""
        self.received = 0
        self.on_feed = self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.WriteTransport", transport).write(self.request)

    def data_received(self, data: bytes) -> None:
        data = self.rest + data
        if not self.on_feed and b"\r\nid: " in data:  # the first block of the stream has the position at which it begins
            self.on_feed = True
            self.readers.is_ready()
        whole = data.rfind(_END) + len(_END)
        self.rest = data[whole:]
        now_ms = time.time() * 1000
        order = self.readers.order
        for entry, cause in _MESSAGE.findall(data[:whole]):
            if self.received == len(order):
                order.append(entry)
            elif order[self.received] != entry:
                self._end(f"{entry!r} where {order[self.received]!r} was expected")
            self.received += 1
            if self.is_sampled:
                self.readers.latencies_ms.append(now_ms - int(cause))
        if self.received >= self.readers.changes:
            self._end("")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"cut off after {self.received}: {exc}")

    def _end(self, wrong: str) -> None:
        if not self.ended:
            self.ended = True
            self.readers.wrong += [wrong] if wrong else []
            self.readers.has_ended()


async def main(host: str, port: str, key: str, count: int, changes: int) -> None:
    """Open the connections in batches and wait until all readers are done."""
    loop = asyncio.get_running_loop()
    request = f"GET /v1/changes HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    readers = Readers(count, changes)
    for first in range(0, count, 50):
        opening = [
            loop.create_connection(partial(Reader, readers, number, request), host, int(port))
            for number in range(first, min(first + 50, count))
        ]
        await asyncio.gather(*opening)
    await readers.ready.wait()
    print(json.dumps({"ready": count}), flush=True)  # noqa: T201  the caller reads it
    await readers.done.wait()
    latencies = sorted(readers.latencies_ms) or [0.0]
    result = {
        "readers": count - len(readers.wrong),
        "wrong": readers.wrong[:5],
        "order": [readers.order[0].decode(), readers.order[-1].decode()] if readers.order else [],
        "distinct": len(set(readers.order)),
        "p50_ms": round(latencies[len(latencies) // 2], 1),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)], 1),
        "max_ms": round(latencies[-1], 1),
    }
    print(json.dumps(result), flush=True)  # noqa: T201  as above


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
