"""Reads the log or the feed in pages, forward and backward, and the extent of the log."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Final, Literal, NamedTuple, cast

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.log.baseline import Baseline, LogCut, baseline_position, decode_baseline
from kinfold_services.log.streams import as_entries

PAGE_ENTRIES: Final = 2000


class NoLog(LookupError):
    """The workspace has no log."""


class LogExtent(NamedTuple):
    """The extent of a log: the number of its entries, their first and last id, and what was removed."""

    entries: int
    first: str
    last: str
    lost: int
    """How many entries were removed (trimmed at the beginning, or deleted), without those that the baseline stands for."""
    deleted: str
    """The greatest id that was deleted; `0-0` if none was. Trimming does not count."""
    baseline: Baseline | None = None
    """Stands for the entries that a retention run cut; every fold begins there."""

    @property
    def begins(self) -> str:
        """The position at which folds begin: '' is the first entry."""
        return self.baseline.position if self.baseline is not None else ""


async def log_extent(client: Client, workspace: str) -> LogExtent:
    """The extent of a workspace's log. Raises NoLog if the log does not exist, and UnknownBaseline. An empty log does exist."""
    log = key(workspace, "events")
    if not await client.exists(log):
        raise NoLog(f"workspace {workspace}: there is no log at {log}; publish events to the workspace first")
    pipeline = client.pipeline(transaction=True)
    pipeline.xinfo_stream(log)
    pipeline.hget(key(workspace, "baseline"), "about")
    info, about = await pipeline.execute()
    baseline = decode_baseline(workspace, about)
    first = info["first-entry"][0].decode() if info["first-entry"] else ""
    last, deleted = info["last-generated-id"].decode(), info["max-deleted-entry-id"].decode()
    lost = info["entries-added"] - info["length"]
    if baseline is not None:
        lost = max(lost - baseline.counts.entries, baseline.counts.lost)
    return LogExtent(info["length"], first, last, lost, deleted, baseline)


async def read_pages(  # noqa: PLR0913  what to read, and how much of it at once
    client: Client,
    workspace: str,
    after: str,
    upto: str,
    name: Literal["events", "changes"] = "events",
    *,
    page_entries: int = PAGE_ENTRIES,
) -> AsyncGenerator[Sequence[RawEntry]]:
    """Read the log or the feed after `after` ('' is the beginning), up to and including `upto`. Reads ahead by one page.

    Raises LogCut if the log was cut after `after`. Then the caller begins at the baseline.

    Changes `client`: from now on, its XRANGE returns entries as `as_entries` does. redis-py's dictionary would drop a repeated
    field, and a rejected entry must be copied whole.
    """
    log = key(workspace, name)
    client.set_response_callback("XRANGE", cast("Any", as_entries))

    async def page(position: str) -> list[RawEntry]:
        reply = await client.xrange(log, min=f"({position}" if position else "-", max=upto, count=page_entries)
        if name == "events":  # asked after the page was read: a later cut took nothing from it
            cut = await baseline_position(client, workspace)
            if position_key(cut) > position_key(position):
                raise LogCut(f"workspace {workspace}: the log was cut at {cut} while it was read; repeat the command")
        return cast("list[RawEntry]", reply)

    if after and position_key(after) >= position_key(upto):
        return
    ahead = asyncio.create_task(page(after))
    try:
        while entries := await ahead:
            last = entries[-1][0].decode()
            if len(entries) < page_entries:
                yield entries
                return
            ahead = asyncio.create_task(page(last))
            yield entries
    finally:
        ahead.cancel()


async def pages_backward(
    client: Client, workspace: str, last: str, count: int, page_entries: int = PAGE_ENTRIES
) -> AsyncIterator[list[RawEntry]]:
    """The last `count` log entries up to and including `last`, in pages, the last page first. A page is in log order."""
    upper = last
    while count > 0:
        reply = await client.xrevrange(key(workspace, "events"), max=upper, count=min(count, page_entries))
        page = cast("list[RawEntry]", reply)
        if not page:
            return
        count -= len(page)
        upper = f"({page[-1][0].decode()}"
        yield page[::-1]
