"""A Valkey or Redis server that starts and ends with this program, and keeps its data in a directory (`data_dir.py`).

Neither engine locks its directory, and two servers on one append-only file destroy it: so there is a lock. The server
process holds it rather than the program that started it, because the server may outlive that program for a moment, and
still writes.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from kinfold_services.server.binary import ServerBinary, find_server_binary
from kinfold_services.server.data_dir import (
    PRIVATE_UMASK,
    choose_socket,
    disk_is_full,
    make_data_dir,
    open_private,
    read_record,
    refuse_mismatch,
    using_data_dir,
    write_record,
)
from kinfold_services.server.errors import DataDirUnusable, ServerAlreadyRunning, ServerFailed

Fsync = Literal["always", "everysec"]

_ANSWER_TIMEOUT_S: Final = 1.0
_POLL_INTERVAL_S: Final = 0.005
_LOG_TAIL_BYTES: Final = 2_000

# Its standard input is a pipe from this program, its standard output the locked file, its standard error the log. The server
# stops at a line on the pipe, and at the pipe's end: the kernel closes the pipe even after SIGKILL, so the server does not
# outlive this program. The server holds the lock as descriptor 4 and neither shell keeps it, so the lock is free as soon as
# the server is gone. The first shell only waits: until it does, the server's process id cannot pass to another program, and
# the second shell may signal it.
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


class EmbeddedServer:
    """A running server that belongs to this process; `start` makes it, `stop` or the end of this process ends it.

    Give `url` to any client: `redis.Redis.from_url`, `redis.asyncio.Redis.from_url`, FastStream's `RedisBroker`. Only the
    user who started the server can connect. It runs in a session of its own, so Ctrl-C reaches this process alone.
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
        """Start a server on `data_dir`, which is created if necessary, and return when the server answers.

        Args:
            data_dir: where the data is kept; for one server at a time.
            fsync: `everysec` can lose the last second in a power cut (not when a process is killed); `always` loses nothing
                that was acknowledged, and writes more slowly.
            binary: which server to start; by default the result of `find_server_binary`.
            timeout_s: how long the server may not answer. The time that it takes to load its data does not count.

        Raises:
            ServerNotFound: there is no server program.
            ServerAlreadyRunning: a server runs on this directory.
            DataDirMismatch: another engine or a newer version wrote the directory.
            DataDirUnusable: it cannot be created, read or written.
            ServerFailed: the server ended or did not answer.

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
            recorded = read_record(data_dir)
            refuse_mismatch(data_dir, recorded, binary)
            socket = choose_socket(data_dir, recorded)
            with using_data_dir(data_dir):
                write_record(data_dir, binary, socket)
                keeper = _spawn(data_dir, binary, socket, fsync, lock)
        finally:
            os.close(lock)  # the server has its own copy; without a server the directory is free again
        server = cls(data_dir, binary, socket, keeper)
        try:
            server._wait_until_ready(timeout_s)
        except BaseException:
            server.stop()
            raise
        return server

    def is_running(self) -> bool:
        """Whether the server process still lives; False also after it crashed or was killed."""
        return self._keeper.poll() is None

    def wait(self) -> None:
        """Return when the server process has ended, by `stop` or by itself."""
        self._keeper.wait()

    def stop(self, *, timeout_s: float = 30.0) -> None:
        """Shut the server down cleanly, with its data written; do nothing if it has already ended.

        Args:
            timeout_s: after this time the server is killed, which loses nothing that `fsync` promises.

        """
        if self._keeper.stdin is not None and not self._keeper.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # it has already ended
                self._keeper.stdin.write(b"stop\n")  # closing is not enough: a fork may hold the pipe open
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
                raise ServerFailed(f"{self.binary} did not answer within {timeout_s} s; its log ends: {self._log_tail()}")
            time.sleep(_POLL_INTERVAL_S)

    def _log_tail(self) -> str:
        try:
            return (self.data_dir / "server.log").read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        except OSError as error:
            return f"(no log: {error})"


def running_url(data_dir: Path) -> str | None:
    """The URL of the server that runs on `data_dir`, in any process; None if no server listens.

    A server that loads its data counts: clients see `LOADING` until it is done. A server that is too busy to answer at once
    (slow disk, overloaded machine) counts too, because it does listen.

    Raises:
        DataDirMismatch, DataDirUnusable: `server.json` cannot be read.

    """
    record = read_record(data_dir.expanduser().absolute())
    if record is None:
        return None
    url = _url(Path(record["socket"]))
    return url if _ask(url) != "silent" else None


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


def _spawn(data_dir: Path, binary: ServerBinary, socket: Path, fsync: Fsync, lock: int) -> subprocess.Popen[bytes]:
    command = [
        str(binary.path),
        *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--dir", ".", "--logfile", "server.log"),  # relative to the working directory: no path to quote
        *("--appendonly", "yes", "--appendfsync", fsync, "--save", ""),
        *("--maxmemory-policy", "noeviction"),  # the log is the only source of truth
        *("--daemonize", "no"),
    ]
    with open_private(data_dir / "server.log") as log:
        return subprocess.Popen(  # noqa: S603  all arguments are ours
            ["/bin/sh", "-c", _KEEPER, "kinfold-server", *command],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=lock,
            stderr=log,
            cwd=data_dir,
            start_new_session=True,
            umask=PRIVATE_UMASK,
        )
