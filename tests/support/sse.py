"""Read server-sent events: the part of the WHATWG specification that the gateway uses."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx


class Received(NamedTuple):
    """A block of the stream. `id` is where a reader resumes; `event` is empty for `onmessage`; a comment has no data."""

    id: str
    event: str
    data: Any
    comment: str = ""
    retry_ms: int | None = None


class Stream:
    """An open event stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.last_id = ""
        self._blocks = self._read()

    async def next(self) -> Received | None:
        """The next block, which may be only an id or a comment; None at the end."""
        return await anext(self._blocks, None)

    async def message(self) -> Received:
        """The next block with data."""
        while (received := await self.next()) is not None:
            if received.data is not None:
                return received
        raise AssertionError("the stream ended")

    async def messages(self, count: int) -> list[Received]:
        """The next `count` blocks with data."""
        return [await self.message() for _ in range(count)]

    async def _read(self) -> AsyncIterator[Received]:
        buffer = b""
        async for chunk in self.response.aiter_raw():
            buffer += chunk
            *blocks, buffer = buffer.split(b"\r\n\r\n")
            for block in blocks:
                yield self._received(block.decode())

    def _received(self, block: str) -> Received:
        event, data, comment, retry_ms = "", None, "", None
        for line in block.split("\r\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match name:
                case "id":
                    self.last_id = value
                case "event":
                    event = value
                case "data":
                    data = json.loads(value)
                case "retry":
                    retry_ms = int(value)
                case "":
                    comment = value
                case _:
                    raise AssertionError(f"unknown field of an event stream: {line}")
        return Received(self.last_id, event, data, comment, retry_ms)


@asynccontextmanager
async def following(
    client: httpx.AsyncClient,
    params: Mapping[str, Any] | None = None,
    last_id: str | None = None,
    path: str = "/v1/changes",
) -> AsyncGenerator[Stream]:
    """Follow the feed, or another stream; yields when the gateway has begun to respond."""
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    timeout = httpx.Timeout(30, read=40)
    async with client.stream("GET", path, params=params, headers=headers, timeout=timeout) as response:
        assert response.status_code == 200, await response.aread()
        yield Stream(response)
