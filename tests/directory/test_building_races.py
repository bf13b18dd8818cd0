"""A directory that builds itself again, stopped at one step while something else happens."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.connections import connect
from kinfold_services.directory import building, service, shapes, snapshot_build, tables
from kinfold_services.directory.building import begin_build, give_up, make_current, open_builds
from kinfold_services.directory.builds import current_build
from kinfold_services.directory.database import Database
from kinfold_services.directory.follower import Follower
from kinfold_services.directory.service import DirectoryService
from kinfold_services.directory.snapshot_build import SnapshotBuild
from kinfold_services.directory.store import Overtaken
from kinfold_services.directory.transactions import Transactions
from kinfold_services.settings import Settings
from kinfold_services.state.scans import scan_tombstones
from tests.support.directories import following, life, must_equal_contacts, read_rows, truncate_feed, wait_until_current
from tests.support.event_log import append
from tests.support.projecting import fold_log

NOW = "2026-11-28T00:00:00.000Z"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A directory in SQLite."""
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
async def write(directory_settings: Settings) -> AsyncIterator[Transactions]:
    """Run transactions on a database with the tables, of each kind."""
    write = Transactions(Database(directory_settings), at_once=2)
    await write(shapes.create_tables)
    yield write
    write.close()


async def fold(redis: Redis, url: str, workspace: str, events: list[dict[str, Any]], start: int) -> None:
    """Append events, and fold them."""
    await append(redis, workspace, events, start=start)
    await fold_log(redis, url, workspace)


async def follow_to_the_end(redis: Redis, url: str, workspace: str, settings: Settings) -> None:
    async with following(settings, url, workspace):
        await wait_until_current(redis, settings, workspace)


def identified(external_id: str, **more: str) -> dict[str, Any]:
    return {"type": "VisitorIdentified", "externalId": external_id, **more}


# --- what goes on in the log ----------------------------------------------------------------------------------------------


async def test_conflict_stays_open_when_its_holder_is_merged_during_the_build(
    redis: Redis, redis_url: str, workspace: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merge comes after the snapshot's contacts, and before its merged contacts are read."""
    address = {"email": "a@example.org"}
    people = [identified("u-a", **address), identified("u-k"), identified("u-b"), identified("u-b", **address)]
    await fold(redis, redis_url, workspace, people, 0)
    await follow_to_the_end(redis, redis_url, workspace, settings)
    ids = {row["external_id"]: row["id"] for row in read_rows(settings, workspace, tables.contacts)}
    await fold(redis, redis_url, workspace, [identified("u-c", name=f"C {number}") for number in range(5)], len(people))
    await truncate_feed(redis, workspace, 2)
    merge = {"type": "IdentityCorrected", "by": "Grace", "contactId": ids["u-k"], "mergeContactId": ids["u-a"]}

    async def late_scan(client: Any, name: str) -> AsyncGenerator[dict[str, str]]:
        await fold(redis, redis_url, workspace, [merge], 100)
        async for found in scan_tombstones(client, name):
            yield found

    monkeypatch.setattr(snapshot_build, "scan_tombstones", late_scan)
    await follow_to_the_end(redis, redis_url, workspace, settings)

    (conflict,) = read_rows(settings, workspace, tables.conflicts)
    assert (conflict["contact_id"], conflict["held_by"]) == (ids["u-b"], ids["u-k"])
    assert conflict["settled_at"] is None
    (merged,) = (row for row in read_rows(settings, workspace, tables.identifiers) if row["kind"] == "contact_id")
    assert (merged["value"], merged["contact_id"], merged["cause"] != snapshot_build.CAUSE) == (ids["u-a"], ids["u-k"], True)
    assert await must_equal_contacts(redis, settings, workspace) == len(ids)


async def test_build_ends_when_a_merge_is_turned_round_while_merged_contacts_are_read(
    redis: Redis, redis_url: str, workspace: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay did it: so one page has A merged into B, and another one B into A."""
    await fold(redis, redis_url, workspace, life(0, 100), 0)
    await truncate_feed(redis, workspace, 2)

    async def scan(*_: Any) -> AsyncGenerator[dict[str, str]]:
        yield {"ct_a": "ct_b"}
        yield {"ct_b": "ct_a"}

    monkeypatch.setattr(snapshot_build, "scan_tombstones", scan)
    await follow_to_the_end(redis, redis_url, workspace, settings)

    assert await must_equal_contacts(redis, settings, workspace) > 0


async def test_timeline_is_kept_when_the_feed_was_trimmed_within_a_millisecond(
    redis: Redis, redis_url: str, workspace: str, settings: Settings
) -> None:
    """The changes of a batch have one time, and so have all until a clock that was set back has caught up."""
    await fold(redis, redis_url, workspace, life(0, 100), 0)
    feed = key(workspace, "changes")
    entries: Any = await redis.xrange(feed)
    await redis.delete(feed)
    for number, (_, fields) in enumerate(entries):
        await redis.xadd(feed, fields, id=f"1900000000000-{number}")
    await follow_to_the_end(redis, redis_url, workspace, settings)
    before = read_rows(settings, workspace, tables.timeline)
    await fold(redis, redis_url, workspace, life(100, 100), 100)
    await truncate_feed(redis, workspace, 20)
    await follow_to_the_end(redis, redis_url, workspace, settings)

    after = read_rows(settings, workspace, tables.timeline)
    assert before
    ((first, _),) = cast("Any", await redis.xrange(feed, count=1))
    assert first.startswith(b"1900000000000-")
    assert after == before


async def test_build_goes_on_after_redis_was_away_for_long(
    redis: Redis, redis_url: str, workspace: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory does not take its own build for abandoned."""
    monkeypatch.setattr(service, "_SILENT_S", 0.0)
    monkeypatch.setattr(service, "_LOOK_AGAIN_S", 0.05)
    looked = 0
    look, extent = DirectoryService._give_up_abandoned, Follower._extent

    async def counted_look(directory: DirectoryService, *arguments: Any) -> None:
        nonlocal looked
        await look(directory, *arguments)
        looked += 1

    async def extent_when_redis_is_there(follower: Follower) -> tuple[str, int]:
        if looked < 5:
            raise ConnectionError("Redis is away")
        return await extent(follower)

    monkeypatch.setattr(DirectoryService, "_give_up_abandoned", counted_look)
    monkeypatch.setattr(Follower, "_extent", extent_when_redis_is_there)
    await fold(redis, redis_url, workspace, life(0, 100), 0)
    await follow_to_the_end(redis, redis_url, workspace, settings)

    database = Database(settings)
    with database.reading() as connection:
        assert current_build(connection, workspace).id == 1
    database.close()


async def test_looking_for_abandoned_builds_takes_one_transaction(
    redis_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not one for each workspace, every second: others wait for the only one that may write."""
    directory = DirectoryService(settings, redis_url)
    await directory._create_tables()
    call, transactions = Transactions.__call__, 0

    async def counted(self: Transactions, work: Any) -> Any:
        nonlocal transactions
        transactions += 1
        return await call(self, work)

    monkeypatch.setattr(Transactions, "__call__", counted)
    for number in range(20):
        directory._followers[f"w{number}"] = Follower(directory._client, f"w{number}", directory._write, set())
    await directory._give_up_abandoned({})
    found = transactions
    directory.stop()
    await directory.follow_until_stopped()

    assert found == 1


# --- what other directories do --------------------------------------------------------------------------------------------


async def test_build_that_became_current_is_not_given_up(workspace: str, write: Transactions) -> None:
    """Another directory took it for abandoned just before."""
    build = await write(lambda connection: begin_build(connection, workspace, "1-0", NOW))
    await write(lambda connection: make_current(connection, workspace, build.id, None, NOW))

    await write(lambda connection: give_up(connection, build.id, NOW))

    assert [each.state for each in await write(lambda connection: open_builds(connection, workspace))] == ["current"]


async def test_build_is_not_kept_when_its_source_is_replaced_while_it_is_copied(
    redis: Redis, redis_url: str, workspace: str, write: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of the build before are removed, so a part of the timeline would be missing."""
    copy = SnapshotBuild._copy
    async with followers(redis, redis_url, workspace, write) as (faster, slower):

        async def late_copy(build: SnapshotBuild, source: Any) -> None:
            monkeypatch.setattr(SnapshotBuild, "_copy", copy)
            await faster._finish(await faster._build())
            (old,) = await write(building.old_builds)
            while not await write(lambda connection: building.remove_some(connection, old)):
                pass
            await build._copy(source)

        monkeypatch.setattr(SnapshotBuild, "_copy", late_copy)
        with pytest.raises(Overtaken):
            await slower._build()


async def test_build_replaces_only_the_one_whose_timeline_it_has(
    redis: Redis, redis_url: str, workspace: str, write: Transactions
) -> None:
    """The timeline of a faster directory's build has changes that are neither in the feed any more nor in this build."""
    async with followers(redis, redis_url, workspace, write) as (faster, slower):
        (first,) = await write(lambda connection: open_builds(connection, workspace))
        early = await faster._build()
        await fold(redis, redis_url, workspace, life(300, 50), 300)
        await faster._apply(early.id, early.position, (await faster._page(early.position)).entries)
        await fold(redis, redis_url, workspace, life(350, 50), 350)
        late = await slower._build()
        await truncate_feed(redis, workspace, 2)
        await write(lambda connection: make_current(connection, workspace, early.id, first.id, NOW))

        with pytest.raises(Overtaken):
            await slower._finish(late)

        found = await write(lambda connection: open_builds(connection, workspace))
    assert [(each.id, each.state) for each in found] == [(early.id, "current")]


@asynccontextmanager
async def followers(redis: Redis, url: str, workspace: str, write: Transactions) -> AsyncGenerator[tuple[Follower, Follower]]:
    """Two followers of a workspace whose current build has missed changes."""
    await fold(redis, url, workspace, life(0, 200), 0)
    async with connect(url) as client:
        await Follower(client, workspace, write, set())._open()
        await fold(redis, url, workspace, life(200, 100), 200)
        await truncate_feed(redis, workspace, 10)
        yield Follower(client, workspace, write, set()), Follower(client, workspace, write, set())
