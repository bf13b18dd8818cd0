"""A minimal Redis client: a blocking socket and hiredis. It is as fast as a producer or reader can be."""

import socket
from collections.abc import Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self, cast

import hiredis

from kinfold_schemas.keys import key

READ_BYTES: Final = 1 << 20
_APPENDED_AT_ONCE: Final = 2000


class Wire:
    """One connection. Replies are bytes, in order."""

    def __init__(self, path: str) -> None:
        self.socket: Final = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self._reader: Final = hiredis.Reader()

    def send(self, *arguments: bytes | str | int) -> None:
        """Send one command."""
        self.socket.sendall(hiredis.pack_command(cast("Any", arguments)))

    def receive(self) -> Any:
        """Return the next reply. Raises error replies."""
        while (reply := self._reader.gets()) is False:
            self.feed(self.socket.recv(READ_BYTES))
        if isinstance(reply, hiredis.HiredisError):
            raise reply
        return reply

    def feed(self, data: bytes) -> None:
        """Parse bytes that the caller received itself."""
        if not data:
            raise ConnectionError("the server has closed the connection")
        self._reader.feed(data)

    def arrived(self) -> Iterator[Any]:
        """The replies that have arrived completely."""
        while (reply := self._reader.gets()) is not False:
            yield reply

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()


def append_command(log: str) -> tuple[bytes, bytes]:
    """The bytes before and after an event's length in a packed `XADD log * event ...`."""
    parts = hiredis.pack_command(cast("Any", ("XADD", log, "*", "event")))
    return parts.replace(b"*4\r\n", b"*5\r\n", 1) + b"$", b"\r\n"


def append(path: str, workspace: str, events: Iterable[bytes]) -> str:
    """Append events to a workspace's log; returns the last id."""
    before, after = append_command(key(workspace, "events"))
    rest, last = iter(events), b""
    with Wire(path) as wire:
        while some := list(islice(rest, _APPENDED_AT_ONCE)):
            wire.socket.sendall(b"".join([b"%b%d\r\n%b%b" % (before, len(each), each, after) for each in some]))
            for _ in some:
                last = wire.receive()
    return last.decode()
