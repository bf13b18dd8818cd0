"""Lookups in the state in Redis, blocking and with asyncio."""

import asyncio
import time
from typing import Any, Final, cast

from redis.asyncio import Redis as AsyncRedis

from kinfold.contacts.queries import POLL_S, Queries
from kinfold.transport.redis import REDIS_ERRORS, close, close_async, connect, connect_async, redis_error
from kinfold_schemas.contacts import Contact


class RedisLookups:
    """Asks with one client, from any thread."""

    def __init__(self, queries: Queries, url: str, timeout_s: float) -> None:
        self._queries: Final = queries
        self._client: Final = connect(url, timeout_s)

    def find(self, by: str, value: str, after: str | None) -> Contact | None:
        """Find the contact with an identifier. Raises NotFolded, Unreachable or Refused."""
        query = self._queries.find(by, value, after)
        reply: Any = None
        try:
            while True:
                if (command := query.send(reply)) is None:
                    time.sleep(POLL_S)
                    reply = None
                else:
                    reply = cast("Any", self._client).execute_command(*command)
        except StopIteration as end:
            return cast("Contact | None", end.value)
        except REDIS_ERRORS as error:
            raise redis_error(error) from error

    def close(self) -> None:
        """Close the connections."""
        close(self._client)


class AsyncRedisLookups:
    """Asks with one client for each event loop, which owns its connections: some frameworks run each request in a new loop."""

    def __init__(self, queries: Queries, url: str, timeout_s: float) -> None:
        self._queries: Final = queries
        self._url: Final = url
        self._timeout_s: Final = timeout_s
        self._clients: Final[dict[asyncio.AbstractEventLoop, AsyncRedis]] = {}

    async def find(self, by: str, value: str, after: str | None) -> Contact | None:
        """As `RedisLookups.find`."""
        query = self._queries.find(by, value, after)
        client: Any = self._client()
        reply: Any = None
        while True:
            try:
                command = query.send(reply)
            except StopIteration as end:
                return cast("Contact | None", end.value)
            if command is None:
                await asyncio.sleep(POLL_S)
                reply = None
                continue
            try:
                reply = await client.execute_command(*command)
            except REDIS_ERRORS as error:
                raise redis_error(error) from error

    async def close(self) -> None:
        """Close the connections of this event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await close_async(client)

    def _client(self) -> AsyncRedis:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            for ended in [each for each in list(self._clients) if each.is_closed()]:
                self._clients.pop(ended, None)
            client = self._clients[loop] = connect_async(self._url, self._timeout_s)
        return client
