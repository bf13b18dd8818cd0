"""`kinfold show`, `contacts`, `tail`, `status`."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import msgspec
from redis.exceptions import RedisError, ResponseError

from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.positions import Extent, goes_on_behind, position_key
from kinfold_services.cli.output import DONE, NO, complain, print_json, say
from kinfold_services.cli.replaying import say_what_is_lost
from kinfold_services.cli.transferring import say_if_not_served
from kinfold_services.connections import Client, RawEntry, is_passing
from kinfold_services.projector.store import StateStore
from kinfold_services.queries import Reader, Workspace, listed_workspaces
from kinfold_services.replay.log import log_extent
from kinfold_services.replay.moments import check_moment, parse_moment
from kinfold_services.replay.past import Past
from kinfold_services.replay.past_queries import PastWorkspace
from kinfold_services.servers import connected
from kinfold_services.settings import Settings

_FEED_PAGE: Final = 500
_BLOCK_MS: Final = 1000
"""How long a read waits, so that a position that a failover took away is noticed soon."""
_RETRY_S: Final = 0.5


class Which(NamedTuple):
    """Whom to show: exactly one is given."""

    visitor: str | None
    external_id: str | None
    email: str | None
    contact: str | None


class When(NamedTuple):
    """The state of which moment: `at`, or else the present one, when `wait` is folded."""

    at: str | None
    wait: str | None
    timeout_s: float


async def show(settings: Settings, which: Which, when: When) -> int:
    """Prints one contact, or an anonymous visitor."""
    async with _state(settings, when) as workspace:
        found: msgspec.Struct | None = None
        if which.visitor is not None:
            found = await workspace.contact_by_visitor(which.visitor) or await workspace.visitor(which.visitor)
        elif which.external_id is not None:
            found = await workspace.contact_by_external_id(which.external_id)
        elif which.email is not None:
            found = await workspace.contact_by_email(which.email)
        elif which.contact is not None:
            found = await workspace.contact(which.contact)
    if found is None:
        name, value = next((name, value) for name, value in which._asdict().items() if value is not None)
        return complain(f"{name.replace('_', '-')} {value!r}: nobody in workspace {settings.workspace}", NO)
    print_json(found)
    return DONE


async def contacts(settings: Settings, limit: int | None, when: When) -> int:
    """Prints every living contact."""
    async with _state(settings, when) as workspace:
        count = 0
        async for contact in workspace.contacts():
            if count == limit:
                break
            count += 1
            if not print_json(contact):
                break
    if count == 0:
        say(f"no contacts in workspace {settings.workspace}")
    return DONE


async def status(settings: Settings, wait: str | None, timeout_s: float) -> int:
    """Prints how each workspace is; where an option or KINFOLD_WORKSPACE names one, how that one is."""
    async with asking(settings, wait, timeout_s) as (client, workspace):
        if "workspace" in settings.model_fields_set:
            print_json(await workspace.status())
            await say_if_not_served(client, settings.workspace)
            return DONE
        for name in await listed_workspaces(client):
            print_json(await Workspace(client, name).status())
    return DONE


async def tail(settings: Settings, since: str | None, wait: str | None, timeout_s: float) -> int:
    """Follows the change feed until interrupted. Exit status 1 where changes behind `since` would be skipped.

    An outage or a failover does not end it, once it has reached the server.
    """
    feed = key(settings.workspace, "changes")
    async with asking(settings, wait, timeout_s) as (client, _):
        last = since or (await _page(client, feed, "0-0")).extent.last
        if sys.stderr.isatty():
            say(f"following the changes of workspace {settings.workspace}; Ctrl-C ends")
        trouble = ""
        while True:
            try:
                page = await _page(client, feed, last)
                if not page.goes_on:
                    return complain(_why_lost(last, page.extent), NO)
                if not page.entries:
                    await client.xread({feed: last}, count=1, block=_BLOCK_MS)
            except RedisError as error:
                if not is_passing(error):
                    raise
                if str(error) != trouble:
                    trouble = str(error)
                    say(f"kinfold: the feed cannot be read and will be again: {trouble}")
                await asyncio.sleep(_RETRY_S)
                continue
            trouble = ""
            for entry_id, fields in page.entries:
                last = entry_id.decode()
                if not _print_change(last, fields):
                    return DONE


def _print_change(entry: str, fields: Mapping[bytes, bytes]) -> bool:
    """Whether somebody still reads what is printed."""
    try:
        change = msgspec.json.decode(fields.get(b"change", b""), type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        say(f"kinfold: feed entry {entry} was left out: it is no change: {error}")
        return True
    return print_json({"entry": entry, "change": change})


class _Page(NamedTuple):
    """What follows a position in the feed, and what the feed was like at that moment."""

    extent: Extent
    goes_on: bool
    """Whether nothing between the position and the entries was skipped."""
    entries: list[RawEntry]


async def _page(client: Client, feed: str, position: str) -> _Page:
    pipeline = client.pipeline(transaction=True)
    pipeline.xrange(feed, min=position, count=_FEED_PAGE)
    pipeline.xinfo_stream(feed)
    entries, info = await pipeline.execute(raise_on_error=False)
    extent = Extent("", "0-0", "0-0", 0)
    if not _is_missing(info):
        for reply in (entries, info):
            if isinstance(reply, Exception):
                raise reply
        first = info["first-entry"]
        ids = info["last-generated-id"].decode(), info["max-deleted-entry-id"].decode()
        extent = Extent(first[0].decode() if first else "", *ids, info["entries-added"] - info["length"])
    is_there = bool(entries) and position_key(entries[0][0].decode()) == position_key(position)
    return _Page(extent, goes_on_behind(position, extent, is_there=is_there), entries[is_there:])


def _is_missing(info: object) -> bool:
    """Whether there is no feed yet."""
    return isinstance(info, ResponseError) and "no such key" in str(info)


def _why_lost(position: str, extent: Extent) -> str:
    at = position_key(position)
    if at <= (0, 0) or (extent.removed and at < position_key(extent.first or extent.last)):
        return f"feed entry {position}: the feed keeps only newer ones; read the contacts and start from now"
    return (
        f"feed entry {position}: this feed never had it (did a failover or a restored copy take it away?); "
        f"read the contacts and start from now"
    )


@asynccontextmanager
async def _state(settings: Settings, when: When) -> AsyncGenerator[Reader]:
    """The state that a question is about. Raises NoMoment and NoLog for one that the log does not cover."""
    async with asking(settings, when.wait, when.timeout_s) as (client, workspace):
        if when.at is None:
            yield workspace
            return
        position = parse_moment(when.at)
        extent = await log_extent(client, settings.workspace)
        check_moment(position, extent, now_ms=time.time_ns() // 1_000_000)
        say_what_is_lost(extent)
        rules = IdentifierRules(await StateStore(client, settings.workspace).blocked_identifiers())
        yield PastWorkspace(await Past(client, settings, rules).state_at(position))


@asynccontextmanager
async def asking(settings: Settings, wait: str | None, timeout_s: float) -> AsyncGenerator[tuple[Client, Workspace]]:
    """A client, and the workspace to ask, once `wait` is folded. Raises NotFolded."""
    async with connected(settings) as client:
        workspace = Workspace(client, settings.workspace)
        if wait is not None:
            await workspace.wait_until_folded(wait, timeout_s)
        yield client, workspace
