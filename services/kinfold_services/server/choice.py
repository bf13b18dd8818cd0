"""Chooses the server that a command talks to: the one that the settings name, or the embedded one of the data dir."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from kinfold_services.access.rights import Role, check_rights
from kinfold_services.connections import Client, check_server, connect
from kinfold_services.server.data_dir import disk_is_full
from kinfold_services.server.embedded import running_url
from kinfold_services.settings import Settings

ANSWER_S: Final = 30.0
"""How long a command waits for one answer. To replace a state of millions of contacts takes the server seconds."""


class NoServer(ConnectionError):
    """The settings have no URL, and no embedded server runs on the data dir."""


def server_url(settings: Settings) -> str:
    """The server's URL. Raises NoServer."""
    if settings.redis_url is not None:
        return settings.redis_url
    url = running_url(settings.data_dir)
    if url is None:
        where = "; change to the directory where you ran `kinfold up`, or give --data-dir"
        why = " (its disk is full)" if disk_is_full(settings.data_dir) else where
        raise NoServer(
            f"redis URL: expected --redis-url, KINFOLD_REDIS_URL, or a running `kinfold up`, got none, and no server runs on "
            f"{settings.data_dir.absolute()}{why}"
        )
    return url


@asynccontextmanager
async def connected(settings: Settings, *, writes: bool = False, role: Role | None = None) -> AsyncGenerator[Client]:
    """A client of the server. With `writes` the server is checked first, and with `role` the user's rights as well.

    Raises NoServer, ServerUnfit, and redis.exceptions.RedisError if the server does not answer within ANSWER_S.
    """
    async with connect(server_url(settings), ANSWER_S) as client:
        if writes or role is not None:
            await check_server(client)
        if role is not None:
            await check_rights(client, role, settings.workspace)
        yield client


async def check(settings: Settings) -> None:
    """Raise what `connected` raises if the server cannot be used for writing."""
    async with connected(settings, writes=True):
        pass
