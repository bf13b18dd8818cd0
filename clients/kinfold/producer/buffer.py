"""The drafts that wait to be sent, limited in number and in bytes.

`put` is part of the cost of every call, so it usually only appends: `_plan` computes how far that is enough.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from kinfold.calls.drafts import Draft
from kinfold.producer.options import Options


class Buffer:
    """A queue of drafts. Any thread puts, the background thread takes.

    `on_first` is called with the lock held when the buffer is no longer empty, `on_full` without it for a draft that `put` has
    no room for.
    """

    def __init__(self, options: Options, on_first: Callable[[], object], on_full: Callable[[Draft], None]) -> None:
        self._max_events: Final = options.buffer_events
        self._max_bytes: Final = options.buffer_bytes
        self._full_batch: Final = options.batch_events - 1
        self._batch_bytes: Final = options.batch_bytes
        self._on_first: Final = on_first
        self._on_full: Final = on_full
        self.closed = False
        """Whether the buffer has stopped accepting drafts."""
        self.reset()

    def reset(self) -> None:
        """Forget everything but `closed`. A forked child calls this, because the drafts belong to its parent."""
        self.lock = threading.RLock()  # reentrant: a signal handler may interrupt a call and make one itself
        self.changed = threading.Condition(self.lock)
        """For the background thread: there is something to do."""
        self.settled = threading.Condition(self.lock)
        """For callers: there may be room, or events are settled."""
        self._drafts: deque[Draft] = deque()
        self.bytes = 0
        self.taken = 0
        """How many drafts were taken out."""
        self._easy_events = self._easy_bytes = 0
        self.oldest_at = 0.0
        """When the oldest draft was put in, or the last batch was taken out (`time.monotonic`)."""
        self._room_callbacks: list[Callable[[], None]] = []

    def put(self, draft: Draft) -> None:
        """Put a draft in. If there is no room, call `on_full`."""
        with self.lock:
            if self.bytes + draft[2] < self._easy_bytes and len(self._drafts) < self._easy_events:
                self._drafts.append(draft)
                self.bytes += draft[2]  # read again: a signal handler may have put a draft in
                return
            if self.offer(draft):
                return
        self._on_full(draft)

    def offer(self, draft: Draft) -> bool:
        """Put a draft in if there is room. Returns whether there was."""
        with self.lock:
            waiting, size = len(self._drafts), self.bytes + draft[2]
            if waiting >= self._max_events or (size > self._max_bytes and waiting) or self.closed:
                return False
            self._drafts.append(draft)
            if waiting == 0:
                self.oldest_at = time.monotonic()
                self._on_first()
            if waiting in {0, self._full_batch} or size >= self._batch_bytes > self.bytes:
                self.changed.notify()
            self.bytes += draft[2]
            if waiting >= self._easy_events or size >= self._easy_bytes:
                self._plan()
            return True

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, from any thread, when there may be room or the buffer is closed."""
        with self.lock:
            if not self.closed:
                self._room_callbacks.append(callback)
                return
        callback()

    def close(self) -> bool:
        """Stop accepting drafts. Returns whether the buffer was open. The caller then calls `signal_room`."""
        with self.lock:
            was_open, self.closed = not self.closed, True
            self._plan()
            self.changed.notify()
        return was_open

    @property
    def accepted(self) -> int:
        """How many drafts were ever put in."""
        return self.taken + len(self._drafts)

    def __len__(self) -> int:
        return len(self._drafts)

    # --- for the background thread

    @property
    def has_full_batch(self) -> bool:
        """Whether a batch would be as large as allowed."""
        return len(self._drafts) > self._full_batch or self.bytes >= self._batch_bytes

    def take_batch(self) -> list[Draft]:
        """Take out the drafts of one batch: at least one, if there are any. The caller then calls `signal_room`."""
        drafts, size = list[Draft](), 0
        with self.lock:
            waiting = self._drafts
            while waiting and len(drafts) <= self._full_batch and (size + waiting[0][2] <= self._batch_bytes or not drafts):
                draft = waiting.popleft()
                size += draft[2]
                drafts.append(draft)
            self.taken += len(drafts)
            self.bytes -= size
            self.oldest_at = time.monotonic()
            self._plan()
        return drafts

    def take_all(self) -> list[Draft]:
        """Take all drafts out."""
        with self.lock:
            drafts = list(self._drafts)
            self.taken += len(drafts)
            self.bytes = 0
            self._drafts.clear()
            self._plan()
        return drafts

    def signal_room(self) -> None:
        """Wake everyone who waits for room. Callbacks run here, so the caller does not hold the lock."""
        with self.lock:
            self.settled.notify_all()
            callbacks, self._room_callbacks = self._room_callbacks, []
        for callback in callbacks:
            callback()

    def _plan(self) -> None:
        """Compute the size up to which `put` only has to append: there is room, and no thread to wake."""
        waiting = len(self._drafts)
        events = self._full_batch if waiting <= self._full_batch else self._max_events
        self._easy_events = min(events, self._max_events) if waiting and not self.closed else 0
        self._easy_bytes = min(self._batch_bytes if self.bytes < self._batch_bytes else self._max_bytes, self._max_bytes)
