"""The directory builds itself again when the feed does not continue after its position, beside what readers see."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis

from kinfold_schemas.keys import STATE, PublicName, key
from kinfold_services.connections import connect
from kinfold_services.directory import shapes, tables
from kinfold_services.directory.building import open_builds
from kinfold_services.directory.builds import current_build
from kinfold_services.directory.database import Database
from kinfold_services.directory.follower import Follower
from kinfold_services.directory.store import Overtaken
from kinfold_services.directory.transactions import Transactions
from kinfold_services.settings import Settings
from tests.support.directories import (
    following,
    life,
    links_must_equal_state,
    merges_must_equal_state,
    must_equal_contacts,
    read_rows,
    timeline_must_equal_feed,
    truncate_feed,
    wait_until_current,
)
from tests.support.erased_people import publish
from tests.support.event_log import append, entry_id
from tests.support.projecting import fold_log, newest_entry
from tests.support.replaying import kinfold, replay
from tests.support.waiting import wait_until


async def live(redis: Redis, url: str, workspace: str, first: int, count: int) -> None:
    """Append a part of the life of a population, and fold it."""
    await append(redis, workspace, life(first, count), start=first)
    await fold_log(redis, url, workspace)


async def follow_to_the_end(redis: Redis, url: str, workspace: str, settings: Settings) -> None:
    async with following(settings, url, workspace):
        await wait_until_current(redis, settings, workspace)


async def must_equal_state(redis: Redis, settings: Settings, workspace: str) -> None:
    assert await must_equal_contacts(redis, settings, workspace) > 0
    assert await links_must_equal_state(redis, settings, workspace) > 0
    assert await merges_must_equal_state(redis, settings, workspace) > 0


async def test_a_directory_from_a_truncated_feed_equals_the_state(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    """The timeline is complete from the snapshot on."""
    await live(redis, redis_url, workspace, 0, 1500)
    await truncate_feed(redis, workspace, 10)
    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
        await must_equal_state(redis, directory_settings, workspace)
        position = (await newest_entry(redis, workspace, "changes")).decode()
        await live(redis, redis_url, workspace, 1500, 300)
        await wait_until_current(redis, directory_settings, workspace)
    await must_equal_state(redis, directory_settings, workspace)
    assert await timeline_must_equal_feed(redis, directory_settings, workspace, after=position) is not None


async def test_link_that_a_replay_took_back_leaves_the_directory(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    """Even where it was the contact's only one, so that the feed names no visitor."""
    await publish(redis, workspace, {"type": "VisitorIdentified", "externalId": "ben"})
    await publish(redis, workspace, {"type": "VisitorIdentified", "externalId": "ben", "visitorId": "v-wrong"})
    wrong = (await newest_entry(redis, workspace, "events")).decode()
    await publish(redis, workspace, {"type": "VisitorIdentified", "externalId": "cleo", "visitorId": "v-cleo"})
    await fold_log(redis, redis_url, workspace)
    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
        await publish(redis, workspace, {"type": "EventsExcluded", "entries": [wrong]})
        await fold_log(redis, redis_url, workspace)
        assert await replay(redis, workspace) != []
        await wait_until_current(redis, directory_settings, workspace)

    assert await links_must_equal_state(redis, directory_settings, workspace) == 1


async def test_a_directory_that_misses_changes_keeps_its_timeline(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    await live(redis, redis_url, workspace, 0, 1000)
    await follow_to_the_end(redis, redis_url, workspace, directory_settings)
    timeline = read_rows(directory_settings, workspace, tables.timeline)
    conflicts = read_rows(directory_settings, workspace, tables.conflicts)
    addresses = [row for row in read_rows(directory_settings, workspace, tables.identifiers) if row["kind"] == "email"]
    assert conflicts
    assert addresses

    await live(redis, redis_url, workspace, 1000, 500)
    await truncate_feed(redis, workspace, 5)
    await follow_to_the_end(redis, redis_url, workspace, directory_settings)

    await must_equal_state(redis, directory_settings, workspace)
    by_position = {(row["position_ms"], row["position_seq"]): row for row in timeline}
    for row in read_rows(directory_settings, workspace, tables.timeline):
        assert row == by_position.pop((row["position_ms"], row["position_seq"]), row)
    assert not by_position
    kept = {row["value_key"] for row in read_rows(directory_settings, workspace, tables.identifiers)}
    assert {row["value_key"] for row in addresses} <= kept
    assert len(read_rows(directory_settings, workspace, tables.conflicts)) == len(conflicts)


async def test_a_failover_that_loses_the_end_of_the_feed_takes_it_back(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    """The changes that are lost leave the timeline, too. The feed was trimmed once, so it does not tell everything."""
    await live(redis, redis_url, workspace, 0, 600)
    await follow_to_the_end(redis, redis_url, workspace, directory_settings)
    await live(redis, redis_url, workspace, 600, 200)
    await truncate_feed(redis, workspace, 400)
    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
        names: list[PublicName] = ["events", "changes"]
        copied = [key(workspace, name) for name in (*names, *STATE)]
        for name in copied:
            if await redis.exists(name):
                await redis.copy(name, f"{name}:copy")
        before = (await newest_entry(redis, workspace, "changes")).decode()
        await live(redis, redis_url, workspace, 800, 200)
        await wait_until_current(redis, directory_settings, workspace)
        lost = len(read_rows(directory_settings, workspace, tables.timeline))

        pipeline = redis.pipeline(transaction=True)
        for name in copied:
            if await redis.exists(f"{name}:copy"):
                pipeline.rename(f"{name}:copy", name)
        await pipeline.execute()
        await live(redis, redis_url, workspace, 1200, 50)
        await wait_until_current(redis, directory_settings, workspace)
    await must_equal_state(redis, directory_settings, workspace)
    found = read_rows(directory_settings, workspace, tables.timeline)
    assert len(found) < lost
    feed = {entry.decode() for entry, _ in await redis.xrange(key(workspace, "changes"), min=before)}  # type: ignore[union-attr]
    behind = {f"{row['position_ms']}-{row['position_seq']}" for row in found if row["position_ms"] > int(before.split("-")[0])}
    assert behind <= feed


async def test_a_replay_that_changes_contacts_changes_the_rows(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings, tmp_path: Path
) -> None:
    """It undoes merges, moves links and removes contacts."""
    await live(redis, redis_url, workspace, 0, 1200)
    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
        excluded = tmp_path / "excluded"
        excluded.write_text("".join(f"{entry_id(number)}\n" for number in range(0, 1200, 3)))
        assert (await kinfold(redis_url, workspace, "replay", "--exclude-events", excluded)).status == 0
        await wait_until_current(redis, directory_settings, workspace)
        await must_equal_state(redis, directory_settings, workspace)
        await live(redis, redis_url, workspace, 1201, 100)  # the replay appended an entry
        await wait_until_current(redis, directory_settings, workspace)
    await must_equal_state(redis, directory_settings, workspace)
    assert await timeline_must_equal_feed(redis, directory_settings, workspace) is None


async def test_two_directories_at_once_write_each_change_once(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    await live(redis, redis_url, workspace, 0, 500)
    async with following(directory_settings, redis_url, workspace), following(directory_settings, redis_url, workspace):
        for first in range(500, 1500, 250):
            await live(redis, redis_url, workspace, first, 250)
        await wait_until_current(redis, directory_settings, workspace)
    await must_equal_state(redis, directory_settings, workspace)
    assert await timeline_must_equal_feed(redis, directory_settings, workspace) is None


async def test_two_directories_that_both_need_a_snapshot_agree(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    await live(redis, redis_url, workspace, 0, 800)
    await truncate_feed(redis, workspace, 10)
    async with following(directory_settings, redis_url, workspace), following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
        await live(redis, redis_url, workspace, 800, 200)
        await wait_until_current(redis, directory_settings, workspace)
    await must_equal_state(redis, directory_settings, workspace)


async def test_slower_directory_does_not_replace_the_build_of_a_faster_one(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    """It may be behind: what readers see must not go back in time."""
    await live(redis, redis_url, workspace, 0, 500)
    await truncate_feed(redis, workspace, 10)
    write = Transactions(Database(directory_settings), at_once=1)
    try:
        await write(shapes.create_tables)
        async with connect(redis_url) as client:
            slower, faster = Follower(client, workspace, write, set()), Follower(client, workspace, write, set())
            late, early = await slower._build(), await faster._build()
            await faster._finish(early)
            with pytest.raises(Overtaken):
                await slower._finish(late)
        found = await write(lambda connection: open_builds(connection, workspace))
    finally:
        write.close()

    assert [(each.id, each.state) for each in found] == [(early.id, "current")]
    await follow_to_the_end(redis, redis_url, workspace, directory_settings)
    await must_equal_state(redis, directory_settings, workspace)


async def test_old_builds_are_removed(redis: Redis, redis_url: str, workspace: str, directory_settings: Settings) -> None:
    """Row by row, and with what the text index holds of them."""
    await live(redis, redis_url, workspace, 0, 700)
    await follow_to_the_end(redis, redis_url, workspace, directory_settings)
    await live(redis, redis_url, workspace, 700, 100)
    await truncate_feed(redis, workspace, 5)
    database = Database(directory_settings, read_only=True)

    def builds_with_rows() -> bool:
        with database.reading() as connection:
            build = current_build(connection, workspace).id
            found = {
                row[0]
                for table in tables.schema.sorted_tables
                if table is not tables.builds
                for row in connection.execute(sa.select(table.c.build).distinct())
            }
            return found == {build}

    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
        await wait_until(builds_with_rows)
    database.close()
    await must_equal_state(redis, directory_settings, workspace)


async def test_readers_see_the_build_before_until_the_new_one_is_there(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    await live(redis, redis_url, workspace, 0, 600)
    await follow_to_the_end(redis, redis_url, workspace, directory_settings)
    await live(redis, redis_url, workspace, 600, 100)
    await truncate_feed(redis, workspace, 5)
    database = Database(directory_settings, read_only=True)
    seen = set[tuple[int, int]]()

    def look() -> None:
        with database.reading() as connection:
            build = current_build(connection, workspace)
            rows = sa.select(sa.func.count()).select_from(tables.contacts)
            count = connection.scalar(rows.where(tables.contacts.c.build == build.id)) or 0
            assert count == build.contacts
            seen.add((build.id, count))

    look()
    async with following(directory_settings, redis_url, workspace):
        waiting = asyncio.create_task(wait_until_current(redis, directory_settings, workspace))
        while not waiting.done():
            look()
            await asyncio.sleep(0)
        await waiting
    look()
    database.close()
    assert len({build for build, _ in seen}) == 2
    assert all(count > 50 for _, count in seen)
