"""The projector as it ships: `kinfold projector`, in a process of its own.

It is measured warm: it has folded all that was before and waits for more. Then it is stopped (SIGSTOP), the events are
appended, and the clock runs from SIGCONT until the commit of the last of them, which the server's own clock tells.
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
"""Of a thousand workspaces: to ask for all of them again and again would be a load of its own."""
_STOP_S: Final = 30.0


class Folded(NamedTuple):
    """What folding some entries took."""

    seconds: float
    projector_cpu_s: float
    server_cpu_s: float


class Run(NamedTuple):
    """What is run, and how."""

    program: tuple[str, ...] | None = None
    """What Python runs, where that is not `kinfold projector` but one that does the same."""
    profile: Path | None = None
    """Where cProfile's statistics go at its end."""
    under: tuple[str, ...] = ()
    """A program, with its arguments, that runs it and counts what it does."""
    environment: Mapping[str, str] = {}
    """Further variables."""


AS_IT_SHIPS: Final = Run()


class Projector:
    """A running projector."""

    def __init__(self, server: BenchServer, settings: Mapping[str, object] | None = None, run: Run = AS_IT_SHIPS) -> None:
        """Starts it.

        Args:
            server: where the log is.
            settings: as `{"cached_records": 50_000}`, over those of the environment; `serve` tells which workspaces.
            run: for who wants to know more than its speed.

        """
        profiler = ("-m", "cProfile", "-o", str(run.profile)) if run.profile is not None else ()
        program = run.program or ("-m", "kinfold_services.cli", "projector", "--redis-url", server.url)
        own = {f"KINFOLD_{name.upper()}": str(value) for name, value in (settings or {}).items()}
        self._server: Final = server
        self._process: Final = subprocess.Popen(
            [*run.under, sys.executable, *profiler, *program],
            env={**os.environ, "KINFOLD_LOG_LEVEL": "warning", **own, **run.environment},
        )

    @property
    def process_id(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def resident_bytes(self) -> int:
        """What it has in memory."""
        return resident_bytes(self.process_id)

    def fold(self, last: Mapping[str, str], timeout_s: float = 600.0) -> None:
        """Waits until it has folded each workspace up to an entry."""
        _wait(self._server, [self], last, timeout_s)

    def stop(self) -> None:
        """Ends it in good order."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raises where it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"the projector ended with status {self._process.returncode}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


@contextmanager
def stopped(*projectors: Projector) -> Iterator[None]:
    """While the block runs, they do not."""
    for each in projectors:
        os.kill(each.process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in projectors:
            os.kill(each.process_id, signal.SIGCONT)


def measure_fold(server: BenchServer, projectors: list[Projector], append: Any) -> Folded:
    """Lets them fold what `append()` appends; it returns the last id of each workspace."""
    with stopped(*projectors):
        last: dict[str, str] = append()
        own = [cpu_s(each.process_id) for each in projectors]
        served = cpu_s(server.process_id)
        started = time.time()
    finished = _wait(server, projectors, last, 600.0)
    used = sum(cpu_s(each.process_id) - before for each, before in zip(projectors, own, strict=True))
    return Folded(finished - started, used, cpu_s(server.process_id) - served)


def _wait(server: BenchServer, projectors: list[Projector], last: Mapping[str, str], timeout_s: float) -> float:
    """When (Unix time) the last commit was after which all is folded. Looks seldom enough to cost the server little."""
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
