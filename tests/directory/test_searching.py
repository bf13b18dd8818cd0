"""Search and counts on both databases: types, pages under writes, hostile text, words, estimates and time."""

import base64
from contextlib import suppress
from typing import Any, Final

import msgspec
import pytest
import sqlalchemy as sa

from benchmarks.harness.population import Population
from kinfold_projections.contact_ids import ALPHABET, make_contact_id
from kinfold_projections.directory import search_text
from kinfold_schemas.contacts import Contact
from kinfold_schemas.filters import Comparison, Contains, Field, Filter, WrongFilter, parse
from kinfold_services.directory import search as searching
from kinfold_services.directory import tables
from kinfold_services.directory.conditions import COMPARE
from kinfold_services.directory.database import Database
from kinfold_services.directory.errors import NoDirectory, QueryTookTooLong, WrongQuery
from kinfold_services.directory.query import Query
from kinfold_services.directory.search import count, count_by, search
from kinfold_services.directory.sorting import Sort, parse_sort
from kinfold_services.settings import Settings
from tests.support.directory import add_contacts, contact_row, insert_contacts
from tests.support.people import NOW_MS, person

SECRET: Final = "another workspace's"  # noqa: S105  not a password
PAYLOADS: Final = [
    "' OR '1'='1",
    "' OR 1=1 --",
    '" OR ""="',
    "1; DROP TABLE directory2_contacts --",
    "') UNION SELECT record, 1 FROM directory2_contacts --",
    "'; ATTACH DATABASE '/tmp/x' AS x; --",
    "1 AND SLEEP(5)#",
    "'||(SELECT pg_sleep(9))||'",
    "$.a') OR json_extract(metadata,'$.b",
    '$."a"',
    "%' OR '%'='",
    "\\'; SELECT 1; --",
    "{{7*7}}",
    "%s %(x)s :build ? $1",
    '"ada" OR "b"',
    "search_text: a* NEAR(b)",
    "^a",
    "NEAR(a b)",
    "ada\0",
    "\ud800",
    "\u202e\ufeff",
    "9" * 400,
    "-1",
    "1e308",
    "",
]


def fill(database: Database, contacts: list[Contact], workspace: str = "ours") -> int:
    with database.writing() as connection:
        return insert_contacts(connection, workspace, contacts)


def ids(database: Database, query: Query, workspace: str = "ours") -> list[str]:
    with database.reading() as connection:
        return [msgspec.json.decode(record)["externalId"] for record in search(connection, workspace, query, NOW_MS).records]


BY_ID: Final = Sort(Field("id", in_metadata=False), descending=False)


def where(text: str) -> Query:
    return Query(where=parse(text), sort=BY_ID)


VALUES: Final = ["1", 1, True, None, 1.5, "true", "null", 0]
MATCHES: Final = {
    "v = '1'": "u-0",
    "v = 1": "u-1",
    "v = 1.0": "u-1",
    "v = true": "u-2",
    "v = 'true'": "u-5",
    "v = null": "u-3",
    "v = 'null'": "u-6",
    "v = false": "",
    "v = 0": "u-7",
    "v = ''": "",
    "v in (1, true)": "u-1 u-2",
    "v > 0": "u-1 u-4",
    "v > ''": "u-0 u-5 u-6",
    "v >= 1 and v <= 1": "u-1",
    "v exists": "u-0 u-1 u-2 u-3 u-4 u-5 u-6 u-7",
    "not v exists": "u-8",
    "v != 1": "u-0 u-2 u-3 u-4 u-5 u-6 u-7 u-8",
    "not v > 0": "u-0 u-2 u-3 u-5 u-6 u-7 u-8",
    "v contains u": "u-5 u-6",
}
"""Filters, and the numbers of the values that they match. A ninth contact has none."""


def test_values_of_different_types_are_never_equal(database: Database):
    fill(database, [*[person(number, metadata={"v": value}) for number, value in enumerate(VALUES)], person(8)])
    for text, expected in MATCHES.items():
        assert " ".join(ids(database, where(text))) == expected, text


def test_long_strings_compare_to_their_last_character(database: Database):
    long = "é" * 200
    texts = [long[:-1], long, f"{long}a", f"{long}b", f"{long}b", f"{long[:-1]}z", f"{long[:-1]}\U0010ffff"]
    fill(database, [person(number, metadata={"v": text}) for number, text in enumerate(texts)])
    key = Field("v", in_metadata=True)
    for other in [long[:-1], long, f"{long}a", f"{long}b", f"{long}c"]:
        for operator, compares in COMPARE.items():
            expected = [f"u-{number}" for number, text in enumerate(texts) if compares(text, other)]
            found = ids(database, Query(where=Comparison(key, operator, other), sort=BY_ID))
            assert found == expected, (operator, len(other), other[-1])


def test_query_without_a_build_raises_no_directory(database: Database):
    fill(database, [], "others")
    with pytest.raises(NoDirectory, match="ours"):
        ids(database, Query())


def test_an_address_is_compared_by_its_key(database: Database):
    fill(database, [person(0, email="Ada@B\u00fccher.example"), person(1, email="ben@example.org")])
    assert ids(database, where("email = ada@xn--bcher-kva.EXAMPLE.")) == ["u-0"]
    assert ids(database, where("email != ada@bu\u0308cher.example")) == ["u-1"]
    assert ids(database, where("email in (ADA@bücher.example, x@y)")) == ["u-0"]


def test_words_are_found_in_every_identifier_without_case_and_accents(database: Database):
    fill(
        database,
        [
            person(0, name="Łukasz Nowák", email="ln@example.org"),
            person(1, name="Luke", email="lukasz@example.org", external_id="crm-77"),
            person(2, name="100% \\ _"),
        ],
    )
    asked = {
        "LUKASZ": ["u-0", "crm-77"],
        "nowak lukasz": ["u-0"],
        "m-7": ["crm-77"],
        "lu": ["u-0", "crm-77"],
        " ": 3,
        "0% _": ["u-2"],
    }
    for q, expected in asked.items():
        found = ids(database, Query(q=q, sort=BY_ID))
        assert (found if isinstance(expected, list) else len(found)) == expected, q
    assert ids(database, Query(q=make_contact_id("ours", f"{NOW_MS - 999}-0").upper())) == ["crm-77"]


def test_words_of_one_and_two_letters_are_found_at_any_place(database: Database):
    """SQLite finds trigrams that begin with them. At the end of a field, the next one belongs to the trigram."""
    people = [("王伟", "wei@example.org", "u-lo"), ("李王", "lo@example.org", "u-il"), ("Silo", "s@example.org", "u-2")]
    fill(database, [person(n, name=name, email=email, external_id=own) for n, (name, email, own) in enumerate(people)])
    asked = {"王": ["u-lo", "u-il"], "王伟": ["u-lo"], "伟": ["u-lo"], "李": ["u-il"], "伟王": [], "il": ["u-il", "u-2"]}
    asked |= {"LO il": ["u-il", "u-2"], "lo": ["u-lo", "u-il", "u-2"], "x": ["u-lo", "u-il", "u-2"]}
    asked |= {make_contact_id("ours", f"{NOW_MS - 998}-0")[-2:]: ["u-2"]}  # the last characters of the text
    for q, expected in asked.items():
        assert ids(database, Query(q=q, sort=BY_ID)) == expected, q


def test_a_single_letter_is_found_at_the_end_of_an_id(database: Database):
    """It is the last one of the text, and begins no trigram there."""
    people = [person(number) for number in range(40)]
    fill(database, people)
    for letter in ALPHABET:
        expected = [contact.external_id for contact in people if letter in search_text(contact)]
        assert ids(database, Query(q=letter, sort=BY_ID)) == expected, letter
        with database.reading() as connection:
            assert count(connection, "ours", Query(q=letter), NOW_MS).count == len(expected), letter


def test_misspelt_words_find_similar_ones_on_postgresql_alone(database: Database):
    fill(
        database, [person(number, name=name) for number, name in enumerate(["Swift", "Johnson", "Katherine Johnson", "Johan"])]
    )
    with database.reading() as connection:
        page = search(connection, "ours", Query(q="Jonhson katerine", limit=3), NOW_MS)
        best = search(connection, "ours", Query(q="jonhson", where=parse("name != Johnson"), limit=1), NOW_MS)
        exact = search(connection, "ours", Query(q="katherine johnson"), NOW_MS)
        assert (len(exact.records), exact.approximate) == (1, False)
        if connection.dialect.name == "sqlite":
            assert (page.records, page.approximate) == ([], False)
            return
        for similar in (page, best):
            assert [msgspec.json.decode(record)["externalId"] for record in similar.records] == ["u-2"]
            assert similar.approximate
            assert similar.next_cursor is None


def test_words_of_three_letters_find_no_similar_ones(database: Database):
    fill(database, [person(1, name="Johnson")])
    with database.reading() as connection:
        page = search(connection, "ours", Query(q="johnson jox"), NOW_MS)
    assert (page.records, page.approximate) == ([], False)


@pytest.mark.parametrize("directory_settings", ["postgresql"], indirect=True)
def test_the_most_similar_come_first_if_more_are_similar_than_are_compared(database: Database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(searching, "_MOST_SIMILAR", 5)
    fill(database, [person(number, name=name) for number, name in enumerate(["Jonas"] * 30 + ["Jonhsen"])])
    with database.reading() as connection:
        page = search(connection, "ours", Query(q="jonhson", limit=3), NOW_MS)
    assert [msgspec.json.decode(record)["name"] for record in page.records] == ["Jonhsen", "Jonas", "Jonas"]


@pytest.mark.parametrize("sort", ["-lastSeenAt", "metadata.plan", "-name", "visitorCount"])
def test_pages_lose_nobody_and_show_nobody_twice_while_contacts_are_written(database: Database, sort: str):
    plans = ["pro", "free", 3, None]

    def made(number: int) -> Contact:
        metadata = {"plan": plans[number % 4]} if number % 5 else {}
        name = f"N{number % 3}" if number % 2 else None
        return person(
            number,
            metadata=metadata,
            name=name,
            visitor_count=number % 3,
            last_seen_at=f"2026-11-0{number % 7 + 1}T08:00:00.000Z",
        )

    build = fill(database, [made(number) for number in range(60)])
    query = Query(sort=parse_sort(sort), limit=7)
    seen: list[str] = []
    gone: set[str] = set()
    for each in range(100):
        with database.reading() as connection:
            page = search(connection, "ours", query, NOW_MS)
        seen += [msgspec.json.decode(record)["externalId"] for record in page.records]
        if page.next_cursor is None:
            break
        query = msgspec.structs.replace(query, cursor=page.next_cursor)
        with database.writing() as connection:
            add_contacts(connection, build, [contact_row(made(1000 + 3 * each + one)) for one in range(3)])
            removed = f"u-{each * 6}"
            gone.add(removed)
            its = sa.select(tables.contacts.c.id).where(tables.contacts.c.external_id == removed).scalar_subquery()
            connection.execute(sa.delete(tables.metadata).where(tables.metadata.c.contact_id == its))
            connection.execute(sa.delete(tables.contacts).where(tables.contacts.c.external_id == removed))
    assert len(seen) == len(set(seen))
    assert {f"u-{number}" for number in range(60)} - gone <= set(seen)


def test_a_cursor_keeps_the_moment_that_ages_are_relative_to(database: Database):
    fill(database, [person(number, last_seen_at="2026-11-18T11:00:00.000Z") for number in range(4)])
    query = Query(where=parse("lastSeenAt after 10m"), sort=BY_ID, limit=2)
    with database.reading() as connection:
        first = search(connection, "ours", query, NOW_MS)
        later = msgspec.structs.replace(query, cursor=first.next_cursor)
        assert len(search(connection, "ours", later, NOW_MS + 3_600_000).records) == 2


def test_a_cursor_of_another_question_or_none_at_all_is_refused(database: Database):
    fill(database, [person(number, name="Ada", metadata={"a": number}) for number in range(4)])
    query = Query(q="ada", where=parse("a exists"), sort=parse_sort("metadata.a"), limit=2)
    with database.reading() as connection:
        cursor = search(connection, "ours", query, NOW_MS).next_cursor
        assert cursor is not None
        others = [
            msgspec.structs.replace(query, q="ad"),
            msgspec.structs.replace(query, where=parse("a > 0")),
            msgspec.structs.replace(query, sort=parse_sort("-metadata.a")),
        ]
        for other in others:
            with pytest.raises(WrongQuery, match="got one of another query"):
                search(connection, "ours", msgspec.structs.replace(other, cursor=cursor), NOW_MS)
        unfit: list[list[Any]] = [[], [9, 0, "", "\0"], [2**70, 0, "", ""], ["x", 0, "", ""], [1, "", "", ""]]
        decoded = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        for position, value in [(1, -1), (2, 2), (2, -1), *[(3, values) for values in unfit]]:
            forged = [*decoded[:position], value, *decoded[position + 1 :]]
            text = base64.urlsafe_b64encode(msgspec.json.encode(forged)).decode().rstrip("=")
            with pytest.raises(WrongQuery, match="expected a cursor from a page of results"):
                search(connection, "ours", msgspec.structs.replace(query, cursor=text), NOW_MS)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        (Query(q="a" * 321), "q: expected at most 320 characters, got 321"),
        (Query(q="a\0"), r"q: expected Unicode text without NUL, got 'a\\x00'"),
        (Query(q="\ud800"), r"q: expected Unicode text without NUL, got '\\ud800'"),
        (Query(limit=0), "limit: expected 1 to 1000, got 0"),
        (Query(limit=1001), "limit: expected 1 to 1000, got 1001"),
    ],
)
def test_a_wrong_query_is_refused(database: Database, query: Query, error: str):
    fill(database, [])
    with pytest.raises(WrongQuery, match=error):
        ids(database, query)


def test_a_wrong_sort_is_refused():
    for text in ["", "-", "a b", "a,b", "--a =", "'a'", "\0", "\ud800", "not"]:
        with pytest.raises(WrongQuery, match=r"sort: expected"):
            parse_sort(text)


def test_hostile_text_is_data_in_every_place(database: Database):
    fill(database, [person(0, "others", name=SECRET, metadata={"a": SECRET, "b": 1})], "others")
    safe = [text for text in PAYLOADS if text and "\0" not in text and "\ud800" not in text]
    fill(database, [person(number, name=text, metadata={text[:128]: text}) for number, text in enumerate(safe)])
    for text in PAYLOADS:
        for query in hostile(text):
            with suppress(WrongQuery, WrongFilter), database.reading() as connection:
                page = search(connection, "ours", query(), NOW_MS)
                assert SECRET.encode() not in b"".join(page.records)
                count(connection, "ours", query(), NOW_MS)
                counts = count_by(connection, "ours", query().sort.field, query(), 5, NOW_MS)
                assert SECRET not in [value for value, _ in counts.values]
    for number, text in enumerate(safe):  # and it is found
        key = Field(text[:128], in_metadata=True)
        for tree in (Comparison(key, "=", text), Contains(key, text), Comparison(Field("name", in_metadata=False), "=", text)):
            assert f"u-{number}" in ids(database, Query(where=tree))


def hostile(text: str) -> list[Any]:
    def of(where: Filter) -> Any:
        return lambda: Query(where=where)

    key = Field(text[:128] or "k", in_metadata=True)
    return [
        lambda: Query(q=text),
        lambda: Query(cursor=text),
        lambda: Query(cursor=base64.urlsafe_b64encode(text.encode(errors="replace")).decode()),
        lambda: Query(sort=parse_sort(text)),
        lambda: Query(where=parse(text)),
        lambda: Query(where=parse(f"name = {text}")),
        *([of(Comparison(key, "=", text)), of(Comparison(key, "<", text)), of(Contains(key, text))] if is_clean(text) else []),
        *([lambda: Query(sort=Sort(key, descending=True))] if is_clean(text) else []),
    ]


def is_clean(text: str) -> bool:
    """Whether the parser lets it through, as a quoted string."""
    return "\0" not in text and "\ud800" not in text


def test_a_query_that_takes_too_long_is_ended(database: Database, directory_settings: Settings):
    fill(database, [person(number, metadata={"a": "x" * 2000}) for number in range(3000)])
    impatient = Database(directory_settings, read_only=True, read_timeout_s=0.005)
    slow = parse(" or ".join(f"a contains '{'x' * 30}{number}'" for number in range(60)))
    with pytest.raises(QueryTookTooLong, match="narrow it"), impatient.reading() as connection:
        search(connection, "ours", Query(where=slow), NOW_MS)
    impatient.close()


@pytest.fixture(name="few")
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 400 contacts count as many, so that a population of thousands is estimated."""
    monkeypatch.setattr(searching, "EXACT", 200)
    monkeypatch.setattr(searching, "_FEW", 400)


@pytest.mark.usefixtures("few")
def test_large_counts_are_estimated_and_say_so(database: Database):
    people = list(Population(8000).contacts("ours"))
    fill(database, people)
    with database.reading() as connection:
        everybody = count(connection, "ours", Query(), NOW_MS)
        plan = count(connection, "ours", where("plan = free"), NOW_MS)
        some = count(connection, "ours", where("plan = free and mrr = 0"), NOW_MS)
        few = count(connection, "ours", where("plan = enterprise and mrr >= 0"), NOW_MS)
        by = count_by(connection, "ours", Field("plan", in_metadata=True), where("mrr = 0"), 2, NOW_MS)
        exact_by = count_by(connection, "ours", Field("plan", in_metadata=True), Query(), 2, NOW_MS)
    free = [contact for contact in people if contact.metadata.get("plan") == "free"]
    free_and_zero = [contact for contact in free if contact.metadata.get("mrr") == 0]
    assert (everybody.count, everybody.is_exact) == (8000, True)
    assert (plan.count, plan.is_exact) == (len(free), True)
    assert not some.is_exact
    assert 0.7 < some.count / len(free_and_zero) < 1.4
    assert few.is_exact
    assert few.count == sum(c.metadata.get("plan") == "enterprise" and "mrr" in c.metadata for c in people)
    assert not by.is_exact
    assert by.values[0][0] == "free"
    assert 0.7 < by.values[0][1] / len(free_and_zero) < 1.4
    assert exact_by.is_exact
    assert exact_by.values[0] == ("free", len(free))
    assert sum(times for _, times in exact_by.values) + exact_by.other + exact_by.missing == 8000
