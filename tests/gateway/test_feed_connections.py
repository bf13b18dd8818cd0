"""Connections of the change feed: comments, slow and frozen readers, revoked keys, and a gateway that stops."""

import asyncio
import socket
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
import websockets
from redis.asyncio import Redis
from structlog.testing import capture_logs

from kinfold_schemas.keys import key
from kinfold_services.gateway import server as server_module
from kinfold_services.gateway.changes import following as following_module
from tests.support.gateways import Gateway, serving
from tests.support.projecting import projecting
from tests.support.sse import following
from tests.support.waiting import wait_until


def identified(external_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "VisitorIdentified", "externalId": external_id, **fields}


async def test_stream_sends_comments(gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    """Every 15 s by default, so that proxies do not close the stream."""
    assert following_module.PING_EVERY_S == 15
    monkeypatch.setattr(following_module, "PING_EVERY_S", 0.1)
    async with following(gateway.client) as stream:
        received = [await stream.next() for _ in range(3)]

    assert [each.comment for each in received if each and each.comment] == ["still here", "still here"]


async def test_stream_ends_when_its_key_is_revoked(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch):
    """At the next comment."""
    monkeypatch.setattr(following_module, "PING_EVERY_S", 0.1)
    async with serving(redis_url, redis) as gateway, following(gateway.client) as stream:
        stored = await redis.hkeys(key("default", "api-keys"))
        await redis.hdel(key("default", "api-keys"), *stored)
        while await stream.next() is not None:
            pass


async def test_slow_reader_is_cut_off_and_can_resume(redis: Redis, redis_url: str):
    """Its buffer is bounded. It gets every change before the cut, and the rest when it resumes."""
    async with (
        projecting(redis_url),
        serving(redis_url, redis, gateway_buffer_entries=100) as gateway,
        following(gateway.client) as slow,
    ):
        position = ""
        large = {f"k{number}": "x" * 8000 for number in range(7)}
        for first in range(0, 400, 10):
            position = await gateway.put(*(identified(f"u-{number}", metadata=large) for number in range(first, first + 10)))
        await gateway.get("/v1/contacts", limit=1, after=position)
        names = list[str]()
        while (received := await slow.next()) is not None:
            names += [received.data["contact"]["externalId"]] if received.data else []
        assert names == [f"u-{number}" for number in range(len(names))]
        assert len(names) < 400
        async with following(gateway.client, last_id=slow.last_id) as again:
            names += [each.data["contact"]["externalId"] for each in await again.messages(400 - len(names))]
        cut_off = (await gateway.client.get("/metrics")).text

    assert names == [f"u-{number}" for number in range(400)]
    assert 'kinfold_gateway_cut_off_total{workspace="default"} 1.0' in cut_off


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT exists on Linux only")
async def test_frozen_reader_is_disconnected(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch):
    """A frozen process never closes its connection, and its unread messages use memory."""
    monkeypatch.setattr(server_module, "_UNREAD_S", 0.2)
    large = {f"k{number}": "x" * 8000 for number in range(7)}
    with capture_logs() as logs, socket.socket() as frozen:
        async with projecting(redis_url), serving(redis_url, redis, gateway_buffer_entries=20) as gateway:
            address = urlsplit(gateway.url)
            frozen.connect((address.hostname, address.port))
            frozen.sendall(f"GET /v1/changes?access_token={gateway.secret} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            await wait_until(partial(is_followed, gateway))

            for first in range(0, 400, 10):
                await gateway.put(*(identified(f"u-{number}", metadata=large) for number in range(first, first + 10)))

            await wait_until(lambda: any(each.get("path") == "/v1/changes" for each in logs))


async def is_followed(gateway: Gateway) -> bool:
    """Whether the feed has one reader."""
    return 'kinfold_gateway_subscribers{workspace="default"} 1.0' in (await gateway.client.get("/metrics")).text


async def test_many_readers_share_one_read_of_redis(gateway: Gateway):
    """With 20 of them, Redis has as many clients that wait for entries as with one."""

    async def waiting_clients() -> int:
        return sum(each["cmd"] == "xread" for each in await gateway.redis.client_list())

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(following(gateway.client))
        await gateway.put(identified("u-1"))
        await first.message()
        before = await waiting_clients()
        streams = [await stack.enter_async_context(following(gateway.client)) for _ in range(19)]
        await gateway.put(identified("u-2"))
        for stream in streams:
            assert (await stream.message()).data["contact"]["externalId"] == "u-2"

        assert await waiting_clients() <= before


async def test_stopping_gateway_asks_readers_to_reconnect(redis: Redis, redis_url: str):
    """`retry`, then the end. A WebSocket is closed with 1012. With 50 streams this takes less than 5 s."""
    loop = asyncio.get_running_loop()
    async with serving(redis_url, redis) as gateway:
        contexts = [following(gateway.client_of(gateway.secret)) for _ in range(50)]
        opened = [await context.__aenter__() for context in contexts]
        socket = await websockets.connect(gateway.url.replace("http", "ws") + f"/v1/changes/ws?access_token={gateway.secret}")
        await socket.recv()
        started = loop.time()
    assert loop.time() - started < 5
    for stream, context in zip(opened, contexts, strict=True):
        received = [await stream.next(), await stream.next(), await stream.next()]
        assert [each.retry_ms is not None if each else None for each in received] == [False, True, None]
        await context.__aexit__(None, None, None)
    await socket.wait_closed()
    assert socket.close_code == 1012
