"""The commands that read: `kinfold show`, `contacts`, `tail` and `status`."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from redis.exceptions import RedisError

from kinfold_schemas.contacts import Contact, Visitor
from kinfold_schemas.identifiers import IdentifierRules, email_key
from kinfold_schemas.keys import key
from kinfold_schemas.positions import Extent, position_key
from kinfold_services.cli.contact_output import contact_writer
from kinfold_services.cli.hints import warn_about_losses, warn_if_not_served
from kinfold_services.cli.output import DONE, NO, complain, print_json, say
from kinfold_services.connections import Client, is_passing
from kinfold_services.directory.errors import DirectoryUnavailable
from kinfold_services.history.moments import check_moment, parse_moment
from kinfold_services.history.past import Past
from kinfold_services.history.past_queries import PastQueries
from kinfold_services.log.feed import read_feed_page
from kinfold_services.log.pages import log_extent
from kinfold_services.server.choice import connected
from kinfold_services.settings import Settings
from kinfold_services.state.queries import Identifier, Queries, StateQueries, find_contact, listed_workspaces
from kinfold_services.state.reader import StateReader

_BLOCK_MS: Final = 1000
"""How long one read waits for changes. Between reads `tail` checks whether a failover removed its position."""
_RETRY_S: Final = 0.5


class When(NamedTuple):
    """The time of the state: `at`, or else the present, after `wait` is folded."""

    at: str | None
    wait: str | None
    timeout_s: float


async def show(settings: Settings, identifier: Identifier, when: When) -> int:
    """Print one contact, or an anonymous visitor."""
    async with _state(settings, when) as workspace:
        found: Contact | Visitor | None = await find_contact(workspace, identifier)
        if found is None and identifier.visitor is not None:
            found = await workspace.visitor(identifier.visitor)
        if found is None and when.at is None and (holder := _former_holder(settings, identifier)) is not None:
            found = await workspace.contact(holder)
        was_erased = found is None and identifier.contact is not None and await workspace.is_erased(identifier.contact)
    if was_erased:
        return complain(f"{identifier}: the person was erased", NO)
    if found is None:
        return complain(f"{identifier}: not found in workspace {settings.workspace}", NO)
    if isinstance(found, Contact):
        say_how_found(identifier, found)
    print_json(found)
    return DONE


def say_how_found(identifier: Identifier, contact: Contact) -> None:
    """Say so if the contact was found by an identifier that it no longer has."""
    if identifier.contact is not None and identifier.contact != contact.id:
        say(f"{identifier.contact} was merged into {contact.id}")
    if identifier.email is not None and (contact.email is None or email_key(contact.email) != email_key(identifier.email)):
        say(f"{contact.id} does not have {identifier.email} any more")


def _former_holder(settings: Settings, identifier: Identifier) -> str | None:
    """The contact that had an identifier, according to the directory; None if there is none, or no directory."""
    from kinfold_services.cli import finding  # noqa: PLC0415  SQLAlchemy loads slowly

    try:
        return finding.former_holder(settings, identifier)
    except DirectoryUnavailable as error:
        if identifier.email is not None:
            say(f"former addresses are not searched: {error}; `kinfold explain --email` finds them in the log")
        return None


async def contacts(settings: Settings, limit: int | None, when: When, form: str | None, output: Path | None) -> int:
    """Print every living contact, or write it to a file."""
    async with _state(settings, when) as workspace:
        count = 0
        with contact_writer(form, output) as write:
            async for contact in workspace.contacts():
                if count == limit:
                    break
                count += 1
                if not write(contact):
                    break
    if count == 0:
        say(f"no contacts in workspace {settings.workspace}")
    return DONE


async def status(settings: Settings, wait: str | None, timeout_s: float) -> int:
    """Print the status of each workspace, or of the one that an option or KINFOLD_WORKSPACE names."""
    async with asking(settings, wait, timeout_s) as (client, workspace):
        if "workspace" in settings.model_fields_set:
            print_json(await workspace.status())
            return DONE
        for name in await listed_workspaces(client):
            print_json(await StateQueries(client, name).status())
    return DONE


async def tail(settings: Settings, since: str | None, wait: str | None, timeout_s: float) -> int:
    """Follow the change feed until interrupted. Exit status 1 if it would skip changes after `since`.

    Once it has reached the server, it survives outages and failovers.
    """
    feed = key(settings.workspace, "changes")
    async with asking(settings, wait, timeout_s) as (client, _):
        await warn_if_not_served(client, settings.workspace)
        last = since or (await read_feed_page(client, feed, "0-0")).extent.last
        if sys.stderr.isatty():
            say(f"following the changes of workspace {settings.workspace}; Ctrl-C stops")
        trouble = ""
        while True:
            try:
                page = await read_feed_page(client, feed, last)
                if not page.goes_on:
                    return complain(_why_lost(last, page.extent), NO)
                if not page.entries:
                    await client.xread({feed: last}, count=1, block=_BLOCK_MS)
            except RedisError as error:
                if not is_passing(error):
                    raise
                if str(error) != trouble:
                    trouble = str(error)
                    say(f"kinfold: cannot read the feed, trying again: {trouble}")
                await asyncio.sleep(_RETRY_S)
                continue
            trouble = ""
            for entry_id, fields in page.entries:
                last = entry_id.decode()
                if not _print_change(last, fields):
                    return DONE


def _print_change(entry: str, fields: Mapping[bytes, bytes]) -> bool:
    """Print a change. Returns False if the reader has closed the pipe."""
    try:
        change = msgspec.json.decode(fields.get(b"change", b""), type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        say(f"kinfold: skipped feed entry {entry}, which is not a change: {error}")
        return True
    return print_json({"entry": entry, "change": change})


def _why_lost(position: str, extent: Extent) -> str:
    at = position_key(position)
    if at <= (0, 0) or (extent.removed and at < position_key(extent.first or extent.last)):
        return f"feed entry {position}: the feed keeps only newer entries; read the contacts and start from now"
    return (
        f"feed entry {position}: this feed never had it (was it lost in a failover or a restore?); "
        "read the contacts and start from now"
    )


@asynccontextmanager
async def _state(settings: Settings, when: When) -> AsyncGenerator[Queries]:
    """The state at the requested time. Raises NoMoment and NoLog if the log does not cover that time."""
    async with asking(settings, when.wait, when.timeout_s) as (client, workspace):
        if when.at is None:
            yield workspace
            return
        position = parse_moment(when.at)
        extent = await log_extent(client, settings.workspace)
        check_moment(position, extent, now_ms=time.time_ns() // 1_000_000)
        warn_about_losses(extent)
        rules = IdentifierRules(await StateReader(client, settings.workspace).blocked_identifiers())
        yield PastQueries(await Past(client, settings, rules).state_at(position))


@asynccontextmanager
async def asking(settings: Settings, wait: str | None, timeout_s: float) -> AsyncGenerator[tuple[Client, StateQueries]]:
    """A client and the workspace, after `wait` is folded. Warns in the end if nothing serves it. Raises NotFolded."""
    async with connected(settings) as client:
        workspace = StateQueries(client, settings.workspace)
        if wait is not None:
            await workspace.wait_until_folded(wait, timeout_s)
        yield client, workspace
        await warn_if_not_served(client, settings.workspace)  # a misspelt name looks like an empty workspace
