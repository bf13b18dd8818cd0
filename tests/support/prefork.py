"""Run `kinfold` in a separate process without starting Python for it.

Importing `kinfold` takes half a second of CPU time, a service takes a second, and the tests run hundreds. So one process
per pytest process imports it once, and forks for each command. The command has its own environment, working directory, standard
streams and exit status, as if a shell had started it, and it can be killed, hung and terminated like any process. Tests about
the start of the program start it themselves.
"""

import asyncio
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Final, NamedTuple, NoReturn

from tests.support.waiting import wait_until_sync

_LENGTH: Final = struct.Struct("!I")
_START_S: Final = 120.0
# The program, and what its services import when they start.
_IMPORTED: Final = (
    "kinfold_services.cli",
    "kinfold_services.directory.service",
    "kinfold_services.gateway.server",
    "kinfold_services.projector.service",
)
_ROOT: Final = Path(__file__).parents[2]
_LOCK: Final = threading.Lock()
_SERVICES_ARE_FORKED: Final = threading.Event()


class Ended(NamedTuple):
    """The result of a command."""

    status: int
    """As in `subprocess`: negative if a signal ended the process."""
    out: bytes
    err: bytes


class Forked:
    """A `kinfold` process, with what tests use of `subprocess.Popen`."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        streams: tuple[IO[bytes], IO[bytes], IO[bytes]],
        max_files: int | None = None,
        parent: str | None = None,
    ) -> None:
        """Start it with these standard streams, which can be closed afterwards, and a limit of open files.

        `parent` is the socket of the process that forks. By default it is the one of this process.
        """
        fields = {"arguments": arguments, "environment": dict(environment), "cwd": str(Path.cwd()), "max_files": max_files}
        request = json.dumps(fields).encode()
        self.returncode: int | None = None
        """As in `subprocess`: negative if a signal ended the process, None while it runs."""
        self._connection: Final = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(_START_S)
        self._connection.connect(parent or preforked())
        socket.send_fds(self._connection, [_LENGTH.pack(len(request))], [each.fileno() for each in streams])
        self._connection.sendall(request)
        self.pid: Final = int(_receive(self._connection))

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns the exit status. Raises TimeoutError."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            self.returncode = os.waitstatus_to_exitcode(int(_receive(self._connection)))
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal; does nothing if it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)


def start_service(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path, max_files: int | None = None
) -> "Forked | subprocess.Popen[bytes]":
    """Start `kinfold` with these arguments; what it prints is appended to the log.

    The tests fork it. Benchmarks start Python, because they measure the program as it is installed.
    """
    with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
        if _SERVICES_ARE_FORKED.is_set():
            return Forked(arguments, environment, (nothing, output, output), max_files)
        limited = [] if max_files is None else ["sh", "-c", 'ulimit -n "$1" && shift && exec "$@"', "sh", str(max_files)]
        command = [*limited, sys.executable, "-m", "kinfold_services", *arguments]
        return subprocess.Popen(command, env=environment, stdin=nothing, stdout=output, stderr=output)


def fork_services() -> None:
    """Make `start_service` fork from now on."""
    _SERVICES_ARE_FORKED.set()


async def run_kinfold(arguments: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> Ended:
    """Run `kinfold` with these arguments to its end. Raises TimeoutError, and kills it, after `timeout_s`."""
    return await asyncio.to_thread(run_to_end, arguments, environment, timeout_s)


def run_to_end(arguments: Sequence[str], environment: Mapping[str, str], timeout_s: float, given: bytes = b"") -> Ended:
    """As `run_kinfold`, with these bytes as standard input."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        stdin.write(given)
        stdin.seek(0)
        process = Forked(arguments, environment, (stdin, out, err))
        try:
            status = process.wait(timeout_s)
        except TimeoutError:
            process.kill()
            process.wait()
            raise
        return Ended(status, _content(out), _content(err))


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


class _Parent:
    """The process that forks. It ends with this one, whose pipe it holds."""

    def __init__(self) -> None:
        self._directory: Final = tempfile.TemporaryDirectory(prefix="kf-")  # short: the path of a socket is limited
        self.socket: Final = str(Path(self._directory.name) / "socket")
        command = [sys.executable, "-m", "tests.support.prefork", self.socket]
        self._process: Final = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE)
        wait_until_sync(self._listens, _START_S)

    def _listens(self) -> bool:
        assert self._process.poll() is None, "the process that forks ended"
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.socket) == 0

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._directory.cleanup()


_parents: Final[list[_Parent]] = []


def preforked() -> str:
    """The socket of the process that forks for this one, which is started when it is first needed."""
    with _LOCK:
        if not _parents:
            _parents.append(_Parent())
        return _parents[0].socket


def stop_parent() -> None:
    """End the process that forks, if there is one."""
    while _parents:
        _parents.pop().stop()


def _receive(connection: socket.socket) -> bytes:
    """Receive one message. Raises EOFError if the other side ended."""
    (length,) = _LENGTH.unpack(_receive_exactly(connection, _LENGTH.size))
    return _receive_exactly(connection, length)


def _receive_exactly(connection: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        if not (data := connection.recv(length - len(received))):
            raise EOFError("the process that forks ended")
        received += data
    return received


def _send(connection: socket.socket, value: int) -> None:
    data = str(value).encode()
    connection.sendall(_LENGTH.pack(len(data)) + data)


def _serve(path: str) -> None:
    """Fork for each connection until standard input ends."""
    for each in _IMPORTED:  # so that every fork has it
        import_module(each)
    gc.freeze()  # a fork that looked for garbage among these objects, as it does when it ends, would copy their memory first
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for the handlers
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(64)
        while True:
            ready, _, _ = select.select([sys.stdin, server], [], [])
            if sys.stdin in ready:
                return
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _handle(connection)
            connection.close()


def _handle(connection: socket.socket) -> NoReturn:
    """Fork the command, wait for it, and send its process id and its status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    start, streams, _, _ = socket.recv_fds(connection, _LENGTH.size, 3)
    if len(start) < _LENGTH.size:  # a probe
        os._exit(0)
    request = json.loads(_receive_exactly(connection, _LENGTH.unpack(start)[0]))
    if (process_id := os.fork()) == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        if (limit := request["max_files"]) is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        _become(request["arguments"], request["environment"], request["cwd"])
    _send(connection, process_id)
    _send(connection, os.waitpid(process_id, 0)[1])
    os._exit(0)


def _become(arguments: Sequence[str], environment: Mapping[str, str], cwd: str) -> NoReturn:
    """Run the command in this process, and end it as the interpreter ends any program."""
    from kinfold_services.cli import main  # noqa: PLC0415  imported before the fork

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["kinfold", *arguments]
    main()
    sys.exit()


if __name__ == "__main__":
    _serve(sys.argv[1])
