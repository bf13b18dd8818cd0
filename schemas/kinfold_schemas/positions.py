"""Positions in a log or a feed: entry ids, compared as numbers."""

from typing import NamedTuple


class Extent(NamedTuple):
    """What a server knows of a stream (`XINFO STREAM`).

    `first`: its oldest entry (`first-entry`), empty where there is none; `last`: `last-generated-id`; `max_deleted`:
    `max-deleted-entry-id`, which tells of XDEL and not of trimming; `removed`: how many of its entries are no longer there
    (`entries-added` less `length`).
    """

    first: str
    last: str
    max_deleted: str
    removed: int


def goes_on_behind(position: str, extent: Extent, *, is_there: bool) -> bool:
    """Whether what a stream holds behind `position` is all that followed it there; False where a reader would skip entries.

    `is_there`: whether the entry `position` is in the stream. `0` is the beginning. An entry that is missing between the
    first one and the last was deleted, or it never was in this stream: a failover or a restored copy took it away, and others
    may stand in its place. Trimming removes from the beginning alone, so `max_deleted` tells which.
    """
    at = position_key(position)
    if at <= (0, 0):
        return extent.removed == 0
    if is_there or at == position_key(extent.last):
        return True
    if not extent.first or not position_key(extent.first) < at < position_key(extent.last):
        return False
    return at <= position_key(extent.max_deleted)


def position_key(position: str) -> tuple[int, int]:
    """What a log entry's id sorts by; the empty position is before all. Raises ValueError for what is no id.

    `1732-0` and `1732` (its first entry) are both understood, as Redis does.
    """
    if not position:
        return (-1, 0)
    ms, dash, seq = position.partition("-")
    if not ms.isdecimal() or (dash and not seq.isdecimal()):
        raise ValueError(f"position: expected a log entry's id such as 1732262400000-0, got {position!r}")
    return int(ms), int(seq or 0)
