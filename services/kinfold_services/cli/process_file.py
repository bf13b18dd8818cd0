"""The file `kinfold.pid` of a data dir: it holds the process id of the running `kinfold up`, which keeps it locked.

Only the lock counts: the process id that a killed `kinfold up` left behind may belong to another program. The file is never
removed: a process that waits for the lock of a removed file would share the data dir with one that locks a new file.
"""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from kinfold_services.server.data_dir import using_data_dir

_NAME: Final = "kinfold.pid"
_CHECK_S: Final = 1.0
"""`process_on` holds the lock only for a moment. A lock that is held longer belongs to a `kinfold up`."""
_TRY_AGAIN_S: Final = 0.01


class AlreadyUp(Exception):
    """Another `kinfold up` runs or starts on the data dir."""


@contextmanager
def process_file(data_dir: Path) -> Generator[None]:
    """Claim the data dir for this process, before it starts anything there. Raises AlreadyUp and DataDirUnusable."""
    with using_data_dir(data_dir):
        file = (data_dir / _NAME).open("ab", buffering=0)  # "wb" would empty the file before it is locked
    with file:
        _lock(file)
        with using_data_dir(data_dir):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        try:
            yield
        finally:
            file.truncate(0)


def process_on(data_dir: Path) -> int | None:
    """The process id of the `kinfold up` that runs or starts on the data dir, or None. Raises DataDirUnusable."""
    with using_data_dir(data_dir):
        try:
            file = (data_dir / _NAME).open(encoding="ascii")
        except FileNotFoundError:
            return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            number = file.read()
            return int(number) if number.isdecimal() else None  # not yet written
    return None


def _lock(file: IO[bytes]) -> None:
    deadline = time.monotonic() + _CHECK_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise AlreadyUp from None
            time.sleep(_TRY_AGAIN_S)
        else:
            return
