"""The log behind a gateway."""

from typing import Final

import msgspec

from kinfold.errors import Unreachable
from kinfold.producer.log import Receipt
from kinfold.producer.stamps import Stamps
from kinfold.transport.gateway import GatewayClient, Response, problem

_PATH: Final = "/v1/events"
_PARTIAL: Final = {"partial": "true"}
_ACCEPTED: Final = 202
_TOO_LARGE: Final = 413
_NOT_ABOUT_EVENTS: Final = frozenset([401, 404])
"""A wrong key or a wrong address, independent of the batch."""


class _Rejected(msgspec.Struct):
    index: int
    detail: str = ""


class _Accepted(msgspec.Struct):
    position: str | None = None
    rejected: list[_Rejected] = []
    rejected_count: int = msgspec.field(name="rejectedCount", default=0)


_decode_accepted: Final = msgspec.json.Decoder(_Accepted).decode


class GatewayLog:
    """The log of a key's workspace, behind a gateway."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._gateway: Final = GatewayClient(url, key, timeout_s)
        self._stamps: Final = Stamps()

    def append(self, number: int, events: list[bytes]) -> Receipt:
        """Post a batch; the gateway appends the valid events and refuses the others. Raises Unreachable or Refused.

        A proxy may refuse a batch for its size or its content (a firewall that sees an attack in a user agent). It would do so
        every time, and everything after the batch would wait. Such a batch is split in halves, down to the single event that
        the proxy refuses.
        """
        stamped = self._stamps.stamp(events)
        try:
            response = self._gateway.post(_PATH, _PARTIAL, b"\n".join(stamped), "application/x-ndjson")
        except Unreachable:
            self._stamps.lost(stamped)
            raise
        if response.status != _ACCEPTED:
            if response.status == _TOO_LARGE or self._is_about_events(response):
                return self._append_halves(number, events, str(problem(response)))
            self._stamps.lost(stamped)  # a gateway that got no answer from Redis may have appended the events
            raise problem(response)
        try:
            accepted = _decode_accepted(response.body)
        except msgspec.MsgspecError as error:
            raise Unreachable(f"gateway: expected its answer to events, got {response.body[:100]!r}") from error
        self._stamps.arrived(accepted.position, stamped)
        refused = tuple((each.index, each.detail) for each in accepted.rejected)
        if refused and accepted.rejected_count > len(refused):
            # The answer lists only the first ones. What was appended after them is a duplicate when it is sent again.
            known = refused[-1][0] + 1
            rest = self.append(number, events[known:])
            return Receipt(rest.position or accepted.position, (*refused, *((known + at, why) for at, why in rest.refused)))
        return Receipt(accepted.position, refused)

    def close(self) -> None:
        """Close the connections."""
        self._gateway.close()

    def _is_about_events(self, response: Response) -> bool:
        """Whether the events cause the problem: then the gateway accepts an empty batch over the same connection."""
        if response.status in _NOT_ABOUT_EVENTS or isinstance(problem(response), Unreachable):
            return False
        try:
            return self._gateway.post(_PATH, _PARTIAL, b"[]", "application/json").status == _ACCEPTED
        except Unreachable:
            return False

    def _append_halves(self, number: int, events: list[bytes], reason: str) -> Receipt:
        if len(events) == 1:
            return Receipt(None, ((0, reason),))
        half = len(events) // 2
        first, second = self.append(number, events[:half]), self.append(number, events[half:])
        refused = (*first.refused, *((half + index, why) for index, why in second.refused))
        return Receipt(second.position or first.position, refused)
