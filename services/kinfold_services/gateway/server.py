"""The gateway as a process: it listens, serves and stops.

The server is uvicorn (`benchmarks/gateway_servers.py` compares it with granian). uvicorn passes a signal to the application
before it waits for open streams. So the gateway can end its streams first, and the process stops well within 5 s.
"""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from functools import partial
from types import FrameType
from typing import Any, Final, cast

import structlog
import uvicorn

from kinfold_services.access.rights import GATEWAY, check_right_to_workspaces, check_rights
from kinfold_services.connections import Client, check_server, connect
from kinfold_services.gateway.app import make_app
from kinfold_services.gateway.protocols import HttpProtocol, OpenConnections, WebSocketProtocol
from kinfold_services.gateway.workspaces import ANSWER_S
from kinfold_services.settings import Settings
from kinfold_services.state.queries import listed_workspaces

_STOP_S: Final = 3
"""Requests that still run when the gateway stops are cut off after this time."""
_KEEP_ALIVE_S: Final = 75
_UNREAD_S: Final = 60
"""A client that acknowledges nothing for this long is disconnected: its socket holds megabytes of the system's memory."""

_SWEEP_TICKS: Final = 5
"""A tick of uvicorn takes 0.1 s."""
_MAX_FROM_CLIENT_BYTES: Final = 4096
"""The largest message that a client may send over a WebSocket. It has nothing to say: messages are ignored."""
_WANTED_DESCRIPTORS: Final = 65_536
_OTHER_DESCRIPTORS: Final = 128
"""Descriptors for the connections to Redis, files and pipes. A process that runs out of descriptors cannot even reach Redis."""


class GatewayServer(uvicorn.Server):
    """The server. It listens as soon as it is created. `run_until_stopped` serves and finally closes the Redis connection.

    Raises OSError if it cannot listen.
    """

    def __init__(self, settings: Settings, client: Client) -> None:
        app, self._gateway = make_app(settings, client)
        can_open = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        in_all = _WANTED_DESCRIPTORS if can_open == resource.RLIM_INFINITY else max(2, can_open - _OTHER_DESCRIPTORS)
        connections = OpenConnections(settings.gateway_connections_per_address, in_all, self._gateway.metrics)
        super().__init__(
            uvicorn.Config(
                cast("Any", app),
                host=settings.gateway_host,
                port=settings.gateway_port,
                http=cast("Any", partial(HttpProtocol, connections)),
                ws=cast("Any", partial(WebSocketProtocol, connections)),
                ws_max_size=_MAX_FROM_CLIENT_BYTES,
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # uvicorn believes every program on this machine; see `clients.py`
                timeout_graceful_shutdown=_STOP_S,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )
        family = socket.AF_INET6 if ":" in settings.gateway_host else socket.AF_INET
        self._listener: Final = socket.create_server(
            (settings.gateway_host, settings.gateway_port), family=family, backlog=2048
        )
        # Accepted connections inherit both. asyncio sets TCP_NODELAY only where a socket names its protocol, and these do not:
        # the second part of an answer, its body, then waits 40 ms for the client to acknowledge the first.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # on Linux
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_UNREAD_S * 1000))
        host, port = self._listener.getsockname()[:2]
        self.url: Final = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def run_until_stopped(self) -> None:
        """Serve until a signal or `stop`."""
        await self.serve(sockets=[self._listener])

    async def on_tick(self, counter: int) -> bool:
        """Close the connections that have missed a deadline. uvicorn calls this ten times a second."""
        if counter % _SWEEP_TICKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, (HttpProtocol, WebSocketProtocol)):
                    connection.expire(now)
        return await super().on_tick(counter)

    def stop(self) -> None:
        """Stop as after a signal."""
        self._gateway.end_streams()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn's signature
        """Handle a signal: end the streams first. uvicorn's own handler would make the exit status other than 0."""
        self._gateway.end_streams()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


async def serve(settings: Settings, url: str, *, until_stdin_ends: bool = False) -> None:
    """Serve until a signal, or with `until_stdin_ends` until the parent process ends.

    Raises OSError if it cannot listen, RedisError if Redis does not answer, and ServerUnfit for an unsuitable server or user.
    """
    _allow_many_descriptors()
    client = connect(url, ANSWER_S)
    log = structlog.get_logger()
    name = await check_server(client)
    await check_right_to_workspaces(client, GATEWAY)
    for workspace in await listed_workspaces(client):
        await check_rights(client, GATEWAY, workspace)
    server = GatewayServer(settings, client)
    if until_stdin_ends:
        os.set_blocking(sys.stdin.fileno(), False)
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), server.stop)
    log.info("gateway listens", address=server.url, server=name)
    await server.run_until_stopped()
    log.info("gateway stopped")


def _allow_many_descriptors() -> None:
    """Raise the soft limit of open files, which is 1,024 or less on many systems, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_WANTED_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has a third limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
