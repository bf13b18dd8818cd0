"""Applications of one file, served by real servers in their own processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 120.0


@contextmanager
def running(
    directory: Path, source: str, command: list[str], environment: dict[str, str], ends_with: int = 0
) -> Generator[Path]:
    """Run a server of `application.py`, stop it with SIGTERM and check its exit status. Yield the path of its output."""
    (directory / "application.py").write_text(source)
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=directory, env={**os.environ, **environment}, stdout=output, stderr=output
        )
    try:
        yield log
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == ends_with, log.read_text()
    finally:
        process.kill()
        process.wait()
