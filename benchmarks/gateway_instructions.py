"""Count the gateway's instructions for a request with events, which do not depend on the load of the machine.

    python benchmarks/gateway_instructions.py [CHECKOUT]

`kinfold gateway` runs under valgrind's callgrind, which can write its counts at any time. A request has 1 or 100 events, and a
secret or a publishable key: the events are those of `gateway_ingest.py`, and what a page sends without a token. With
CHECKOUT, the directory of another version of this repository, that version's gateway is counted.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gateway_ingest import make_batches
from harness.results import show
from harness.servers import bench_server

ROOT: Final = Path(__file__).parents[1]
COUNTED: Final = {1: 100, 100: 30}
"""How many requests of each size are counted. Ten come before, which fill the caches."""
_WARM: Final = 10
_PATIENCE_S: Final = 600.0
_PACKAGES: Final = ("schemas", "projections", "services", "clients")
_CREATE_KEY: Final = """
import asyncio, importlib, sys
from redis.asyncio import Redis
for name in ("kinfold_services.access.keys", "kinfold_services.gateway.keys"):
    try:
        create_key = importlib.import_module(name).create_key
        break
    except ImportError:
        pass
async def main():
    async with Redis.from_url(sys.argv[1]) as redis:
        print(await create_key(redis, "default", "secret", ""), await create_key(redis, "default", "publishable", ""))
asyncio.run(main())
"""


def page_batches(count: int, size: int) -> list[list[bytes]]:
    """Events as a page sends them: a view and a property of the visitor, in turns."""
    return [
        [
            json.dumps(
                {"type": "VisitorSeen", "context": {"url": "https://example.org/pricing", "title": "Pricing"}, **common}
                if number % 2
                else {"type": "MetadataSet", "metadata": {"plan": "pro", "turn": batch}, **common}
            ).encode()
            for number in range(size)
            for common in [{"id": f"{batch}-{number}", "visitorId": f"v-{number}", "sentAt": "2026-11-28T08:00:00.000Z"}]
        ]
        for batch in range(count)
    ]


class Client:
    """Sends requests to the gateway over one connection, each after the response to the last."""

    def __init__(self, port: int, key: str) -> None:
        self._socket: Final = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
        self._key: Final = key

    def post(self, events: list[bytes]) -> None:
        """Append events, one per line. Raises AssertionError if the answer is not 202."""
        body = b"\n".join(events)
        head = f"POST /v1/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self._key}\r\n"
        self._socket.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = b""
        while (end := answer.find(b"\r\n\r\n")) < 0 or len(answer) < end + 4 + _length(answer):
            answer += self._socket.recv(65536)
        assert answer.startswith(b"HTTP/1.1 202"), answer


def _length(answer: bytes) -> int:
    found = re.search(rb"\r\ncontent-length: (\d+)", answer)
    assert found is not None, answer
    return int(found[1])


class Counted:
    """The gateway under callgrind."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self._process: Final = process
        self._directory: Final = directory

    def instructions(self) -> int:
        """The instructions since the last call."""
        before = set(self._directory.iterdir())
        subprocess.run(["callgrind_control", "--dump", str(self._process.pid)], check=True, capture_output=True)
        (counts,) = set(self._directory.iterdir()) - before
        found = re.search(r"^(?:totals|summary): (\d+)", counts.read_text(), re.MULTILINE)
        assert found is not None, f"{counts} has no sum"
        return int(found[1])


@contextmanager
def counted_gateway(url: str, port: int, environment: dict[str, str]) -> Generator[Counted]:
    """The gateway of a version, once it accepts connections."""
    with tempfile.TemporaryDirectory(prefix="kinfold-bench-") as directory:
        under = ["valgrind", "--tool=callgrind", "-q", f"--callgrind-out-file={directory}/counts"]
        program = [sys.executable, "-m", "kinfold_services", "gateway", "--redis-url", url, "--port", str(port)]
        process = subprocess.Popen([*under, *program], env=environment)
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while True:
                assert process.poll() is None, "the gateway ended"
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline, "the gateway does not listen"
                    time.sleep(0.1)
            yield Counted(process, Path(directory))
        finally:
            process.kill()
            process.wait()


def main(checkout: Path) -> None:
    """Print a table."""
    limits = {"REQUESTS_PER_S": 1e6, "BROWSER_REQUESTS_PER_S": 1e6, "BROWSER_EVENTS_PER_S": 1e6}
    environment = {
        **os.environ,
        **{f"KINFOLD_GATEWAY_{name}": f"{value:g}" for name, value in limits.items()},
        "KINFOLD_LOG_LEVEL": "warning",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(str(checkout / package) for package in _PACKAGES),
    }
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    rows: list[tuple[str, int, int]] = []
    with bench_server() as server:
        create = [sys.executable, "-c", _CREATE_KEY, server.url]
        secret, publishable = subprocess.run(create, check=True, capture_output=True, env=environment, text=True).stdout.split()
        with counted_gateway(server.url, port, environment) as gateway:
            for kind, key in (("secret", secret), ("publishable", publishable)):
                client = Client(port, key)
                for size, count in COUNTED.items():
                    total = count + _WARM
                    batches = [each[:size] for each in make_batches(total)] if key == secret else page_batches(total, size)
                    for batch in batches[:_WARM]:
                        client.post(batch)
                    gateway.instructions()
                    for batch in batches[_WARM:]:
                        client.post(batch)
                    rows.append((kind, size, round(gateway.instructions() / count)))
    show("a request to the gateway", ("key", "events", "instructions"), rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
