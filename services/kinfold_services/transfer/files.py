"""Opens files by name: packs and unpacks `.gz` and `.zst`, and replaces a file as a whole or not at all."""

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
"""What reading a packed file raises if the file is damaged or truncated."""

_BUFFER_BYTES: Final = 1 << 20
_GZIP_LEVEL: Final = 6  # level 9 takes three times as long for a file that is 1 % smaller


def open_packed(path: Path) -> IO[bytes]:
    """Opens a file for reading. Raises OSError; reading it, OSError and `UNPACKING_ERRORS`."""
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path))
    return cast("IO[bytes]", zstd.open(path)) if path.suffix == ".zst" else path.open("rb", buffering=_BUFFER_BYTES)


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
