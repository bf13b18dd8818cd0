"""Opens files by name: compresses and decompresses `.gz` and `.zst`, and replaces a file as a whole or not at all.

A file may come from somebody else. So what it decompresses to is bounded, and so is a line of it (`bounded_lines`).
"""

import gzip
import io
import os
import sys
import tempfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class DecompressedTooLarge(Exception):
    """A compressed file is larger, once decompressed, than any genuine file."""


DECOMPRESSION_ERRORS: Final = (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError, DecompressedTooLarge)
"""What reading a compressed file raises if the file is damaged or truncated, or decompresses to too much."""

DECOMPRESSED_RATIO: Final = 1000
"""A compressed file may decompress to this many times its size. Logs take a tenth to a hundredth of their size."""
DECOMPRESSED_BYTES: Final = 1 << 30
"""A compressed file may always decompress to this many bytes."""

_BUFFER_BYTES: Final = 1 << 20
_GZIP_LEVEL: Final = 6  # level 9 takes three times as long for a file that is 1 % smaller


def decompressed_at_most(path: Path) -> int:
    """How many bytes a compressed file may decompress to. Raises OSError."""
    return max(DECOMPRESSED_BYTES, DECOMPRESSED_RATIO * path.stat().st_size)


def larger_than(most_bytes: int) -> DecompressedTooLarge:
    """The error for a file that decompresses to more."""
    return DecompressedTooLarge(f"expected at most {most_bytes} bytes once decompressed, got more")


def open_compressed(path: Path) -> IO[bytes]:
    """Open a file for reading. Raises OSError; reading it, OSError and `DECOMPRESSION_ERRORS`."""
    if path.suffix not in {".gz", ".zst"}:
        return path.open("rb", buffering=_BUFFER_BYTES)
    room = decompressed_at_most(path)
    decompressed = cast("IO[bytes]", gzip.open(path) if path.suffix == ".gz" else zstd.open(path))  # noqa: SIM115
    return io.BufferedReader(_Bounded(decompressed, room), _BUFFER_BYTES)


def bounded_lines(file: IO[bytes], most_bytes: int) -> Iterator[bytes | None]:
    """The lines of a file, with their ends. None stands for a line of more than `most_bytes`, which is not kept in memory."""
    while line := file.readline(most_bytes + 1):
        if len(line) <= most_bytes or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(_BUFFER_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield None


class _Bounded(io.RawIOBase):
    """A file that may be read up to a size. Reading more raises DecompressedTooLarge."""

    def __init__(self, file: IO[bytes], room: int) -> None:
        self._file: Final = file
        self._most: Final = room
        self._room = room

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        self._room -= len(data)
        if self._room < 0:
            raise larger_than(self._most)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """A file to write, which replaces `path` in one step, and on the disk, when the block ends without an error.

    Only its owner can read it. A SIGKILL leaves a `.NAME.….partial` beside `path`. Raises OSError.
    """
    target = path.resolve()  # replaces the target of a link, not the link
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb", buffering=_BUFFER_BYTES) as raw:
            with _packing(raw, path.suffix) as file:
                yield file
            raw.flush()
            os.fsync(raw.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


@contextmanager
def _packing(raw: IO[bytes], suffix: str) -> Generator[IO[bytes]]:
    if suffix == ".gz":
        # Without a name and a time: the same log gives the same file.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=raw, mtime=0) as compressed:
            yield cast("IO[bytes]", compressed)
    elif suffix == ".zst":
        with zstd.open(raw, "wb") as compressed:
            yield cast("IO[bytes]", compressed)
    else:
        yield raw


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
