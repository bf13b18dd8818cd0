"""The protocols of uvicorn, with bounds on what a connection may cost before a request is complete.

uvicorn bounds neither the headers that httptools collects, nor the time that a client takes to send a request. The figures are
in docs/security.md.

`HttpProtocol` counts bytes in slices: httptools holds a header that is not complete where no callback sees it. Deadlines are
checked by a sweep over all connections (`GatewayServer.on_tick`), since a timer for each request would cost more.
"""

import logging
import math
import secrets
import time
from asyncio import BaseTransport, Transport
from collections import Counter
from typing import Any, Final, cast

import msgspec
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from kinfold_services.gateway.metrics import Metrics
from kinfold_services.gateway.problems import Error
from kinfold_services.gateway.rate_limits import network_of

MAX_HEADER_BYTES: Final = 32 * 1024
"""The maximum size of a request line with all headers, and of trailers."""
MAX_HEADERS: Final = 100
"""A header of five bytes takes 130 in memory."""
MAX_PIPELINED: Final = 16
"""How many requests may wait behind the one that is being answered. Each takes kilobytes of memory."""
MAX_FRAGMENTS: Final = 64
"""How many fragments a message of a WebSocket may have. An empty one takes memory, too, and counts for no byte."""

_SLICE_BYTES: Final = 16 * 1024
_TELL_EVERY_S: Final = 60.0

_errors_only: Final = logging.getLogger("uvicorn.error.connections")
"""uvicorn warns of each request that is not HTTP, or asks for an unknown upgrade, before any limit holds. A flood of them must
not fill the log."""
_errors_only.setLevel(logging.ERROR)


class OpenConnections:
    """Counts the open connections of each address (of an IPv6 network), and refuses more than `per_address`, or `in_all`."""

    def __init__(self, per_address: int, in_all: int, metrics: Metrics) -> None:
        self.per_address: Final = max(1, min(per_address, in_all // 2))
        self.in_all: Final = in_all
        self.metrics: Final = metrics
        self._open: Final[Counter[str]] = Counter()
        self._count = 0
        self._told_at = -math.inf

    def opened(self, address: str) -> bool:
        """Count a new connection. Returns False if it is one too many, and does not count it then."""
        network = network_of(address)
        if self._open[network] >= self.per_address or self._count >= self.in_all:
            self._tell(address)
            return False
        self._open[network] += 1
        self._count += 1
        return True

    def closed(self, address: str) -> None:
        """Stop counting a connection."""
        network = network_of(address)
        self._count -= 1
        self._open[network] -= 1
        if not self._open[network]:
            del self._open[network]

    def _tell(self, address: str) -> None:
        self.metrics.connections_refused.labels("too-many").inc()
        if time.monotonic() >= self._told_at + _TELL_EVERY_S:
            self._told_at = time.monotonic()
            expected = f"at most {self.per_address} from one address and {self.in_all} in all"
            structlog.get_logger().warning("connections refused", expected=expected, address=address)


class _Refused(Exception):
    """The request is refused. Raised in a callback of httptools, to stop it."""


class HttpProtocol(HttpToolsProtocol):
    """A connection that speaks HTTP."""

    headers_s = 10.0
    """How long a client may take to send the headers of a request; also how long it may stay silent after it connected."""
    body_s = 30.0
    """How long a client may take to send the body."""

    def __init__(self, open_connections: OpenConnections, **options: Any) -> None:
        super().__init__(**options)
        self.logger = _errors_only
        self.deadline = math.inf
        self._open: Final = open_connections
        self._is_counted = False
        self._unused_bytes = 0  # received of a request that were not part of its body
        self._header_bytes = 0
        self._header_count = 0
        self._reads_headers = True
        self._refusal: tuple[int, str, str] | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Refuse the connection if its address has too many."""
        super().connection_made(transport)
        self._is_counted = self._open.opened(self._address)
        if not self._is_counted:
            transport.abort()
            return
        self.deadline = self.loop.time() + self.headers_s

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        if self._is_counted:
            self._is_counted = False
            self._open.closed(self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data, in slices."""
        if self.deadline == math.inf:
            self.deadline = self.loop.time() + self.headers_s
        for start in range(0, len(data), _SLICE_BYTES):
            piece = data if len(data) <= _SLICE_BYTES else data[start : start + _SLICE_BYTES]
            if self.transport.is_closing() or self.transport.get_protocol() is not self:
                return
            super().data_received(piece)
            self._unused_bytes += len(piece)
            if self._unused_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self._refuse(*_TOO_LONG)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._unused_bytes = self._header_bytes = self._header_count = 0
        self._reads_headers = True

    def on_url(self, url: bytes) -> None:
        """Count a part of the URL."""
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header. Trailers are dropped: uvicorn would add them to the headers of a request that runs already."""
        if not self._reads_headers:
            return
        self._header_count += 1
        self._count_header(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._reads_headers = False
        self.deadline = self.loop.time() + self.body_s
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            self._refusal = (400, "bad-request", f"requests: expected at most {MAX_PIPELINED} in a pipeline, got more")
            raise _Refused

    def on_body(self, body: bytes) -> None:
        """Collect a part of the body."""
        self._unused_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self.deadline = math.inf
        self._reads_headers = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Forget what is left of the body: an idle connection would hold it."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self.cycle.body.clear()

    def send_400_response(self, msg: str) -> None:
        """Respond to a request that httptools could not parse, or that a callback refused."""
        self._refuse(*(self._refusal or (400, "bad-request", f"request: expected HTTP/1.1, got something else ({msg})")))

    def expire(self, now: float) -> None:
        """Close the connection if the client has missed a deadline."""
        if now < self.deadline or self.transport.is_closing():
            return
        if self._reads_headers:
            part, seconds = "headers", self.headers_s
        else:
            part, seconds = "body", self.body_s
        self._refuse(408, "too-slow", f"{part}: expected all of them within {seconds:g} s, got a part")

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES or self._header_count > MAX_HEADERS:
            self._refusal = _TOO_LONG
            raise _Refused

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Respond, unless a response was begun, and close the connection."""
        self._open.metrics.connections_refused.labels(code).inc()
        cycle = cast("RequestResponseCycle | None", self.cycle)  # there is none before the first request
        if cycle is None or self._reads_headers:  # `cycle` is the request before
            can_answer = cycle is None or cycle.response_complete
        else:
            can_answer = not cycle.response_started and not self.pipeline
        if can_answer:
            body = msgspec.json.encode(Error(code, detail, secrets.token_hex(12)))
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A connection that changed from HTTP to WebSocket. It is still counted, and its address stays the same.

    uvicorn bounds neither the pongs that wait for a client that does not read, nor the fragments of a message. It never answers
    a request for a WebSocket that has a body.
    """

    handshake_s = 30.0
    """How long a connection may be neither a WebSocket nor refused."""

    def __init__(self, open_connections: OpenConnections, **options: Any) -> None:
        super().__init__(**options)
        self._open: Final = open_connections
        self._address = ""
        self._deadline = math.inf

    def connection_made(self, transport: BaseTransport) -> None:
        """Take over the connection."""
        super().connection_made(transport)
        self._deadline = self.loop.time() + self.handshake_s
        self._address = self.client[0] if self.client else ""

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        self._open.closed(self._address)
        super().connection_lost(exc)

    def expire(self, now: float) -> None:
        """Close the connection if it has not become a WebSocket in time."""
        if now >= self._deadline and not self.handshake_complete and not self.transport.is_closing():
            self._open.metrics.connections_refused.labels("too-slow").inc()
            self.transport.abort()

    async def send(self, message: Any) -> None:
        """Send a message of the application. uvicorn would log an error for each connection that the application refuses."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True

    def handle_ping(self) -> None:
        """Send the pongs for the pings so far. A client that does not read what was sent gets none."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_cont(self, event: Frame) -> None:
        """Collect a fragment of a message."""
        if len(self.frames) >= MAX_FRAGMENTS:
            self.transport.abort()
            return
        super().handle_cont(event)


_TOO_LONG: Final = (
    431,
    "headers-too-large",
    f"headers: expected at most {MAX_HEADER_BYTES} bytes and {MAX_HEADERS} headers, got more",
)
