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
from typing import Final, Self, TypeVar

from kinfold_schemas.keys import DEFAULT_WORKSPACE, WORKSPACES
from kinfold_services.connections import Client, connect
from kinfold_services.gateway.keys import create_key, list_keys
from kinfold_services.servers import ANSWER_S
from kinfold_services.settings import Settings

URL_FILE: Final = "gateway.url"
"""In the data dir: where the gateway listens."""

T = TypeVar("T")

_LOOPBACK: Final = "127.0.0.1"
_LOCAL: Final = frozenset({_LOOPBACK, "localhost", "::1"})
_EVERYWHERE: Final = {"0.0.0.0": _LOOPBACK, "::": "::1"}  # noqa: S104  where this machine finds it
_STOP_S: Final = 10.0
_ANSWER_S: Final = 1.0


class CannotListen(Exception):
    """The port that was asked for is not free; the message is one sentence for whoever started the program."""


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
        port = _port(settings, host)
        self.url: Final = _url(host, port)
        self._file: Final = None if data_dir is None else data_dir / URL_FILE
        command = [sys.executable, "-m", "kinfold_services.cli", "gateway", "--until-stdin-ends"]
        command += ["--redis-url", redis_url, "--host", host, "--port", str(port)]
        self._process: Final = subprocess.Popen(  # noqa: S603  our own program
            command,
            stdin=subprocess.PIPE,
            start_new_session=True,  # so that Ctrl-C reaches this process alone
        )
        self._stopping = False
        if self._file is not None:
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
        with urllib.request.urlopen(f"{url}/healthz", timeout=_ANSWER_S):  # noqa: S310  our own file
            return url
    except (OSError, ValueError):  # there is none, it does not answer yet, or its file is being written
        return None


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


def _port(settings: Settings, host: str) -> int:
    """The port that was asked for; where none was, the usual one, or another that is free."""
    is_asked_for = settings.gateway_port and "gateway_port" in settings.model_fields_set
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in (settings.gateway_port,) if is_asked_for else (settings.gateway_port, 0):
        try:
            with socket.create_server((host, port), family=family) as probe:
                return int(probe.getsockname()[1])
        except OSError:
            continue
    raise CannotListen(
        f"gateway: found {host}:{settings.gateway_port} in use or out of reach, allowed are KINFOLD_GATEWAY_HOST and "
        "KINFOLD_GATEWAY_PORT of a free address"
    )
