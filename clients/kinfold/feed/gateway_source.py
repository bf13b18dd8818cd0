"""The feed from a gateway: Server-Sent Events of `GET /v1/changes`."""

import threading
from collections.abc import Iterator
from typing import Final

import msgspec

from kinfold.errors import FeedTruncated, Unreachable
from kinfold.feed.reader import SNAPSHOT, Idle, Item, Reached, Received, SnapshotStarts, read_change
from kinfold.transport.gateway import GatewayClient, Stream

_SILENCE_S: Final = 40.0
"""The gateway sends something every 15 s, at least a comment."""


class _SnapshotEnd(msgspec.Struct):
    position: str = ""


class _Reset(msgspec.Struct):
    reason: str = "the gateway gives no reason"


class GatewaySource:
    """Reads the feed of a key's workspace; see `kinfold.feed.reader.Source`."""

    def __init__(self, url: str, api_key: str, timeout_s: float) -> None:
        self._gateway: Final = GatewayClient(url, api_key, timeout_s)
        self._stopped: Final = threading.Event()
        self._stream: Stream | None = None

    def stop(self) -> None:
        """End `read` at once."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.stop()

    def read(self, since: str | None, *, snapshot: bool) -> Iterator[Item]:
        """See Source."""
        query = {"snapshot": "true"} if snapshot else {}
        if since is not None:
            query["since"] = since
        self._stream = stream = self._gateway.stream("/v1/changes", query, {"Accept": "text/event-stream"}, _SILENCE_S)
        try:
            if self._stopped.is_set():
                return
            yield from self._items(stream, since, snapshot=snapshot)
        finally:
            self._stream = None
            stream.close()

    def _items(self, stream: Stream, since: str | None, *, snapshot: bool) -> Iterator[Item]:
        retry_s: float | None = None
        in_snapshot = False
        try:
            for event in _events(stream.lines()):
                if self._stopped.is_set():
                    return
                if event.retry_ms is not None:
                    retry_s = event.retry_ms / 1000
                if event.name == "reset":
                    if not snapshot:
                        reason = msgspec.json.decode(event.data, type=_Reset).reason
                        raise FeedTruncated(f"feed: cannot continue after {since}: {reason}", since or "")
                    in_snapshot = False
                    continue
                if event.id == SNAPSHOT and not in_snapshot:
                    in_snapshot = True
                    yield SnapshotStarts()
                yield _item(event)
        except Unreachable as error:
            raise Unreachable(str(error), retry_s) from error


class _Event(msgspec.Struct):
    id: str | None = None
    name: str = ""
    data: bytes = b""
    retry_ms: int | None = None


def _events(lines: Iterator[bytes]) -> Iterator[_Event]:
    """Parse Server-Sent Events (HTML Living Standard, 9.2.6). A comment becomes an empty event: a sign of life."""
    event = _Event()
    for line in lines:
        if not line:
            yield event
            event = _Event()
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match field:
            case b"id":
                event.id = value.decode()
            case b"event":
                event.name = value.decode()
            case b"data":
                event.data = event.data + b"\n" + value if event.data else value
            case b"retry" if value.isdigit():
                event.retry_ms = int(value)
            case b"":
                yield _Event()
            case _:
                pass


def _item(event: _Event) -> Item:
    if event.name == "snapshot-end":
        return Reached(event.id or msgspec.json.decode(event.data, type=_SnapshotEnd).position, is_snapshot_end=True)
    position = None if event.id == SNAPSHOT else event.id
    change = read_change(event.data) if event.data else None
    if change is not None:
        return Received(position, change)
    return Idle() if position is None else Reached(position)
