"""Reading a log from its beginning: entries, what it excludes, and what it has lost."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, cast

from kinfold_projections.entries import EVENT_FIELD
from kinfold_schemas.codec import decode_event
from kinfold_schemas.events import EventsExcluded
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.streams import as_entries

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


def excludes(fields: Mapping[bytes, bytes]) -> EventsExcluded | None:
    """The `EventsExcluded` that an entry holds, if it does."""
    data = fields.get(EVENT_FIELD)
    if data is None or not data.partition(b"EventsExcluded")[1]:  # `in` takes ten times as long (kinfold_schemas.codec)
        return None
    event = decode_event(data)
    return event if isinstance(event, EventsExcluded) else None


class Exclusions(NamedTuple):
    """What a fold of a log leaves out: the entries, and the last `EventsExcluded` that was heard ('' where there is none)."""

    entries: frozenset[str] = frozenset()
    last: str = ""


async def excluded_entries(client: Client, workspace: str, upto: str, also: frozenset[str] = frozenset()) -> Exclusions:
    """What a fold of the log up to `upto` leaves out: what its `EventsExcluded` name, and `also`.

    An exclusion that is itself excluded by a later one does not count, so that an exclusion can be taken back.
    """
    found = [
        (entry_id.decode(), event)
        async for page in read_pages(client, workspace, "", upto)
        for entry_id, fields in page
        if (event := excludes(fields)) is not None
    ]
    excluded = set(also)
    for entry_id, event in reversed(found):
        if entry_id not in excluded:
            excluded.update(event.entries)
    return Exclusions(frozenset(excluded), found[-1][0] if found else "")
