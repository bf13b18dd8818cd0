"""Reads times in the forms that Segment's callers use.

| written as | read as |
|---|---|
| `1500000000`, `"1590000000"`, `1500000000.25` | seconds since 1970 |
| `1500000000000` | milliseconds since 1970; the size of a number also tells microseconds and nanoseconds |
| `2026-01-01T00:00:00Z`, `2026-01-01 00:00:00 +0000 UTC`, `2026-01-01`, `20260101T000000Z` | ISO 8601 and variants |
| `20260101120000` | year to second |
| `2026/01/01 12:00:00` | the same with slashes, year first |
| `Thu, 01 Jan 2026 00:00:00 GMT`, `Thu Jan  1 00:00:00 2026` | RFC 1123, RFC 850, `asctime` |
| `Thu Jan 01 2026 01:00:00 GMT+0100 (CET)` | JavaScript's `Date.toString` |

A time without an offset is UTC. Ambiguous times are not read: `01/02/2026`, and names of zones other than those of RFC 822.
AM and PM are not supported.
"""

import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import mktime_tz, parsedate_tz
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MS: Final = 1e11
"""As seconds this is the year 5138, as milliseconds 1973. Larger numbers are not seconds."""
_TOO_LARGE: Final = 1e20
"""As nanoseconds this is the year 5138."""
_MAX_CHARS: Final = 100

_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?\Z")
_COMPACT_DAY: Final = 8
_COMPACT_SECOND: Final = 14
_SLASHES: Final = re.compile(r"(\d{4})/(\d\d)/(\d\d)(?!\d)")
_UTC_NAME: Final = re.compile(r"\s*(?:UTC|GMT|Z)\Z")
_OFFSET: Final = re.compile(r"\s+([+-]\d\d:?\d\d)(?:\s[A-Z]{2,5})?\Z")
_MAIL: Final = re.compile(r".*[A-Za-z]{3}.*\d{1,2}:\d\d")
_HALF_OF_DAY: Final = re.compile(r"\b[AP]\.?M\b", re.IGNORECASE)
_JAVASCRIPT_OFFSET: Final = re.compile(r"\bGMT([+-]\d{4})(?: \(.*\))?\Z")
_ZONE: Final = re.compile(r"[A-Za-z]+\Z")
_ZONES: Final = frozenset(["UT", "UTC", "GMT", "Z", "EST", "EDT", "CST", "CDT", "MST", "MDT", "PST", "PDT"])
"""The zones of RFC 822. `parsedate_tz` reads every other name as UTC."""


def read_time(value: object) -> datetime | None:
    """The time in UTC, or None if it cannot be read."""
    try:
        if isinstance(value, bool):
            return None
        if isinstance(value, (int, float)):
            return _of_number(float(value))
        return _of_text(value.strip()) if isinstance(value, str) and len(value) <= _MAX_CHARS else None
    except (ValueError, OverflowError):  # no such day, or after the year 9999
        return None


def _of_number(number: float) -> datetime | None:
    if not math.isfinite(number) or abs(number) >= _TOO_LARGE:
        return None
    seconds = number
    while abs(seconds) >= _FIRST_MS:
        seconds /= 1000
    return _EPOCH + timedelta(seconds=seconds)


def _of_text(text: str) -> datetime | None:
    if _NUMBER.match(text) and not (text.isdigit() and len(text) in {_COMPACT_DAY, _COMPACT_SECOND}):
        return _of_number(float(text))
    if text.isdigit() and len(text) == _COMPACT_SECOND:
        return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    iso = _UTC_NAME.sub("+00:00", _OFFSET.sub(r"\1", _SLASHES.sub(r"\1-\2-\3", text.upper())))
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return _of_mail(text)
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # the first day of the year 1: an unset clock in any zone
        return moment.replace(tzinfo=UTC)


def _of_mail(text: str) -> datetime | None:
    """Read RFC 1123 and similar forms. `email.utils` accepts more forms, but reads some of them wrong."""
    text = _JAVASCRIPT_OFFSET.sub(r"\1", text)
    zone = _ZONE.search(text)
    if not _MAIL.match(text) or _HALF_OF_DAY.search(text) or (zone is not None and zone[0] not in _ZONES):
        return None
    parts = parsedate_tz(text)
    if parts is None:
        return None
    datetime(*parts[:6])  # noqa: DTZ001  raises ValueError if the day does not exist
    return _EPOCH + timedelta(seconds=mktime_tz((*parts[:9], parts[9] or 0)))
