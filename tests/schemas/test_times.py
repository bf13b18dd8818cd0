"""Times as RFC 3339 strings (contract section 5)."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from kinfold_schemas.times import LAST_MS, from_text, to_ms, to_text

milliseconds = st.integers(0, LAST_MS)


@given(milliseconds)
def test_time_is_rfc_3339_in_utc_with_milliseconds(ms: int) -> None:
    """It has 24 characters and parses back to the same time."""
    text = to_text(ms)
    assert len(text) == len("2026-01-01T00:00:00.000Z")
    assert text.endswith("Z")
    assert from_text(text) == ms


@given(milliseconds, milliseconds)
def test_strings_sort_as_their_times_do(one: int, other: int) -> None:
    """So the fold may compare strings."""
    assert (to_text(one) < to_text(other)) == (one < other)


def test_offset_is_applied() -> None:
    """10:00 at +01:00 is 09:00 UTC. Fractions of a millisecond are truncated."""
    moment = datetime(2026, 1, 1, 10, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=1)))
    assert to_text(to_ms(moment)) == "2026-01-01T09:00:00.999Z"
    assert to_ms(datetime(1970, 1, 1, tzinfo=UTC)) == 0
