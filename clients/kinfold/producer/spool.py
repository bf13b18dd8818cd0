"""Events that could not be sent, kept on disk over a restart, a crash, or the end of a process.

A spool is a directory. Each process has a subdirectory with a file `lock`, which it holds (`flock`) while it lives, and one
NDJSON file for each batch: the events without `sentAt`. A file is complete or absent (written under another name, synced,
renamed). A process that starts adopts the subdirectories that no process holds. After a crash between sending a batch and
removing its file, the batch is sent again; the ids of the events make that harmless.

Adopted files are not trusted. An unreadable directory is left alone. An invalid line is lost, and does not stop the events
behind it.
"""

import contextlib
import logging
import os
import shlex
import stat
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Final, NamedTuple

from kinfold.calls.encoding import is_encoded

try:
    import fcntl
except ImportError:  # Windows: everything else of the client works
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("kinfold")

_WRITE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_SUFFIX: Final = ".ndjson"
_PARTIAL: Final = ".partial"
_UNREAD: Final = ".unread"
_LOCK: Final = "lock"


class _File(NamedTuple):
    path: Path
    number: int
    """The number of the batch; 0 if it has none yet."""
    own: bool
    length: int


class Chunk(NamedTuple):
    """A batch on disk. `own`: this process accepted it. `lost`: how many of its events could not be read back."""

    path: Path
    number: int
    own: bool
    events: list[bytes]
    lost: int


def check_spool(directory: str) -> None:
    """Create the directory. Raises OSError, or ValueError if others may write to it, or on a system without `flock`.

    What is in a spool is sent as events of the application. So nobody else may put anything there.
    """
    if fcntl is None:
        raise ValueError(f"spool: expected None on a system without flock (Windows), got {directory!r}")
    Path(directory).mkdir(parents=True, exist_ok=True, mode=0o700)
    found = Path(directory).stat()
    if found.st_uid != os.geteuid():
        raise ValueError(f"spool: expected a directory of this process's user, got {directory!r} of user {found.st_uid}")
    if found.st_mode & _WRITE_BY_OTHERS:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        fix = f"to fix this, run: chmod go-w {shlex.quote(directory)}"
        raise ValueError(f"spool: expected a directory that only its owner can write to, got {directory!r}, mode {mode}; {fix}")


class Spool:
    """The part of a spool that this process holds. Raises OSError if the directory cannot be created or written.

    The background thread uses it. The thread that closes the producer may use it as well, even after `close`.
    """

    def __init__(self, directory: str, max_bytes: int) -> None:
        self._root: Final = Path(directory)
        self._max_bytes: Final = max_bytes
        self._mutex: Final = threading.Lock()
        self._bytes = 0
        self._files: deque[_File] = deque()
        self._locks: dict[Path, IO[bytes]] = {}
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(self._root.iterdir()):
            try:
                if path.is_dir() and _is_ours(path) and self._hold(path):
                    self._adopt(path)
            except OSError:  # it belongs to another user, or its owner has just removed it
                log.warning("the spool in %s cannot be read and is left there", path, exc_info=True)
        self._own = self._make_own()

    @property
    def is_empty(self) -> bool:
        """Whether no batch waits."""
        return not self._files

    @property
    def events(self) -> int:
        """How many events of this process wait."""
        return sum(file.length for file in tuple(self._files) if file.own)  # a copy: another thread may add or remove files

    def put(self, number: int, events: list[bytes]) -> bool:
        """Append a batch. Returns False if there is no room, or if the disk fails."""
        data = b"\n".join(events) + b"\n"
        with self._mutex:
            if self._bytes + len(data) > self._max_bytes:
                return False
            is_closed = not self._locks
            try:
                if is_closed:
                    self._own = self._make_own()
                path = self._write(data)
            except OSError:
                log.exception("cannot write events to the spool in %s", self._own)
                return False
            self._bytes += len(data)
            self._files.append(_File(path, number, own=True, length=len(events)))
            if is_closed:
                self._release()
        return True

    def oldest(self, next_number: int) -> Chunk | None:
        """The oldest batch. If it has no number, it gets `next_number`."""
        if not self._files:
            return None
        file = self._files[0]
        events = self._read(file.path)
        self._files[0] = file._replace(number=file.number or next_number, length=len(events))
        return Chunk(file.path, file.number or next_number, file.own, events, max(0, file.length - len(events)))

    def drop_oldest(self) -> None:
        """Remove the oldest batch, which was sent."""
        with self._mutex:
            file = self._files.popleft()
            with contextlib.suppress(OSError):
                if file.own:
                    self._bytes -= file.path.stat().st_size
                file.path.unlink()

    def close(self) -> None:
        """Leave the rest to other processes, and remove empty directories."""
        with self._mutex:
            self._release()

    def abandon(self) -> None:
        """In a forked child: the spool is the parent's, and so is the lock that the child inherited."""
        for lock in self._locks.values():
            lock.close()
        self._locks.clear()
        self._files.clear()

    def _read(self, path: Path) -> list[bytes]:
        try:
            lines = path.read_bytes().splitlines()
        except OSError:
            log.exception("cannot read spooled events; they remain in %s", path.with_suffix(_UNREAD))
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(_UNREAD))
            return []
        events = [line for line in lines if is_encoded(line)]
        if len(events) < len(lines):
            number = next(number for number, line in enumerate(lines, 1) if not is_encoded(line))  # it may be personal data
            log.error("%s: expected events as a producer spools them, got something else in line %d", path, number)
        return events

    def _release(self) -> None:
        for directory, lock in self._locks.items():
            with contextlib.suppress(OSError):  # it may be gone, or a process that starts may be looking at it
                left = list(directory.iterdir())
                if all(path.name == _LOCK or path.suffix == _PARTIAL for path in left):
                    for path in left:
                        path.unlink(missing_ok=True)
                    directory.rmdir()
            lock.close()
        self._locks.clear()

    def _make_own(self) -> Path:
        while True:
            own = self._root / f"{time.time_ns():020}-{os.getpid()}-{os.urandom(4).hex()}"
            own.mkdir(mode=0o700)
            _sync(self._root)
            # A process that starts just now may have taken the new directory for an abandoned one.
            with contextlib.suppress(FileNotFoundError):
                if self._hold(own):
                    return own

    def _write(self, data: bytes) -> Path:
        path = self._own / f"{time.time_ns():020}{_SUFFIX}"
        partial = path.with_suffix(_PARTIAL)
        try:
            with open(partial, "wb", opener=_private) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
            _sync(self._own)
        except OSError:  # do not fill a full disk with partial files
            partial.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise
        return path

    def _hold(self, directory: Path) -> bool:
        assert fcntl is not None  # noqa: S101  see check_spool
        lock = open(directory / _LOCK, "ab", opener=_private)  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        if not _is_at(lock, directory / _LOCK):  # its owner has just removed it
            lock.close()
            return False
        self._locks[directory] = lock
        return True

    def _adopt(self, directory: Path) -> None:
        for path in sorted(directory.glob(f"*{_SUFFIX}")):
            length = 0  # if it cannot be read, `oldest` logs that
            with contextlib.suppress(OSError):
                length = len(path.read_bytes().splitlines())
            self._files.append(_File(path, 0, own=False, length=length))


def _sync(directory: Path) -> None:
    """Write a directory to disk: after a power failure, a new or renamed file is in it."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _is_ours(directory: Path) -> bool:
    """Whether only this user can have put something into a directory that is not a link."""
    found = directory.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & _WRITE_BY_OTHERS


def _private(path: str, flags: int) -> int:
    """Open a file. If it is created, only the owner can read it."""
    return os.open(path, flags, 0o600)


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
