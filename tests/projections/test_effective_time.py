"""When an event counts as having happened (contract section 3, Effective time)."""

import pytest

from kinfold_projections.entries import Entry
from kinfold_schemas.times import LAST_MS, from_text, to_text
from tests.support.folding import entry_of

ENTRY_AT = "2026-01-01T12:00:00.000Z"
ENTRY_MS = from_text(ENTRY_AT)


def effective(at: str | None = None, sent_at: str | None = None, entry_ms: int = ENTRY_MS) -> str:
    """The effective time of an event in an entry of that millisecond."""
    times = {key: value for key, value in (("at", at), ("sentAt", sent_at)) if value}
    entry = entry_of(f"{entry_ms}-3", {"type": "VisitorSeen", "visitorId": "v-1", **times})
    assert isinstance(entry, Entry)
    assert entry.stamp == (from_text(entry.at), entry_ms, 3)
    return entry.at


def test_without_at_it_is_the_entry_s_time() -> None:
    """The log's clock is all that there is; `sentAt` alone says nothing."""
    assert effective() == ENTRY_AT
    assert effective(sent_at="2020-01-01T00:00:00Z") == ENTRY_AT


def test_at_and_sent_at_tell_the_delay_on_one_clock() -> None:
    """A device whose clock is a year off, and that waited for ten seconds, was ten seconds late."""
    assert effective("2025-01-01T00:00:00Z", "2025-01-01T00:00:10Z") == "2026-01-01T11:59:50.000Z"
    assert effective("2027-01-01T00:00:00.5Z", "2027-01-01T00:00:01Z") == "2026-01-01T11:59:59.500Z"
    assert effective("2026-01-01T13:00:00+01:00", "2026-01-01T12:00:05Z") == "2026-01-01T11:59:55.000Z"


def test_an_event_that_was_sent_before_it_happened_has_no_delay() -> None:
    """The delay is never negative."""
    assert effective("2026-01-01T00:00:10Z", "2026-01-01T00:00:00Z") == ENTRY_AT


def test_at_alone_is_believed_as_far_as_the_log_allows() -> None:
    """In the past, yes; in the future, no."""
    assert effective("2026-01-01T11:00:00Z") == "2026-01-01T11:00:00.000Z"
    assert effective("2026-01-01T12:00:00.001Z") == ENTRY_AT
    assert effective("9999-12-31T23:59:59.999-23:59") == ENTRY_AT


def test_what_is_finer_than_a_millisecond_is_cut_off() -> None:
    """Time is in milliseconds inside."""
    assert effective("2026-01-01T11:00:00.123999Z") == "2026-01-01T11:00:00.123Z"


@pytest.mark.parametrize(
    ("entry_ms", "at", "sent_at", "clamped_ms"),
    [
        (5, "1970-01-01T00:00:00Z", "2026-01-01T00:00:00Z", 0),
        (LAST_MS + 1, None, None, LAST_MS),
        (2**64 - 1, None, None, LAST_MS),
        (2**64 - 1, "2026-01-01T00:00:00Z", None, from_text("2026-01-01T00:00:00Z")),
    ],
)
def test_it_stays_within_what_rfc_3339_can_write(entry_ms: int, at: str | None, sent_at: str | None, clamped_ms: int) -> None:
    """However long the delay was, and whatever ids the log has."""
    assert effective(at, sent_at, entry_ms) == to_text(clamped_ms)
