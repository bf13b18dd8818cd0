"""How far the directory has come: waiting for it, and noticing that it has stopped."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final, cast

import sqlalchemy as sa
from redis.exceptions import ResponseError

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_schemas.times import to_ms
from kinfold_services.connections import Client
from kinfold_services.directory.builds import current_build
from kinfold_services.directory.database import Database
from kinfold_services.directory.errors import NoDirectory
from kinfold_services.directory.tables import builds
from kinfold_services.state.queries import NotFolded

STOPPED_S: Final = 60.0
"""A directory that has not applied a change after this time, by the clocks of both machines, counts as stopped."""

_ASK_AGAIN_S: Final = 0.01


async def last_change(client: Client, workspace: str) -> str:
    """The id of the last entry of the change feed; 0-0 if there is none."""
    try:
        info = cast("dict[str, bytes]", await client.xinfo_stream(key(workspace, "changes")))
    except ResponseError:  # no feed yet
        return "0-0"
    return info["last-generated-id"].decode()


def applied_position(database: Database, workspace: str) -> str:
    """The feed entry that the directory has applied; 0-0 as long as it has not built the workspace."""
    try:
        with database.reading() as connection:
            return current_build(connection, workspace).position
    except NoDirectory:
        return "0-0"


async def wait_until_applied(client: Client, database: Database, workspace: str, timeout_s: float) -> None:
    """Wait until the directory has every change that the feed has now. Raises NotFolded."""
    target = await last_change(client, workspace)
    deadline = time.monotonic() + timeout_s
    while position_key(await asyncio.to_thread(applied_position, database, workspace)) < position_key(target):
        if time.monotonic() > deadline:
            raise NotFolded(not_applied(workspace, target, timeout_s))
        await asyncio.sleep(_ASK_AGAIN_S)


def not_applied(workspace: str, position: str, waited_s: float) -> str:
    """The sentence for a directory that is not as far as it was asked to be."""
    return (
        f"the directory of workspace {workspace} has not reached {position}, the end of the feed, after {waited_s:g} s; "
        "does `kinfold up` or `kinfold directory` run?"
    )


async def check_running(client: Client, database: Database, workspace: str, position: str) -> None:
    """Raise NoDirectory if what was read at `position` of the feed is old, and no directory is at work.

    The first change after that position tells since when it is old. While a directory builds the workspace again, which can
    take minutes, the build before it is good enough.
    """
    last = await last_change(client, workspace)
    if position_key(position) >= position_key(last):
        return
    reply = await client.xrange(key(workspace, "changes"), min=f"({position}", count=1)
    entries = cast("Sequence[tuple[bytes, object]]", reply)
    first_ms = position_key((entries[0][0] if entries else last.encode()).decode())[0]
    oldest_ms = time.time_ns() // 1_000_000 - int(STOPPED_S * 1000)
    if first_ms > oldest_ms or await asyncio.to_thread(_is_building, database, workspace, oldest_ms):
        return
    raise NoDirectory(
        f"the directory of workspace {workspace} has stopped at {position} of the feed, which has changes up to {last}; "
        "start `kinfold up` or `kinfold directory`"
    )


def _is_building(database: Database, workspace: str, since_ms: int) -> bool:
    """Whether a build of the workspace was written to since then."""
    newest = sa.select(sa.func.max(builds.c.updated_at)).where(
        builds.c.workspace == sa.literal(workspace, sa.Text()), builds.c.state == "building"
    )
    with database.reading() as connection:
        written = connection.execute(newest).scalar()
    return written is not None and to_ms(datetime.fromisoformat(written)) >= since_ms
