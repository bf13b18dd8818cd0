"""The delivery of events: callers put drafts in, a background thread sends them in batches until the server has them.

Each producer, blocking or asyncio, has one thread, which its first event starts. A thread keeps running while an event loop is
busy and after it has ended, so the last events of an application are sent as well.

`Buffer` holds what waits, `Outbox` what is being sent, and `RetryClock` says when. All three use the lock of the buffer. A
batch keeps its number, its events and their ids until the server has it: so a repeat does not become a second event.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from kinfold.calls.drafts import Draft
from kinfold.calls.encoding import encode_valid, name_of
from kinfold.errors import BufferFull, KinfoldError, NotSent, Refused, Unreachable
from kinfold.producer.buffer import Buffer
from kinfold.producer.counters import Counters
from kinfold.producer.log import Log
from kinfold.producer.options import Failure, OnError, Options, notify
from kinfold.producer.outbox import Outbox
from kinfold.producer.process import watch, watch_child_exit
from kinfold.producer.reminders import Reminder
from kinfold.producer.retry import NEVER, RetryClock
from kinfold.producer.suppression import Suppression

log = logging.getLogger("kinfold")

_CLOSING_S: Final = 0.1
"""The time that the background thread needs at the end to move events to the spool."""


class Delivery:
    """Takes drafts from any thread and sends them. `connect` opens the log, in the background thread."""

    def __init__(self, connect: Callable[[], Log], options: Options, on_error: OnError | None) -> None:
        self.options: Final = options
        self._connect: Final = connect
        self._on_error: Final = on_error
        self._suppression: Final = Suppression(options.suppress_entries, options.suppress_s)
        self.buffer: Final = Buffer(options, self._on_first, self._on_full)
        self._drop_reminder: Final = Reminder()
        self._begin()
        watch(self)

    def _begin(self) -> None:
        options = self.options
        self.outbox = Outbox(self.buffer.settled, options.spool, options.spool_bytes)
        self._clock = RetryClock(options.first_retry_s, options.last_retry_s)
        self._failure_reminder = Reminder()
        self._thread: threading.Thread | None = None
        self._log: Log | None = None
        self._has_batch = False  # the background thread
        self._hurry = 0
        """A caller waits for the events up to this count of accepted ones."""
        self._dropped = self._retries = 0
        self._logged_losses = 0
        self._position: str | None = None

    # --- for callers

    def put_at_once(self, draft: Draft) -> None:
        """Put a draft in without waiting for room."""
        if not self.buffer.offer(draft):
            self.drop()

    @property
    def may_wait(self) -> bool:
        """Whether a call may wait for room: not in the background thread, and not if there is none to make room."""
        return self.options.when_full == "wait" and self._thread not in {None, threading.current_thread()}

    def patience_s(self) -> float:
        """How much longer a call may wait for room, in seconds; zero or less: it may not.

        The server has `wait_s` for each batch. So calls wait as long as batches go out, however long that takes. Once the
        server has been silent for `wait_s`, no call waits until a batch goes out again.
        """
        return self._clock.silence_left_s(self.options.wait_s)

    def when_room(self, callback: Callable[[], None]) -> None:
        """Send at once, and call `callback` once, from any thread, when there may be room or the producer is closed."""
        with self.buffer.lock:
            if not self.buffer.closed:
                self._send_now()
        self.buffer.when_room(callback)

    def drop(self) -> None:
        """Count an event that found no room, or raise BufferFull, as the settings say."""
        buffer, options = self.buffer, self.options
        if options.when_full == "raise" and not buffer.closed:
            limits = f"{options.buffer_events} events (buffer_events) and {options.buffer_bytes} bytes (buffer_bytes)"
            raise BufferFull(f"the buffer is full: {len(buffer)} event(s) wait, the limits are {limits}")
        with buffer.lock:
            self._dropped += 1
        if self._drop_reminder.is_due("dropped"):
            reason = "the producer is closed" if buffer.closed else "the buffer is full"
            log.warning("dropping events, %d so far: %s", self._dropped, reason)

    def flush(self, timeout_s: float) -> str | None:
        """Wait until all events so far are settled. Returns the position of the last appended one. Raises NotSent."""
        deadline = time.monotonic() + timeout_s
        with self.buffer.lock:
            target = self.buffer.accepted
            self._clock.retry_now()
            self._send_now()
            while (missing := target - self.outbox.done) > 0:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise NotSent(f"flush: {missing} event(s) were not sent within {timeout_s:g} s", missing)
                self.buffer.settled.wait(left_s)
            return self._position

    def settle(self, max_silence_s: float) -> None:
        """Wait until all events so far are settled, or the server has acknowledged no batch for `max_silence_s`."""
        with self.buffer.lock:
            target = self.buffer.accepted
            self._send_now()
            while not self.buffer.closed and self.outbox.done < target:
                if (left_s := self._clock.silence_left_s(max_silence_s)) <= 0:
                    return
                self.buffer.settled.wait(left_s)

    @property
    def counters(self) -> Counters:
        """The counts of all events so far."""
        with self.buffer.lock:
            outbox, accepted, spooled = self.outbox, self.buffer.accepted, self.outbox.spooled
            waiting = max(0, accepted - outbox.done - spooled)
            settled = (outbox.sent, outbox.suppressed, outbox.refused, outbox.lost)
            return Counters(accepted, *settled, self._dropped, self._retries, waiting, spooled)

    # --- the end

    def close(self, timeout_s: float = NEVER, max_silence_s: float = NEVER) -> None:
        """Accept no more, and send the rest; events that are not sent in time are spooled, or counted as lost and logged.

        Time is up after `timeout_s`, or when the server has acknowledged no batch for `max_silence_s`.
        """
        # The thread's time is up a little before the caller's, so that the thread has finished when the caller looks.
        margin_s = min(min(timeout_s, max_silence_s) * 0.2, _CLOSING_S)
        with self.buffer.lock:
            was_open = self.buffer.close()
            self._clock.limit(timeout_s - margin_s, max_silence_s - margin_s)
            self._clock.retry_now()
            if self._thread is None and (self.buffer or self.outbox.is_spooling):
                self._start()
            self._hurry = self.buffer.accepted
            thread = self._thread
        self.buffer.signal_room()
        if thread is not None and thread is not threading.current_thread():
            while thread.is_alive() and (left_s := self._clock.time_left_s() + margin_s) > 0:
                thread.join(min(left_s, threading.TIMEOUT_MAX))
            if thread.is_alive():
                self._abandon()
        elif was_open:
            self._end()
        self._report_losses()

    def at_exit(self) -> None:
        """Close, because the process ends."""
        self.close(max_silence_s=self.options.exit_timeout_s)

    def at_task_end(self) -> None:
        """Send what can be sent: a pool may kill the process as soon as it has the result of a task."""
        self.settle(self.options.exit_timeout_s)

    def in_child(self) -> None:
        """Start over in a forked child: the events, the thread and the connection are the parent's."""
        if self.outbox.spool is not None:
            self.outbox.spool.abandon()
        self.buffer.reset()
        self._suppression.forget()
        self._begin()

    def _abandon(self) -> None:
        """Time is up, and the background thread still waits for an answer. It may die with the process."""
        with self.outbox.moving:
            with self.buffer.lock:
                in_flight, in_hand = self.outbox.claim()
                drafts = in_hand + self.buffer.take_all()
            # Without suppression, which the background thread may be using: sending an event twice does no harm.
            events, errors = encode_valid(drafts)
            lost = self.outbox.keep(in_flight + events)
        self._lose_late(lost, errors)

    def _end(self) -> None:
        """Time is up, or everything is sent."""
        with self.outbox.moving:
            events, suppressed, errors = self._encode(self.buffer.take_all())
            self.outbox.settle(suppressed=suppressed)
            lost = self.outbox.keep(events)
            if self.outbox.spool is not None:
                self.outbox.spool.close()
        self._lose_late(lost, errors)
        if self._log is not None:
            self._log.close()
            self._log = None

    def _lose_late(self, events: int, errors: list[Exception]) -> None:
        for error in errors:
            self._lose(1, error)
        if events:  # `close` logs them
            self._count_lost(events, Unreachable("the time to close ran out"))

    def _report_losses(self) -> None:
        with self.buffer.lock:
            dropped, lost, total = self._dropped, self.outbox.lost, self.buffer.accepted + self._dropped
            if dropped + lost <= self._logged_losses:
                return
            self._logged_losses = dropped + lost
        what = "%d of %d events were lost: %d found no room in the buffer, %d were accepted and could not be sent"
        log.error(what, dropped + lost, total, dropped, lost)

    # --- shared; the lock is held

    def _on_first(self) -> None:
        if not self._has_batch:
            self._clock.ask()
        self._start()

    def _start(self) -> None:
        if self._thread is None:
            watch_child_exit()
            self._thread = threading.Thread(target=self._run, name="kinfold-producer", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter is shutting down: `close` puts the events away
                self._thread = None

    def _send_now(self) -> None:
        self._hurry = self.buffer.accepted
        if self.outbox.done < self._hurry:
            self._start()
        self.buffer.changed.notify()

    # --- the background thread

    def _run(self) -> None:
        try:
            self.outbox.open_spool()
            while (drafts := self._take()) is not None:
                try:
                    if drafts:
                        self._send(drafts)
                    else:
                        self._send_spooled()
                except Exception as error:  # the thread must survive a bug of ours
                    log.exception("events are lost because of an error in kinfold")
                    in_flight, in_hand = self.outbox.claim()
                    self._lose(len(in_flight) + len(in_hand), error)
                    self._clock.pause(self.options.last_retry_s)  # the error may repeat itself
        finally:
            self._end()

    def _take(self) -> list[Draft] | None:
        """The drafts of the next batch, when it is due. An empty list: the spool is due. None: the end."""
        buffer, clock = self.buffer, self._clock
        with buffer.lock:
            self._has_batch = False
            while not buffer:
                if not self.outbox.is_spooling:
                    if buffer.closed:
                        return None
                    buffer.changed.wait()
                elif (left_s := clock.time_left_s()) <= 0:
                    return None
                elif (retry_in_s := clock.retry_in_s()) > 0:
                    buffer.changed.wait(min(retry_in_s, left_s))
                else:
                    self._has_batch = True
                    return []
            if clock.time_left_s() <= 0:
                return None
            self._wait_for_more()
            drafts = buffer.take_batch()
            self.outbox.hold(drafts)
            self._has_batch = True
            clock.ask()
        buffer.signal_room()
        return drafts

    def _wait_for_more(self) -> None:
        buffer, due = self.buffer, self.buffer.oldest_at + self.options.batch_age_s
        while not (buffer.has_full_batch or buffer.closed or self._hurry > self.outbox.done):
            if (left_s := due - time.monotonic()) <= 0:
                return
            buffer.changed.wait(left_s)

    def _encode(self, drafts: list[Draft]) -> tuple[list[bytes], int, list[Exception]]:
        """The events to send, how many say nothing new, and why others cannot be encoded."""
        try:
            news = [draft for draft in drafts if self._suppression.is_news(draft)]
        except Exception:  # noqa: BLE001  a lazy object of the caller may raise anything
            news = drafts
        events, errors = encode_valid(news)
        return events, len(drafts) - len(news), errors

    def _send(self, drafts: list[Draft]) -> None:
        events, suppressed, errors = self._encode(drafts)
        if not self.outbox.pack(events, suppressed):
            return
        for error in errors:
            self._lose(1, error)
        if not events:
            return
        number = self.outbox.next_number()
        while not (self._send_spooled() and self._attempt(number, events)):
            if self.outbox.spool_in_flight(number):
                return
            if not self._wait_to_retry():
                self._lose_late(self.outbox.keep_in_flight(), [])
                return

    def _send_spooled(self) -> bool:
        """Send the spool, if it is time for an attempt. Returns whether nothing is left."""
        spool = self.outbox.spool
        while spool is not None and (chunk := self.outbox.oldest_spooled()) is not None:
            if chunk.lost:
                error = KinfoldError(f"spool: {chunk.path} does not contain what was written to it")
                self._lose(chunk.lost, error, own=chunk.own)
            if chunk.events and (self._clock.retry_in_s() > 0 or not self._attempt(chunk.number, chunk.events, own=chunk.own)):
                return False
            spool.drop_oldest()
        return True

    def _attempt(self, number: int, events: list[bytes], *, own: bool | None = None) -> bool:
        try:
            if self._log is None:
                self._log = self._connect()
            receipt = self._log.append(number, events)
        except KinfoldError as error:
            self._on_failure(error, len(events))
            return False
        for index, reason in receipt.refused:
            log.error("an event was refused: %s: %s", name_of(events[index]), reason)
        if receipt.refused:
            self._suppression.forget()
            notify(self._on_error, Failure(KinfoldError(receipt.refused[0][1]), len(receipt.refused), lost=True))
        with self.buffer.lock:
            self._position = receipt.position or self._position
            if self._clock.answered():
                self._failure_reminder.solved()
                log.info("the server accepts events again")
            self.outbox.acknowledge(len(events), len(receipt.refused), own=own)
        return True

    def _on_failure(self, error: KinfoldError, events: int) -> None:
        if self._failure_reminder.is_due(type(error)):
            if isinstance(error, Refused):
                log.error("the server refuses everything, so all events wait until this is fixed: %s", error)
            else:
                log.warning("could not send %d event(s), will try again: %s", events, error)
        with self.buffer.lock:
            self._clock.failed(getattr(error, "retry_after_s", None))
            self._retries += 1
        notify(self._on_error, Failure(error, events, lost=False))

    def _wait_to_retry(self) -> bool:
        """Wait until the next attempt is due. Returns False if time is up."""
        with self.buffer.lock:
            while (retry_in_s := self._clock.retry_in_s()) > 0:
                if (left_s := self._clock.time_left_s()) <= 0:
                    return False
                self.buffer.changed.wait(min(retry_in_s, left_s))
            return self._clock.time_left_s() > 0

    def _lose(self, events: int, error: Exception, *, own: bool = True) -> None:
        log.error("%d event(s) are lost: %s", events, error)
        self._count_lost(events, error, own=own)

    def _count_lost(self, events: int, error: Exception, *, own: bool = True) -> None:
        self.outbox.settle(lost=events if own else 0)
        self._suppression.forget()
        notify(self._on_error, Failure(error, events, lost=True))

    # --- a full buffer

    def _on_full(self, draft: Draft) -> None:
        if not (self.may_wait and not _in_event_loop() and self._wait_for_room(draft)):
            self.drop()

    def _wait_for_room(self, draft: Draft) -> bool:
        """Put a draft in when there is room. Returns False if the server does not accept events."""
        with self.buffer.lock:
            while not self.buffer.offer(draft):
                left_s = self.patience_s()
                if self.buffer.closed or left_s <= 0:
                    return False
                self._send_now()
                self.buffer.settled.wait(left_s)
        return True


def _in_event_loop() -> bool:
    """Whether waiting would block an event loop. A notebook runs its cells inside one, and may wait."""
    return asyncio._get_running_loop() is not None and "ipykernel" not in sys.modules  # noqa: SLF001
