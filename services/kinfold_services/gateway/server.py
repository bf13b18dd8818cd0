"""The gateway as a process: listening, and stopping.

uvicorn and not granian, which was measured beside it (`benchmarks/gateway_servers.py`): what decides is that it tells the
application of a signal before it waits for open streams. They are told to come back, they end, and the process is gone well
within 5 s.
"""

import asyncio
import os
import signal
import socket
import sys
from types import FrameType
from typing import Any, Final, cast

import structlog
import uvicorn

from kinfold_services.connections import Client, check_server, connect
from kinfold_services.gateway.app import make_app
from kinfold_services.gateway.workspaces import ANSWER_S
from kinfold_services.queries import listed_workspaces
from kinfold_services.rights import GATEWAY, check_right_to_workspaces, check_rights
from kinfold_services.settings import Settings

_STOP_S: Final = 3
"""What is still being answered has this long; then it is cut off."""
_KEEP_ALIVE_S: Final = 75
_UNREAD_S: Final = 60
"""How long whoever is connected may take in nothing of what was sent: each of them holds megabytes of the system's memory."""


class GatewayServer(uvicorn.Server):
    """Listens from the moment that it is made; `run_until_stopped` serves, and closes the connection to Redis at the end.

    Raises OSError where it cannot listen.
    """

    def __init__(self, settings: Settings, client: Client) -> None:
        app, self._gateway = make_app(settings, client)
        super().__init__(
            uvicorn.Config(
                cast("Any", app),
                host=settings.gateway_host,
                port=settings.gateway_port,
                http="httptools",
                ws="websockets-sansio",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_STOP_S,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )
        family = socket.AF_INET6 if ":" in settings.gateway_host else socket.AF_INET
        self._listener: Final = socket.create_server(
            (settings.gateway_host, settings.gateway_port), family=family, backlog=2048
        )
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # on Linux; connections have it from the listener
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_UNREAD_S * 1000))
        host, port = self._listener.getsockname()[:2]
        self.url: Final = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def run_until_stopped(self) -> None:
        """Serves until a signal or `stop`."""
        await self.serve(sockets=[self._listener])

    def stop(self) -> None:
        """Ends it as a signal does."""
        self._gateway.end_streams()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn's signature
        """A signal: first the streams are told. uvicorn would raise it again at the end, and the exit status would not be 0."""
        self._gateway.end_streams()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


async def serve(settings: Settings, url: str, *, until_stdin_ends: bool = False) -> None:
    """Serves until a signal, or with `until_stdin_ends` until the program that started this one is gone.

    Raises OSError where it cannot listen, RedisError and ServerTooOld where it cannot work.
    """
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
