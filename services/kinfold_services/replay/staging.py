"""The staging area: where a replay writes the new state, beside the live one."""

import asyncio
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from redis.exceptions import RedisError

from kinfold_schemas.keys import STATE, key
from kinfold_services.connections import ANSWER_S, Client
from kinfold_services.state.position import Replaced
from kinfold_services.state.wire import Wire
from kinfold_services.state.writes import Writes, pack

_CHUNK_BYTES: Final = 1 << 16
"""About how much is written at once. The server is busy with it for less than a millisecond, and events wait for it."""


class StagingArea:
    """A workspace's staging area. It belongs to the replay that claimed it last, and refuses writes of earlier ones.

    Every write is a transaction that watches whose area it is. Several tasks may write at once.
    """

    def __init__(self, client: Client, workspace: str) -> None:
        self.generation: Final = uuid.uuid4().hex
        self.writes: Final = Writes(workspace, "replay")
        self._workspace: Final = workspace
        self._position: Final = self.writes.key("position")
        self._wire: Final = Wire(client, self._position.decode(), ANSWER_S)
        self._writing: Final = asyncio.Lock()

    async def claim(self) -> None:
        """Claim the area, and empty it of what an interrupted replay has left."""
        await self._execute(
            [self._unlink(), self._unlink_streams(), self.writes.hash("position", {"generation": self.generation})]
        )

    async def check(self) -> None:
        """Raise Replaced if another replay has claimed the area."""
        async with self._writing:
            await self._check()

    async def _check(self) -> None:
        _, found = await self._wire.ask([pack(b"WATCH", self._position), pack(b"HGET", self._position, b"generation")])
        if found != self.generation.encode():
            await self._wire.close()
            raise Replaced(f"workspace {self._workspace}: another replay, {found!r}, has begun after {self.generation}")

    async def write(self, commands: Iterable[bytes]) -> None:
        """Execute packed commands in bounded pieces, so the server answers others in between. Raises Replaced."""
        chunk, size = list[bytes](), 0
        for command in commands:
            chunk.append(command)
            size += len(command)
            if size >= _CHUNK_BYTES:
                await self._write_chunk(chunk)
                chunk, size = [], 0
        if chunk:
            await self._write_chunk(chunk)

    async def empty(self) -> None:
        """Delete the state that was written. Raises Replaced."""
        await self._write_chunk([self._unlink()])

    async def close(self) -> None:
        """Empty the area, unless it belongs to another replay by now."""
        try:
            with suppress(Replaced):
                await self._write_chunk([self._unlink(), self._unlink_streams(), pack(b"UNLINK", self._position)])
        finally:
            await self._wire.close()

    def _unlink(self) -> bytes:
        """Delete everything but the position, which says whose the area is."""
        return pack(b"UNLINK", *(self.writes.key(name) for name in (*STATE, "differences") if name != "position"))

    def _unlink_streams(self) -> bytes:
        """What an erasure writes besides a state."""
        return pack(b"UNLINK", *(key(self._workspace, name, "replay") for name in ("events", "changes", "erased")))

    async def _write_chunk(self, commands: Sequence[bytes]) -> None:
        async with self._writing:
            await self._check()
            while await self._execute(commands) is None:
                await self._check()

    async def _execute(self, commands: Sequence[bytes]) -> list[Any] | None:
        """Execute a transaction. Returns None if the position was changed since `check`."""
        executed: list[Any] | None = (await self._wire.ask([pack(b"MULTI"), *commands, pack(b"EXEC")]))[-1]
        if error := next((reply for reply in executed or () if isinstance(reply, RedisError)), None):
            raise error
        return executed
