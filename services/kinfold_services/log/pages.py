"""Pages of the log or the feed, forward and backward, and what the log holds and has lost."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, Literal, NamedTuple, cast

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.log.streams import as_entries

PAGE_ENTRIES: Final = 2000


class NoLog(LookupError):
    """The workspace has no log."""


class LogExtent(NamedTuple):
    """What a log holds."""

    entries: int
    first: str
    last: str
    lost: int
    """How many entries were appended once and are not there any more (trimmed at the head, or deleted)."""
    deleted: str
    """The greatest id that was deleted; `0-0` where none was. Trimming does not count."""


async def log_extent(client: Client, workspace: str) -> LogExtent:
    """Raises NoLog where there is nothing, and never was."""
    log = key(workspace, "events")
    if not await client.exists(log):
        raise NoLog(f"workspace {workspace}: there is no log at {log}; publish events to the workspace first")
    info: dict[str, Any] = await client.xinfo_stream(log)
    first = info["first-entry"][0].decode() if info["first-entry"] else ""
    last, deleted = info["last-generated-id"].decode(), info["max-deleted-entry-id"].decode()
    return LogExtent(info["length"], first, last, info["entries-added"] - info["length"], deleted)


async def read_pages(
    client: Client, workspace: str, after: str, upto: str, name: Literal["events", "changes"] = "events"
) -> AsyncGenerator[Sequence[RawEntry]]:
    """The log, or the feed, behind `after` ('' is its beginning), up to and with `upto`, in pages. Reads ahead by one page.

    Takes over `client`: its XRANGE tells a name that comes twice from now on. redis-py's dictionary would drop it, and an entry
    that is rejected has to be copied whole.
    """
    log = key(workspace, name)
    client.set_response_callback("XRANGE", cast("Any", as_entries))

    async def page(behind: str) -> list[RawEntry]:
        reply = await client.xrange(log, min=f"({behind}" if behind else "-", max=upto, count=PAGE_ENTRIES)
        return cast("list[RawEntry]", reply)

    if after and position_key(after) >= position_key(upto):
        return
    ahead = asyncio.create_task(page(after))
    try:
        while entries := await ahead:
            last = entries[-1][0].decode()
            if len(entries) < PAGE_ENTRIES:
                yield entries
                return
            ahead = asyncio.create_task(page(last))
            yield entries
    finally:
        ahead.cancel()


async def entries_before(
    client: Client, workspace: str, last: str, count: int, between: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[list[RawEntry]]:
    """The last `count` log entries up to and with `last`, in the log's order, in pages. Awaits `between` after each read."""
    pages: list[list[RawEntry]] = []
    upper = last
    while count > 0:
        reply = await client.xrevrange(key(workspace, "events"), max=upper, count=min(count, PAGE_ENTRIES))
        page = cast("list[RawEntry]", reply)
        if not page:
            break
        if between is not None:
            await between()
        pages.append(page)
        count -= len(page)
        upper = f"({page[-1][0].decode()}"
    for page in reversed(pages):
        yield page[::-1]
