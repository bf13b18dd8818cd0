"""Count the projector's instructions per event, which do not depend on the load of the machine.

`perf` counts them if the machine permits it, or else valgrind's cachegrind, thirty times slower. The whole process is counted
twice, with fewer and with more events, so that the difference excludes its start.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from harness.projector import Projector, Run
from harness.servers import bench_server
from harness.wire import append
from harness.workloads import SMALL, Producer, uniform

WORKSPACE: Final = "default"
FEWER, MORE = 2_000, 8_000
_PERF: Final = ("perf", "stat", "--field-separator", ";", "--event", "instructions:u", "--output")
_VALGRIND: Final = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")


def counter() -> str | None:
    """The available counter: `perf`, `valgrind` or None."""
    if shutil.which("perf") is not None:
        with tempfile.NamedTemporaryFile() as file:
            if subprocess.run([*_PERF, file.name, "true"], capture_output=True, check=False).returncode == 0:
                counted = Path(file.name).read_text()
                if re.search(r"^\d+;", counted, re.MULTILINE):
                    return "perf"
    return "valgrind" if shutil.which("valgrind") is not None else None


def instructions_per_event(tool: str, kind: str) -> int:
    """Instructions per event of `mix` or `no_ops`, on the small population."""
    with ThreadPoolExecutor(2) as two:
        fewer, more = two.map(lambda events: _counted(tool, kind, events), (FEWER, MORE))
    return round((more - fewer) / (MORE - FEWER))


def _counted(tool: str, kind: str, events: int) -> int:
    producer = Producer(SMALL)
    said: Iterable[bytes] = getattr(producer, kind)(uniform(SMALL), events)
    with tempfile.TemporaryDirectory(prefix="kinfold-bench-") as directory, bench_server() as server:
        file = Path(directory) / "counted"
        append(server.socket, WORKSPACE, producer.population(0, SMALL))
        last = append(server.socket, WORKSPACE, said)
        under = (*_PERF, str(file)) if tool == "perf" else (*_VALGRIND, f"--log-file={file}")
        # Only this workspace, because looking for others depends on time; a fixed hash seed keeps the order of sets.
        run = Run(under=under, environment={"PYTHONHASHSEED": "0"})
        with Projector(server, {"serve": WORKSPACE}, run) as projector:
            projector.fold({WORKSPACE: last})
        found = re.search(r"^(\d+);|I\s+refs:\s+([\d,]+)", file.read_text(), re.MULTILINE)
    assert found is not None, f"{tool} counted nothing"
    return int((found[1] or found[2]).replace(",", ""))


def warm() -> None:
    """Compile the imported modules, so that compiling is not counted in the first run."""
    subprocess.run([sys.executable, "-c", "import kinfold_services.cli, kinfold_services.projector.service"], check=True)
