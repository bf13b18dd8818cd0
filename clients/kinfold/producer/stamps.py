"""`sentAt`, written at the moment of sending (contract section 3)."""

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from kinfold.calls.encoding import at_of
from kinfold_schemas.times import text_ms, to_text

_TEXT_BYTES: Final = 24
_OFFSETS: Final = 50
"""The number of batches from which the clock difference is estimated. It is limited because clocks drift."""
_MARGIN_MS: Final = 3
"""Both ends read their clocks in whole milliseconds."""


class Stamps:
    """Stamps the batches of one producer so that a later call counts as later.

    The effective time of an event is the log's clock minus the time under way (`sentAt` - `at`), so it includes the network
    delay. When the delay varies between batches, an event could count as earlier than an event that was reported before it, and
    lose against it. The log's answer tells when a batch arrived. If an event of the next batch would count as earlier than that
    although it was reported later, it gets a `sentAt` that is earlier by the difference. A batch without an answer may have
    arrived at any time until the producer stopped waiting: later events must count as later than the last such moment.
    """

    def __init__(self) -> None:
        self._offsets_ms: deque[int] = deque(maxlen=_OFFSETS)
        """Upper bounds of how far the log's clock is ahead of ours: a batch arrives before its answer does."""
        self._arrived_at, self._arrived_ms = "", 0
        """The latest `at` in the log, and its effective time on the log's clock."""
        self._lost_at, self._lost_ms = "", 0
        """The same for batches without an answer: the latest possible effective time, on our clock."""

    def stamp(self, events: Sequence[bytes]) -> list[bytes]:
        """The events with `sentAt`."""
        sent_ms = _now_ms()
        tail = _tail(sent_ms)
        arrived_ms = self._arrived_ms - max(self._offsets_ms) if self._offsets_ms else 0
        result: list[bytes] = []
        for event in events:
            at = at_of(event)
            after_ms = max(arrived_ms if at >= self._arrived_at else 0, self._lost_ms if at >= self._lost_at else 0)
            early_ms = after_ms + _MARGIN_MS - text_ms(at)
            result.append(event[:-1] + (tail if early_ms <= 0 else _tail(max(0, sent_ms - early_ms))))
        return result

    def arrived(self, position: str | None, stamped: Sequence[bytes]) -> None:
        """Note that the log has a batch, and the position of its last event."""
        if position is None or not stamped:
            return
        arrived_ms = int(position.partition("-")[0])
        self._offsets_ms.append(arrived_ms - _now_ms())
        at, under_way_ms = _latest(stamped)
        if at >= self._arrived_at:
            self._arrived_at, self._arrived_ms = at, max(self._arrived_ms, arrived_ms - under_way_ms)

    def lost(self, stamped: Sequence[bytes]) -> None:
        """Note that a batch had no answer: it may have arrived at any time until now, or not at all."""
        at, under_way_ms = _latest(stamped)
        if at >= self._lost_at:
            self._lost_at, self._lost_ms = at, max(self._lost_ms, _now_ms() - under_way_ms)


def _latest(stamped: Sequence[bytes]) -> tuple[str, int]:
    """The latest `at` of a batch, and how long that event was under way, in milliseconds."""
    event = max(stamped, key=at_of)
    at = at_of(event)
    return at, max(0, text_ms(event[-_TEXT_BYTES - 2 : -2].decode()) - text_ms(at))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _tail(sent_ms: int) -> bytes:
    return f',"sentAt":"{to_text(sent_ms)}"}}'.encode()
