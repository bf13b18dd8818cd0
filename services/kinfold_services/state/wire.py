"""A redis-py connection that sends and receives whole pipelines.

redis-py takes 5 to 10 µs to pack a command and as long to read a reply, and a batch has a hundred of each. So commands arrive
here packed by hiredis, and hiredis parses the replies without a coroutine for each. The client still makes the connection,
because it handles TLS, login, Sentinel and the nodes of a cluster.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from kinfold_services.connections import Client

_AT_ONCE: Final = 1 << 16


class Wire:
    """A connection to the server that holds a key. Any error closes it; `open` makes another one."""

    def __init__(self, client: Client, key: str, answer_s: float) -> None:
        """`answer_s` is how long, in seconds, the server may send nothing while nothing of ours is being sent either."""
        self._client: Final = client
        self._key: Final = key
        self._answer_s: Final = answer_s
        self._pool: Any = None
        self._connection: Any = None
        self._reader = hiredis.Reader()

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._connection is not None

    async def open(self) -> None:
        """Connect. Raises redis.exceptions.RedisError."""
        await self.close()
        client: Any = self._client
        if hasattr(client, "nodes_manager"):  # a cluster's slots may have moved
            await client.initialize()
            await client.nodes_manager.initialize()
            node = client.get_node_from_key(self._key)
            self._connection, self._pool = node.acquire_connection(), node
            await self._connection.connect()
        else:
            self._pool = client.connection_pool
            self._connection = await self._pool.get_connection()
        self._reader = hiredis.Reader(replyError=ResponseError)

    async def ask(self, commands: Sequence[bytes]) -> list[Any]:
        """Send packed commands and return the replies. Connects first if necessary. Raises the first error reply."""
        if not self.is_open:
            await self.open()
        self.send(commands)
        replies = await self.replies(len(commands))
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return replies

    def send(self, commands: Iterable[bytes]) -> None:
        """Send packed commands. Raises redis.exceptions.ConnectionError if there is no connection."""
        self._writer().write(b"".join(commands))

    async def replies(self, count: int) -> list[Any]:
        """The next replies, in order; an error is one of them (ResponseError). Raises what `redis` raises without a server.

        Raises ResponseError where the server closed the connection because it does not take what was sent.
        """
        found: list[Any] = []
        gets = self._reader.gets
        try:
            while True:
                while len(found) < count and (reply := gets()) is not False:
                    if not isinstance(reply, hiredis.PushNotification):
                        found.append(reply)
                if len(found) == count:
                    return found
                self._reader.feed(await self._read())
        except TimeoutError as error:
            await self.close()
            raise RedisTimeoutError(f"Redis did not answer within {self._answer_s:g} s") from error
        except (OSError, RedisConnectionError) as error:
            await self.close()
            for reply in found:
                if isinstance(reply, ResponseError) and "Protocol error" in str(reply):  # why the server closed it
                    raise reply from error
            raise RedisConnectionError(f"Redis closed the connection: {error}") from error
        except BaseException:  # the next caller must not read replies that are still on the way
            await self.close()
            raise

    async def _read(self) -> bytes:
        """Read some bytes. Raises TimeoutError, but not as long as a large batch is still moving over a slow line."""
        stream, transport = self._stream(), self._writer().transport
        while True:
            unsent = transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(self._answer_s):
                    return _some(await stream.read(_AT_ONCE))
            except TimeoutError:
                if transport.get_write_buffer_size() >= unsent:
                    raise

    async def close(self) -> None:
        """Close the connection. Replies that have not arrived and commands that were not sent yet are lost."""
        connection, pool = self._connection, self._pool
        self._connection = self._pool = None
        if connection is not None:
            if connection._writer is not None:  # noqa: SLF001
                connection._writer.transport.abort()  # noqa: SLF001  a mere close would go on sending
            await connection.disconnect(nowait=True)
            released = pool.release(connection)
            if asyncio.iscoroutine(released):  # true for a pool, and not for a node of a cluster
                await released

    # redis-py has no public access to these two. Their names have not changed since its asyncio client exists.

    def _writer(self) -> asyncio.StreamWriter:
        if self._connection is None or self._connection._writer is None:  # noqa: SLF001
            raise RedisConnectionError("the connection to Redis is closed")
        writer: asyncio.StreamWriter = self._connection._writer  # noqa: SLF001
        return writer

    def _stream(self) -> asyncio.StreamReader:
        if self._connection is None or self._connection._reader is None:  # noqa: SLF001
            raise RedisConnectionError("the connection to Redis is closed")
        stream: asyncio.StreamReader = self._connection._reader  # noqa: SLF001
        return stream


def _some(data: bytes) -> bytes:
    if not data:
        raise RedisConnectionError("end of file")
    return data
