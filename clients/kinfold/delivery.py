"""From the buffer (`kinfold.buffer`) to the server: a background thread that sends batches, retries, counters.

One thread for each producer, blocking or asyncio, started by its first event: a thread goes on while an event loop is busy,
and is still there when the loop has ended, so what an application said last is sent as well.

A batch keeps its number, its events and their ids until the server has it, whatever happens in between; with those, the
transports and the fold see to it that a repeat is not a second event.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from kinfold.buffer import COMPLAIN_EVERY_S, Buffer
from kinfold.counters import Counters
from kinfold.drafts import Draft
from kinfold.encoding import encode_drafts
from kinfold.errors import KinfoldError, NotSent, Refused, Unreachable
from kinfold.lifecycle import watch, watch_child_exit
from kinfold.options import Failure, OnError, Options, tell
from kinfold.spool import Spool
from kinfold.suppression import Suppression
from kinfold.transports import Transport

log = logging.getLogger("kinfold")

_PUT_AWAY_S: Final = 0.1
_NEVER: Final = float("inf")


class Delivery(Buffer):
    """Takes drafts from any thread; see the module. `connect` makes a transport, in the background thread."""

    def __init__(self, connect: Callable[[], Transport], options: Options, on_error: OnError | None) -> None:
        super().__init__(options)
        self._connect: Final = connect
        self._on_error: Final = on_error
        self._spool: Spool | None = None
        self._suppression: Final = Suppression(options.suppress_entries, options.suppress_s)
        self._begin()
        watch(self)

    def _begin(self) -> None:
        self._sent = self._suppressed = self._refused = self._lost = self._retries = 0
        self._hurry = 0
        """Up to which accepted event a flush waits."""
        self._deadline = _NEVER
        """When the background thread must end, sent or not …"""
        self._patience_s = _NEVER
        """… and after how long without a batch that the server took."""
        self._said_lost = 0
        """Of how many lost events `close` has told."""
        self._thread: threading.Thread | None = None
        self._transport: Transport | None = None
        self._number = 0
        self._retry_at = 0.0
        self._delay_s = 0.0
        self._complaint: type[KinfoldError] | None = None
        """What was said last of why events are not sent; None where they are."""
        self._complain_again_at = 0.0
        self._position: str | None = None
        self._in_hand: list[Draft] | None = None
        """What was taken out of the buffer to be sent, and then …"""
        self._in_flight: list[bytes] | None = None
        """… what is being sent; whoever takes it away (`_claim`) answers for it."""
        self._putting_away = threading.RLock()
        """Held while claimed events go to the spool, so that who closes does not leave before they are there."""

    # --- callers' side

    def flush(self, timeout_s: float) -> str | None:
        """Waits until all that was accepted before is settled; the position of the last event appended. Raises NotSent."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            target = self._accepted()
            self._retry_at = 0.0
            self._send_now()
            while self._done() < target:
                if not self._settled.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    missing = target - self._done()
                    raise NotSent(f"flush: found {missing} events not sent after {timeout_s:g} s", missing)
            return self._position

    def settle(self, patience_s: float) -> None:
        """Waits until all that was accepted before is settled, or the server has taken no batch for `patience_s`."""
        with self._lock:
            target = self._accepted()
            self._send_now()
            while not self._closed and self._done() < target:
                left = self._asked_at + patience_s - time.monotonic()
                if left <= 0:
                    return
                self._settled.wait(left)

    def close(self, timeout_s: float = _NEVER, patience_s: float = _NEVER) -> None:
        """Takes no more, and sends what waits; what is not sent in time is spooled, or lost, counted and told.

        Time is up after `timeout_s`, or when the server has taken no batch for `patience_s`.
        """
        # The thread's time ends a little before the caller's, so that it has put everything away when the caller looks.
        margin_s = min(min(timeout_s, patience_s) * 0.2, _PUT_AWAY_S)
        with self._lock:
            already, self._closed = self._closed, True
            self._plan()
            self._asked_at = time.monotonic()
            self._deadline = min(self._deadline, self._asked_at + timeout_s - margin_s)
            self._patience_s = min(self._patience_s, patience_s - margin_s)
            thread = self._thread
            if thread is None and (self._buffer or self._is_spooling()):
                thread = self._start()
            self._hurry = self._accepted()
            self._retry_at = 0.0
            self._changed.notify()
            self._settled.notify_all()
            callbacks, self._room_callbacks = self._room_callbacks, []
        for callback in callbacks:
            callback()
        if thread is not None and thread is not threading.current_thread():
            # The thread may be waiting for an answer; it is not waited for longer than was allowed, and ends when that comes.
            while thread.is_alive() and (left := self._end_at() + margin_s - time.monotonic()) > 0:
                thread.join(min(left, threading.TIMEOUT_MAX))
            if thread.is_alive():
                self._abandon()
        elif not already:
            self._end()
        self._tell_lost()

    def _tell_lost(self) -> None:
        """At the end: how many of how many events the server never got."""
        with self._lock:
            dropped, lost, given = self._dropped, self._lost, self._accepted() + self._dropped
            if dropped + lost <= self._said_lost:
                return
            self._said_lost = dropped + lost
        what = "%d of %d events were lost: %d found no room in the buffer, %d were accepted and could not be sent"
        log.error(what, dropped + lost, given, dropped, lost)

    @property
    def counters(self) -> Counters:
        """What became of the events so far."""
        with self._lock:
            spooled = self._spool.events if self._spool else 0
            accepted = self._accepted()
            settled = (self._sent, self._suppressed, self._refused, self._lost)
            waiting = max(0, accepted - sum(settled) - spooled)
            return Counters(accepted, *settled, self._dropped, self._retries, waiting, spooled)

    def at_exit(self) -> None:
        """The process ends."""
        self.close(patience_s=self.options.exit_timeout_s)

    def at_task_end(self) -> None:
        """A task of a pool ends: its process may be killed when the task's result is known."""
        self.settle(self.options.exit_timeout_s)

    def in_child(self) -> None:
        """After a fork, in the child: everything of the parent's is the parent's."""
        self._reset()
        self._begin()
        self._suppression.forget()
        if self._spool is not None:
            self._spool.abandon()
            self._spool = None

    # --- with the lock held

    def _start(self) -> threading.Thread | None:
        if self._thread is None:
            watch_child_exit()
            self._thread = threading.Thread(target=self._run, name="kinfold-producer", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter is shutting down: `close` sends what waits
                self._thread = None
        return self._thread

    def _send_now(self) -> None:
        self._hurry = self._accepted()
        if self._done() < self._hurry:
            self._start()
        self._changed.notify()

    def _is_own_thread(self) -> bool:
        return self._thread is None or self._thread is threading.current_thread()

    def _end_at(self) -> float:
        """When the background thread must end."""
        return min(self._deadline, self._asked_at + self._patience_s)

    def _done(self) -> int:
        return self._sent + self._suppressed + self._refused + self._lost

    def _is_spooling(self) -> bool:
        return bool(self._spool and not self._spool.is_empty)

    # --- the background thread's side

    def _run(self) -> None:
        try:
            self._open_spool()
            while (drafts := self._take()) is not None:
                try:
                    if drafts:
                        self._send(drafts)
                    else:
                        self._drain_spool()
                except Exception as error:  # the thread must outlive a bug of ours
                    log.exception("events are lost")
                    self._lose(self._drop_claim(), error)
                    self._retry_at = time.monotonic() + self.options.last_retry_s  # and not repeat it all the time
        finally:
            self._end()

    def _open_spool(self) -> Spool | None:
        """By the background thread, or by who closes before that has come so far."""
        with self._putting_away:
            if self._spool is None and self.options.spool is not None:
                try:
                    self._spool = Spool(self.options.spool, self.options.spool_bytes)
                except OSError:
                    log.exception("nothing can be spooled in %s", self.options.spool)
            return self._spool

    def _abandon(self) -> None:
        """Closed, time is up, and the background thread still waits for an answer: it may die with the process."""
        with self._putting_away:
            with self._lock:
                in_flight, drafts = self._in_flight or [], [*(self._in_hand or []), *self._cut_all()]
                self._in_flight = self._in_hand = None
            # Whether it is news is not asked: the background thread may just be doing that, and an event too many does no harm.
            lost = self._keep(in_flight + self._encode(drafts))
        self._lose_late(lost)

    def _end(self) -> None:
        """Closed, and time is up or everything is sent."""
        with self._putting_away:
            with self._lock:
                drafts = self._cut_all()
            events, suppressed = self._pack(drafts)
            self._suppress(suppressed)
            lost = self._keep(events)
            if self._spool is not None:
                self._spool.close()
        self._lose_late(lost)
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _keep(self, events: list[bytes]) -> int:
        """Puts events into the spool, for whoever comes next; how many are lost instead."""
        return 0 if not events or ((spool := self._open_spool()) and spool.put(0, events)) else len(events)

    def _lose_late(self, events: int) -> None:
        """The time to close is over: `close` tells of it."""
        if events:
            self._count_lost(events, Unreachable("the time to close was over"))

    def _take(self) -> list[Draft] | None:
        """The drafts of the next batch, once it is due; an empty list when the spool is due instead; None at the end."""
        with self._lock:
            self._is_sending = False
            while not self._buffer:
                if not self._is_spooling():
                    if self._closed:
                        return None
                    self._changed.wait()
                elif (now := time.monotonic()) >= self._end_at():
                    return None
                elif now >= self._retry_at:
                    self._is_sending = True
                    return []
                else:
                    self._changed.wait(min(self._retry_at, self._end_at()) - now)
            if time.monotonic() >= self._end_at():
                return None
            self._linger()
            drafts = self._in_hand = self._cut()
            self._is_sending = True
            self._settled.notify_all()
            callbacks, self._room_callbacks = self._room_callbacks, []
        for callback in callbacks:
            callback()
        return drafts

    def _linger(self) -> None:
        due = self._since + self.options.batch_age_s
        while (
            len(self._buffer) <= self._full_batch
            and self._bytes < self._batch_bytes
            and not self._closed
            and self._hurry <= self._done()
            and (left := due - time.monotonic()) > 0
        ):
            self._changed.wait(left)

    def _pack(self, drafts: list[Draft]) -> tuple[list[bytes], int]:
        """The events to be sent, and how many say nothing new."""
        try:
            news = [draft for draft in drafts if self._suppression.is_news(draft)]
        except Exception:  # noqa: BLE001  see _encode
            news = drafts
        return self._encode(news), len(drafts) - len(news)

    def _encode(self, drafts: list[Draft]) -> list[bytes]:
        try:
            return encode_drafts(drafts)
        except Exception:  # noqa: BLE001  whatever a caller's object raises
            # An identifier that is none, but stands for one as long as its request lasts: the others shall not suffer.
            return [event for draft in drafts for event in self._encode_one(draft)]

    def _encode_one(self, draft: Draft) -> list[bytes]:
        try:
            return encode_drafts([draft])
        except Exception as error:  # noqa: BLE001  as above
            self._lose(1, error)
            return []

    def _suppress(self, events: int) -> None:
        if events:
            with self._lock:
                self._suppressed += events
                self._settled.notify_all()

    def _send(self, drafts: list[Draft]) -> None:
        events, suppressed = self._pack(drafts)
        with self._lock:
            if self._in_hand is None:  # abandoned meanwhile
                return
            self._in_hand, self._in_flight = None, events or None
        self._suppress(suppressed)
        if not events:
            return
        self._number += 1
        number = self._number
        while not (self._drain_spool() and self._attempt(number, events, is_in_flight=True)):
            if self._put_away(number):
                break
            if not self._wait_to_retry():
                with self._putting_away:
                    lost = self._keep(self._claim())
                self._lose_late(lost)
                break

    def _put_away(self, number: int) -> bool:
        """Puts what is in flight into the spool, where there is one; True where it is in flight no more."""
        with self._putting_away:
            if self._in_flight is not None and self._spool is not None and self._spool.put(number, self._in_flight):
                self._claim()
            return self._in_flight is None

    def _claim(self) -> list[bytes]:
        with self._lock:
            events, self._in_flight = self._in_flight or [], None
        return events

    def _drop_claim(self) -> int:
        """How many events the background thread answers for, and does no more."""
        with self._lock:
            events = len(self._in_hand or self._in_flight or [])
            self._in_hand = self._in_flight = None
        return events

    def _drain_spool(self) -> bool:
        """Sends what is spooled, if it is time to try; whether nothing is left."""
        while self._spool is not None and (chunk := self._spool.oldest(self._number + 1)) is not None:
            self._number = max(self._number, chunk.number)
            if chunk.lost:
                self._lose(chunk.lost, KinfoldError(f"spool: {chunk.path} was not what had been written"), own=chunk.own)
            if not chunk.events:
                self._spool.drop_oldest()
                continue
            if time.monotonic() < self._retry_at or not self._attempt(chunk.number, chunk.events, own=chunk.own):
                return False
            self._spool.drop_oldest()
        return True

    def _attempt(self, number: int, events: list[bytes], *, own: bool = True, is_in_flight: bool = False) -> bool:
        try:
            if self._transport is None:
                self._transport = self._connect()
            receipt = self._transport.append(number, events)
        except KinfoldError as error:
            self._failed(error, len(events))
            return False
        if self._delay_s:
            log.info("the server takes events again")
            self._delay_s, self._complaint = 0.0, None
        for index, why in receipt.refused:
            log.error("an event was refused: %s: %s", why, events[index].decode())
        if receipt.refused:
            self._suppression.forget()
            tell(self._on_error, Failure(KinfoldError(receipt.refused[0][1]), len(receipt.refused), lost=True))
        with self._lock:
            if is_in_flight:  # unless it was claimed meanwhile, and is counted as what became of it there
                own, self._in_flight = self._in_flight is not None, None
            if own:
                self._sent += len(events) - len(receipt.refused)
                self._refused += len(receipt.refused)
            self._position = receipt.position or self._position
            self._asked_at = time.monotonic()
            self._settled.notify_all()
        return True

    def _failed(self, error: KinfoldError, events: int) -> None:
        options = self.options
        self._complain(error, events)
        self._delay_s = min(max(self._delay_s * 2, options.first_retry_s), options.last_retry_s)
        wait_s = max(self._delay_s * random.uniform(0.5, 1.0), getattr(error, "retry_after_s", None) or 0.0)  # noqa: S311  no secret
        with self._lock:
            self._retry_at = time.monotonic() + wait_s
            self._retries += 1
        tell(self._on_error, Failure(error, events, lost=False))

    def _complain(self, error: KinfoldError, events: int) -> None:
        """Says what is news at once, and what goes on every minute: whoever looks at the log late shall find it, too."""
        now = time.monotonic()
        if type(error) is self._complaint and now < self._complain_again_at:
            return
        self._complaint, self._complain_again_at = type(error), now + COMPLAIN_EVERY_S
        if isinstance(error, Refused):
            log.error("%d events are refused, and everything waits behind them until that is mended: %s", events, error)
        else:
            log.warning("%d events could not be sent and will be again: %s", events, error)

    def _wait_to_retry(self) -> bool:
        with self._lock:
            while (now := time.monotonic()) < self._retry_at:
                if now >= self._end_at():
                    return False
                self._changed.wait(min(self._retry_at, self._end_at()) - now)
            return time.monotonic() < self._end_at()

    def _lose(self, events: int, error: Exception, *, own: bool = True) -> None:
        log.error("%d events are lost: %s", events, error)
        self._count_lost(events, error, own=own)

    def _count_lost(self, events: int, error: Exception, *, own: bool = True) -> None:
        with self._lock:
            self._lost += events if own else 0
            self._settled.notify_all()
        self._suppression.forget()
        tell(self._on_error, Failure(error, events, lost=True))
