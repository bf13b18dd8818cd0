"""Times: integers in milliseconds since 1970, and RFC 3339 strings in UTC with milliseconds (contract section 5).

All these strings have the same length, so they sort as the times do.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MS: Final = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z, the last millisecond that RFC 3339 can represent."""

YEAR_2000_MS: Final = 946_684_800_000
"""2000-01-01T00:00:00Z. An earlier time in an event comes from a clock that was never set (contract section 3)."""

MILLISECONDS: Final = [f".{ms:03d}Z" for ms in range(1000)]
_MILLISECOND_OF: Final = {text: ms for ms, text in enumerate(MILLISECONDS)}


def to_ms(moment: datetime) -> int:
    """Convert an aware datetime to milliseconds since 1970, rounded down; negative before 1970."""
    duration = moment - EPOCH  # dividing it by a millisecond takes twice as long
    return duration.days * 86_400_000 + duration.seconds * 1000 + duration.microseconds // 1000


def to_text(ms: int) -> str:
    """Format as RFC 3339 in UTC with milliseconds: `2026-11-22T08:00:00.000Z`. `ms` must be in 0…LAST_MS."""
    return _second(ms // 1000) + MILLISECONDS[ms % 1000]


def from_text(text: str) -> int:
    """Parse an RFC 3339 time to milliseconds. Raises ValueError."""
    return to_ms(datetime.fromisoformat(text))


def text_ms(text: str) -> int:
    """Parse a string made by `to_text`, and no other, to milliseconds: ten times as fast as `from_text`. Raises ValueError."""
    try:
        return _second_ms(text[:19]) + _MILLISECOND_OF[text[19:]]
    except KeyError:
        raise ValueError(f"expected a time such as 2026-11-22T08:00:00.000Z, got {text!r}") from None


@lru_cache(maxsize=4096)
def _second_ms(text: str) -> int:
    return to_ms(datetime.fromisoformat(f"{text}Z"))


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return (EPOCH + timedelta(seconds=seconds)).isoformat()[:19]
