"""Positions in a log or a feed: entry ids, compared numerically."""

import re
from typing import Final, NamedTuple

_ID: Final = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")
_LARGEST: Final = 2**64 - 1
"""Of either number of an entry id."""


class Extent(NamedTuple):
    """The extent of a stream (`XINFO STREAM`).

    `first` is its oldest entry (`first-entry`), or empty if it has none. `last` is `last-generated-id`. `max_deleted` is
    `max-deleted-entry-id`, which covers XDEL but not trimming. `removed` is how many entries have gone (`entries-added` minus
    `length`).
    """

    first: str
    last: str
    max_deleted: str
    removed: int


def goes_on_behind(position: str, extent: Extent, *, is_there: bool) -> bool:
    """Whether a stream still holds everything after `position`. If False, a reader would skip entries.

    `is_there` says whether the stream holds the entry `position`. `0` is the beginning. If an entry between the first and the
    last is missing, it was either deleted or never in this stream: a failover or a restored copy lost it, and other entries may
    have taken its place. Trimming removes only from the beginning, so `max_deleted` distinguishes the two.
    """
    at = position_key(position)
    if at <= (0, 0):
        return extent.removed == 0
    if is_there or at == position_key(extent.last):
        return True
    if not extent.first or not position_key(extent.first) < at < position_key(extent.last):
        return False
    return at <= position_key(extent.max_deleted)


def is_entry_id(text: str) -> bool:
    """Whether a text is the whole id of an entry. A position may also be empty, or name all entries of a millisecond."""
    try:
        position_key(text)
    except ValueError:
        return False
    return "-" in text


def position_key(position: str) -> tuple[int, int]:
    """Return the sort key of an entry id. The empty position sorts first. Raises ValueError for an invalid id.

    As in Redis, `1732` means `1732-0`.
    """
    if not position:
        return (-1, 0)
    if found := _ID.fullmatch(position):
        numbers = int(found[1]), int(found[2] or 0)
        if max(numbers) <= _LARGEST:
            return numbers
    raise ValueError(f"position: expected a log entry's id such as 1732262400000-0, got {position!r}")
