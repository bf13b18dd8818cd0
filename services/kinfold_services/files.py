"""Files by name: `.gz` and `.zst` are packed and unpacked on the way, and what is written appears whole or not at all."""

import gzip
import os
import sys
import tempfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

UNPACKING_ERRORS: Final = (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError)
"""What reading a packed file raises where it is damaged or ends too early."""

_BUFFER_BYTES: Final = 1 << 20
_GZIP_LEVEL: Final = 6  # 9 is three times as slow for a file that is a hundredth smaller


def open_packed(path: Path) -> IO[bytes]:
    """Opens a file for reading. Raises OSError; reading it, OSError and `UNPACKING_ERRORS`."""
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path))
    return cast("IO[bytes]", zstd.open(path)) if path.suffix == ".zst" else path.open("rb", buffering=_BUFFER_BYTES)


@contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """A file to write to that becomes `path` when all is well, in one step and on the disk; else nothing has happened.

    Only its owner can read it. A SIGKILL leaves a `.NAME.….partial` beside it, which never looks like the file itself.
    Raises OSError.
    """
    target = path.resolve()  # what a link points to is replaced, not the link
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
        # Neither a name nor a time in it: the same log gives the same file.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=raw, mtime=0) as packed:
            yield cast("IO[bytes]", packed)
    elif suffix == ".zst":
        with zstd.open(raw, "wb") as packed:
            yield cast("IO[bytes]", packed)
    else:
        yield raw


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
