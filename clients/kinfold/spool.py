"""What could not be sent, kept on disk until it is: over a restart, a crash, and the end of a process that closed in time.

A spool is a directory. Each process has a directory of its own in it, with a file `lock` that it holds (`flock`) while it
lives, and one NDJSON file for each batch: events as they are sent, but for `sentAt`, which says when they went out. A file is
complete or not there (written beside, synced, renamed). Whoever starts takes over the directories that nobody holds.
A crash between sending a batch and removing its file sends it again: the events' ids make that harmless.

What others left is not trusted: a directory that cannot be read is left alone, and a line that is no event is lost alone,
for it must not stop those behind it.
"""

import contextlib
import logging
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Final, NamedTuple

from kinfold.encoding import is_encoded

try:
    import fcntl
except ImportError:  # not POSIX: everything else of the client is there all the same
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("kinfold")

_SUFFIX: Final = ".ndjson"
_PARTIAL: Final = ".partial"
_UNREAD: Final = ".unread"
_LOCK: Final = "lock"


class Chunk(NamedTuple):
    """A batch on disk, and its number in this process; `own`: accepted by this process.

    `lost` tells, once, how many of its events the disk did not give back.
    """

    path: Path
    number: int
    own: bool
    events: list[bytes]
    lost: int


def check_spool(directory: str) -> None:
    """Makes the directory. Raises OSError where it cannot, ValueError where there is no lock that ends with its process."""
    if fcntl is None:
        raise ValueError(f"spool: found {directory!r} on a system without flock (Windows), allowed there is None")
    Path(directory).mkdir(parents=True, exist_ok=True, mode=0o700)


class Spool:
    """The part of a spool that this process holds. Raises OSError where the directory cannot be made or written.

    The background thread uses it; so does, when time is up, whoever closes the producer, even after the thread has closed it.
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
            try:
                if path.is_dir() and self._hold(path):
                    self._adopt(path)
            except OSError:  # somebody else's; or its owner ended, and has just removed it
                log.warning("what is spooled in %s is left there", path, exc_info=True)
        self._own = self._make_own()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._chunks

    @property
    def events(self) -> int:
        """How many events of this process wait."""
        return sum(count for _, _, own, count in tuple(self._chunks) if own)  # another thread adds and takes

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

    def oldest(self, next_number: int) -> Chunk | None:
        """The batch that waits longest; `next_number` is its number from now on, where it has none."""
        if not self._chunks:
            return None
        path, number, own, count = self._chunks[0]
        events = self._read(path)
        self._chunks[0] = path, number or next_number, own, len(events)
        return Chunk(path, number or next_number, own, events, max(0, count - len(events)))

    def _read(self, path: Path) -> list[bytes]:
        try:
            lines = path.read_bytes().splitlines()
        except OSError:
            log.exception("spooled events cannot be read, and stay there as %s", path.with_suffix(_UNREAD))
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(_UNREAD))
            return []
        events = [line for line in lines if is_encoded(line)]
        if len(events) < len(lines):
            broken = next(line for line in lines if not is_encoded(line))
            log.error("%s: found %r, allowed are events as a producer spools them", path, broken[:200])
        return events

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
            with contextlib.suppress(OSError):  # it may be gone, or somebody who starts looks at it: then it is left to them
                left = list(directory.iterdir())
                if all(path.name == _LOCK or path.suffix == _PARTIAL for path in left):
                    for path in left:
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
        while True:
            own = self._root / f"{time.time_ns():020}-{os.getpid()}-{os.urandom(4).hex()}"
            own.mkdir(mode=0o700)
            # Whoever starts in this moment may have taken it for one that was left behind.
            with contextlib.suppress(FileNotFoundError):
                if self._hold(own):
                    return own

    def _write(self, data: bytes) -> Path:
        path = self._own / f"{time.time_ns():020}{_SUFFIX}"
        partial = path.with_suffix(_PARTIAL)
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
        except OSError:  # a disk that is full shall not be filled with beginnings
            partial.unlink(missing_ok=True)
            raise
        return path

    def _hold(self, directory: Path) -> bool:
        assert fcntl is not None  # noqa: S101  check_spool
        lock = (directory / _LOCK).open("ab")
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
            count = 0  # where it cannot be read: `oldest` will say so
            with contextlib.suppress(OSError):
                count = len(path.read_bytes().splitlines())
            self._chunks.append((path, 0, False, count))


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
