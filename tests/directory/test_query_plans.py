"""How the databases find contacts: by the plans that they make for the statements of a search."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from benchmarks.harness.population import NOW_MS, Population
from kinfold_schemas.filters import Field, parse
from kinfold_services.directory import rare
from kinfold_services.directory import search as searching
from kinfold_services.directory.database import Database
from kinfold_services.directory.metadata_keys import metadata_keys
from kinfold_services.directory.query import Count, Page, Query
from kinfold_services.directory.rare import Most
from kinfold_services.directory.search import count, count_by, search
from kinfold_services.directory.shapes import create_tables
from kinfold_services.directory.sorting import parse_sort
from kinfold_services.directory.tables import contacts
from kinfold_services.settings import Settings
from tests.support.directory import insert_contacts

CONTACTS: Final = 1500
BY_NUMBER: Final = "USING INTEGER PRIMARY KEY"
SORTS: Final = "TEMP B-TREE"


@pytest.fixture(name="filled")
def _filled(directory_settings: Settings) -> Iterator[Database]:
    """A read-only database with a population. PostgreSQL knows its statistics."""
    database = Database(directory_settings)
    with database.writing() as connection:
        create_tables(connection)
        insert_contacts(connection, "ours", Population(CONTACTS).contacts("ours"))
        connection.exec_driver_sql("SELECT 1" if connection.dialect.name == "sqlite" else "ANALYZE")
    database.close()
    reader = Database(directory_settings, read_only=True)
    yield reader
    reader.close()


def plan_of(database: Database, query: Query, ask: Callable[..., Page | Count] = search) -> str:
    """The plan of the last statement of a search or a count, made in its own transaction."""
    statements: list[tuple[str, Any]] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def see(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        statements.append((statement, parameters))

    with database.reading() as connection:
        found = ask(connection, "ours", query, NOW_MS)
        assert found.records if isinstance(found, Page) else found.count
        explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
        statement, parameters = statements[-1]
        return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(explain + statement, parameters))


def test_keys_are_listed_in_few_questions_that_read_an_index(filled: Database):
    """The screen lists them for every letter that somebody types: a question for each key would take too long."""
    statements: list[str] = []

    @event.listens_for(filled.engine, "before_cursor_execute")
    def see(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        statements.append(statement)

    with filled.reading() as connection:
        statements.clear()
        keys = metadata_keys(connection, "ours")
    wanted = sorted({name for contact in Population(CONTACTS).contacts("ours") for name in contact.metadata})
    assert keys.names == wanted
    assert sorted(keys.frequent) == wanted
    assert len(wanted) > len(statements) <= 3


@pytest.mark.parametrize(("limit", "asked"), [(50, 2), (1, 3)])
def test_a_count_by_key_asks_for_the_sum_only_if_there_may_be_other_values(filled: Database, limit: int, asked: int):
    """Each statement takes longer on its way than in the database. The first one is for the build."""
    statements: list[str] = []

    @event.listens_for(filled.engine, "before_cursor_execute")
    def see(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        statements.append(statement)

    with filled.reading() as connection:
        statements.clear()
        counted = count_by(connection, "ours", Field("plan", in_metadata=True), Query(), limit, NOW_MS)
    assert len(statements) == asked
    plans = Counter(contact.metadata.get("plan") for contact in Population(CONTACTS).contacts("ours"))
    missing = plans.pop(None)
    most = plans.most_common(limit)
    assert counted.values == most
    assert (counted.other, counted.missing) == (plans.total() - sum(times for _, times in most), missing)


@pytest.mark.parametrize("directory_settings", ["sqlite"], indirect=True)
def test_contacts_with_a_rare_word_are_taken_by_number_and_sorted(filled: Database):
    plan = plan_of(filled, Query(q="u-00001"))
    assert BY_NUMBER in plan
    assert SORTS in plan


@pytest.mark.parametrize("directory_settings", ["sqlite"], indirect=True)
def test_contacts_with_a_short_word_that_few_have_are_taken_by_number(filled: Database):
    """Names in Chinese have two characters. A walk that tests every contact for them would take seconds."""
    for word in ("ud", "zq"):  # the second one is in contact ids alone
        plan = plan_of(filled, Query(q=word))
        assert "trigrams" in plan, word
        assert BY_NUMBER in plan, word


@pytest.mark.parametrize("directory_settings", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("few", "word"), [(10_000, "ud"), (10_000, "u-00001"), (0, "ud")])
def test_contacts_with_a_word_are_counted_without_reading_them(
    filled: Database, monkeypatch: pytest.MonkeyPatch, few: int, word: str
):
    """Each of them may be on another page of the file. With `few` 0, nobody in the sample has the word."""
    monkeypatch.setattr(searching, "_FEW", few)
    plan = plan_of(filled, Query(q=word), count)
    assert "COVERING INDEX directory2_contacts_build" in plan
    assert BY_NUMBER not in plan


@pytest.mark.parametrize("directory_settings", ["sqlite"], indirect=True)
def test_contacts_with_a_word_are_counted_in_the_sample_without_reading_them(filled: Database, monkeypatch: pytest.MonkeyPatch):
    """The screen counts for every letter that somebody types."""
    monkeypatch.setattr(searching, "_FEW", 0)
    plan = plan_of(filled, Query(q="ada"), count)
    assert "COVERING INDEX directory2_contacts_sampled" in plan


@pytest.mark.parametrize("directory_settings", ["sqlite"], indirect=True)
def test_contacts_with_a_word_that_many_have_are_passed_in_the_order_of_the_sort(
    filled: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rare, "LEAST_SORTED", 0)
    plan = plan_of(filled, Query(q="ski", limit=10))
    assert "USING INDEX directory2_contacts_created_at_id" in plan
    assert "MATERIALIZE few" in plan
    assert SORTS not in plan


@pytest.mark.parametrize("directory_settings", ["sqlite"], indirect=True)
def test_a_frequent_value_is_looked_up_in_the_index_of_keys_before_a_contact_is_read(
    filled: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rare, "LEAST_SORTED", 0)
    plan = plan_of(filled, Query(where=parse("plan = pro and mrr >= 99"), sort=parse_sort("-lastSeenAt"), limit=1))
    assert "USING INDEX directory2_contacts_last_seen_at_id" in plan
    assert "SEARCH own USING PRIMARY KEY" in plan
    assert SORTS not in plan


@pytest.mark.parametrize("directory_settings", ["postgresql"], indirect=True)
def test_postgresql_walks_the_index_of_the_sort_for_conditions_that_it_cannot_estimate(
    filled: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rare, "LEAST_SORTED", 0)
    plan = plan_of(filled, Query(where=parse("plan = pro and mrr >= 99"), sort=parse_sort("-lastSeenAt"), limit=1))
    assert "using directory2_contacts_last_seen_at_id" in plan
    assert "Sort Key" not in plan


@pytest.fixture(name="as_among_a_million")
def _as_among_a_million(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every condition alone is met by too many."""

    def nobody(*_: object) -> Most:
        return Most(-1, -1)

    monkeypatch.setattr(searching, "MANY", 0)
    monkeypatch.setattr(searching, "most_found", nobody)


@pytest.mark.usefixtures("as_among_a_million")
def test_values_that_hardly_ever_meet_are_taken_by_the_index_of_metadata(filled: Database):
    """A walk in the order of the sort would pass everybody."""
    plan = plan_of(filled, Query(where=parse("plan = enterprise and country = US"), sort=parse_sort("-lastSeenAt"), limit=100))
    assert "contacts_last_seen_at_id" not in plan
    assert "SEARCH own USING PRIMARY KEY" in plan or "CTE few" in plan


@pytest.mark.usefixtures("as_among_a_million")
def test_the_rarest_value_is_read_if_it_hardly_ever_meets_another_condition(filled: Database):
    plan = plan_of(filled, Query(where=parse("plan = starter and mrr >= 27"), sort=parse_sort("-lastSeenAt"), limit=100))
    assert "contacts_last_seen_at_id" not in plan
    assert "few" in plan


@pytest.mark.usefixtures("as_among_a_million")
def test_values_that_often_meet_are_found_by_a_walk(filled: Database):
    plan = plan_of(filled, Query(where=parse("plan = free and trial = false"), sort=parse_sort("-lastSeenAt"), limit=1))
    assert "contacts_last_seen_at_id" in plan
    assert "few" not in plan


@pytest.mark.parametrize("directory_settings", ["postgresql"], indirect=True)
def test_postgresql_can_estimate_how_many_contacts_have_a_word(filled: Database):
    """If it expected ten times as many, it would pass all contacts in the order of the sort."""
    with filled.reading() as connection:
        for word in ("061", "123", "ada", "san", "zor"):
            having = sa.select(sa.func.count()).select_from(contacts).where(contacts.c.search_text.like(f"%{word}%"))
            there = connection.scalar(having) or 0
            explain = f"EXPLAIN SELECT n FROM {contacts.name} WHERE search_text LIKE %s"  # noqa: S608  a name of ours
            plan = connection.exec_driver_sql(explain, (f"%{word}%",))
            expected = int(re.findall(r"rows=(\d+)", "\n".join(row[0] for row in plan))[0])
            assert there / 2 <= expected <= there * 2
