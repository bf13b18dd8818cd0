"""Which `kinfold up` runs on a data dir: `kinfold.pid` holds its process id, and is locked for as long as it lives.

The lock is what counts: a process id that a killed one left behind may be somebody else's by now.
"""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_NAME: Final = "kinfold.pid"


@contextmanager
def process_file(data_dir: Path) -> Generator[None]:
    """Says that this process runs on the data dir."""
    path = data_dir / _NAME
    with path.open("w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # whoever only looks holds it for a moment
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def process_on(data_dir: Path) -> int | None:
    """The process id of the `kinfold up` that runs on the data dir."""
    try:
        with (data_dir / _NAME).open(encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
    except (OSError, ValueError):  # there is none, or it is being written
        pass
    return None
