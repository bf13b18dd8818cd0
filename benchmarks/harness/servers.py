"""A server for one benchmark, and what processes use."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import redis

from kinfold_services.embedded import EmbeddedServer

_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


class BenchServer:
    """A running server: where it is, a client for the questions in between, and what it uses."""

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self.client: Final = redis.Redis.from_url(url, socket_timeout=None)
        self.process_id: Final = cast("int", self.info()["process_id"])

    @property
    def socket(self) -> str:
        """The path of the unix socket where it listens."""
        return cast("str", self.client.connection_pool.connection_kwargs["path"])

    @property
    def name(self) -> str:
        """Engine and version."""
        info = self.info()
        return f"valkey {info['valkey_version']}" if "valkey_version" in info else f"redis {info['redis_version']}"

    @property
    def used_memory_bytes(self) -> int:
        """What its data takes."""
        return cast("int", self.info()["used_memory"])

    def info(self) -> dict[str, Any]:
        """What the server says of itself."""
        return self.client.info()


@contextmanager
def bench_server() -> Iterator[BenchServer]:
    """An embedded server in a directory of its own, as `kinfold up` has it, gone at the end with its data.

    But for one thing: it does not rewrite its append-only file, which would fall into one round and spare the next.
    """
    with tempfile.TemporaryDirectory(prefix="kinfold-bench-") as directory, EmbeddedServer.start(Path(directory)) as embedded:
        server = BenchServer(embedded.url)
        server.client.config_set("auto-aof-rewrite-percentage", 0)
        try:
            yield server
        finally:
            server.client.close()


def cpu_s(process_id: int) -> float:
    """CPU seconds that a process has used, in user and in kernel mode; 0 where there is no /proc."""
    try:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def resident_bytes(process_id: int, field: str = "VmRSS") -> int:
    """What a process has in memory now (`VmRSS`), or had at most (`VmHWM`); 0 where there is no /proc."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
