"""The events between the buffer and the server, and the counts of those that are settled.

A batch is first in hand (drafts), then in flight (bytes). When it cannot be sent it goes to the spool, if there is one. The
background thread answers for the batch until `close` claims it, because it cannot wait any longer.
"""

import logging
import threading
from typing import Final

from kinfold.calls.drafts import Draft
from kinfold.producer.spool import Chunk, Spool

log = logging.getLogger("kinfold")


class Outbox:
    """One batch, the spool and the counts. It shares the lock of `settled`, and notifies when counts change."""

    def __init__(self, settled: threading.Condition, directory: str | None, max_bytes: int) -> None:
        self._settled: Final = settled
        self._directory: Final = directory
        self._max_bytes: Final = max_bytes
        self.spool: Spool | None = None
        self._in_hand: list[Draft] | None = None
        self.in_flight: list[bytes] | None = None
        """The batch that is being sent."""
        self._number = 0
        self.sent = self.suppressed = self.refused = self.lost = 0
        self.moving: Final = threading.RLock()
        """Held while claimed events move to the spool. So `close` does not return before they are there."""

    @property
    def done(self) -> int:
        """How many events are settled."""
        return self.sent + self.suppressed + self.refused + self.lost

    @property
    def spooled(self) -> int:
        """How many events of this process are in the spool."""
        return self.spool.events if self.spool else 0

    @property
    def is_spooling(self) -> bool:
        """Whether the spool has events, of this process or another one."""
        return bool(self.spool and not self.spool.is_empty)

    # --- the batch

    def hold(self, drafts: list[Draft]) -> None:
        """Take a batch in hand."""
        with self._settled:
            self._in_hand = drafts

    def pack(self, events: list[bytes], suppressed: int) -> bool:
        """Put the batch in hand in flight, as `events`. Returns False if it was claimed meanwhile."""
        with self._settled:
            if self._in_hand is None:
                return False
            self._in_hand, self.in_flight = None, events or None
            self.settle(suppressed=suppressed)
        return True

    def claim(self) -> tuple[list[bytes], list[Draft]]:
        """Take the batch away: what is in flight, and what is in hand. The caller answers for it."""
        with self._settled:
            events, drafts = self.in_flight or [], self._in_hand or []
            self.in_flight = self._in_hand = None
        return events, drafts

    def next_number(self) -> int:
        """Number a new batch."""
        self._number += 1
        return self._number

    # --- the counts

    def settle(self, *, sent: int = 0, suppressed: int = 0, refused: int = 0, lost: int = 0) -> None:
        """Count events, and wake those who wait for them."""
        with self._settled:
            self.sent += sent
            self.suppressed += suppressed
            self.refused += refused
            self.lost += lost
            self._settled.notify_all()

    def acknowledge(self, events: int, refused: int, *, own: bool | None) -> None:
        """Count the result of a batch from the spool, if it is of this process (`own`), or of the batch in flight (None).

        A batch in flight that was claimed does not count here: the thread that claimed it counts it.
        """
        with self._settled:
            if own is None:
                own, self.in_flight = self.in_flight is not None, None
            self.settle(sent=events - refused if own else 0, refused=refused if own else 0)

    # --- the spool

    def open_spool(self) -> Spool | None:
        """Open the spool, if there is a directory for it. `close` may do so before the background thread does."""
        with self.moving:
            if self.spool is None and self._directory is not None:
                try:
                    self.spool = Spool(self._directory, self._max_bytes)
                except OSError:
                    log.exception("cannot use the spool in %s", self._directory)
            return self.spool

    def spool_in_flight(self, number: int) -> bool:
        """Move the batch in flight to the spool, if that has room. Returns whether nothing is in flight any more."""
        with self.moving:
            if self.in_flight is not None and self.spool is not None and self.spool.put(number, self.in_flight):
                self.claim()
            return self.in_flight is None

    def keep(self, events: list[bytes]) -> int:
        """Move claimed events to the spool, for the next process. Returns how many are lost instead."""
        return 0 if not events or ((spool := self.open_spool()) and spool.put(0, events)) else len(events)

    def keep_in_flight(self) -> int:
        """Claim the batch in flight and keep it. Returns how many events are lost instead."""
        with self.moving:
            return self.keep(self.claim()[0])

    def oldest_spooled(self) -> Chunk | None:
        """The oldest batch in the spool."""
        if self.spool is None or (chunk := self.spool.oldest(self._number + 1)) is None:
            return None
        self._number = max(self._number, chunk.number)
        return chunk
