"""`kinfold gateway`: serves HTTP. `kinfold directory`: keeps the contacts in a SQL database."""

import errno
import socket
from typing import Final

import uvloop

from kinfold_services.cli.output import DONE, NO, UNREACHABLE, complain
from kinfold_services.directory.sqlite_version import sqlite_problem
from kinfold_services.runtime.garbage import importing
from kinfold_services.server.choice import server_url
from kinfold_services.settings import Settings

_CANNOT_LISTEN: Final = frozenset(
    # The last two: the host name is invalid, or cannot be resolved at the moment.
    {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, socket.EAI_NONAME, socket.EAI_AGAIN}
)


def run_gateway(settings: Settings, *, until_stdin_ends: bool = False) -> int:
    """Run the gateway until a signal. Exit status 1 if it cannot listen."""
    with importing():
        from kinfold_services.gateway.server import serve  # noqa: PLC0415  Litestar loads slowly

    try:
        uvloop.run(serve(settings, server_url(settings), until_stdin_ends=until_stdin_ends))
    except OSError as error:
        if error.errno not in _CANNOT_LISTEN:
            raise
        where = f"{settings.gateway_host}:{settings.gateway_port}"
        return complain(
            f"gateway: cannot listen on {where}, which is in use or not an address of this machine; choose --host and --port",
            NO,
        )
    return DONE


def run_directory(settings: Settings, *, until_stdin_ends: bool = False) -> int:
    """Run the directory until a signal. Exit status 3 if this Python's SQLite is too old."""
    with importing():
        from kinfold_services.directory.service import DirectoryService  # noqa: PLC0415  SQLAlchemy loads slowly

    async def serve_directory() -> None:
        await DirectoryService(settings, server_url(settings)).run(until_stdin_ends=until_stdin_ends)

    if (problem := sqlite_problem(settings)) is not None:
        return complain(problem, UNREACHABLE)
    uvloop.run(serve_directory())
    return DONE
