"""The gateway over HTTP: the standard library's client is all it takes.

Connections are kept and used again, by one thread at a time, and never by another process: after a fork two would read each
other's answers. One that the gateway has closed meanwhile is not used, as far as that can be seen. Where it turns out only
later, a question is asked a second time; a batch of events is not sent again: that is for `kinfold.delivery` to decide.
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

from kinfold.encoding import Stamps
from kinfold.errors import Refused, Unreachable
from kinfold.transports import Receipt

_NETWORK_ERRORS: Final = (OSError, http.client.HTTPException)
_MAX_RETRY_AFTER_S: Final = 300.0
_PARTIAL: Final = {"partial": "true"}
_ACCEPTED: Final = 202
_NOT_FOUND: Final = 404
_TOO_LARGE: Final = 413
_OK: Final = 200
_OF_THE_WAY: Final = frozenset([401, 404])
"""What is never said because of what is in a batch: a wrong key, a wrong address."""
_TRANSIENT: Final = frozenset([408, 429])
_SERVER_ERROR: Final = 500


class Answer(NamedTuple):
    """What the gateway said."""

    status: int
    body: bytes
    retry_after_s: float | None


class Stream(NamedTuple):
    """An answer that does not end."""

    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse
    sock: socket.socket

    def lines(self) -> Iterator[bytes]:
        """Its lines, without their ends. Raises Unreachable at its end, which is never meant."""
        try:
            while line := self.response.readline():
                yield line.rstrip(b"\r\n")
        except (*_NETWORK_ERRORS, ValueError, AttributeError) as error:  # the last two: closed meanwhile
            raise _unreachable(error) from error
        raise Unreachable("gateway: found the end of the stream")

    def stop(self) -> None:
        """Ends it, from whatever thread."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Gives up the connection."""
        self.response.close()
        self.connection.close()


class _Refused(msgspec.Struct):
    index: int
    detail: str = ""


class _Accepted(msgspec.Struct):
    position: str | None = None
    rejected: list[_Refused] = []


class _Problem(msgspec.Struct):
    error: str = ""
    detail: str = ""


_decode_accepted: Final = msgspec.json.Decoder(_Accepted).decode
_decode_problem: Final = msgspec.json.Decoder(_Problem).decode


class Gateway:
    """One gateway and one key. Any thread may ask."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._parts: Final[SplitResult] = urlsplit(url)
        self._key: Final = key
        self._timeout_s: Final = timeout_s
        self._tls: Final = ssl.create_default_context() if self._parts.scheme == "https" else None
        self._idle: list[http.client.HTTPConnection] = []
        self._pid = os.getpid()
        """Whose process the idle connections are."""

    def get(self, path: str, query: Mapping[str, str], timeout_s: float | None = None) -> Answer:
        """Asks. Raises Unreachable."""
        connection = self._kept()
        if connection is not None:
            try:
                return self._exchange(connection, "GET", self._target(path, query), None, {}, timeout_s)
            except Unreachable:
                pass  # it may have been closed for having been idle
        return self._exchange(self.connect(), "GET", self._target(path, query), None, {}, timeout_s)

    def post(self, path: str, query: Mapping[str, str], body: bytes, content_type: str) -> Answer:
        """Sends, once. Raises Unreachable, also where it may have arrived."""
        connection = self._kept() or self.connect()
        return self._exchange(connection, "POST", self._target(path, query), body, {"Content-Type": content_type})

    def stream(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], silence_s: float) -> Stream:
        """Asks for what does not end, on a connection of its own, which the caller closes. Raises Unreachable or Refused."""
        connection = self.connect(silence_s)
        try:
            connection.request("GET", self._target(path, query), headers=self._headers(headers))
            sock = connection.sock
            response = connection.getresponse()
            if response.status == _OK:
                return Stream(connection, response, sock)
            answer = Answer(response.status, response.read(), _retry_after(response))
        except _NETWORK_ERRORS as error:
            connection.close()
            raise _unreachable(error) from error
        connection.close()
        raise problem(answer)

    def close(self) -> None:
        """Gives up the connections that nobody uses."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def connect(self, timeout_s: float | None = None) -> http.client.HTTPConnection:
        """A connection, made when it is first used."""
        host, port = self._parts.hostname or "", self._parts.port
        if self._tls is not None:
            port = port or http.client.HTTPS_PORT  # said in any case, or the colons of an IPv6 address are looked at for one
            return http.client.HTTPSConnection(host, port, timeout=timeout_s or self._timeout_s, context=self._tls)
        return http.client.HTTPConnection(host, port or http.client.HTTP_PORT, timeout=timeout_s or self._timeout_s)

    def _kept(self) -> http.client.HTTPConnection | None:
        if self._pid != os.getpid():
            self._idle, self._pid = [], os.getpid()
        while True:
            try:  # without a lock, which a fork could leave locked
                connection = self._idle.pop()
            except IndexError:
                return None
            if not _is_closed(connection):
                return connection
            connection.close()

    def _exchange(  # noqa: PLR0917  a request has that many parts
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float | None = None,
    ) -> Answer:
        try:
            connection.timeout = timeout_s or self._timeout_s
            if connection.sock is not None:
                connection.sock.settimeout(connection.timeout)
            response = _response(connection, method, target, body, self._headers(headers))
            answer = Answer(response.status, response.read(), _retry_after(response))
        except _NETWORK_ERRORS as error:
            connection.close()
            raise _unreachable(error) from error
        self._idle.append(connection)
        return answer

    def _target(self, path: str, query: Mapping[str, str]) -> str:
        return f"{self._parts.path.rstrip('/')}{path}{'?' if query else ''}{urlencode(query)}"

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}", "User-Agent": "kinfold-python", **headers}


class GatewayLog:
    """A transport (`kinfold.transports.Transport`) to the log behind a gateway."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._gateway: Final = Gateway(url, key, timeout_s)
        self._stamps: Final = Stamps()

    def append(self, number: int, events: list[bytes]) -> Receipt:
        """Posts a batch; those of its events that are bad are refused, the others appended. Raises Unreachable or Refused.

        What is too large for whoever stands before the gateway, or has something in it that they do not let pass (a firewall
        that finds an attack in a visitor's user agent), would be so every time, and stop everything behind it: it is posted in
        halves, down to the one event that is given up.
        """
        stamped = self._stamps.stamp(events)
        try:
            answer = self._gateway.post("/v1/events", _PARTIAL, b"\n".join(stamped), "application/x-ndjson")
        except Unreachable:
            self._stamps.lost(stamped)
            raise
        if answer.status != _ACCEPTED:
            if answer.status == _TOO_LARGE or self._is_because_of_the_batch(answer):
                return self._append_in_halves(number, events, str(problem(answer)))
            self._stamps.lost(stamped)  # a gateway whose Redis does not answer may have appended them all the same
            raise problem(answer)
        try:
            accepted = _decode_accepted(answer.body)
        except msgspec.MsgspecError as error:
            raise Unreachable(f"gateway: found {answer.body[:100]!r}, allowed is its answer to events") from error
        self._stamps.arrived(accepted.position, stamped)
        return Receipt(accepted.position, tuple((each.index, each.detail) for each in accepted.rejected))

    def close(self) -> None:
        """Gives up the connection."""
        self._gateway.close()

    def _is_because_of_the_batch(self, answer: Answer) -> bool:
        """Whether the gateway takes a batch without events over the very same way; if not, the way has to be mended."""
        if answer.status in _OF_THE_WAY or isinstance(problem(answer), Unreachable):
            return False
        try:
            return self._gateway.post("/v1/events", _PARTIAL, b"[]", "application/json").status == _ACCEPTED
        except Unreachable:
            return False

    def _append_in_halves(self, number: int, events: list[bytes], why: str) -> Receipt:
        if len(events) == 1:
            return Receipt(None, ((0, why),))
        half = len(events) // 2
        first, second = self.append(number, events[:half]), self.append(number, events[half:])
        refused = (*first.refused, *((half + index, said) for index, said in second.refused))
        return Receipt(second.position or first.position, refused)


def is_nobody(answer: Answer) -> bool:
    """Whether the gateway says that there is nobody: a 404 of a wrong path, or of whoever stands before it, does not."""
    if answer.status != _NOT_FOUND:
        return False
    try:
        return _decode_problem(answer.body).error == "not-found"
    except msgspec.MsgspecError:
        return False


def problem(answer: Answer) -> Unreachable | Refused:
    """What an answer that is none means."""
    try:
        said = _decode_problem(answer.body)
        text = f"gateway: {answer.status} {said.error}: {said.detail}"
    except msgspec.MsgspecError:
        text = f"gateway: {answer.status} {answer.body[:100].decode(errors='replace')}"
    if answer.status in _TRANSIENT or answer.status >= _SERVER_ERROR:
        return Unreachable(text, answer.retry_after_s)
    return Refused(text)


def _response(
    connection: http.client.HTTPConnection, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    """The answer, of one who closes before everything is sent, too: whoever finds a body too large does not read all of it."""
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


def _is_closed(connection: http.client.HTTPConnection) -> bool:
    """Whether the other end has said something that nobody asked for: its end, most of all."""
    if connection.sock is None:  # by us, and it connects again
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection.sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    text = response.getheader("Retry-After", "")
    return min(float(text), _MAX_RETRY_AFTER_S) if text.isdecimal() else None


def _unreachable(error: Exception) -> Unreachable:
    return Unreachable(f"gateway: {type(error).__name__}: {error}")
