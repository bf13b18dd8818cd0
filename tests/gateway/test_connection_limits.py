"""What a connection may cost before a request is complete (docs/security.md). The peers here speak raw bytes."""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import websockets
from redis.asyncio import Redis

from kinfold_services.gateway.protocols import (
    MAX_FRAGMENTS,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_PIPELINED,
    HttpProtocol,
    WebSocketProtocol,
)
from kinfold_services.gateway.rate_limits import network_of
from tests.support.engines import free_port
from tests.support.gateways import Gateway, GatewayProcess, serving
from tests.support.waiting import wait_until

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
UPGRADE = (
    b"GET /v1/changes/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer %s\r\n\r\n"
)
HALF_BODY = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nAuthorization: Bearer %s\r\n\r\n{"


class Peer:
    """A client that sends bytes, and reads until the gateway closes the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes. The gateway may have closed the connection already."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def rest(self) -> bytes:
        """All that the gateway sends until it closes the connection."""
        received = b""
        with contextlib.suppress(ConnectionError):
            while chunk := await asyncio.wait_for(self._reader.read(65_536), 120):
                received += chunk
        return received

    async def answer(self) -> bytes:
        """The next response's head and body, for responses with a Content-Length."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 120)
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return head + await self._reader.readexactly(int(length.partition(b":")[2]))

    async def follow(self, key: str) -> None:
        """Become a WebSocket that follows the feed."""
        await self.send(UPGRADE % key.encode())
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 120)
        assert head.startswith(b"HTTP/1.1 101 ")

    def receive_little(self) -> None:
        """Let the system hold little that this client has not read."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]  # the transport of a socket

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


@contextlib.asynccontextmanager
async def connected(url: str, address: str = "127.0.0.1") -> AsyncGenerator[Peer]:
    """Open a connection from one of this machine's loopback addresses."""
    host, port = url.removeprefix("http://").rsplit(":", 1)
    peer = Peer(*await asyncio.open_connection(host, int(port), local_addr=(address, 0)))
    try:
        yield peer
    finally:
        peer.close()


def resident_kib(pid: int) -> int:
    """How much memory a process takes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.mark.parametrize(
    "headers",
    [
        b"a: b\r\n" * (MAX_HEADERS + 1),
        b"a: " + b"b" * MAX_HEADER_BYTES,
        b"a" * (MAX_HEADER_BYTES + 1),
        b"".join(b"h%d: %s\r\n" % (number, b"x" * 600) for number in range(64)),
    ],
    ids=["many", "one value", "one name", "many bytes"],
)
@pytest.mark.parametrize("is_complete", [True, False])
async def test_headers_that_are_too_large_are_rejected(unfolded: Gateway, headers: bytes, is_complete: bool):  # noqa: FBT001  a parameter
    """431, whether or not their end ever comes, and the connection is closed."""
    async with connected(unfolded.url) as peer:
        await peer.send(HEALTH + headers + (b": x\r\n\r\n" if is_complete else b""))
        if not is_complete:
            await peer.send(b"x" * MAX_HEADER_BYTES)

        head, _, body = (await peer.rest()).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["detail"] == "headers: expected at most 32768 bytes and 100 headers, got more"


async def test_url_that_is_too_long_is_rejected(unfolded: Gateway):
    async with connected(unfolded.url) as peer:
        await peer.send(b"GET /healthz?" + b"x" * MAX_HEADER_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n")

        assert (await peer.rest()).startswith(b"HTTP/1.1 431 ")


async def test_trailers_are_dropped_and_bounded(unfolded: Gateway):
    """A chunked body may be followed by headers."""
    chunked = b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    async with connected(unfolded.url) as peer:
        await peer.send(chunked + b"a: b\r\n" * 1000 + b"\r\n")
        assert (await peer.answer()).startswith(b"HTTP/1.1 200 ")

        await peer.send(chunked + b"a: " + b"b" * 1024 * 1024)

        assert b" 431 " in await peer.rest()


async def test_ordinary_large_headers_are_accepted(unfolded: Gateway):
    """A cookie of 20 KB, in many small pieces, on a connection that is used again."""
    async with connected(unfolded.url) as peer:
        for _ in range(3):
            for piece in (HEALTH, *[b"a: " + b"b" * 4000 + b"\r\n"] * 5, b"\r\n"):
                await peer.send(piece)
            assert (await peer.answer()).startswith(b"HTTP/1.1 200 ")


async def test_body_in_tiny_chunks_is_accepted(unfolded: Gateway):
    """The bytes around a chunk are not counted as headers."""
    event = b'{"type":"VisitorSeen","visitorId":"v-1","context":{"url":"%s"}}' % (b"x" * 8000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in event) + b"0\r\n\r\n"
    head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer "
    async with connected(unfolded.url) as peer:
        await peer.send(head + unfolded.secret.encode() + b"\r\n\r\n" + chunks)

        assert (await peer.answer()).startswith(b"HTTP/1.1 202 ")


async def test_pipeline_is_bounded(unfolded: Gateway):
    async with connected(unfolded.url) as peer:
        await peer.send((HEALTH + b"\r\n") * MAX_PIPELINED)
        for _ in range(MAX_PIPELINED):
            assert (await peer.answer()).startswith(b"HTTP/1.1 200 ")

        await peer.send((HEALTH + b"\r\n") * 10_000)

        assert (await peer.rest()).count(b"HTTP/1.1 200 ") < 100


@pytest.mark.parametrize(
    ("part", "deadline"),
    [(HEALTH, "headers_s"), (b"GET", "headers_s"), (b"", "headers_s"), (b"\r\n", "headers_s"), (HALF_BODY, "body_s")],
    ids=["headers", "method", "nothing", "an empty line", "body"],
)
async def test_half_a_request_is_given_up(unfolded: Gateway, monkeypatch: pytest.MonkeyPatch, part: bytes, deadline: str):
    """408 after a deadline, even where bytes keep coming in between."""
    monkeypatch.setattr(HttpProtocol, deadline, 0.5)
    async with connected(unfolded.url) as peer:
        await peer.send(part % unfolded.secret.encode() if part is HALF_BODY else part)

        answer = await peer.rest()

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "too-slow"


async def test_slow_drip_is_given_up(unfolded: Gateway, monkeypatch: pytest.MonkeyPatch):
    """A byte now and then does not extend the deadline, on a connection that was used before."""
    monkeypatch.setattr(HttpProtocol, "headers_s", 1.0)
    async with connected(unfolded.url) as peer:
        await peer.send(HEALTH + b"\r\n")
        await peer.answer()
        ended = asyncio.create_task(peer.rest())
        while not ended.done():
            await peer.send(b"\r\n")
            await asyncio.wait({ended}, timeout=0.1)

        assert ended.result().startswith(b"HTTP/1.1 408 ")


async def test_body_that_nobody_reads_has_a_deadline(unfolded: Gateway, monkeypatch: pytest.MonkeyPatch):
    """A request without a key is answered before its body is read. The rest of the body is not waited for."""
    monkeypatch.setattr(HttpProtocol, "body_s", 0.5)
    async with connected(unfolded.url) as peer:
        await peer.send(HALF_BODY.replace(b"Bearer %s", b"Bearer no"))

        answer = await peer.rest()

    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b" 408 " not in answer


async def test_idle_connection_outlives_the_deadline_of_headers(unfolded: Gateway, monkeypatch: pytest.MonkeyPatch):
    """Between two requests the keep-alive time counts."""
    monkeypatch.setattr(HttpProtocol, "headers_s", 0.6)
    async with connected(unfolded.url) as idle, connected(unfolded.url) as other:
        await idle.send(HEALTH + b"\r\n")
        await idle.answer()
        assert (await other.rest()).startswith(b"HTTP/1.1 408 ")  # so the deadline has passed for both

        await idle.send(HEALTH + b"\r\n")

        assert (await idle.answer()).startswith(b"HTTP/1.1 200 ")


async def test_connections_of_an_address_are_bounded(redis: Redis, redis_url: str):
    """One more is closed. Other addresses are served, and a closed connection makes room for another one."""
    async with serving(redis_url, redis, gateway_connections_per_address=3) as gateway, contextlib.AsyncExitStack() as open_now:
        mine = [await open_now.enter_async_context(connected(gateway.url)) for _ in range(3)]
        for peer in mine:
            await peer.send(HEALTH + b"\r\n")
            assert (await peer.answer()).startswith(b"HTTP/1.1 200 ")

        async with connected(gateway.url) as one_more:
            await one_more.send(HEALTH + b"\r\n")
            assert await one_more.rest() == b""
        async with connected(gateway.url, "127.0.0.2") as other:
            await other.send(HEALTH + b"\r\n")
            assert (await other.answer()).startswith(b"HTTP/1.1 200 ")

        mine[0].close()

        async def is_served() -> bool:
            async with connected(gateway.url) as again:
                await again.send(HEALTH + b"Connection: close\r\n\r\n")
                return (await again.rest()).startswith(b"HTTP/1.1 200 ")

        await wait_until(is_served)


async def test_connections_that_do_not_become_a_websocket_are_closed(unfolded: Gateway, monkeypatch: pytest.MonkeyPatch):
    """The server never answers a request for a WebSocket that has a body. Such connections must not stay open."""
    monkeypatch.setattr(WebSocketProtocol, "handshake_s", 0.3)
    monkeypatch.setattr(HttpProtocol, "body_s", 0.3)
    begun = (UPGRADE % unfolded.secret.encode()).removesuffix(b"\r\n")
    async with contextlib.AsyncExitStack() as stack:
        one, two, three, follower = [await stack.enter_async_context(connected(unfolded.url)) for _ in range(4)]
        await follower.follow(unfolded.secret)
        await one.send(begun + b"Content-Length: 5\r\n\r\nabcde")
        await two.send(begun + b"Content-Length: 5\r\n\r\n")
        await three.send(begun + b"Transfer-Encoding: chunked\r\n\r\n")
        for peer in (one, two, three):
            await peer.rest()
        metrics = (await unfolded.client.get("/metrics")).text

    assert 'kinfold_gateway_connections_refused_total{why="too-slow"} 3.0' in metrics


async def test_websockets_count_as_connections(redis: Redis, redis_url: str):
    """Until they are closed, and not twice."""
    async with serving(redis_url, redis, gateway_connections_per_address=2) as gateway:
        for _ in range(4):
            async with connected(gateway.url) as first, connected(gateway.url) as second, connected(gateway.url) as third:
                for peer in (first, second):
                    await peer.follow(gateway.secret)
                assert await third.rest() == b""

            async def is_served() -> bool:
                async with connected(gateway.url) as one, connected(gateway.url) as two:
                    for peer in (one, two):
                        await peer.send(HEALTH + b"Connection: close\r\n\r\n")
                    return all([b" 200 " in await peer.rest() for peer in (one, two)])

            await wait_until(is_served)


def test_addresses_of_one_ipv6_network_are_one():
    assert network_of("2001:db8:1:2:3:4:5:6") == network_of("2001:db8:1:2:ffff::1%eth0")
    assert network_of("2001:db8:1:2::1") != network_of("2001:db8:1:3::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"


@pytest.mark.slow
async def test_half_requests_shut_nobody_out(redis_url: str, tmp_path: Path):
    """With 1,024 descriptors: 1,100 half requests of one address, each with as many bytes of headers as it gets."""
    with GatewayProcess(redis_url, free_port(), tmp_path / "log", max_files=1024) as process:
        before = resident_kib(process.process.pid)
        half = HEALTH + b"".join(b"h%d: %s\r\n" % (number, b"x" * 300) for number in range(MAX_HEADERS - 2))
        async with contextlib.AsyncExitStack() as open_now:
            for _ in range(1100):
                peer = await open_now.enter_async_context(connected(process.url))
                await peer.send(half)
            grown = resident_kib(process.process.pid) - before
            async with connected(process.url, "127.0.0.2") as other:
                await other.send(HEALTH + b"\r\n")
                assert (await other.answer()).startswith(b"HTTP/1.1 200 ")

    assert grown < 64 * 1024


async def test_websocket_message_of_a_client_is_bounded(unfolded: Gateway):
    """A client has nothing to say over the feed's WebSocket."""
    uri = unfolded.url.replace("http://", "ws://") + "/v1/changes/ws"
    async with websockets.connect(uri, additional_headers={"Authorization": f"Bearer {unfolded.secret}"}) as socket:
        await socket.send("x" * 5000)

        await asyncio.wait_for(socket.wait_closed(), 120)

    assert socket.close_code == 1009


async def test_pongs_for_a_client_that_does_not_read_are_bounded(unfolded: Gateway, monkeypatch: pytest.MonkeyPatch):
    """Each ping asks for a pong of the same size."""
    ping = b"\x89\xfd\0\0\0\0" + b"x" * 125
    count, waiting = 20_000, list[int]()

    def handle_ping(protocol: WebSocketProtocol) -> None:
        if not waiting:
            protocol.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        original(protocol)
        waiting.append(protocol.transport.get_write_buffer_size())

    original = WebSocketProtocol.handle_ping
    monkeypatch.setattr(WebSocketProtocol, "handle_ping", handle_ping)
    async with connected(unfolded.url) as peer:
        await peer.follow(unfolded.secret)
        peer.receive_little()
        for _ in range(count // 100):
            await peer.send(ping * 100)
        await wait_until(lambda: len(waiting) == count)

    assert max(waiting) < count * len(ping) // 4


async def test_fragments_of_a_websocket_message_are_bounded(unfolded: Gateway):
    """Empty ones, too: they never exceed the size of a message."""
    first, empty = b"\x01\x80\0\0\0\0", b"\x00\x80\0\0\0\0"
    async with connected(unfolded.url) as peer:
        await peer.follow(unfolded.secret)
        await peer.send(first + empty * MAX_FRAGMENTS)

        assert b"\x89" not in await peer.rest()  # closed before the first ping of the gateway, after 20 s


async def test_requests_that_are_not_http_do_not_fill_the_log(unfolded: Gateway, caplog: pytest.LogCaptureFixture):
    """They cost nothing, and no limit of requests holds them."""
    for request in (b"nonsense\r\n\r\n", HEALTH + b"Connection: upgrade\r\nUpgrade: nonsense\r\n\r\n", HEALTH + b"a\r\n\r\n"):
        async with connected(unfolded.url) as peer:
            await peer.send(request)
            await peer.answer()

    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []


async def test_answer_does_not_wait_for_an_acknowledgement(unfolded: Gateway, monkeypatch: pytest.MonkeyPatch):
    """Its head and its body are two writes."""
    options = list[int]()

    def connection_made(protocol: HttpProtocol, transport: asyncio.Transport) -> None:
        options.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        original(protocol, transport)

    original = HttpProtocol.connection_made
    monkeypatch.setattr(HttpProtocol, "connection_made", connection_made)
    async with connected(unfolded.url) as peer:
        await peer.send(HEALTH + b"\r\n")
        await peer.answer()

    assert options == [1]
