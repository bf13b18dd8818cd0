"""Hostile questions to the directory, on both databases: never SQL, never another workspace's rows, never an internal error."""

import os
from collections.abc import Iterator
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from kinfold_schemas.filters import Field, WrongFilter
from kinfold_services.directory import tables
from kinfold_services.directory.database import Database
from kinfold_services.directory.errors import WrongQuery
from kinfold_services.directory.query import Query
from kinfold_services.directory.search import count, count_by, search
from kinfold_services.directory.sorting import parse_sort
from tests.support.directory import insert_contacts
from tests.support.injections import MARK, Hostile
from tests.support.people import NOW_MS, person

CASES: Final = int(os.environ.get("KINFOLD_INJECTION_CASES", "600"))
"""`make injections` asks 100,000 on both databases together."""
SECRET: Final = "another-workspaces"  # noqa: S105  not a password
PEOPLE: Final = 12


@pytest.fixture(name="filled")
def _filled(database: Database) -> Database:
    """A database in which two workspaces have contacts; those of `others` are recognised by SECRET."""
    with database.writing() as connection:
        for workspace, name in (("others", SECRET), ("ours", "Ada")):
            metadata = [{"plan": "pro", "mrr": number, "note": f"{name}{number}"} for number in range(PEOPLE)]
            people = [person(number, workspace, name=name, metadata=each) for number, each in enumerate(metadata)]
            insert_contacts(connection, workspace, people)
    return database


def test_hostile_text_is_never_sql_and_shows_nothing_of_others(filled: Database):
    before = everything(filled)
    statements = spied(filled)
    with filled.reading() as connection:
        page = search(connection, "ours", Query(sort=parse_sort("metadata.note"), limit=1), NOW_MS)
    assert page.next_cursor is not None
    hostile = Hostile(14, page.next_cursor)
    asked = 0
    for number in range(CASES // 2):
        case, make = hostile.question()
        statements.clear()
        try:
            asked += ask(filled, make(), hostile.number(4))
        except (WrongFilter, WrongQuery):
            pass
        except Exception as error:
            raise AssertionError(f"case {number}, {case}") from error
        assert not [each for each in statements if MARK in each.lower()], f"case {number}, {case}"
    assert asked > CASES // 5, "too few reached the database"
    assert everything(filled) == before


def ask(database: Database, query: Query, what: int) -> int:
    """Ask one of three questions. No answer knows more than our contacts."""
    with database.reading() as connection:
        if what == 0:
            assert count(connection, "ours", query, NOW_MS).count <= PEOPLE
        elif what == 1:
            counts = count_by(connection, "ours", query.sort.field, query, 5, NOW_MS)
            assert SECRET not in repr(counts)
            assert sum(times for _, times in counts.values) + counts.other + counts.missing <= PEOPLE
        elif what == 2:
            counts = count_by(connection, "ours", Field("note", in_metadata=True), query, 5, NOW_MS)
            assert SECRET not in repr(counts)
        else:
            page = search(connection, "ours", query, NOW_MS)
            assert len(page.records) <= PEOPLE
            assert SECRET.encode() not in b"".join(page.records)
            assert SECRET not in str(page.next_cursor)
    return 1


def spied(database: Database) -> list[str]:
    """A list to which every statement is added before it runs."""
    statements: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def see(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        statements.append(statement)

    return statements


def everything(database: Database) -> list[list[tuple[Any, ...]]]:
    """All rows of all tables."""

    def rows(connection: sa.Connection) -> Iterator[list[tuple[Any, ...]]]:
        for table in tables.schema.sorted_tables:
            yield sorted((tuple(row) for row in connection.execute(sa.select(table))), key=repr)

    with database.reading() as connection:
        return list(rows(connection))
