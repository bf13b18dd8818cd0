"""The directory forgets an erased person, and its file does as well (contract section 10)."""

from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from kinfold_services.directory import tables
from kinfold_services.settings import Settings
from tests.support.directories import following, must_equal_contacts, read_rows, truncate_feed, wait_until_current
from tests.support.erased_people import ADA, ADAS_TEXTS, adas_events, publish
from tests.support.erasures import erase
from tests.support.event_log import append, history
from tests.support.projecting import fold_log, newest_entry
from tests.support.replaying import replay
from tests.support.waiting import wait_until

TABLES = (tables.contacts, tables.metadata, tables.visitors, tables.identifiers, tables.timeline, tables.conflicts)


def _found(settings: Settings, workspace: str) -> list[str]:
    """The texts that the rows hold."""
    said = repr([read_rows(settings, workspace, table) for table in TABLES])
    return [text for text in ADAS_TEXTS if text in said]


def _in_files(data_dir: Path) -> list[str]:
    """The texts that the files hold."""
    data = b"".join(path.read_bytes() for path in data_dir.rglob("directory.db*"))
    return [text for text in ADAS_TEXTS if text.encode() in data]


def _in_postgresql(url: str) -> list[str]:
    """The texts that a database's files hold after VACUUM FULL. A plain VACUUM leaves bytes of deleted rows in the pages."""
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection:
        connection.execute("VACUUM FULL")
        connection.execute("CHECKPOINT")
        (row,) = connection.execute(
            "SELECT current_setting('data_directory'), oid FROM pg_database WHERE datname = current_database()"
        )
        directory, oid = row
    data = b"".join(path.read_bytes() for path in (Path(directory) / "base" / str(oid)).iterdir())
    return [text for text in ADAS_TEXTS if text.encode() in data]


async def test_directory_and_its_file_forget_the_person(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    await append(redis, workspace, history()[:200])
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
        assert {"ada-1815", "ada@example.org", "Ada Lovelace"} <= set(_found(directory_settings, workspace))

        await erase(redis, workspace, ADA)

        await wait_until_current(redis, directory_settings, workspace)
        if directory_settings.directory_url is None:
            await wait_until(lambda: not _in_files(directory_settings.data_dir))
    if directory_settings.directory_url is not None:
        assert _in_postgresql(directory_settings.directory_url) == []
    assert _found(directory_settings, workspace) == []
    await must_equal_contacts(redis, directory_settings, workspace)


def _ben_with_adas_address() -> list[dict[str, Any]]:
    """A wrong merge: Ben's backend names her address."""
    ada = {"externalId": "ada-1815", "email": "ada@example.org", "visitorId": "adas-laptop", "name": "Ada Lovelace"}
    return [
        {"type": "VisitorIdentified", "email": "ada@example.org", "visitorId": "adas-laptop", "name": "Ada Lovelace"},
        {"type": "VisitorIdentified", "externalId": "ben", "email": "ada@example.org"},
        {"type": "MetadataSet", "externalId": "ben", "metadata": {"title": "first programmer"}},
        {"type": "MetadataSet", "externalId": "ben", "name": "Ben", "metadata": {"title": "clerk"}},
        {"type": "VisitorIdentified", **ada, "metadata": {"title": "first programmer"}},
    ]


def _ben_first() -> list[dict[str, Any]]:
    """The same, where the merged contact is hers."""
    ben = {"type": "VisitorIdentified", "externalId": "ben", "at": "2020-01-01T00:00:00Z"}
    wrong = _ben_with_adas_address()
    return [wrong[0], ben, *wrong[1:]]


def _ben_with_adas_laptop() -> list[dict[str, Any]]:
    """Nothing but a device was linked to the wrong person."""
    return [
        {"type": "VisitorIdentified", "externalId": "ben", "name": "Ben"},
        {"type": "VisitorIdentified", "externalId": "ben", "visitorId": "adas-laptop"},
        {"type": "MetadataSet", "externalId": "ben", "metadata": {"plan": "pro"}},
        {"type": "VisitorIdentified", "externalId": "ada-1815", "visitorId": "adas-laptop", "name": "Ada Lovelace"},
    ]


@pytest.mark.parametrize(
    ("events", "wrong", "away_since"),
    [
        (_ben_with_adas_address(), 1, "replay"),
        (_ben_first(), 2, "erasure"),
        (_ben_with_adas_laptop(), 1, "never"),
        (_ben_with_adas_laptop(), 1, "replay, and the feed was cut"),
        (_ben_with_adas_laptop(), 1, "replay, and she came later"),
    ],
)
async def test_person_leaves_what_the_directory_holds_of_somebody_from_whom_a_replay_separated_them(  # noqa: PLR0917
    redis: Redis,
    redis_url: str,
    workspace: str,
    directory_settings: Settings,
    events: list[dict[str, Any]],
    wrong: int,
    away_since: str,
) -> None:
    """Former identifiers, timeline and conflicts, even if the directory did not exist before, or is built from a snapshot."""
    await publish(redis, workspace, *events[: wrong + 1])
    excluded = (await newest_entry(redis, workspace, "events")).decode()
    await publish(redis, workspace, *events[wrong + 1 : -1])
    await fold_log(redis, redis_url, workspace)

    async def separate() -> None:
        exclusion, is_later = {"type": "EventsExcluded", "entries": [excluded]}, "later" in away_since
        await publish(redis, workspace, *([exclusion] if is_later else [events[-1], exclusion]))
        await fold_log(redis, redis_url, workspace)
        assert await replay(redis, workspace) != []
        await publish(
            redis, workspace, *events[-1:] * is_later, {"type": "MetadataSet", "externalId": "ben", "metadata": {"plan": "max"}}
        )
        await fold_log(redis, redis_url, workspace)

    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
        if not away_since.startswith("replay"):
            await separate()
            await wait_until_current(redis, directory_settings, workspace)
        if away_since == "never":
            await erase(redis, workspace, ADA)
            await wait_until_current(redis, directory_settings, workspace)
    if away_since.startswith("replay"):
        await separate()
    if away_since != "never":
        await erase(redis, workspace, ADA)
    if away_since in {"erasure", "replay, and the feed was cut"}:
        await cut_feed_behind_others(redis, redis_url, workspace)
    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)

    assert _found(directory_settings, workspace) == []
    if "cut" not in away_since:  # else it was not told
        assert "'max'" in repr(read_rows(directory_settings, workspace, tables.timeline))
    former = {(row["kind"], row["value"]) for row in read_rows(directory_settings, workspace, tables.identifiers)}
    assert ("external_id", "ben") not in former
    await must_equal_contacts(redis, directory_settings, workspace)


async def test_directory_that_was_away_forgets_the_person_in_its_next_build(
    redis: Redis, redis_url: str, workspace: str, directory_settings: Settings
) -> None:
    """It builds again from a snapshot, and takes over its past from the build before."""
    await append(redis, workspace, history()[:200])
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
    await erase(redis, workspace, ADA)
    await cut_feed_behind_others(redis, redis_url, workspace)

    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)

    assert _found(directory_settings, workspace) == []
    await must_equal_contacts(redis, directory_settings, workspace)


async def cut_feed_behind_others(redis: Redis, redis_url: str, workspace: str) -> None:
    """Fold events of others, and truncate the feed. So a directory that was away has to build again from a snapshot."""
    await append(redis, workspace, history()[200:300], start=1000)
    await fold_log(redis, redis_url, workspace)
    await truncate_feed(redis, workspace, 3)
