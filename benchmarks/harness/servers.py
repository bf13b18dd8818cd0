"""Servers for benchmarks, and the resource use of processes."""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import redis

from kinfold_services.server.embedded import EmbeddedServer

_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


class BenchServer:
    """A running server, with a client and its resource use."""

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self.client: Final = redis.Redis.from_url(url, socket_timeout=None)
        self.process_id: Final = cast("int", self.info()["process_id"])

    @property
    def socket(self) -> str:
        """The path of its unix socket."""
        return cast("str", self.client.connection_pool.connection_kwargs["path"])

    @property
    def name(self) -> str:
        """Its engine and version."""
        info = self.info()
        return f"valkey {info['valkey_version']}" if "valkey_version" in info else f"redis {info['redis_version']}"

    @property
    def used_memory_bytes(self) -> int:
        """The memory of its data in bytes."""
        return cast("int", self.info()["used_memory"])

    def info(self) -> dict[str, Any]:
        """The reply to INFO."""
        return self.client.info()


@contextmanager
def bench_server() -> Iterator[BenchServer]:
    """Run an embedded server like that of `kinfold up` in a temporary directory.

    Unlike that one, it does not rewrite its append-only file, which would slow down one round and not the next.
    """
    with tempfile.TemporaryDirectory(prefix="kinfold-bench-") as directory, EmbeddedServer.start(Path(directory)) as embedded:
        server = BenchServer(embedded.url)
        server.client.config_set("auto-aof-rewrite-percentage", 0)
        try:
            yield server
        finally:
            server.client.close()


def cpu_s(process_id: int) -> float:
    """CPU seconds of a process in user and kernel mode; 0 without /proc."""
    try:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def precise_cpu_s(process_ids: Iterable[int]) -> float:
    """CPU seconds of this thread and of processes with one thread each, in nanoseconds' precision (Linux)."""
    nanoseconds = sum(int(Path(f"/proc/{each}/schedstat").read_text().split()[0]) for each in process_ids)
    return time.thread_time() + nanoseconds / 1e9


def resident_bytes(process_id: int, field: str = "VmRSS") -> int:
    """Current (`VmRSS`) or peak (`VmHWM`) memory of a process in bytes; 0 without /proc."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
