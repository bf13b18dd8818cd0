"""Between callers and the background thread: a buffer of drafts, bounded in events and in bytes.

What a call does here is part of its cost, so the usual one only appends; `_plan` says up to where that is all there is to do.
"""

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from kinfold.drafts import Draft
from kinfold.errors import BufferFull
from kinfold.options import Options

log = logging.getLogger("kinfold")

COMPLAIN_EVERY_S: Final = 60.0


class Buffer:
    """Takes drafts from any thread; `Delivery` takes them out."""

    __slots__ = (  # a slot is found faster than one of very many attributes
        "_asked_at",
        "_batch_bytes",
        "_buffer",
        "_bytes",
        "_changed",
        "_closed",
        "_complained_at",
        "_dropped",
        "_easy_bytes",
        "_easy_events",
        "_full_batch",
        "_is_sending",
        "_lock",
        "_max_bytes",
        "_max_events",
        "_room_callbacks",
        "_settled",
        "_since",
        "_taken",
        "options",
    )

    def __init__(self, options: Options) -> None:
        self.options: Final = options
        self._max_events: Final = options.buffer_events
        self._max_bytes: Final = options.buffer_bytes
        self._full_batch: Final = options.batch_events - 1
        self._batch_bytes: Final = options.batch_bytes
        self._closed = False
        self._complained_at = float("-inf")
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()  # a signal handler may interrupt a call and call as well
        self._changed = threading.Condition(self._lock)
        """For the background thread: there is something to do."""
        self._settled = threading.Condition(self._lock)
        """For callers: there is room again, and something has been sent."""
        self._buffer: deque[Draft] = deque()
        self._bytes = 0
        self._easy_events = self._easy_bytes = 0
        self._since = 0.0
        """When the first of what waits was put in, or the last batch taken out."""
        self._asked_at = 0.0
        """Since when the server owes an answer: it took a batch then, or the first event came after it had taken all."""
        self._is_sending = False
        """Whether the background thread has a batch in hand."""
        self._taken = self._dropped = 0
        self._room_callbacks: list[Callable[[], None]] = []

    def _start(self) -> object:
        """Starts the background thread, if it does not run."""
        raise NotImplementedError

    def _send_now(self) -> None:
        """Sends what is there without waiting for more."""
        raise NotImplementedError

    def _is_own_thread(self) -> bool:
        """Whether the background thread itself calls, or there is none: nobody would make room meanwhile."""
        raise NotImplementedError

    def put(self, draft: Draft) -> None:
        """Takes a draft. Where there is no room it waits, drops it or raises BufferFull, as the settings say."""
        with self._lock:
            if self._bytes + draft[2] < self._easy_bytes and len(self._buffer) < self._easy_events:
                self._buffer.append(draft)
                self._bytes += draft[2]  # read again: a signal handler's call may have come in between
                return
            is_taken = self._put_with_care(draft)
        if not is_taken and not (self.may_wait and not _in_event_loop() and self._wait(draft)):
            self.no_room()

    def put_at_once(self, draft: Draft) -> None:
        """The same without waiting, whatever the settings say."""
        if not self.offer(draft):
            self.no_room()

    def offer(self, draft: Draft) -> bool:
        """Takes a draft if there is room, and tells."""
        with self._lock:
            return self._put_with_care(draft)

    @property
    def may_wait(self) -> bool:
        """Whether a call may wait for room."""
        return self.options.when_full == "wait" and not self._is_own_thread()

    def patience_s(self) -> float:
        """How long a call may wait for room from now on; zero or less: no longer.

        The server has `wait_s` for each batch. So a call waits as long as batches go out, however long that takes, and where
        the server has been silent for `wait_s` no call waits at all, until a batch goes out again.
        """
        return self._asked_at + self.options.wait_s - time.monotonic()

    def _wait(self, draft: Draft) -> bool:
        """Takes a draft when there is room; False where there will be none, as far as can be known."""
        with self._lock:
            while not self._put_with_care(draft):
                left = self.patience_s()
                if self._closed or left <= 0:
                    return False
                self._send_now()
                self._settled.wait(left)
        return True

    def no_room(self) -> None:
        """An event found no room: counts it, or raises BufferFull, as the settings say."""
        if self.options.when_full != "raise" or self._closed:
            with self._lock:
                self._dropped += 1
            now = time.monotonic()
            if now - self._complained_at > COMPLAIN_EVERY_S:
                self._complained_at = now
                why = "the producer is closed" if self._closed else "the buffer is full"
                log.warning("events are dropped, %d so far: %s", self._dropped, why)
            return
        waiting = len(self._buffer)
        events = "1 event" if waiting == 1 else f"{waiting} events"
        allowed = f"allowed are {self._max_events} (buffer_events) and {self._max_bytes} bytes (buffer_bytes)"
        raise BufferFull(f"buffer: found {events} waiting, {allowed}")

    @property
    def is_closed(self) -> bool:
        """Whether nothing is taken any more."""
        return self._closed

    def when_room(self, callback: Callable[[], None]) -> None:
        """Calls back, once and from whatever thread, when there may be room, or will never be: the producer is closed."""
        with self._lock:
            if not self._closed:
                self._send_now()
                self._room_callbacks.append(callback)
                return
        callback()

    # --- with the lock held

    def _put_with_care(self, draft: Draft) -> bool:
        waiting, size = len(self._buffer), self._bytes + draft[2]
        if waiting >= self._max_events or (size > self._max_bytes and waiting) or self._closed:
            return False
        self._buffer.append(draft)
        if waiting == 0:
            self._since = time.monotonic()
            if not self._is_sending:
                self._asked_at = self._since
            self._start()
        if waiting in {0, self._full_batch} or size >= self._batch_bytes > self._bytes:
            self._changed.notify()
        self._bytes += draft[2]
        if waiting >= self._easy_events or size >= self._easy_bytes:
            self._plan()
        return True

    def _plan(self) -> None:
        """Up to where a call has nothing to do but to append: nobody to wake, and room."""
        waiting = len(self._buffer)
        events = self._full_batch if waiting <= self._full_batch else self._max_events
        self._easy_events = min(events, self._max_events) if waiting and not self._closed else 0
        self._easy_bytes = min(self._batch_bytes if self._bytes < self._batch_bytes else self._max_bytes, self._max_bytes)

    def _accepted(self) -> int:
        return self._taken + len(self._buffer)

    def _cut(self) -> list[Draft]:
        buffer, drafts, size = self._buffer, list[Draft](), 0
        while buffer and len(drafts) <= self._full_batch and (size + buffer[0][2] <= self._batch_bytes or not drafts):
            draft = buffer.popleft()
            size += draft[2]
            drafts.append(draft)
        self._taken += len(drafts)
        self._bytes -= size
        self._since = self._asked_at = time.monotonic()
        self._plan()
        return drafts

    def _cut_all(self) -> list[Draft]:
        drafts = list(self._buffer)
        self._taken += len(drafts)
        self._bytes = 0
        self._buffer.clear()
        self._plan()
        return drafts


def _in_event_loop() -> bool:
    """Whether waiting would block an event loop. A notebook runs its cells inside one, and may wait."""
    return asyncio._get_running_loop() is not None and "ipykernel" not in sys.modules  # noqa: SLF001
