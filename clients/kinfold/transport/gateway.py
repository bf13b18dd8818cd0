"""The gateway over HTTP, with the standard library's client.

Idle connections are reused by one thread at a time, and never by a forked child: two processes would read each other's replies.
A connection that the gateway has closed is not reused, as far as the client can see that. If it finds out only later, it
repeats a GET. It does not repeat a POST: the caller decides about that.
"""

import contextlib
import http.client
import os
import selectors
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlencode, urlsplit

import msgspec

from kinfold.errors import Refused, Unreachable

_NETWORK_ERRORS: Final = (OSError, http.client.HTTPException)
_MAX_RETRY_AFTER_S: Final = 300.0
_OK: Final = 200
_UNAUTHORIZED: Final = 401
_NOT_FOUND: Final = 404
_TRANSIENT: Final = frozenset([408, 429])
_SERVER_ERROR: Final = 500


class Response(NamedTuple):
    """A response of the gateway."""

    status: int
    body: bytes
    retry_after_s: float | None


class Stream(NamedTuple):
    """A response without an end, on a connection of its own."""

    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse
    sock: socket.socket

    def lines(self) -> Iterator[bytes]:
        """The lines without their line ends. Raises Unreachable when the stream ends."""
        try:
            while line := self.response.readline():
                yield line.rstrip(b"\r\n")
        except (*_NETWORK_ERRORS, ValueError, AttributeError) as error:  # the last two: another thread closed it
            raise _unreachable(error) from error
        raise Unreachable("gateway: the stream ended")

    def stop(self) -> None:
        """End the stream, from any thread."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self.response.close()
        self.connection.close()


class _Problem(msgspec.Struct):
    error: str = ""
    detail: str = ""


_decode_problem: Final = msgspec.json.Decoder(_Problem).decode


class GatewayClient:
    """A client of one gateway with one key, for any thread."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._parts: Final[SplitResult] = urlsplit(url)
        self._key: Final = key
        self._timeout_s: Final = timeout_s
        self._tls: Final = ssl.create_default_context() if self._parts.scheme == "https" else None
        self._idle: list[http.client.HTTPConnection] = []
        self._pid = os.getpid()
        """The process that owns the idle connections."""

    def get(self, path: str, query: Mapping[str, str], timeout_s: float | None = None) -> Response:
        """Send a GET. Raises Unreachable."""
        if (connection := self._idle_connection()) is not None:
            with contextlib.suppress(Unreachable):  # the gateway may have closed the idle connection
                return self._exchange(connection, "GET", self._target(path, query), timeout_s=timeout_s)
        return self._exchange(self.connect(), "GET", self._target(path, query), timeout_s=timeout_s)

    def post(self, path: str, query: Mapping[str, str], body: bytes, content_type: str) -> Response:
        """Send a POST, once. Raises Unreachable, even if the gateway may have received it."""
        connection = self._idle_connection() or self.connect()
        return self._exchange(connection, "POST", self._target(path, query), body, content_type=content_type)

    def stream(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], silence_s: float) -> Stream:
        """Open a stream, which the caller closes. It may be silent for `silence_s`. Raises Unreachable or Refused."""
        connection = self.connect(silence_s)
        try:
            connection.request("GET", self._target(path, query), headers=self._headers(headers))
            sock = connection.sock
            raw = connection.getresponse()
            if raw.status == _OK:
                return Stream(connection, raw, sock)
            response = Response(raw.status, raw.read(), _retry_after(raw))
        except _NETWORK_ERRORS as error:
            connection.close()
            raise _unreachable(error) from error
        connection.close()
        raise problem(response)

    def close(self) -> None:
        """Close the idle connections."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def connect(self, timeout_s: float | None = None) -> http.client.HTTPConnection:
        """A new connection; it connects on first use."""
        host, port = self._parts.hostname or "", self._parts.port
        if self._tls is not None:
            port = port or http.client.HTTPS_PORT  # always given: http.client would search an IPv6 address for a port
            return http.client.HTTPSConnection(host, port, timeout=timeout_s or self._timeout_s, context=self._tls)
        return http.client.HTTPConnection(host, port or http.client.HTTP_PORT, timeout=timeout_s or self._timeout_s)

    def _idle_connection(self) -> http.client.HTTPConnection | None:
        if self._pid != os.getpid():
            self._idle, self._pid = [], os.getpid()
        while True:
            try:  # no lock: a fork could leave it locked
                connection = self._idle.pop()
            except IndexError:
                return None
            if not _has_input(connection):
                return connection
            connection.close()

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        content_type: str | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        headers = self._headers({} if content_type is None else {"Content-Type": content_type})
        try:
            connection.timeout = timeout_s or self._timeout_s
            if connection.sock is not None:
                connection.sock.settimeout(connection.timeout)
            raw = _send(connection, method, target, body, headers)
            response = Response(raw.status, raw.read(), _retry_after(raw))
        except _NETWORK_ERRORS as error:
            connection.close()
            raise _unreachable(error) from error
        self._idle.append(connection)
        return response

    def _target(self, path: str, query: Mapping[str, str]) -> str:
        return f"{self._parts.path.rstrip('/')}{path}{'?' if query else ''}{urlencode(query)}"

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}", "User-Agent": "kinfold-python", **headers}


def is_not_found(response: Response) -> bool:
    """Whether the gateway found no contact. A 404 for a wrong path, or from a proxy, does not say that."""
    return response.status == _NOT_FOUND and error_code(response) == "not-found"


def error_code(response: Response) -> str:
    """The code of the gateway's error; empty for another server's response."""
    try:
        return _decode_problem(response.body).error
    except msgspec.MsgspecError:
        return ""


def problem(response: Response) -> Unreachable | Refused:
    """The exception for an unexpected response."""
    try:
        decoded = _decode_problem(response.body)
        text = f"gateway: {response.status} {decoded.error}: {decoded.detail}"
    except msgspec.MsgspecError:
        text = f"gateway: {response.status} {response.body[:100].decode(errors='replace')}"
    if response.status == _UNAUTHORIZED:
        text += " (the key is the argument `key` of this client)"
    if response.status in _TRANSIENT or response.status >= _SERVER_ERROR:
        return Unreachable(text, response.retry_after_s)
    return Refused(text)


def _send(
    connection: http.client.HTTPConnection, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    """Send a request, and return the response, even if the server closes the connection before it has read a large body."""
    try:
        connection.request(method, target, body, headers)
    except (ConnectionError, ssl.SSLEOFError) as error:
        if connection.sock is None:
            raise
        try:
            return connection.getresponse()
        except _NETWORK_ERRORS:
            raise error from None
    return connection.getresponse()


def _has_input(connection: http.client.HTTPConnection) -> bool:
    """Whether an idle connection has something to read: usually its end."""
    if connection.sock is None:  # closed by us; it connects again
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection.sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def _retry_after(raw: http.client.HTTPResponse) -> float | None:
    text = raw.getheader("Retry-After", "")
    return min(float(text), _MAX_RETRY_AFTER_S) if text.isdecimal() else None


def _unreachable(error: Exception) -> Unreachable:
    return Unreachable(f"gateway: {type(error).__name__}: {error}")
