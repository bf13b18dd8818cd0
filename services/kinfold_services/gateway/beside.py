"""The gateway beside a projector, for `kinfold up`: a process of its own, so that neither waits for the other's work."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

from kinfold_schemas.keys import DEFAULT_WORKSPACE, WORKSPACES
from kinfold_services.connections import Client, connect
from kinfold_services.gateway.keys import create_key, list_keys
from kinfold_services.servers import ANSWER_S
from kinfold_services.settings import Settings, unknown_variables

URL_FILE: Final = "gateway.url"
"""In the data dir: where the gateway listens."""
PORT_FILE: Final = "gateway.port"
"""In the data dir, and never removed: the port of the last start, which the next one takes again, and why it was taken."""

T = TypeVar("T")

_LOOPBACK: Final = "127.0.0.1"
_LOCAL: Final = frozenset({_LOOPBACK, "localhost", "::1"})
_EVERYWHERE: Final = {"0.0.0.0": _LOOPBACK, "::": "::1"}  # noqa: S104  where this machine finds it
_DIRECTLY: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""urllib would ask the proxy of `http_proxy` for 127.0.0.1, too."""
_STOP_S: Final = 10.0
_ANSWER_S: Final = 1.0


class CannotListen(Exception):
    """The port that was asked for is not free; the message is one sentence for whoever started the program."""


class Port(NamedTuple):
    """The port of a gateway, and why it is that one; `why` is empty for the usual port and for one that was asked for."""

    number: int
    why: str


class GatewayBeside:
    """A gateway process, gone with this one. Where it ends by itself it takes this one along: half of `up` is noticed late.

    Raises CannotListen.
    """

    ended: bool = False
    """Whether it has ended by itself."""

    def __init__(self, settings: Settings, redis_url: str, data_dir: Path | None) -> None:
        host = settings.gateway_host
        if not is_local(host) and not has_keys(redis_url, settings.workspace):
            host = _LOOPBACK  # nobody was given a key yet, so nobody else has business here
        self.port: Final = _port(settings, host, data_dir)
        self.url: Final = _url(host, self.port.number)
        self._file: Final = None if data_dir is None else data_dir / URL_FILE
        command = [sys.executable, "-m", "kinfold_services.cli", "gateway", "--until-stdin-ends"]
        command += ["--redis-url", redis_url, "--host", host, "--port", str(self.port.number)]
        unknown = unknown_variables(os.environ)  # this process has named them
        self._process: Final = subprocess.Popen(  # noqa: S603  our own program
            command,
            stdin=subprocess.PIPE,
            start_new_session=True,  # so that Ctrl-C reaches this process alone
            env={name: value for name, value in os.environ.items() if name not in unknown},
        )
        self._stopping = False
        if self._file is not None:
            self._file.with_name(PORT_FILE).write_text(f"{self.port.number} {self.port.why}\n")
            self._file.write_text(self.url)
        threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping = True
        if self._file is not None:
            self._file.unlink(missing_ok=True)
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _watch(self) -> None:
        status = self._process.wait()
        if not self._stopping:
            self.ended = True
            sys.stderr.write(f"kinfold: the gateway ended with status {status}\n")
            os.kill(os.getpid(), signal.SIGTERM)


def is_local(host: str) -> bool:
    """Whether this machine alone can reach what listens there."""
    return host in _LOCAL


def gateway_url(data_dir: Path) -> str | None:
    """Where the gateway of a data dir listens; None until it answers."""
    try:
        url = (data_dir / URL_FILE).read_text()
        with _DIRECTLY.open(f"{url}/healthz", timeout=_ANSWER_S):
            return url
    except (OSError, ValueError):  # there is none, it does not answer yet, or its file is being written
        return None


def forget_gateway(data_dir: Path) -> None:
    """Removes the address that a killed gateway left behind: somebody else may listen there by now."""
    (data_dir / URL_FILE).unlink(missing_ok=True)


def gateway_port(data_dir: Path) -> Port | None:
    """The port that the gateway of a data dir took at its last start; None where it never started."""
    try:
        number, _, why = (data_dir / PORT_FILE).read_text().strip().partition(" ")
        return Port(int(number), why)
    except (OSError, ValueError):
        return None


def is_proxied(url: str) -> bool:
    """Whether the environment (`http_proxy`) sends a program such as curl to a proxy for `url`."""
    parts = urlsplit(url)
    return not urllib.request.getproxies().keys().isdisjoint({parts.scheme, "all"}) and not urllib.request.proxy_bypass(
        parts.netloc
    )


def has_keys(redis_url: str, workspace: str) -> bool:
    """Whether a workspace has an API key, revoked or not."""

    async def look(client: Client) -> bool:
        return bool(await list_keys(client, workspace))

    return asyncio.run(_connected(redis_url, look))


def serve_workspace(redis_url: str, workspace: str) -> None:
    """Has projectors serve a workspace from now on; `default` they serve in any case."""

    async def add(client: Client) -> None:
        await client.sadd(WORKSPACES, workspace)

    if workspace != DEFAULT_WORKSPACE:
        asyncio.run(_connected(redis_url, add))


def first_key(redis_url: str, workspace: str) -> str | None:
    """Makes a workspace's first API key, a secret one; None where it has some."""

    async def make(client: Client) -> str | None:
        return None if await list_keys(client, workspace) else await create_key(client, workspace, "secret", "first")

    return asyncio.run(_connected(redis_url, make))


async def _connected(redis_url: str, work: Callable[[Client], Awaitable[T]]) -> T:
    async with connect(redis_url, ANSWER_S) as client:
        return await work(client)


def _url(host: str, port: int) -> str:
    host = _EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _instead_of(taken: int, port: int) -> Port:
    return Port(port, f"port {taken} is in use; the next start takes this one again, --port chooses another")


def _port(settings: Settings, host: str, data_dir: Path | None) -> Port:
    """The port that was asked for; where none was, that of the last start, the usual one, or another that is free."""
    usual = settings.gateway_port
    if "gateway_port" in settings.model_fields_set:
        candidates = [Port(usual, "" if usual else "any free port, as --port or KINFOLD_GATEWAY_PORT says")]
    else:
        kept = gateway_port(data_dir) if data_dir is not None else None
        candidates = [Port(usual, "")]
        if kept is not None and kept.number != usual:
            candidates = [Port(kept.number, "as at the last start; --port chooses another"), _instead_of(kept.number, usual)]
        candidates.append(_instead_of(usual, 0))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    trouble = OSError()
    for each in candidates:
        try:
            with socket.create_server((host, each.number), family=family) as probe:
                return Port(int(probe.getsockname()[1]), each.why)
        except OSError as error:
            trouble = error
    # Of an error of the system Python gives the address a second time; an error of the resolver has a number below 0.
    reason = os.strerror(trouble.errno) if trouble.errno and trouble.errno > 0 else trouble.strerror
    raise CannotListen(
        f"gateway: expected an address to listen on, got {host}:{usual} ({reason}); --port or KINFOLD_GATEWAY_PORT "
        "chooses another port, KINFOLD_GATEWAY_HOST another host"
    )
