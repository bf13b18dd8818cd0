"""What goes over the feed's wire: a change or a control message, as a server-sent event and as a WebSocket message."""

from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
from litestar.response.sse import ServerSentEventMessage

from kinfold_schemas.positions import position_key

HALF_A_SNAPSHOT: Final = "snapshot"
"""The id while a snapshot is sent: who resumes with it has a part of one, and nothing to go on from."""


class _Head(msgspec.Struct, rename="camel", gc=False):
    type: str
    contact_id: str
    merged_contact_id: str | None = None


_decode_head: Final = msgspec.json.Decoder(_Head).decode
_quoted: Final = msgspec.json.Encoder().encode


class Message:
    """One message, encoded once for all who get it."""

    __slots__ = (
        "_sse",
        "_ws",
        "comment",
        "contact_id",
        "data",
        "event",
        "id",
        "merged_contact_id",
        "order",
        "retry_ms",
        "type",
    )

    def __init__(
        self,
        message_id: str | None = None,
        data: bytes | None = None,
        event: str | None = None,
        *,
        comment: str | None = None,
        retry_ms: int | None = None,
    ) -> None:
        self.id = message_id
        self.data = data
        self.event = event
        self.comment = comment
        self.retry_ms = retry_ms
        self.type = self.contact_id = ""
        self.merged_contact_id: str | None = None
        self.order = (-1, 0)
        self._sse: bytes | None = None
        self._ws: bytes | None = None

    @classmethod
    def change(cls, entry: str, fields: Mapping[bytes, bytes]) -> "Message":
        """An entry of the feed; `order` is what it sorts by.

        What somebody else has put there and is no change stops nobody: it says but its id, and no page's handler is called.
        """
        data = fields.get(b"change", b"")
        try:
            head = _decode_head(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            structlog.get_logger().warning("feed entry left out: it is no change", entry=entry, error=str(error))
            message = cls(entry)
        else:
            message = cls(entry, data)
            message.type, message.contact_id, message.merged_contact_id = head.type, head.contact_id, head.merged_contact_id
        message.order = position_key(entry)
        return message

    def sse(self) -> bytes:
        """As a server-sent event."""
        if self._sse is None:
            self._sse = ServerSentEventMessage(
                data=self.data, event=self.event, id=self.id, retry=self.retry_ms, comment=self.comment
            ).encode()
        return self._sse

    def ws(self) -> bytes:
        """As a WebSocket message: `{"id": …, "event": …, "data": …}`, what is not there left out."""
        if self._ws is None:
            event = self.event if self.comment is None else "ping"
            members = [f'"{name}":'.encode() + _quoted(value) for name, value in (("id", self.id), ("event", event)) if value]
            if self.data is not None:
                members.append(b'"data":' + self.data)
            self._ws = b"{" + b",".join(members) + b"}"
        return self._ws


PING: Final = Message(comment="still here")


def begins_at(position: str) -> Message:
    """Where to go on from, for who loses the stream before the first change. Nothing but an id: no page's handler is called."""
    return Message(position)


def snapshot_end(position: str) -> Message:
    """All contacts have been sent; the changes behind `position` follow."""
    return Message(position, _quoted({"position": position}), "snapshot-end")


def reset(reason: str) -> Message:
    """What the reader holds is worth nothing: it begins anew. The empty id makes an EventSource forget where it was."""
    return Message("", _quoted({"reason": reason}), "reset")


def come_back(retry_ms: int) -> Message:
    """The gateway stops."""
    return Message(comment="the gateway stops", retry_ms=retry_ms)
