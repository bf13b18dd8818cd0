"""The parts of a delivery, each alone: buffer, outbox, retry clock, reminder."""

import threading
from pathlib import Path
from typing import Any

import pytest

from kinfold.calls.drafts import Draft
from kinfold.producer import reminders
from kinfold.producer.buffer import Buffer
from kinfold.producer.options import read_options
from kinfold.producer.outbox import Outbox
from kinfold.producer.reminders import Reminder
from kinfold.producer.retry import RetryClock
from tests.clients.drafting import DRAFTING

EVENTS = [b'{"type":"VisitorSeen","id":"1","at":"2026-01-01T00:00:00.000Z"}'] * 3


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def draft(number: int, size: int = 300) -> Draft:
    """A draft with a chosen estimate of its size."""
    seen = DRAFTING.seen(f"v-{number}")
    return (*seen[:2], size, *seen[3:])


def buffer_of(**options: Any) -> tuple[Buffer, list[str], list[Draft]]:
    """A buffer, the times that it stopped being empty, and the drafts that it had no room for."""
    first: list[str] = []
    full: list[Draft] = []
    return Buffer(read_options(options), lambda: first.append("first"), full.append), first, full


def outbox_of(directory: Path | None = None) -> Outbox:
    """An outbox with a lock of its own."""
    return Outbox(threading.Condition(threading.RLock()), None if directory is None else str(directory), 10_000)


def test_buffer_returns_drafts_in_order_and_in_batches():
    buffer, first, _ = buffer_of(batch_events=2)
    drafts = [draft(number) for number in range(5)]
    for each in drafts:
        buffer.put(each)
    assert buffer.has_full_batch
    assert [buffer.take_batch() for _ in range(4)] == [drafts[:2], drafts[2:4], drafts[4:], []]
    assert (first, len(buffer), buffer.bytes, buffer.accepted) == (["first"], 0, 0, 5)


def test_batch_is_limited_in_bytes_but_has_at_least_one_draft():
    buffer, _, _ = buffer_of(batch_bytes=700)
    for size in (1000, 300, 300, 300):
        buffer.put(draft(0, size))
    assert [[each[2] for each in buffer.take_batch()] for _ in range(3)] == [[1000], [300, 300], [300]]


@pytest.mark.parametrize("options", [{"buffer_events": 3}, {"buffer_bytes": 900}])
def test_full_buffer_reports_drafts_that_it_has_no_room_for(options: dict[str, Any]):
    buffer, _, full = buffer_of(**options)
    drafts = [draft(number) for number in range(5)]
    for each in drafts:
        buffer.put(each)
    assert (full, len(buffer)) == (drafts[3:], 3)
    buffer.take_batch()
    assert buffer.offer(drafts[3])


def test_closed_buffer_has_no_room_and_calls_back_at_once():
    buffer, _, full = buffer_of()
    called: list[str] = []
    buffer.when_room(lambda: called.append("early"))
    assert (buffer.close(), buffer.close(), called) == (True, False, [])
    buffer.signal_room()
    buffer.when_room(lambda: called.append("late"))
    buffer.put(draft(0))
    assert (called, len(full)) == (["early", "late"], 1)


def test_claimed_batch_is_not_packed():
    outbox = outbox_of()
    drafts = [draft(0)]
    outbox.hold(drafts)
    assert outbox.claim() == ([], drafts)
    assert not outbox.pack(EVENTS, 0)
    assert outbox.in_flight is None


def test_acknowledgement_of_a_claimed_batch_is_not_counted():
    outbox = outbox_of()
    for claims in (False, True):
        outbox.hold([draft(0)] * 4)
        assert outbox.pack(EVENTS, suppressed=1)
        if claims:
            assert outbox.claim() == (EVENTS, [])
        outbox.acknowledge(3, 1, own=None)
    assert (outbox.sent, outbox.refused, outbox.suppressed, outbox.done) == (2, 1, 2, 5)


def test_batch_in_flight_moves_to_the_spool_and_back(tmp_path: Path):
    outbox = outbox_of(tmp_path)
    spool = outbox.open_spool()
    assert spool is not None
    outbox.hold([draft(0)] * 3)
    outbox.pack(EVENTS, 0)
    number = outbox.next_number()
    assert outbox.spool_in_flight(number)
    assert (outbox.in_flight, outbox.spooled, outbox.is_spooling, outbox.done) == (None, 3, True, 0)
    chunk = outbox.oldest_spooled()
    assert chunk is not None
    assert (chunk.number, chunk.events, chunk.own) == (number, EVENTS, True)
    spool.drop_oldest()
    outbox.acknowledge(3, 0, own=True)
    assert (outbox.spooled, outbox.sent) == (0, 3)
    spool.close()


def test_kept_events_are_lost_only_without_a_spool(tmp_path: Path):
    assert outbox_of().keep(EVENTS) == 3
    outbox = outbox_of(tmp_path)
    assert outbox.keep(EVENTS) == 0
    assert outbox.spool is not None
    outbox.spool.close()


def test_delays_double_up_to_the_limit_and_start_again_after_a_success():
    clock = Clock()
    retry = RetryClock(0.1, 0.4, clock)
    for longest_s in (0.1, 0.2, 0.4, 0.4):
        retry.failed()
        assert longest_s / 2 - 1e-9 <= retry.retry_in_s() <= longest_s + 1e-9
    assert retry.answered()
    assert not retry.answered()
    retry.failed()
    assert retry.retry_in_s() <= 0.1 + 1e-9
    retry.failed(at_least_s=7.0)
    assert retry.retry_in_s() == pytest.approx(7.0)
    retry.retry_now()
    assert retry.retry_in_s() <= 0


def test_silence_counts_from_the_last_question_or_answer():
    clock = Clock()
    retry = RetryClock(0.1, 0.4, clock)
    retry.ask()
    clock.now_s += 3
    assert retry.silence_left_s(10) == 7
    retry.answered()
    assert retry.silence_left_s(10) == 10


def test_time_is_up_at_the_deadline_or_after_the_silence():
    clock = Clock()
    retry = RetryClock(0.1, 0.4, clock)
    assert retry.time_left_s() == float("inf")
    retry.limit(10, 4)
    assert retry.time_left_s() == 4
    clock.now_s += 3
    retry.answered()
    assert retry.time_left_s() == 4
    clock.now_s += 4
    retry.answered()
    assert retry.time_left_s() == 3
    retry.limit(100, 100)
    assert retry.time_left_s() == 3, "earlier limits stay in force"


def test_reminder_is_due_for_new_problems_and_after_a_while(monkeypatch: pytest.MonkeyPatch):
    reminder = Reminder()
    assert [reminder.is_due(problem) for problem in ("a", "a", "b", "b")] == [True, False, True, False]
    reminder.solved()
    assert reminder.is_due("b")
    monkeypatch.setattr(reminders, "REMIND_EVERY_S", 0.0)
    assert Reminder().is_due("a")
    reminder.is_due("c")
    assert reminder.is_due("c")
