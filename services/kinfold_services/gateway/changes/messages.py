"""Messages of the feed: changes and control messages, as server-sent events and as WebSocket messages."""

from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
from litestar.response.sse import ServerSentEventMessage

from kinfold_schemas.positions import position_key

PARTIAL_SNAPSHOT: Final = "snapshot"
"""The id of each message in a snapshot. A reader that resumes from it has only a part, and needs a new snapshot."""


class _Head(msgspec.Struct, rename="camel", gc=False):
    type: str
    contact_id: str
    merged_contact_id: str | None = None
    visitor_id: str | None = None
    held_by: str | None = None


_decode_head: Final = msgspec.json.Decoder(_Head).decode
ERASED: Final = "ContactErased"
"""The type of the change that tells of an erasure."""
_quoted: Final = msgspec.json.Encoder().encode


class Message(msgspec.Struct, eq=False):
    """One message. Encoded once for all its readers. `order` is the position of its entry, for comparison.

    `shown` is what a screen made of it last, after what else it was made from: it ends with the message.
    """

    id: str | None = None
    data: bytes | None = None
    event: str | None = None
    comment: str | None = None
    retry_ms: int | None = None
    type: str = ""
    contact_id: str = ""
    merged_contact_id: str | None = None
    visitor_id: str | None = None
    held_by: str | None = None
    order: tuple[int, int] = (-1, 0)
    shown: tuple[tuple[str, tuple[str, ...], str], bytes] | None = None
    _sse: bytes | None = None
    _ws: bytes | None = None

    @classmethod
    def change(cls, entry: str, fields: Mapping[bytes, bytes]) -> "Message":
        """The message for an entry of the feed.

        For an entry that is not a change, it has an id only: readers continue after it, and no handler is called.
        """
        data = fields.get(b"change", b"")
        order = position_key(entry)
        try:
            head = _decode_head(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            structlog.get_logger().warning("feed entry ignored: not a change", entry=entry, error=str(error))
            return cls(entry, order=order)
        told = cls(entry, data, type=head.type, contact_id=head.contact_id, order=order)
        told.merged_contact_id, told.visitor_id, told.held_by = head.merged_contact_id, head.visitor_id, head.held_by
        return told

    def erased(self, data: bytes) -> "Message":
        """What is left of a change of a contact that was erased: the change that says so, under the same id."""
        return Message(self.id, data, type=ERASED, contact_id=self.contact_id, order=self.order)

    def without_conflict(self) -> "Message":
        """What is left of a conflict over the address of a contact that was erased: an id to resume from."""
        return Message(self.id, order=self.order)

    @property
    def size(self) -> int:
        """The bytes of its data."""
        return len(self.data) if self.data is not None else 0

    def sse(self) -> bytes:
        """As a server-sent event."""
        if self._sse is None:
            self._sse = ServerSentEventMessage(
                data=self.data, event=self.event, id=self.id, retry=self.retry_ms, comment=self.comment
            ).encode()
        return self._sse

    def ws(self) -> bytes:
        """As a WebSocket message: `{"id": …, "event": …, "data": …}`, without the members that it does not have."""
        if self._ws is None:
            event = self.event if self.comment is None else "ping"
            members = [f'"{name}":'.encode() + _quoted(value) for name, value in (("id", self.id), ("event", event)) if value]
            if self.data is not None:
                members.append(b'"data":' + self.data)
            self._ws = b"{" + b",".join(members) + b"}"
        return self._ws


PING: Final = Message(comment="still here")


def starts_at(position: str) -> Message:
    """An id only: where to resume if the stream breaks before the first change. Calls no handler in a page."""
    return Message(position)


def snapshot_end(position: str) -> Message:
    """The end of a snapshot: the changes after `position` follow."""
    return Message(position, _quoted({"position": position}), "snapshot-end")


def reset(reason: str) -> Message:
    """Tell the reader to discard its contacts. The empty id makes an EventSource forget its last id."""
    return Message("", _quoted({"reason": reason}), "reset")


def reconnect(retry_ms: int) -> Message:
    """Tell the reader to reconnect after a delay, because the gateway stops."""
    return Message(comment="the gateway stops", retry_ms=retry_ms)
