"""A new version with other tables builds them beside the old ones, and then takes their place."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis

from kinfold_services.directory import tables
from kinfold_services.directory.database import Database
from kinfold_services.directory.errors import NoDirectory
from kinfold_services.settings import Settings
from tests.support.directories import following, life, read_rows, truncate_feed, wait_until_current
from tests.support.event_log import append
from tests.support.next_shape import NEXT
from tests.support.projecting import fold_log, variables
from tests.support.waiting import wait_until

LISTED = "SELECT workspace, id FROM contacts ORDER BY workspace, id"


def ask(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.reading() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query))]


async def test_the_views_change_when_every_workspace_has_the_new_tables(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings, tmp_path: Path
) -> None:
    """The contacts stay in the views all the time, the timeline is carried over, and the old tables are dropped."""
    other = f"{workspace[:50]}-other"
    for each in (workspace, other):
        await append(redis, each, life(0, 300))
        await fold_log(redis, redis_url, each)
    async with following(directory_settings, redis_url, workspace, other):
        for each in (workspace, other):
            await wait_until_current(redis, directory_settings, each)
    timeline = read_rows(directory_settings, workspace, tables.timeline)
    database = Database(directory_settings, read_only=True)
    expected = ask(database, LISTED)
    await truncate_feed(redis, workspace, 5)  # so the new tables are not built from the feed alone

    def shapes() -> set[int]:
        assert ask(database, LISTED) == expected
        found = ask(database, "SELECT shape FROM directory_builds WHERE state = 'current'")
        return {shape for (shape,) in found}

    def has_old_tables() -> bool:
        with database.reading() as connection:
            return sa.inspect(connection).has_table(tables.contacts.name)

    command = [sys.executable, "-m", "tests.support.next_shape", "directory", "--redis-url", redis_url]
    settings: dict[str, object] = {"data_dir": directory_settings.data_dir, "serve": f"{workspace},{other}"}
    if directory_settings.directory_url is not None:
        settings["directory_url"] = directory_settings.directory_url
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, env=variables(settings), stderr=log)
        try:
            await wait_until(lambda: shapes() == {NEXT})
            await wait_until(lambda: not has_old_tables())
            kept = ask(database, "SELECT workspace, count(*) FROM contact_timeline GROUP BY workspace")
        finally:
            process.kill()
            await process.wait()
    assert dict(kept)[workspace] == len(timeline)
    assert ask(database, LISTED) == expected

    # The version before stands by: it neither serves its own tables nor builds them again.
    async with following(directory_settings, redis_url, workspace, other) as service:
        await wait_until(lambda: service.standing_by == {workspace, other})
    assert {shape for (shape,) in ask(database, "SELECT shape FROM directory_builds")} == {NEXT}
    assert ask(database, LISTED) == expected
    database.close()
    with pytest.raises(NoDirectory, match="has no directory"):  # a reader of the version before
        read_rows(directory_settings, workspace, tables.contacts)
