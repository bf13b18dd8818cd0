"""Timelines, conflicts and the holders of identifiers, on both databases."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis
from sqlalchemy import event

from kinfold_schemas.directory import Conflict, TimelineEntry
from kinfold_services.directory.database import Database
from kinfold_services.directory.errors import NoDirectory, WrongQuery
from kinfold_services.directory.reading import (
    Holder,
    NoContact,
    Status,
    Timeline,
    find_holder,
    read_conflicts,
    read_timeline,
)
from kinfold_services.settings import Settings
from tests.support.directories import following, wait_until_current
from tests.support.event_log import append
from tests.support.projecting import fold_log

T = TypeVar("T")

MINUTE = "2026-11-01T08:{:02}:00Z"


def identified(minute: int, **fields: Any) -> dict[str, Any]:
    return {"type": "VisitorIdentified", "at": MINUTE.format(minute), **fields}


LOG = [
    identified(1, email="ada@example.org", visitorId="v-1", metadata={"n": 1}),
    identified(2, externalId="u-1", email="one@example.org"),
    identified(3, externalId="u-1", email="two@example.org"),
    identified(4, externalId="u-1", email="ada@example.org"),  # merges the first contact
    identified(5, externalId="u-2", email="ada@example.org"),  # a conflict
    identified(6, externalId="u-3", email="ada@example.org"),  # a conflict
    identified(7, externalId="u-1", email="four@example.org"),  # settles both
    identified(8, externalId="u-2", email="four@example.org"),  # a conflict
    identified(9, externalId="u-1", metadata={"n": 2}),
]


class Reader:
    """Asks a database, each question in a transaction of its own."""

    def __init__(self, database: Database, workspace: str) -> None:
        self._database = database
        self.workspace = workspace

    def ask(self, question: Callable[..., T], *arguments: Any) -> T:
        """The answer to a question about the workspace."""
        with self._database.reading() as connection:
            return question(connection, self.workspace, *arguments)

    def holder(self, by: Any, value: str) -> Holder | None:
        """The contact that has or had an identifier."""
        return self.ask(find_holder, by, value)

    def timeline(self, contact_id: str, limit: int) -> Iterator[Timeline]:
        """The pages of a timeline."""
        cursor: str | None = None
        while True:
            page = self.ask(read_timeline, contact_id, limit, cursor)
            yield page
            if (cursor := page.next_cursor) is None:
                return

    def conflicts(self, status: Status, limit: int) -> list[Conflict]:
        """All conflicts, from pages of this size."""
        found: list[Conflict] = []
        cursor: str | None = None
        while True:
            page = self.ask(read_conflicts, status, limit, cursor)
            assert len(page.conflicts) <= limit
            found += page.conflicts
            if (cursor := page.next_cursor) is None:
                return found


@pytest.fixture
async def reader(redis: Redis, redis_url: str, workspace: str, directory_settings: Settings) -> Any:
    """Give a reader of a directory of LOG."""
    await append(redis, workspace, LOG)
    await fold_log(redis, redis_url, workspace)
    async with following(directory_settings, redis_url, workspace):
        await wait_until_current(redis, directory_settings, workspace)
    with closing(Database(directory_settings, read_only=True)) as database:
        yield Reader(database, workspace)


def test_identifiers_are_found_whether_they_are_held_or_were_held(reader: Reader) -> None:
    """In every spelling that the contract takes for the same. The newest holder counts."""
    ada = reader.holder("external_id", "u-1")
    assert ada is not None
    contact_id = ada.contact_id

    assert ada == reader.holder("contact_id", f" {contact_id} ") == reader.holder("email", "FOUR@example.org")
    assert reader.holder("visitor_id", "v-1") == Holder(contact_id)
    assert reader.holder("email", "One@Example.org") == Holder(contact_id, "2026-11-01T08:03:00.000Z")
    assert reader.holder("email", "ada@example.org") == Holder(contact_id, "2026-11-01T08:07:00.000Z")
    (merged,) = {entry.contact_id for page in reader.timeline(contact_id, 100) for entry in page.timeline} - {contact_id}
    assert reader.holder("contact_id", merged) == Holder(contact_id, "2026-11-01T08:04:00.000Z")


def test_unknown_identifiers_have_no_holder(reader: Reader) -> None:
    """Also text that a database refuses."""
    for value in ("unknown", "", "\0", "\ud800", "' OR 1=1 --", "x" * 10_000):
        for by in ("contact_id", "email", "external_id", "visitor_id"):
            assert reader.holder(by, value) is None
        with pytest.raises(NoContact):
            reader.ask(read_timeline, value, 10)


def test_pages_of_a_timeline_are_the_whole_of_it(reader: Reader) -> None:
    """Newest first, with the changes of the merged contact."""
    holder = reader.holder("external_id", "u-1")
    assert holder is not None

    (whole,) = reader.timeline(holder.contact_id, 100)

    for limit in (1, 2, 3):
        pages = list(reader.timeline(holder.contact_id, limit))
        assert [entry for page in pages for entry in page.timeline] == whole.timeline
        assert all(len(page.timeline) == limit for page in pages[:-1])
    entries: list[TimelineEntry] = whole.timeline
    assert [entry.type for entry in entries if entry.type != "ContactUpdated"] == [
        "ContactsMerged",
        "ContactCreated",
        "VisitorLinked",
        "ContactCreated",
    ]
    assert [entry.at for entry in entries] == sorted([entry.at for entry in entries], reverse=True)
    assert entries[0].details["changed"] == [{"field": "metadata.n", "before": 1, "after": 2}]
    assert whole.complete_since is None


def test_conflicts_are_open_until_they_are_settled(reader: Reader) -> None:
    """On pages of any size."""
    (conflict,) = reader.conflicts("open", 100)
    every = reader.conflicts("all", 100)

    assert (conflict.email, conflict.at, conflict.settled_at) == ("four@example.org", "2026-11-01T08:08:00.000Z", None)
    assert [each.at[11:16] for each in every] == ["08:08", "08:06", "08:05"]
    assert [each.settled_at for each in every] == [None, "2026-11-01T08:07:00.000Z", "2026-11-01T08:07:00.000Z"]
    assert reader.conflicts("all", 1) == reader.conflicts("all", 2) == every


def test_wrong_cursor_or_limit_is_refused(reader: Reader) -> None:
    """So is a cursor of the other list."""
    holder = reader.holder("external_id", "u-1")
    assert holder is not None
    of_conflicts = reader.ask(read_conflicts, "all", 1).next_cursor
    of_timeline = reader.ask(read_timeline, holder.contact_id, 1).next_cursor

    nonsense = ("", "x", "WyJ0aW1lbGluZSJd", "é", "W10", "x" * 1000)
    for wrong in (*nonsense, of_conflicts):
        with pytest.raises(WrongQuery, match="cursor: expected the nextCursor of a page of the same list"):
            reader.ask(read_timeline, holder.contact_id, 1, wrong)
    for wrong in (*nonsense, of_timeline):
        with pytest.raises(WrongQuery, match="cursor: expected"):
            reader.ask(read_conflicts, "all", 1, wrong)
    for limit in (0, 1001):
        with pytest.raises(WrongQuery, match=f"limit: expected 1 to 1000, got {limit}"):
            reader.ask(read_conflicts, "all", limit)


def test_another_workspace_has_nothing(reader: Reader) -> None:
    """Neither contacts nor conflicts."""
    reader.workspace = "another"

    for question, arguments in (
        (find_holder, ("external_id", "u-1")),
        (read_timeline, ("ct_1", 1)),
        (read_conflicts, ("all", 1)),
    ):
        with pytest.raises(NoDirectory):
            reader.ask(question, *arguments)


def test_timeline_reads_no_more_than_a_page_of_each_contact(reader: Reader) -> None:
    """Each query is in the order of an index, so that a contact with many changes costs no more."""
    holder = reader.holder("external_id", "u-1")
    assert holder is not None
    plans: list[str] = []

    def watch(connection: sa.Connection, workspace: str) -> None:
        if connection.dialect.name == "postgresql":
            return  # it may prefer a scan of so few rows
        statements: list[tuple[str, Any]] = []

        def note(*given: Any) -> None:
            statements.append((given[2], given[3]))

        event.listen(connection, "before_cursor_execute", note)
        read_timeline(connection, workspace, holder.contact_id, 2)
        for statement, parameters in tuple(statements):  # explaining adds to them
            if "timeline" in statement.split("FROM")[1].split()[0]:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                plans.extend(str(row[3]) for row in plan)

    reader.ask(watch)
    assert [plan for plan in plans if "TEMP B-TREE" in plan or "SCAN" in plan] == []
