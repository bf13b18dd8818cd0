"""Search, count and count by value against their definition in plain Python, on both databases."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from kinfold_projections.contact_ids import make_contact_id
from kinfold_projections.directory import index_value
from kinfold_schemas.canonical import metadata_hash
from kinfold_schemas.contacts import Contact
from kinfold_schemas.filters import FIELDS, Field, Filter, unparse
from kinfold_schemas.times import to_text
from kinfold_services.directory import rare
from kinfold_services.directory import search as searching
from kinfold_services.directory.database import Database
from kinfold_services.directory.query import Query
from kinfold_services.directory.rare import Finder
from kinfold_services.directory.search import count, count_by, search
from kinfold_services.directory.shapes import create_tables
from kinfold_services.directory.sorting import Sort
from kinfold_services.settings import Settings
from tests.support.directory import in_order, insert_contacts, matches, value_of
from tests.support.filters import DAY_MS, KEYS, NOW_MS, PRIMITIVES, TEXTS, filters, texts
from tests.support.postgres import PostgresServer

EXAMPLES: Final = int(os.environ.get("KINFOLD_SEARCH_EXAMPLES", "150"))
"""`make search-model` runs thousands."""

PEOPLE: Final = 160
EMAILS: Final = ["Ada.Lovelace@Example.org", "jose\u0301@b\u00fccher.example", "O'Brien+x%_@example.com", "ada@EXAMPLE.net"]
NAMES: Final = ["Ada Lovelace", "ada lovelace", "José", "Jose\u0301 Ñandú", "Łukasz", "100%", "a_b", "a\\b", "Ada\nEve", *TEXTS]

strings: Final = st.sampled_from([*EMAILS, *NAMES, "u-1", "u-12", "ct_", "ada", "example", "x.png"]) | texts
questions: Final = st.lists(
    st.sampled_from(
        ["ada", "ADA", "lov", "jose", "josé", "example", "o'b", '"', "%", "_", "100%", "u-1", "a", "ct_0", "zzz", "\\"]
    ),
    max_size=2,
).map(" ".join)
sort_fields: Final = st.sampled_from(
    [Field(name, in_metadata=False) for name in FIELDS] + [Field(key, in_metadata=True) for key in [*KEYS, "nobody has it"]]
)


def population(workspace: str, seed: int) -> list[Contact]:
    dice = random.Random(seed)  # noqa: S311  the same people in every run
    people: list[Contact] = []
    for number in range(PEOPLE):
        ms = NOW_MS - dice.randrange(60) * DAY_MS
        times = sorted(to_text(ms + dice.choice([0, 0, 1, 60_000])) for _ in range(4))
        metadata = {key: dice.choice(PRIMITIVES) for key in KEYS if dice.random() < 0.6}
        email = dice.choice(EMAILS).replace("@", f"-{number}@") if dice.random() < 0.7 else None
        people.append(
            Contact(
                id=make_contact_id(workspace, f"{NOW_MS - dice.randrange(9)}-{number}"),
                external_id=f"{dice.choice(['u-', 'é', 'é', '%'])}{number}" if email is None or dice.random() < 0.5 else None,
                email=email,
                name=dice.choice(NAMES) if dice.random() < 0.8 else None,
                image=dice.choice(["/x.png", "/É.png"]) if dice.random() < 0.3 else None,
                metadata=metadata,
                metadata_hash=metadata_hash(metadata),
                visitor_count=dice.randrange(4),
                visitor_ids=[],
                first_seen_at=times[0],
                last_seen_at=times[3],
                created_at=times[1],
                updated_at=times[2],
                version=dice.randrange(1, 5),
            )
        )
    return people


OURS: Final = population("ours", 1)
OTHERS: Final = population("others", 2)


def filled(settings_: Settings) -> Database:
    database = Database(settings_)
    with database.writing() as connection:
        create_tables(connection)
        insert_contacts(connection, "others", OTHERS)
        insert_contacts(connection, "ours", OURS)
    database.close()
    return Database(settings_, read_only=True)


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[list[Database]]:
    with postgres.database() as url:
        path: Path = tmp_path_factory.mktemp("directory")
        both = [filled(Settings(data_dir=path)), filled(Settings(data_dir=path, directory_url=url))]
        yield both
        for database in both:
            database.close()


@st.composite
def asked(draw: st.DrawFn) -> Query:
    where: Filter | None = draw(st.none() | filters(strings))
    sort = Sort(draw(sort_fields), draw(st.booleans()))
    return Query(q=draw(st.none() | questions), where=where, sort=sort, limit=draw(st.sampled_from([13, 40, 200])))


def finds_nothing(*_: object) -> None:
    return None


@pytest.fixture
def strategy(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.param in {"walks", "takes those that meet"}:
        monkeypatch.setattr(Finder, "rarest", finds_nothing)
        monkeypatch.setattr(searching, "MANY", 0 if request.param != "walks" else searching.MANY)
    elif request.param == "decides":
        monkeypatch.setattr(rare, "LEAST_SORTED", 0)
        monkeypatch.setattr(searching, "MANY", 0)


@pytest.mark.parametrize("strategy", ["walks", "takes the rare ones", "takes those that meet", "decides"], indirect=True)
@settings(
    max_examples=EXAMPLES // 4,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink a failure takes minutes, and the filter is printed
)
@given(query=asked(), by=sort_fields)
@pytest.mark.usefixtures("strategy")
def test_both_databases_find_what_the_filter_means_in_the_order_of_the_sort(databases: list[Database], query: Query, by: Field):
    note(f"where {query.where and unparse(query.where)}")
    found = [contact for contact in OURS if matches(contact, query.q, query.where, NOW_MS)]
    expected = [contact.id for contact in in_order(found, query.sort.field, descending=query.sort.descending)]
    for database in databases:
        ids = all_pages(database, query)
        assert ids == expected or (query.q and not expected)  # similar words on PostgreSQL are another test's
        with database.reading() as connection:
            counted = count(connection, "ours", query, NOW_MS)
            grouped = count_by(connection, "ours", by, query, 5, NOW_MS)
        assert (counted.count, counted.is_exact) == (len(expected), True)
        assert (grouped.values, grouped.other, grouped.missing, grouped.is_exact) == (*groups(found, by), True)


def all_pages(database: Database, query: Query) -> list[str]:
    ids: list[str] = []
    while True:
        with database.reading() as connection:
            page = search(connection, "ours", query, NOW_MS)
        assert len(page.records) == query.limit or page.next_cursor is None
        ids += [msgspec.json.decode(record)["id"] for record in page.records]
        if page.next_cursor is None:
            return ids
        query = msgspec.structs.replace(query, cursor=page.next_cursor)


def groups(found: list[Contact], by: Field) -> tuple[list[tuple[Any, int]], int, int]:
    values = [value_of(contact, by) for contact in found]
    there = [value for value in values if isinstance(value, str | int | float) or (value is None and by.in_metadata)]
    counted = Counter(map(index_value, there))
    most = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    shown = {index_value(value): f"{value[:200]}…" if isinstance(value, str) and len(value) > 200 else value for value in there}
    top = [(shown[value], times) for value, times in most[:5]]
    return top, len(there) - sum(times for _, times in top), len(values) - len(there)
