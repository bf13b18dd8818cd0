"""Parses a moment of a log: a time or a position."""

from datetime import datetime
from typing import Final

from kinfold_schemas.filters import text_time_ms
from kinfold_schemas.positions import is_entry_id, position_key
from kinfold_schemas.times import LAST_MS, to_ms, to_text
from kinfold_services.log.baseline import Baseline
from kinfold_services.log.pages import LogExtent

_DATE_CHARS: Final = len("2026-11-22")
_LAST_SEQ: Final = 2**64 - 1
"""The greatest sequence number of an entry id, and also its greatest milliseconds."""


class NoMoment(ValueError):
    """The log does not cover the moment."""


def parse_moment(text: str) -> str:
    """The position of a moment: an RFC 3339 time with an offset, a date or the id of a log entry. Raises ValueError.

    A date means its first instant in UTC, as in filters. A time, or an id without its sequence number, means the last entry of
    that millisecond.
    """
    position = text if "-" in text else f"{text}-{_LAST_SEQ}"
    if is_entry_id(position):
        return position
    ms = _time_ms(text)
    if ms is None or not 0 <= ms <= LAST_MS:
        raise ValueError(
            "expected a time with an offset (2026-11-22T08:00:00Z), a date (2026-11-22) or a position (1732262400000-0), "
            f"got {text!r}"
        )
    return f"{ms}-{_LAST_SEQ}"


def check_moment(position: str, extent: LogExtent, now_ms: int) -> None:
    """Raise NoMoment if the position is before the first entry of the log, or its baseline, or in the future."""
    if extent.baseline is not None:
        if position_key(position) < position_key(extent.begins):
            raise NoMoment(f"at: {_shown(position)} is before the log: {what_was_cut(extent.baseline)}")
    elif not extent.first or position_key(position) < position_key(extent.first):
        begins = f"begins at {_shown(extent.first)}" if extent.first else "is empty"
        raise NoMoment(f"at: {_shown(position)} is before the log, which {begins}")
    ms, seq = position_key(position)
    last = position_key(extent.last)
    if (ms, seq) > last and not (seq == _LAST_SEQ and ms <= now_ms):
        raise NoMoment(f"at: {_shown(position)} is after the log, which ends at {_shown(extent.last)}")


def what_was_cut(baseline: Baseline) -> str:
    """A sentence that says where a log begins that was cut."""
    return (
        f"the log begins after {_shown(baseline.position)}; the baseline of {baseline.made_at} stands for what came before "
        f"(entries: {baseline.counts.entries})"
    )


def _time_ms(text: str) -> int | None:
    if (ms := date_ms(text)) is not None:
        return ms
    try:
        moment = None if text.isdecimal() else datetime.fromisoformat(text.upper())  # RFC 3339 has `t` and `z`, too
    except ValueError:
        return None
    return None if moment is None or moment.tzinfo is None else to_ms(moment)


def date_ms(text: str) -> int | None:
    """The first instant of a date in UTC, in milliseconds since 1970. None if `text` is not a date."""
    return text_time_ms(text) if len(text) == _DATE_CHARS else None


def _shown(position: str) -> str:
    ms, seq = position_key(position)
    time = to_text(min(ms, LAST_MS))
    return time if seq == _LAST_SEQ else f"{position} ({time})"
