"""Run the directory, and compare its tables with the projector's contacts."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, cast

import sqlalchemy as sa
from redis.asyncio import Redis

from kinfold_projections.directory import index_value
from kinfold_projections.directory_feed import decode_contact
from kinfold_projections.directory_rows import Living, contact_row
from kinfold_schemas.contacts import merged_into
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.directory import tables
from kinfold_services.directory.builds import current_build
from kinfold_services.directory.database import Database
from kinfold_services.directory.errors import DirectoryUnavailable
from kinfold_services.directory.service import DirectoryService
from kinfold_services.settings import Settings
from tests.support.prefork import start_service
from tests.support.projecting import newest_entry, variables
from tests.support.waiting import wait_until

FOLLOW_S = 120.0


@asynccontextmanager
async def following(settings: Settings, url: str, *workspaces: str) -> AsyncGenerator[DirectoryService]:
    """Run the service beside the test, for these workspaces or for all. Raises its error as soon as it fails."""
    serve = frozenset(workspaces) if workspaces else None
    service = DirectoryService(settings.model_copy(update={"serve": serve}), url)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(service.follow_until_stopped())
            try:
                yield service
            finally:
                service.stop()
    except BaseExceptionGroup as error:
        raise error.exceptions[0] from None


class DirectoryProcess:
    """A `kinfold directory` process that can be killed."""

    def __init__(self, url: str, log: Path, settings: Mapping[str, object]) -> None:
        self.process = start_service(["directory", "--redis-url", url], variables(settings), log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL; does nothing if the process has ended."""
        self.process.kill()
        self.process.wait()


async def truncate_feed(redis: Redis, workspace: str, kept: int) -> None:
    """Leave only the last entries of the feed."""
    await redis.xtrim(key(workspace, "changes"), maxlen=kept, approximate=False)


async def wait_until_current(redis: Redis, settings: Settings, workspace: str, timeout_s: float = FOLLOW_S) -> None:
    """Wait until the workspace's current build has applied the last entry of the feed."""
    feed = key(workspace, "changes")
    last = (await newest_entry(redis, workspace, "changes")).decode() if await redis.xlen(feed) else "0-0"
    database = Database(settings, read_only=True)

    def position() -> bool:
        try:
            with database.reading() as connection:
                return position_key(current_build(connection, workspace).position) >= position_key(last)
        except DirectoryUnavailable:  # or its file is being created
            return False

    try:
        await wait_until(position, timeout_s)
    finally:
        database.close()


async def must_equal_contacts(redis: Redis, settings: Settings, workspace: str) -> int:
    """Assert that the current build's rows are the projector's contacts, column by column; returns how many there are.

    The counts, the metadata rows and the text index are compared with what these contacts give.
    """
    stored = await cast("Awaitable[dict[bytes, bytes]]", redis.hgetall(key(workspace, "contacts")))
    living = {each.decode(): data for each, data in stored.items() if merged_into(data) is None}
    database = Database(settings, read_only=True, read_timeout_s=FOLLOW_S)
    try:
        with database.reading() as connection:
            build = current_build(connection, workspace)
            assert build.contacts == len(living)
            must_equal_rows(connection, build.id, living)
    finally:
        database.close()
    return len(living)


def must_equal_rows(connection: sa.Connection, build: int, living: Mapping[str, bytes]) -> None:
    """Assert that a build's rows are these contacts, given as JSON by id: columns, metadata, counts and texts."""
    rows = rows_of(connection, tables.contacts, build)
    numbers = {row["id"]: row.pop("n") for row in rows}
    expected = {each: contact_row(Living(decode_contact(data), data.decode())) for each, data in living.items()}
    found = {row["id"]: row for row in rows}
    assert found.keys() == expected.keys()
    for contact_id, row in expected.items():
        assert found[contact_id] == row
    assert len(rows) == len(living)

    values = [(each, name, *index_value(value)) for each, row in expected.items() for name, value in row["metadata"].items()]
    columns = ("contact_id", "key", "kind", "number", "text")
    assert sorted(values) == sorted(tuple(row[name] for name in columns) for row in rows_of(connection, tables.metadata, build))
    counted = {tuple(row[name] for name in columns[1:]): row["contacts"] for row in rows_of(connection, tables.counts, build)}
    assert counted == Counter(value[1:] for value in values)
    if connection.dialect.name == "sqlite":
        _must_equal_texts(connection, {numbers[each]: row["search_text"] for each, row in expected.items()})


def _must_equal_texts(connection: sa.Connection, texts: dict[int, str]) -> None:
    """Assert that the index finds each contact by its whole text, and has no other rows."""
    for n, text in texts.items():
        query = sa.select(tables.search.c.rowid).where(
            tables.search.c.search_text.op("MATCH")('"' + text.replace('"', '""') + '"')
        )
        assert n in set(connection.scalars(query))
    # The number of texts that have a trigram of every contact's text: its id begins with ct_.
    everyone = sa.select(sa.func.count()).select_from(tables.search).where(tables.search.c.search_text.op("MATCH")('"ct_"'))
    assert connection.scalar(everyone) == connection.scalar(sa.select(sa.func.count()).select_from(tables.contacts))


async def timeline_must_equal_feed(redis: Redis, settings: Settings, workspace: str, after: str = "0-0") -> str | None:
    """Assert that the timeline after a position has each change of the feed once, in order; returns `timeline_since`."""
    entries = cast("list[Any]", await redis.xrange(key(workspace, "changes"), min=f"({after}"))
    changes = [(entry.decode(), json.loads(fields[b"change"])) for entry, fields in entries if b"change" in fields]
    expected = [(entry, change["contactId"], change["type"]) for entry, change in changes if change["type"] != "ContactSeen"]
    database = Database(settings, read_only=True, read_timeout_s=FOLLOW_S)
    try:
        with database.reading() as connection:
            build = current_build(connection, workspace)
            columns = tables.timeline.c
            query = sa.select(columns.position_ms, columns.position_seq, columns.contact_id, columns.type)
            query = query.where(columns.build == build.id).order_by(columns.position_ms, columns.position_seq)
            found = [(f"{ms}-{seq}", contact_id, kind) for ms, seq, contact_id, kind in connection.execute(query)]
    finally:
        database.close()
    assert [each for each in found if position_key(each[0]) > position_key(after)] == expected
    return build.timeline_since


def rows_of(connection: sa.Connection, table: sa.Table, build: int) -> list[dict[str, Any]]:
    """The rows of a build, without the build."""
    query = sa.select(*[column for column in table.columns if column.name != "build"]).where(table.c.build == build)
    return [dict(row) for row in connection.execute(query).mappings()]


def life(first: int, count: int) -> list[dict[str, Any]]:
    """Events of a population that grows, moves between devices, and is merged."""
    return [_event(number) for number in range(first, first + count)]


def _event(number: int) -> dict[str, Any]:
    dice = random.Random(number)  # noqa: S311  the same events every time
    person, visitor = dice.randrange(20 + number // 20), f"v-{dice.randrange(60 + number // 10)}"
    address = {"email": f"Person.{person}@example.org"}
    plan = {"plan": dice.choice(["pro", "free", None]), "mrr": dice.choice([0, 9, 99.5, True]), "said": number}
    return dice.choice(
        [
            {"type": "VisitorIdentified", "visitorId": visitor, **address, "metadata": plan},
            {"type": "VisitorIdentified", "visitorId": visitor, "externalId": f"u-{person}", "name": f"Name {number}"},
            {"type": "VisitorIdentified", "externalId": f"u-{person}", **address},
            {"type": "VisitorIdentified", "externalId": f"u-{person}", "email": f"other.{number % 50}@example.org"},
            {"type": "MetadataSet", "visitorId": visitor, "metadata": plan, "unset": ["plan"]},
            {"type": "MetadataSet", **address, "metadata": {"said": number}},
            {"type": "VisitorSeen", "visitorId": visitor},
        ]
    )


async def links_must_equal_state(redis: Redis, settings: Settings, workspace: str) -> int:
    """Assert that each visitor's last link is that of the state, and that its links are in order; returns how many visitors."""
    stored = await cast("Awaitable[dict[bytes, bytes]]", redis.hgetall(key(workspace, "visitors")))
    expected = {each.decode(): links for each, data in stored.items() if (links := json.loads(data).get("links"))}
    found = defaultdict[str, list[dict[str, Any]]](list)
    for row in read_rows(settings, workspace, tables.visitors):
        found[row["visitor_id"]].append(row)
    assert found.keys() == expected.keys()
    for visitor_id, rows in found.items():
        rows.sort(key=lambda row: row["since"])
        last = expected[visitor_id][-1]
        assert {name: rows[-1][name] for name in ("contact_id", "since", "until")} == {
            "contact_id": last["contactId"],
            "since": last["since"],
            "until": None,
        }
        assert [row["until"] for row in rows] == [*(row["since"] for row in rows[1:]), None]
    return len(found)


async def merges_must_equal_state(redis: Redis, settings: Settings, workspace: str) -> int:
    """Assert that each merged contact leads to its living contact; returns how many there are."""
    stored = await cast("Awaitable[dict[bytes, bytes]]", redis.hgetall(key(workspace, "contacts")))
    merged = {each.decode(): into for each, data in stored.items() if (into := merged_into(data)) is not None}

    def living(contact_id: str) -> str:
        return living(merged[contact_id]) if contact_id in merged else contact_id

    # If a replay no longer creates a contact that was merged before, no change says so.
    rows = [row for row in read_rows(settings, workspace, tables.identifiers) if row["held_by"].encode() in stored]
    found = {row["value"]: row["contact_id"] for row in rows if row["kind"] == "contact_id"}
    assert found == {each: living(each) for each in merged}
    assert all(row["contact_id"] == living(row["held_by"]) for row in rows)
    return len(merged)


def read_rows(settings: Settings, workspace: str, table: sa.Table) -> list[dict[str, Any]]:
    """The rows of the workspace's current build."""
    database = Database(settings, read_only=True, read_timeout_s=FOLLOW_S)
    try:
        with database.reading() as connection:
            return rows_of(connection, table, current_build(connection, workspace).id)
    finally:
        database.close()
