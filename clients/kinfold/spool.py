"""What could not be sent, kept on disk until it is: over a restart, a crash, and the end of a process that closed in time.

A spool is a directory. Each process has a directory of its own in it, with a file `lock` that it holds (`flock`) while it
lives, and one NDJSON file for each batch: events as they are sent, but for `sentAt`, which says when they went out. A file is
complete or not there (written beside, synced, renamed). Whoever starts takes over the directories that nobody holds.
A crash between sending a batch and removing its file sends it again: the events' ids make that harmless.
"""

import contextlib
import logging
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Final, NamedTuple

try:
    import fcntl
except ImportError:  # not POSIX: everything else of the client is there all the same
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("kinfold")

_SUFFIX: Final = ".ndjson"


class Chunk(NamedTuple):
    """A batch on disk. `number`: 0 where it never had one in this process; `own`: accepted by this process."""

    path: Path
    number: int
    own: bool
    events: list[bytes]


def check_spool(directory: str) -> None:
    """Makes the directory. Raises OSError where it cannot, ValueError where there is no lock that ends with its process."""
    if fcntl is None:
        raise ValueError(f"spool: found {directory!r} on a system without flock (Windows), allowed there is None")
    Path(directory).mkdir(parents=True, exist_ok=True, mode=0o700)


class Spool:
    """The part of a spool that this process holds. Raises OSError where the directory cannot be made or written.

    The background thread uses it, and at the end, when time is up, who closes: also after the one has closed it for the other.
    """

    def __init__(self, directory: str, max_bytes: int) -> None:
        self._root: Final = Path(directory)
        self._max_bytes: Final = max_bytes
        self._mutex: Final = threading.Lock()
        self._bytes = 0
        self._chunks: deque[tuple[Path, int, bool, int]] = deque()
        self._locks: dict[Path, IO[bytes]] = {}
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(self._root.iterdir()):
            if path.is_dir() and self._hold(path):
                self._adopt(path)
        self._own = self._make_own()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._chunks

    @property
    def events(self) -> int:
        """How many events of this process wait."""
        return sum(count for _, _, own, count in self._chunks if own)

    def put(self, number: int, events: list[bytes]) -> bool:
        """Keeps a batch, behind all others; False where there is no room, or the disk says no."""
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
                log.exception("events could not be spooled in %s", self._own)
                return False
            self._bytes += len(data)
            self._chunks.append((path, number, True, len(events)))
            if is_closed:
                self._release()
        return True

    def oldest(self) -> Chunk | None:
        """The batch that waits longest."""
        while self._chunks:
            path, number, own, count = self._chunks[0]
            try:
                return Chunk(path, number, own, path.read_bytes().splitlines())
            except OSError:
                log.exception("%d spooled events are lost", count)
                self._chunks.popleft()
        return None

    def drop_oldest(self) -> None:
        """The batch that waited longest is sent."""
        with self._mutex:
            path, _, own, _ = self._chunks.popleft()
            with contextlib.suppress(OSError):
                if own:
                    self._bytes -= path.stat().st_size
                path.unlink()

    def close(self) -> None:
        """Lets others have what is left; removes what is empty."""
        with self._mutex:
            self._release()

    def _release(self) -> None:
        for directory, lock in self._locks.items():
            if not any(directory.glob(f"*{_SUFFIX}")):
                for path in directory.iterdir():
                    path.unlink(missing_ok=True)
                directory.rmdir()
            lock.close()
        self._locks.clear()

    def abandon(self) -> None:
        """In a forked child: the spool is the parent's, and so is the lock that the child inherited."""
        for lock in self._locks.values():
            lock.close()
        self._locks.clear()
        self._chunks.clear()

    def _make_own(self) -> Path:
        own = self._root / f"{time.time_ns():020}-{os.getpid()}-{os.urandom(4).hex()}"
        own.mkdir(mode=0o700)
        self._hold(own)
        return own

    def _write(self, data: bytes) -> Path:
        path = self._own / f"{time.time_ns():020}{_SUFFIX}"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        return path

    def _hold(self, directory: Path) -> bool:
        assert fcntl is not None  # noqa: S101  check_spool
        lock = (directory / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        self._locks[directory] = lock
        return True

    def _adopt(self, directory: Path) -> None:
        for path in sorted(directory.glob(f"*{_SUFFIX}")):
            count = path.read_bytes().count(b"\n")
            self._chunks.append((path, 0, False, count))
