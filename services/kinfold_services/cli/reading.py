"""`kinfold show`, `contacts`, `tail`, `status`."""

import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, cast

import msgspec

from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.cli.output import DONE, NO, complain, print_json, say
from kinfold_services.cli.replaying import say_what_is_lost
from kinfold_services.cli.transferring import say_if_not_served
from kinfold_services.connections import Client, RawEntry
from kinfold_services.projector.store import StateStore
from kinfold_services.queries import Reader, Workspace, listed_workspaces
from kinfold_services.replay.log import log_extent
from kinfold_services.replay.moments import check_moment, parse_moment
from kinfold_services.replay.past import Past
from kinfold_services.replay.past_queries import PastWorkspace
from kinfold_services.servers import connected
from kinfold_services.settings import Settings

_FEED_PAGE: Final = 500
_BLOCK_MS: Final = 2000
"""How long one read waits for changes, well within the time that an answer may take."""


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
    """Follows the change feed until interrupted. Exit status 1 where entries behind `since` are no longer kept."""
    feed = key(settings.workspace, "changes")
    async with asking(settings, wait, timeout_s) as (client, _):
        last = since or await _last_entry(client, feed)
        if sys.stderr.isatty():
            say(f"following the changes of workspace {settings.workspace}; Ctrl-C ends")
        while not await _is_truncated(client, feed, last):
            reply = await client.xread({feed: last}, count=_FEED_PAGE, block=_BLOCK_MS)
            for _, entries in cast("list[tuple[bytes, list[RawEntry]]]", reply or ()):
                for entry_id, fields in entries:
                    last = entry_id.decode()
                    try:
                        change = msgspec.json.decode(fields.get(b"change", b""), type=msgspec.Raw)
                    except (msgspec.DecodeError, UnicodeDecodeError) as error:
                        say(f"kinfold: feed entry {last} was left out: it is no change: {error}")
                        continue
                    if not print_json({"entry": last, "change": change}):
                        return DONE
    return complain(f"feed entry {last}: the feed keeps only newer ones; read the contacts and start from now", NO)


async def _last_entry(client: Client, feed: str) -> str:
    newest = cast("list[tuple[bytes, object]]", await client.xrevrange(feed, count=1))
    return newest[0][0].decode() if newest else "0-0"


async def _is_truncated(client: Client, feed: str, last: str) -> bool:
    """Whether the feed may have dropped entries behind `last`."""
    oldest = cast("list[tuple[bytes, object]]", await client.xrange(feed, count=1))
    if not oldest or position_key(last) >= position_key(oldest[0][0].decode()):
        return False
    info = cast("dict[str, int]", await client.xinfo_stream(feed))
    return info["entries-added"] > info["length"]


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
