"""The gateway of `kinfold up`. It runs in a separate process, so that it and the projector do not slow each other down."""

import asyncio
import os
import socket
import threading
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from kinfold_schemas.keys import DEFAULT_WORKSPACE, WORKSPACES
from kinfold_services.access.keys import create_key, list_keys
from kinfold_services.cli.child_process import ChildProcess
from kinfold_services.connections import Client, connect
from kinfold_services.server.choice import ANSWER_S
from kinfold_services.settings import Settings

URL_FILE: Final = "gateway.url"
"""In the data dir: the URL of the running gateway."""
PORT_FILE: Final = "gateway.port"
"""In the data dir, never removed: the port of the last start, which the next start reuses, and the reason for it."""

T = TypeVar("T")

_LOOPBACK: Final = "127.0.0.1"
_LOCAL: Final = frozenset({_LOOPBACK, "localhost", "::1"})
_EVERYWHERE: Final = {"0.0.0.0": _LOOPBACK, "::": "::1"}  # noqa: S104  the address for clients on this machine
_DIRECTLY: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""By default urllib sends even requests to 127.0.0.1 to the proxy of `http_proxy`."""
_ANSWER_S: Final = 1.0


class CannotListen(Exception):
    """The requested port is not free; the message is one sentence for the person who started the program."""


class Port(NamedTuple):
    """The port of a gateway, and the reason for it; `why` is empty for the default port and for a requested one."""

    number: int
    why: str


class GatewayProcess(ChildProcess):
    """The gateway. Raises CannotListen."""

    def __init__(self, settings: Settings, redis_url: str, data_dir: Path | None, ended: threading.Event) -> None:
        host = settings.gateway_host
        if not is_local(host) and not has_keys(redis_url, settings.workspace):
            host = _LOOPBACK  # without an API key no other machine can use it
        self.port: Final = _port(settings, host, data_dir)
        self.url: Final = _url(host, self.port.number)
        self._file: Final = None if data_dir is None else data_dir / URL_FILE
        options = ["--data-dir", str(settings.data_dir)]  # the directory's file is in the data dir
        super().__init__("gateway", redis_url, [*options, "--host", host, "--port", str(self.port.number)], ended)
        if self._file is not None:
            self._file.with_name(PORT_FILE).write_text(f"{self.port.number} {self.port.why}\n")
            self._file.write_text(self.url)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.unlink(missing_ok=True)
        super().__exit__(kind, error, trace)


def is_local(host: str) -> bool:
    """Whether only this machine can reach the address."""
    return host in _LOCAL


def gateway_url(data_dir: Path) -> str | None:
    """The URL of the gateway of a data dir; None until it answers."""
    try:
        url = (data_dir / URL_FILE).read_text()
        with _DIRECTLY.open(f"{url}/healthz", timeout=_ANSWER_S):
            return url
    except (OSError, ValueError):  # no file, no answer yet, or the file is being written
        return None


def forget_gateway(data_dir: Path) -> None:
    """Remove the URL that a killed gateway left behind: another program may listen there now."""
    (data_dir / URL_FILE).unlink(missing_ok=True)


def gateway_port(data_dir: Path) -> Port | None:
    """The port of the last gateway of a data dir; None if none has started there."""
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
    return bool(asyncio.run(_connected(redis_url, lambda client: list_keys(client, workspace))))


def serve_workspace(redis_url: str, workspace: str) -> None:
    """Make projectors serve a workspace from now on; they always serve `default`."""

    async def add(client: Client) -> None:
        await client.sadd(WORKSPACES, workspace)

    if workspace != DEFAULT_WORKSPACE:
        asyncio.run(_connected(redis_url, add))


def first_key(redis_url: str, workspace: str) -> str | None:
    """Create the first API key of a workspace, a secret one; None if it already has a key."""

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
    return Port(port, f"port {taken} is in use; the next start reuses this port, --port chooses another")


def _port(settings: Settings, host: str, data_dir: Path | None) -> Port:
    """The requested port; without a request the port of the last start, else the default one, else any free port."""
    usual = settings.gateway_port
    if "gateway_port" in settings.model_fields_set:
        candidates = [Port(usual, "" if usual else "a free port, because --port or KINFOLD_GATEWAY_PORT is 0")]
    else:
        kept = gateway_port(data_dir) if data_dir is not None else None
        candidates = [Port(usual, "")]
        if kept is not None and kept.number != usual:
            candidates = [
                Port(kept.number, "as at the last start; --port chooses another"),
                _instead_of(kept.number, usual),
            ]
        candidates.append(_instead_of(usual, 0))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last_error = OSError()
    for each in candidates:
        try:
            with socket.create_server((host, each.number), family=family) as probe:
                return Port(int(probe.getsockname()[1]), each.why)
        except OSError as error:
            last_error = error
    # Python adds the address to a system error, so take the plain text; a resolver error has a negative number.
    reason = os.strerror(last_error.errno) if last_error.errno and last_error.errno > 0 else last_error.strerror
    raise CannotListen(
        f"gateway: expected an address to listen on, got {host}:{usual} ({reason}); --port or KINFOLD_GATEWAY_PORT "
        "chooses another port, KINFOLD_GATEWAY_HOST another host"
    )
