"""Which `kinfold up` runs on a data dir: `kinfold.pid` holds its process id, and is locked for as long as it lives.

The lock is what counts: a process id that a killed one left behind may be somebody else's by now. The file is never removed:
a process that waits for the lock of a removed file would share the data dir with one that locks its successor.
"""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from kinfold_services.embedded import using_data_dir

_NAME: Final = "kinfold.pid"
_LOOKERS_S: Final = 1.0
"""`process_on` holds the lock for a moment. A lock that is held for longer belongs to a `kinfold up`."""
_TRY_AGAIN_S: Final = 0.01


class AlreadyUp(Exception):
    """Another `kinfold up` runs on the data dir, or is starting."""


@contextmanager
def process_file(data_dir: Path) -> Generator[None]:
    """Marks the data dir as this process's, before anything is started on it. Raises AlreadyUp and DataDirUnusable."""
    with using_data_dir(data_dir):
        file = (data_dir / _NAME).open("ab", buffering=0)  # "wb" would empty it before it is locked
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
    """The process id of the `kinfold up` that runs on the data dir, or is starting; None where none does.

    Raises DataDirUnusable.
    """
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
            return int(number) if number.isdecimal() else None  # it is being written
    return None


def _lock(file: IO[bytes]) -> None:
    deadline = time.monotonic() + _LOOKERS_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise AlreadyUp from None
            time.sleep(_TRY_AGAIN_S)
        else:
            return
