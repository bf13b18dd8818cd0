"""One real server of several, as a process that can be killed, hung and disconnected."""

import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Final, Self, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from kinfold_services.server.binary import find_server_binary
from tests.support.engines import free_port
from tests.support.waiting import wait_until

START_S: Final = 120.0
POLL_S: Final = 0.03
"""A long interval, because every check opens a connection and takes CPU time from the servers."""
_ANSWER_S: Final = 5.0
_PORT_TRIES: Final = 5
_WRONG_PASSWORD: Final = "cut-off"  # noqa: S105  wrong on purpose


def server_program() -> str:
    """The server program: `redis-server` if it is on PATH, because it can do everything, or else the embedded one."""
    return shutil.which("redis-server") or str(find_server_binary().path)


async def ask(client: Redis, *command: object) -> Any:
    """Send one command and return the raw reply."""
    return await cast("Any", client).execute_command(*command)


class Node:
    """One server process with its port and directory. `client` connects to it directly, without decoding."""

    def __init__(self, directory: Path, *options: object, needs_bus: bool = False) -> None:
        self.directory: Final = directory
        self.port = 0
        self._options: Final = options
        self._needs_bus: Final = needs_bus
        self._bus_port = 0
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True)

    async def start(self) -> Self:
        """Start it on its previous port and wait until it responds. A new node tries another port if its own is taken."""
        tries = 1 if self.port else _PORT_TRIES
        for _ in range(tries):
            self.port = self.port or free_port()
            self._bus_port = self._bus_port or (free_port() if self._needs_bus else 0)
            self._launch()
            if await wait_until(self._state, START_S, POLL_S) == "answers":
                return self
            if tries > 1:
                self.port = self._bus_port = 0
        raise AssertionError(f"{self.directory.name} did not start: {self.log()[-1000:]}")

    def _launch(self) -> None:
        bus = ["--cluster-port", str(self._bus_port)] if self._needs_bus else []
        command = [server_program(), *map(str, self._options), "--port", str(self.port), *bus, "--dir", str(self.directory)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    async def _state(self) -> str:
        assert self._process is not None
        if self._process.poll() is not None:
            return "ended"
        async with self.client() as client:
            try:
                await ask(client, "PING")
            except (RedisError, OSError):
                return ""
        return "answers"

    @property
    def is_running(self) -> bool:
        """Whether the process exists, hung or not."""
        return self._process is not None and self._process.poll() is None

    def client(self) -> Redis:
        """Make a client; the caller closes it."""
        return Redis(host="127.0.0.1", port=self.port, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S)

    async def ask(self, *command: object) -> Any:
        """Send one command over a new connection."""
        async with self.client() as client:
            return await ask(client, *command)

    async def role(self) -> str:
        """Return the server's role: `master` or `slave`."""
        return cast("bytes", (await self.ask("ROLE"))[0]).decode()

    def kill(self) -> None:
        """Send SIGKILL, also to a hung process; does nothing if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def hang(self) -> None:
        """Send SIGSTOP: connections stay open, the kernel accepts new ones, and there is no reply."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Send SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def log(self) -> str:
        """Return its log."""
        return (self.directory / "log").read_text(errors="replace")

    async def cut_off_from(self, primary: "Node") -> None:
        """Break this replica's link to its primary until `connect_again`, so that later writes stay on the primary.

        A wrong password keeps the replica from coming back: the primary has none, and AUTH fails.
        """
        await self.ask("CONFIG", "SET", "masterauth", _WRONG_PASSWORD)
        await primary.ask("CLIENT", "KILL", "TYPE", "replica")

        async def is_cut_off() -> bool:
            return b"master_link_status:down" in await self._raw_info()

        await wait_until(is_cut_off)

    async def connect_again(self) -> None:
        """Let the replica connect again."""
        await self.ask("CONFIG", "SET", "masterauth", "")

    async def replicates(self) -> bool:
        """Whether it is a replica whose link is up."""
        return b"master_link_status:up" in await self._raw_info()

    async def _raw_info(self) -> bytes:
        async with self.client() as client:
            client.response_callbacks.pop("INFO", None)
            return cast("bytes", await ask(client, "INFO", "replication"))
