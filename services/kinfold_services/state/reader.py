"""Reads what concerns a state as a whole. `kinfold_services.state.queries` reads single contacts and visitors."""

from collections.abc import Awaitable
from typing import Final, cast

from kinfold_schemas.keys import key
from kinfold_services.connections import Client
from kinfold_services.state.position import Position, read_position


class StateReader:
    """Reads one workspace's state."""

    def __init__(self, client: Client, workspace: str) -> None:
        self.workspace: Final = workspace
        self._client: Final = client

    async def position(self) -> Position:
        """The position up to which the log is folded."""
        return read_position(await cast("Awaitable[dict[bytes, bytes]]", self._client.hgetall(key(self.workspace, "position"))))

    async def blocked_identifiers(self) -> set[str]:
        """The workspace's own blocked identifiers: exact values and `/patterns/`."""
        stored = await cast("Awaitable[set[bytes]]", self._client.smembers(key(self.workspace, "blocked-identifiers")))
        return {item.decode(errors="replace") for item in stored}  # an item that is not UTF-8 is ignored: it can match nothing

    async def excluded(self) -> frozenset[str]:
        """The entries that were left out when this state was folded."""
        stored = await cast("Awaitable[set[bytes]]", self._client.smembers(key(self.workspace, "excluded")))
        return frozenset(item.decode() for item in stored)
