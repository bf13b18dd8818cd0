"""Run `kinfold` in a separate process without starting Python for it.

Importing `kinfold` takes half a second of CPU time, and the tests run hundreds of commands. So one process per pytest process
imports it once, and forks for each command. The command has its own environment, working directory, standard streams and exit
status, as if a shell had started it. Tests about the start of the program, or about signals to it, start it themselves.
"""

import asyncio
import json
import os
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
_START_S: Final = 60.0
_ROOT: Final = Path(__file__).parents[2]
_LOCK: Final = threading.Lock()


class Ended(NamedTuple):
    """The result of a command."""

    status: int
    """As in `subprocess`: negative if a signal ended the process."""
    out: bytes
    err: bytes


async def run_kinfold(arguments: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> Ended:
    """Run `kinfold` with these arguments to its end. Raises TimeoutError, and kills it, after `timeout_s`."""
    return await asyncio.to_thread(_run, arguments, environment, timeout_s)


def _run(arguments: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> Ended:
    request = json.dumps({"arguments": list(arguments), "environment": dict(environment), "cwd": str(Path.cwd())}).encode()
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        Path(os.devnull).open("rb") as stdin,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(timeout_s)
        connection.connect(_parent().socket)
        socket.send_fds(connection, [_LENGTH.pack(len(request))], [stdin.fileno(), out.fileno(), err.fileno()])
        connection.sendall(request)
        process_id = int(_receive(connection))
        try:
            status = os.waitstatus_to_exitcode(int(_receive(connection)))
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
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


def _parent() -> _Parent:
    """The process that forks for this one, started when it is first needed."""
    with _LOCK:
        if not _parents:
            _parents.append(_Parent())
        return _parents[0]


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
    import_module("kinfold_services.cli")  # so that every fork has it
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
