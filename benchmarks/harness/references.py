"""References: the time to read the same part of a workspace's log without folding it."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec
import uvloop
from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub

from harness.servers import BenchServer
from harness.wire import Wire
from kinfold_schemas.events import Event
from kinfold_schemas.keys import key
from kinfold_services.connections import connect

PAGE_ENTRIES: Final = 1000

Reference = Callable[[BenchServer, str, str, str], float]
"""Takes the server, the workspace, the entry to start after and the last entry; returns seconds."""


def hiredis_drain(server: BenchServer, workspace: str, behind: str, upto: str) -> float:
    """A socket and hiredis, without decoding and without an event loop."""
    log, position, last = key(workspace, "events"), behind.encode() or b"0-0", upto.encode()
    with Wire(server.socket) as wire:
        started = time.perf_counter()
        while position != last:
            wire.send("XREAD", "COUNT", PAGE_ENTRIES, "STREAMS", log, position)
            position = wire.receive()[0][1][-1][0]
        return time.perf_counter() - started


def redis_py(server: BenchServer, workspace: str, behind: str, upto: str) -> float:
    """redis-py's XREAD on uvloop, with msgspec decoding the events."""
    return uvloop.run(_redis_py(server.url, workspace, behind, upto))


async def _redis_py(url: str, workspace: str, behind: str, upto: str) -> float:
    decode = msgspec.json.Decoder(Event).decode
    log, position, last = key(workspace, "events"), behind.encode() or b"0-0", upto.encode()
    client = connect(url)
    try:
        await client.ping()
        started = time.perf_counter()
        while position != last:
            reply = cast("Any", await client.xread({log: position}, count=PAGE_ENTRIES))
            (entries,) = reply.values() if isinstance(reply, dict) else [reply[0][1]]
            for _, fields in entries:
                decode(fields[b"event"])
            position = entries[-1][0]
        return time.perf_counter() - started
    finally:
        await client.aclose()


def faststream_batch(server: BenchServer, workspace: str, behind: str, upto: str) -> float:
    """FastStream's batch parser (StreamSub) with an empty handler."""
    return uvloop.run(_faststream_batch(server, workspace, behind, upto))


async def _faststream_batch(server: BenchServer, workspace: str, behind: str, upto: str) -> float:
    log = key(workspace, "events")
    expected = len(cast("list[Any]", server.client.xrange(log, min=f"({behind}" if behind else "-", max=upto)))
    broker = RedisBroker(server.url, logger=None)
    app = FastStream(broker, logger=None)
    seen, ended = 0, 0.0

    @broker.subscriber(stream=StreamSub(log, batch=True, last_id=behind or "0-0", max_records=PAGE_ENTRIES))
    async def handle(events: list[dict[str, Any]]) -> None:
        nonlocal seen, ended
        seen += len(events)
        if seen >= expected:
            ended = time.perf_counter()
            app.exit()

    started = time.perf_counter()
    with contextlib.suppress(asyncio.CancelledError):
        await app.run()
    return ended - started
