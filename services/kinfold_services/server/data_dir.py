"""The data directory of an embedded server.

It holds, beside the server's own `appendonlydir/`:

| file | content |
|---|---|
| `server.lock` | empty; the server process holds a lock on it (`flock`) as long as it lives; never removed |
| `server.json` | the `engine` and `version` that wrote the data, and the `socket` of the last run; keys may be added |
| `server.log` | the server's log, over all its runs |
| `redis.sock` | the server's socket, unless the path is too long for a socket |
"""

import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any, Final, cast

from kinfold_schemas.rejections import found
from kinfold_services.connections import OLDEST
from kinfold_services.server.binary import ServerBinary, dotted, release
from kinfold_services.server.errors import DataDirMismatch, DataDirUnusable

PRIVATE_UMASK: Final = 0o077
"""The umask of all that kinfold writes: only the owner can read it, also outside the data directory."""

_SOCKET_PATH_BYTES_MAX: Final = 100  # sun_path holds 104 bytes on macOS and 108 on Linux, with the final NUL
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_ROOM_BYTES: Final = 64 << 10


def make_data_dir(data_dir: Path) -> None:
    """Create a data directory for its owner alone: the log holds the addresses of many people.

    Raises:
        DataDirUnusable: it cannot be created, the path is not a directory, or others than its owner can open it.

    """
    with using_data_dir(data_dir):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(data_dir.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise DataDirUnusable(
            f"data dir {data_dir}: expected a directory that only its owner can open (mode 0700), got mode {mode:04o}; "
            f"to fix this, run: chmod 700 {shlex.quote(str(data_dir))}"
        )


def open_private(path: Path) -> IO[bytes]:
    """Open a file to append to. If it creates the file, only the owner can read it. Raises OSError."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


@contextlib.contextmanager
def using_data_dir(data_dir: Path) -> Generator[None]:
    """Turn an OSError inside it into DataDirUnusable."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise DataDirUnusable(f"data dir {data_dir}: the disk is full ({error.strerror})") from error
        raise DataDirUnusable(
            f"data dir {data_dir}: cannot be used ({error}); expected a directory that you may read and write"
        ) from error


def disk_is_full(data_dir: Path) -> bool:
    """Whether no room is left for the server's data. A server that ended on a full disk could not log the reason."""
    try:
        return shutil.disk_usage(data_dir).free < _ROOM_BYTES
    except OSError:
        return False


def read_record(data_dir: Path) -> dict[str, str] | None:
    """Read `server.json`: `engine`, `version`, `socket`. Returns None if there is no such file.

    Raises:
        DataDirMismatch: it holds something else.
        DataDirUnusable: it cannot be read.

    """
    path = data_dir / "server.json"
    with using_data_dir(data_dir):
        try:
            record: Any = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DataDirMismatch(f"{path}: expected JSON that names the server of {data_dir}, got {error}") from error
    fields = cast("dict[str, Any]", record) if isinstance(record, dict) else {}
    if fields.get("engine") not in OLDEST or not re.match(r"\d+\.\d+", str(fields.get("version"))) or "socket" not in fields:
        raise DataDirMismatch(f"{path}: expected an engine, a version and a socket, got {found(cast('object', record))}")
    return {key: str(value) for key, value in fields.items()}


def write_record(data_dir: Path, binary: ServerBinary, socket: Path) -> None:
    """Write `server.json`, whole or not at all. Raises OSError."""
    record = {"engine": binary.engine, "version": binary.version, "socket": str(socket)}
    draft = data_dir / "server.json.new"
    with open_private(draft) as file:
        file.truncate(0)
        file.write(json.dumps(record).encode() + b"\n")
    draft.replace(data_dir / "server.json")


def refuse_mismatch(data_dir: Path, recorded: dict[str, str] | None, binary: ServerBinary) -> None:
    """Raise DataDirMismatch for data that `binary` cannot read: some servers start empty on such data, and then write.

    A newer version of the same engine reads the data of an older one; nothing else is safe.
    """
    if recorded is None:
        if (data_dir / "appendonlydir").exists():
            raise DataDirMismatch(f"{data_dir} holds the data of a server, but no server.json that names the server")
        return
    if recorded["engine"] != binary.engine or release(recorded["version"]) > release(binary.version):
        raise DataDirMismatch(
            f"{data_dir} was written by {recorded['engine']} {recorded['version']}, which {binary} ({binary.path}) "
            f"cannot read: use {recorded['engine']} {dotted(release(recorded['version']))} or newer, "
            "or another directory"
        )


def choose_socket(data_dir: Path, recorded: dict[str, str] | None) -> Path:
    """The path to listen on: in the data directory, or in a private temporary directory if that path is too long."""
    socket = data_dir / "redis.sock"
    if len(os.fsencode(socket)) <= _SOCKET_PATH_BYTES_MAX:
        return socket
    # A killed run left its directory behind: take that one again, if only this user can open it.
    if recorded is not None and (earlier := Path(recorded["socket"])).parent != data_dir and _is_private(earlier.parent):
        return earlier
    return Path(tempfile.mkdtemp(prefix="kinfold-")) / "redis.sock"


def _is_private(directory: Path) -> bool:
    try:
        status = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) == stat.S_IRWXU
