"""The projector as shipped: `kinfold projector` in its own process.

It is measured warm: it has folded everything so far and waits for more. Then it is paused (SIGSTOP), the events are appended,
and the time is measured from SIGCONT until the commit of the last event, by the server's clock.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from harness.servers import BenchServer, cpu_s, resident_bytes
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key

_LOOK_AGAIN_S: Final = 0.01
_LOOKED_AT: Final = 16
"""How many of the remaining workspaces each check covers, because polling a thousand would itself be a load."""
_STOP_S: Final = 30.0


class Folded(NamedTuple):
    """The time that folding some entries took."""

    seconds: float
    projector_cpu_s: float
    server_cpu_s: float


class Run(NamedTuple):
    """What to run and how."""

    program: tuple[str, ...] | None = None
    """The arguments of Python for an equivalent of `kinfold projector`."""
    profile: Path | None = None
    """The file for cProfile's statistics."""
    under: tuple[str, ...] = ()
    """A program with its arguments that runs the projector and counts instructions."""
    environment: Mapping[str, str] = {}
    """Additional environment variables."""


AS_IT_SHIPS: Final = Run()


class Projector:
    """A running projector."""

    def __init__(self, server: BenchServer, settings: Mapping[str, object] | None = None, run: Run = AS_IT_SHIPS) -> None:
        """Start the projector.

        Args:
            server: the server with the log.
            settings: such as `{"cache_bytes": 16_000_000}`, which override the environment; `serve` selects workspaces.
            run: for measuring more than its speed.

        """
        profiler = ("-m", "cProfile", "-o", str(run.profile)) if run.profile is not None else ()
        program = run.program or ("-m", "kinfold_services", "projector", "--redis-url", server.url)
        own = {f"KINFOLD_{name.upper()}": str(value) for name, value in (settings or {}).items()}
        self._server: Final = server
        self._process: Final = subprocess.Popen(
            [*run.under, sys.executable, *profiler, *program],
            env={**os.environ, "KINFOLD_LOG_LEVEL": "warning", **own, **run.environment},
        )

    @property
    def process_id(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def resident_bytes(self) -> int:
        """Its resident memory in bytes."""
        return resident_bytes(self.process_id)

    def fold(self, last: Mapping[str, str], timeout_s: float = 600.0) -> None:
        """Wait until it has folded each workspace up to an entry."""
        _wait(self._server, [self], last, timeout_s)

    def stop(self) -> None:
        """Stop it gracefully."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raise RuntimeError if it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"the projector ended with status {self._process.returncode}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


@contextmanager
def stopped(*projectors: Projector) -> Iterator[None]:
    """Pause the projectors during the block."""
    for each in projectors:
        os.kill(each.process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in projectors:
            os.kill(each.process_id, signal.SIGCONT)


def measure_fold(server: BenchServer, projectors: list[Projector], append: Any) -> Folded:
    """Measure how long they take to fold what `append()` appends. It returns the last id of each workspace."""
    with stopped(*projectors):
        last: dict[str, str] = append()
        own = [cpu_s(each.process_id) for each in projectors]
        served = cpu_s(server.process_id)
        started = time.time()
    finished = _wait(server, projectors, last, 600.0)
    used = sum(cpu_s(each.process_id) - before for each, before in zip(projectors, own, strict=True))
    return Folded(finished - started, used, cpu_s(server.process_id) - served)


def _wait(server: BenchServer, projectors: list[Projector], last: Mapping[str, str], timeout_s: float) -> float:
    """Wait until everything is folded; returns the Unix time of the last commit. It polls rarely, to spare the server."""
    deadline = time.monotonic() + timeout_s
    waiting, finished = dict(last), 0.0
    while waiting:
        asked = list(waiting)[:_LOOKED_AT]
        pipeline = server.client.pipeline(transaction=False)
        for workspace in asked:
            pipeline.hget(key(workspace, "position"), "stream_id")
            pipeline.hget(key(workspace, "projector"), "committed_at_ms")
        answers: list[Any] = pipeline.execute()
        for workspace, position, committed in zip(asked, answers[::2], answers[1::2], strict=True):
            if position is not None and position_key(position.decode()) >= position_key(waiting[workspace]):
                finished = max(finished, int(committed) / 1000 if committed is not None else time.time())
                del waiting[workspace]
        for each in projectors:
            each.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"not folded within {timeout_s:g} s: {len(waiting)} workspaces")
        if waiting and asked[0] in waiting:
            time.sleep(_LOOK_AGAIN_S)
    return finished
