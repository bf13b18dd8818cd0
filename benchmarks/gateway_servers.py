"""Compare uvicorn and granian with the gateway's application: ingest, the feed, and stopping with open streams.

    python benchmarks/gateway_servers.py [BATCHES]

Each server runs in its own process on uvloop. `ingest` posts batches of 100 events over eight connections. `first_ms` is the
time until all of 300 readers have received a change. `stop_s` is how long the process takes to exit after SIGTERM while they
are connected, and `told` is how many of them received `retry` before the end. Ratios are uvicorn to granian.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx
import uvloop
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.access.keys import create_key
from kinfold_services.connections import connect
from kinfold_services.gateway.server import GatewayServer
from kinfold_services.server.embedded import EmbeddedServer
from kinfold_services.settings import Settings

READERS: Final = 300
CONNECTIONS: Final = 8
STOP_S: Final = 20
CHANGE: Final = json.dumps({"type": "ContactGone", "contactId": "ct_1", "version": 1, "at": "", "cause": "1-0"})
BODY: Final = b"\n".join(
    json.dumps({"type": "VisitorSeen", "id": f"{number}", "visitorId": f"v-{number}", "context": {"url": "/"}}).encode()
    for number in range(100)
)


def serve(name: str, url: str, port: int) -> None:
    """Serve until a signal, in the child process."""
    settings = Settings(gateway_port=port, gateway_requests_per_s=1_000_000)
    if name == "uvicorn":

        async def run() -> None:
            await GatewayServer(settings, connect(url)).run_until_stopped()

        uvloop.run(run())
        return
    from granian import Granian  # noqa: PLC0415  only here

    os.environ["BENCHMARK_URL"] = url
    server = Granian(f"{__file__}:app", factory=True, port=port, interface="asgi", loop="uvloop", workers_kill_timeout=STOP_S)
    server.serve()


def app() -> Any:
    """Build the gateway's application in granian's worker."""
    from kinfold_services.gateway.app import make_app  # noqa: PLC0415  only here

    made, _ = make_app(Settings(gateway_requests_per_s=1_000_000), connect(os.environ["BENCHMARK_URL"]))
    return made


async def measure(name: str, batches: int) -> dict[str, float]:
    """Measure one server."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as directory, EmbeddedServer.start(Path(directory)) as server:
        process = subprocess.Popen(
            [sys.executable, __file__, "serve", name, server.url, str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        async with Redis.from_url(server.url) as redis:
            secret = await create_key(redis, "default", "secret")
            headers = {"Authorization": f"Bearer {secret}"}
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
                await _until_it_answers(client)
                rate = await _ingest(client, batches)
            readers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(READERS)]
            request = f"GET /v1/changes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n\r\n".encode()
            for _, writer in readers:
                writer.write(request)
            await asyncio.gather(*(reader.readuntil(b"id: ") for reader, _ in readers))
            started = time.perf_counter()
            await redis.xadd(key("default", "changes"), {"change": CHANGE})
            await asyncio.gather(*(reader.readuntil(b"data: ") for reader, _ in readers))
            first_ms = (time.perf_counter() - started) * 1000
            started = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            stopped = asyncio.create_task(asyncio.to_thread(process.wait, STOP_S * 2))
            ends = await asyncio.gather(*(reader.read(-1) for reader, _ in readers), return_exceptions=True)
            await stopped
            stop_s = time.perf_counter() - started
            for _, writer in readers:
                writer.close()
    told = sum(isinstance(end, bytes) and b"retry: " in end for end in ends)
    return {"ingest": round(rate), "first_ms": round(first_ms, 1), "stop_s": round(stop_s, 2), "told": told}


async def _until_it_answers(client: httpx.AsyncClient) -> None:
    while True:
        try:
            await client.get("/healthz")
        except httpx.TransportError:
            await asyncio.sleep(0.05)
        else:
            return


async def _ingest(client: httpx.AsyncClient, batches: int) -> float:
    waiting = iter(range(batches))

    async def work() -> None:
        for _ in waiting:
            (await client.post("/v1/events", content=BODY)).raise_for_status()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return batches * 100 / (time.perf_counter() - started)


def main() -> None:
    """Print one JSON object."""
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    batches = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    found = {name: uvloop.run(measure(name, batches)) for name in ("uvicorn", "granian")}
    ratios = {each: round(value / (found["granian"][each] or 1), 2) for each, value in found["uvicorn"].items()}
    print(json.dumps({**found, "ratio": ratios}, indent=2))


if __name__ == "__main__":
    main()
