"""Pages of the change feed for a reader that must not skip a change."""

from typing import Any, Final, NamedTuple

from kinfold_schemas.positions import Extent, goes_on_behind, position_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.log.streams import is_missing

PAGE_ENTRIES: Final = 500


class FeedPage(NamedTuple):
    """The entries after a position of the feed, and the extent of the feed at that time."""

    extent: Extent
    goes_on: bool
    """Whether no entry is missing between the position and `entries`."""
    entries: list[RawEntry]


async def read_feed_page(client: Client, feed: str, position: str, count: int = PAGE_ENTRIES) -> FeedPage:
    """Read up to `count` entries after a position; `0-0` is the beginning. Raises RedisError."""
    pipeline = client.pipeline(transaction=True)
    pipeline.xrange(feed, min=position, count=count + 1)
    pipeline.xinfo_stream(feed)
    entries, info = await pipeline.execute(raise_on_error=False)
    extent = Extent("", "0-0", "0-0", 0)
    if not is_missing(info):
        for reply in (entries, info):
            if isinstance(reply, Exception):
                raise reply
        extent = _extent(info)
    is_there = bool(entries) and position_key(entries[0][0].decode()) == position_key(position)
    return FeedPage(extent, goes_on_behind(position, extent, is_there=is_there), entries[1:] if is_there else entries[:count])


def _extent(info: dict[str, Any]) -> Extent:
    first = info["first-entry"]
    ids = info["last-generated-id"].decode(), info["max-deleted-entry-id"].decode()
    return Extent(first[0].decode() if first else "", *ids, info["entries-added"] - info["length"])
