"""A directory that is killed, and databases that go away. KINFOLD_TEST_KILLS is how often it is killed (default 3)."""

import asyncio
import os
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis

from kinfold_services.directory.builds import current_build
from kinfold_services.directory.database import Database
from kinfold_services.directory.errors import DirectoryUnavailable, NoDirectory
from kinfold_services.settings import Settings
from tests.support.directories import (
    FOLLOW_S,
    DirectoryProcess,
    following,
    life,
    links_must_equal_state,
    merges_must_equal_state,
    must_equal_contacts,
    timeline_must_equal_feed,
    truncate_feed,
    wait_until_current,
)
from tests.support.event_log import append
from tests.support.postgres import PostgresServer
from tests.support.projecting import fold_log, newest_entry, projecting, wait_until_folded
from tests.support.waiting import wait_until

KILLS = int(os.environ.get("KINFOLD_TEST_KILLS", "3"))
PIECE = 15
"""Events that are appended at once."""


class Load:
    """Appends the life of a population, piece by piece."""

    def __init__(self, redis: Redis, workspace: str) -> None:
        self.redis = redis
        self.workspace = workspace
        self.appended = 0
        self.is_over = asyncio.Event()

    async def run(self) -> None:
        while not self.is_over.is_set():
            await append(self.redis, self.workspace, life(self.appended, PIECE), start=self.appended)
            self.appended += PIECE
            await asyncio.sleep(0.05)


@asynccontextmanager
async def load(redis: Redis, url: str, workspace: str) -> AsyncGenerator[Load]:
    """Append events and fold them in the background. At the end, all are folded."""
    load = Load(redis, workspace)
    async with projecting(url, workspace):
        running = asyncio.create_task(load.run())
        try:
            yield load
        finally:
            load.is_over.set()
            await running
        await wait_until_folded(redis, workspace, await newest_entry(redis, workspace, "events"))


def settings_of(settings: Settings, workspace: str) -> dict[str, object]:
    """The environment of a process with these settings."""
    variables: dict[str, object] = {"data_dir": settings.data_dir, "serve": workspace}
    return variables | ({"directory_url": settings.directory_url} if settings.directory_url else {})


@pytest.mark.slow
async def test_every_change_is_there_once_after_kills(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings, tmp_path: Path
) -> None:
    """Each time, the directory is killed a little later after it began to write."""
    dice = random.Random(KILLS)  # noqa: S311  the same kills every time
    database = Database(directory_settings, read_only=True)
    last = ""

    def moved() -> bool:
        nonlocal last
        try:
            with database.reading() as connection:
                position = current_build(connection, workspace).position
        except NoDirectory:
            return False
        was, last = last, position
        return position != was

    async with load(redis, redis_url, workspace):
        for _ in range(KILLS):
            with DirectoryProcess(redis_url, tmp_path / "directory.log", settings_of(directory_settings, workspace)) as process:
                await wait_until(moved, FOLLOW_S)
                await asyncio.sleep(dice.uniform(0, 0.3))
                process.kill()
    database.close()
    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
    assert await must_equal_contacts(redis, directory_settings, workspace) > 0
    assert await links_must_equal_state(redis, directory_settings, workspace) > 0
    assert await merges_must_equal_state(redis, directory_settings, workspace) > 0
    assert await timeline_must_equal_feed(redis, directory_settings, workspace) is None


async def test_a_build_of_a_directory_that_was_killed_is_replaced(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was filling a build from a snapshot, which nobody can continue."""
    await append(redis, workspace, life(0, 600))
    await fold_log(redis, redis_url, workspace)
    await truncate_feed(redis, workspace, 5)
    monkeypatch.setattr("kinfold_services.directory.service._SILENT_S", 0.5)
    with monkeypatch.context() as patch:
        is_stuck = asyncio.Event()

        async def hang(*_: Any) -> None:
            is_stuck.set()
            await asyncio.Event().wait()

        patch.setattr("kinfold_services.directory.snapshot_build.SnapshotBuild._copy_links", hang)
        patch.setattr("kinfold_services.directory.follower.Follower._give_up", hang)
        async with following(directory_settings, redis_url, workspace):
            await asyncio.wait_for(is_stuck.wait(), 120)
    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
    assert await must_equal_contacts(redis, directory_settings, workspace) > 0


async def test_a_database_that_is_away_for_a_while_is_waited_for(  # noqa: PLR0917  fixtures
    redis: Redis, redis_url: str, workspace: str, postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    """PostgreSQL crashes in the middle, and before the directory starts."""
    settings = Settings(data_dir=tmp_path, directory_url=postgres_url)
    postgres.crash()
    try:
        async with load(redis, redis_url, workspace), following(settings, redis_url, workspace):
            postgres.start()
            await wait_until_current(redis, settings, workspace)
            postgres.crash()
            with pytest.raises(DirectoryUnavailable):
                await must_equal_contacts(redis, settings, workspace)
            postgres.start()
            await wait_until_current(redis, settings, workspace)
    finally:
        if not postgres.is_running:
            postgres.start()
    async with following(settings, redis_url, workspace):
        await wait_until_current(redis, settings, workspace)
    assert await must_equal_contacts(redis, settings, workspace) > 0
    assert await timeline_must_equal_feed(redis, settings, workspace) is None


async def test_a_workspace_whose_rows_are_refused_stops_no_other_one(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    """Its changes are applied when the database takes them again."""
    other = f"{workspace[:50]}-other"
    for each in (workspace, other):
        await append(redis, each, life(0, 50))
        await fold_log(redis, redis_url, each)
    database = Database(directory_settings)
    async with following(directory_settings, redis_url, workspace, other):
        for each in (workspace, other):
            await wait_until_current(redis, directory_settings, each)
        with database.reading() as connection:
            build = current_build(connection, workspace).id
        refuse(database, build)
        for each in (workspace, other):
            await append(redis, each, life(50, 50), start=50)
            await fold_log(redis, redis_url, each)
        await wait_until_current(redis, directory_settings, other)
        with database.reading() as connection:
            newest = (await newest_entry(redis, workspace, "changes")).decode()
            assert current_build(connection, workspace).position != newest
        accept(database)
        await wait_until_current(redis, directory_settings, workspace)
    database.close()
    for each in (workspace, other):
        assert await must_equal_contacts(redis, directory_settings, each) > 0


def refuse(database: Database, build: int) -> None:
    """Make the database refuse rows of the timeline of a build."""
    with database.writing() as connection:
        if connection.dialect.name == "sqlite":
            connection.execute(
                sa.text(
                    "CREATE TRIGGER refusal BEFORE INSERT ON directory2_timeline "
                    f"WHEN new.build = {build} BEGIN SELECT RAISE(ABORT, 'refused'); END"
                )
            )
        else:
            connection.execute(
                sa.text(f"ALTER TABLE directory2_timeline ADD CONSTRAINT refusal CHECK (build <> {build}) NOT VALID")
            )


def accept(database: Database) -> None:
    """Take it back."""
    with database.writing() as connection:
        if connection.dialect.name == "sqlite":
            connection.execute(sa.text("DROP TRIGGER refusal"))
        else:
            connection.execute(sa.text("ALTER TABLE directory2_timeline DROP CONSTRAINT refusal"))


async def test_a_new_workspace_is_followed_at_once(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    """As by a projector: within a second; a busy machine may take longer."""
    async with following(directory_settings, redis_url), projecting(redis_url):
        await redis.sadd("kinfold:workspaces", workspace)
        await append(redis, workspace, life(0, 20))
        await wait_until_folded(redis, workspace, await newest_entry(redis, workspace, "events"))
        await wait_until_current(redis, directory_settings, workspace)
    assert await must_equal_contacts(redis, directory_settings, workspace) > 0
