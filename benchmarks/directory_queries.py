"""Measure questions to the directory at 1,000,000 contacts, beside the same questions in SQL by hand.

    python benchmarks/directory_queries.py [--contacts N] [--questions 200] [--databases sqlite,postgresql] [--json FILE]

Each kind of question is asked with another word, value or page each time. Ours is `search` or `count_by` in a transaction of
`Database.reading`, as the gateway calls it. By hand is one statement of a person who knows the tables and their indexes,
through sqlite3 or psycopg, in a transaction, with all rows fetched. The overhead is what ours takes beside the statement that
it decides for, sent again through the same driver. They run in turns, and by hand comes first every other time, so that other
load and cold memory affect both. CPU time is that of this process and of PostgreSQL's. It says more than the clock on a machine
that has other work.

The tables are built at the first run and kept (harness/directories.py).
"""

import argparse
import random
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import psycopg
from sqlalchemy import event

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.directories import BUILD, WORKSPACE, postgresql_directory, sqlite_directory
from harness.population import NOW_MS, Population
from harness.results import environment, show, significant, write
from harness.servers import precise_cpu_s

from kinfold_projections.directory import fold_text, index_value
from kinfold_schemas.filters import Field, parse
from kinfold_services.directory.database import FILE, Database
from kinfold_services.directory.query import Query
from kinfold_services.directory.search import count_by, search
from kinfold_services.directory.sorting import parse_sort
from kinfold_services.directory.tables import POSTGRESQL_SCHEMA
from kinfold_services.settings import Settings

CONTACTS: Final = 1_000_000
QUESTIONS: Final = 200
PAGE: Final = 100
LATE_PAGE: Final = 1000
TOP: Final = 50
LETTERS: Final = 3
SORTS: Final = {"lastSeenAt": "last_seen_at", "name": "name_key", "email": "email", "updatedAt": "updated_at"}
KEYS: Final = ("mrr", "country", "company", "signupDate")
LAST_TIME: Final = "9999-01-01T00:00:00.000Z"
_NULLABLE: Final = {"name_key", "email"}


class Asked(NamedTuple):
    """One question: ours, and a statement with its parameters by hand. Both find as many rows."""

    ours: Callable[[], int]
    statement: str
    parameters: tuple[Any, ...]


class Timed(msgspec.Struct):
    """One kind of question: milliseconds by the clock and of CPU, and CPU time relative to the same by hand."""

    question: str
    asked: int
    p50_ms: float
    p95_ms: float
    cpu_p50_ms: float
    cpu_p95_ms: float
    by_hand_p50_ms: float
    by_hand_p95_ms: float
    by_hand_cpu_p50_ms: float
    by_hand_cpu_p95_ms: float
    to_by_hand: float
    """All CPU time of ours, relative to by hand."""
    overhead: float
    """The median of our CPU time relative to the statement itself."""
    overhead_ms: float
    """The median difference."""
    slowest: str = ""


class Side:
    """One database: ours, and a connection of its driver."""

    def __init__(self, settings: Settings, raw: Any, process_id: int | None) -> None:
        self.database: Final = Database(settings, read_only=True, read_timeout_s=60)
        self.raw: Final = raw
        self.is_sqlite: Final = settings.directory_url is None
        self._process_ids: Final[set[int]] = set() if process_id is None else {process_id}
        self._last: tuple[str, Any] = ("", ())

        @event.listens_for(self.database.engine, "before_cursor_execute")
        def see(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            self._last = statement, parameters

        with self.database.reading() as connection:
            if not self.is_sqlite:
                self._process_ids.add(connection.connection.driver_connection.info.backend_pid)  # type: ignore[union-attr]

    @property
    def last(self) -> tuple[str, Any]:
        """The statement that ours sent last."""
        return self._last

    def cpu_s(self) -> float:
        """CPU time of this thread and the database's processes, in seconds."""
        return precise_cpu_s(self._process_ids)

    def fetch(self, statement: str, parameters: Any) -> int:
        """Send a statement through the driver, in a transaction, and fetch all rows."""
        if self.is_sqlite:
            self.raw.execute("BEGIN")
            rows = self.raw.execute(statement, parameters).fetchall()
            self.raw.execute("COMMIT")
        else:
            with self.raw.transaction():
                rows = self.raw.execute(statement, parameters).fetchall()
        return len(rows)

    def find(self, query: Query) -> Any:
        """A page of ours."""
        with self.database.reading() as connection:
            return search(connection, WORKSPACE, query, NOW_MS)


# --- the questions ----------------------------------------------------------------------------------------------------------


def by_word(side: Side, questions: int, contacts: int) -> Iterator[Asked]:
    """`q` of three letters, from the names, addresses and ids of random people, and some that few or none have."""
    dice = random.Random(1)  # noqa: S311  the same words in every run
    texts = []
    while len(texts) < questions:
        first = dice.randrange(max(1, contacts - 1000))
        person = next(Population(contacts).people(first))
        line = fold_text(dice.choice([each for each in (person.name, person.email, person.external_id) if each is not None]))
        at = dice.randrange(max(1, len(line) - LETTERS + 1))
        word = (
            line[at : at + LETTERS] if dice.random() < 0.8 else "".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=LETTERS))
        )
        if len(word) == LETTERS and word.isalnum():
            texts.append(word)
    for word in texts:
        query = Query(q=word, limit=PAGE)
        if side.is_sqlite:
            statement = (
                "SELECT record FROM directory2_contacts WHERE build = ? AND n IN "
                "(SELECT rowid FROM directory2_search WHERE search_text MATCH ?) ORDER BY created_at DESC, id DESC LIMIT ?"
            )
            parameters: tuple[Any, ...] = (BUILD, f'"{word}"', PAGE)
        else:
            statement = (
                "SELECT record FROM directory2_contacts WHERE build = %s AND search_text LIKE %s "
                "ORDER BY created_at DESC, id DESC LIMIT %s"
            )
            parameters = (BUILD, f"%{word}%", PAGE)
        yield Asked(lambda query=query: literal(side.find(query)), statement, parameters)  # type: ignore[misc]


def literal(page: Any) -> int:
    """How many contacts have the words themselves."""
    return 0 if page.approximate else len(page.records)


def by_filter(side: Side, questions: int, _: int) -> Iterator[Asked]:
    """`plan=pro and mrr>=99`, sorted by lastSeenAt: the first page and those after it."""
    query = Query(where=parse("plan=pro and mrr>=99"), sort=parse_sort("-lastSeenAt"), limit=PAGE)
    after = (LAST_TIME, "")
    for _ in range(questions):
        yield filtered(side, query, ("pro", 99), after)
        page = side.find(query)
        last = msgspec.json.decode(page.records[-1])
        # A small population has few pages: then from the first one again.
        after = (LAST_TIME, "") if page.next_cursor is None else (last["lastSeenAt"], last["id"])
        query = msgspec.structs.replace(query, cursor=page.next_cursor)


def by_other_filter(side: Side, questions: int, _: int) -> Iterator[Asked]:
    """The first page of other plans and numbers, rarer ones too."""
    dice = random.Random(2)  # noqa: S311  the same questions in every run
    for _ in range(questions):
        plan, mrr = dice.choice(["pro", "team", "enterprise"]), dice.choice([99, 150, 198, 500, 700])
        query = Query(where=parse(f"plan={plan} and mrr>={mrr}"), sort=parse_sort("-lastSeenAt"), limit=PAGE)
        yield filtered(side, query, (plan, mrr), (LAST_TIME, ""))


def filtered(side: Side, query: Query, values: tuple[str, int], after: tuple[str, str]) -> Asked:
    """A page of contacts with a plan and at least this mrr, behind a time and an id."""
    if side.is_sqlite:
        statement = (
            "SELECT record FROM directory2_contacts WHERE build = ? AND metadata ->> 'plan' = ? AND "
            "json_type(metadata, '$.mrr') IN ('integer', 'real') AND metadata ->> 'mrr' >= ? AND (last_seen_at, id) < (?, ?) "
            "ORDER BY last_seen_at DESC, id DESC LIMIT ?"
        )
    else:
        statement = (
            "SELECT record FROM directory2_contacts WHERE build = %s AND metadata -> 'plan' = to_jsonb(%s::text) AND "
            "jsonb_typeof(metadata -> 'mrr') = 'number' AND metadata -> 'mrr' >= to_jsonb(%s::int) AND "
            "(last_seen_at, id) < (%s, %s) ORDER BY last_seen_at DESC, id DESC LIMIT %s"
        )
    return Asked(lambda: len(side.find(query).records), statement, (BUILD, *values, *after, PAGE))


def counted(side: Side, questions: int, _: int) -> Iterator[Asked]:
    """How many contacts have each plan, and each value of two other keys. By hand it is asked of the table of counts.

    The number of all contacts tells how many have no value.
    """
    mark = "?" if side.is_sqlite else "%s"
    statement = (
        f"SELECT kind, number, text, contacts, (SELECT contacts FROM directory_builds WHERE id = {mark}) AS everybody "
        f"FROM directory2_counts WHERE build = {mark} AND key = {mark} "
        f"ORDER BY contacts DESC, kind, number, text LIMIT {mark}"
    )
    for number in range(questions):
        key = ("plan", "plan", "country", "trial")[number % 4]

        def ours(key: str = key) -> int:
            with side.database.reading() as connection:
                return len(count_by(connection, WORKSPACE, Field(key, in_metadata=True), Query(), TOP, NOW_MS).values)

        yield Asked(ours, statement, (BUILD, BUILD, key, TOP))


def late_page_of_field(side: Side, questions: int, contacts: int) -> Iterator[Asked]:
    """Page 1,000 and the next ones of sorts by fields of a contact."""
    mark = "?" if side.is_sqlite else "%s"
    for field, column in SORTS.items():
        query = at_page(side, Query(sort=parse_sort(f"-{field}"), limit=PAGE), contacts)
        present = f" AND {column} IS NOT NULL" if column in _NULLABLE else ""
        statement = (
            f"SELECT record FROM directory2_contacts WHERE build = {mark}{present} AND ({column}, id) < ({mark}, {mark}) "
            f"ORDER BY {column} DESC, id DESC LIMIT {mark}"
        )
        for _ in range(questions // len(SORTS)):
            page = side.find(query)
            last = msgspec.json.decode(before(side, query))
            value = last["name"] if column == "name_key" else last[field]
            yield Asked(lambda query=query: len(side.find(query).records), statement, (BUILD, value, last["id"], PAGE))  # type: ignore[misc]
            query = msgspec.structs.replace(query, cursor=page.next_cursor)


def late_page_of_key(side: Side, questions: int, contacts: int) -> Iterator[Asked]:
    """Page 1,000 and the next ones of sorts by metadata keys."""
    mark = "?" if side.is_sqlite else "%s"
    marks = f"({mark}, {mark}, {mark}, {mark})"
    for key in KEYS:
        query = at_page(side, Query(sort=parse_sort(f"-metadata.{key}"), limit=PAGE), contacts)
        statement = (
            "SELECT c.record FROM directory2_metadata AS m "
            "JOIN directory2_contacts AS c ON c.build = m.build AND c.id = m.contact_id "
            f"WHERE m.build = {mark} AND m.key = {mark} AND (m.kind, m.number, m.text, m.contact_id) < {marks} "
            f"ORDER BY m.kind DESC, m.number DESC, m.text DESC, m.contact_id DESC LIMIT {mark}"
        )
        for _ in range(questions // len(KEYS)):
            page = side.find(query)
            last = msgspec.json.decode(before(side, query))
            after = (*index_value(last["metadata"][key]), last["id"])
            yield Asked(lambda query=query: len(side.find(query).records), statement, (BUILD, key, *after, PAGE))  # type: ignore[misc]
            query = msgspec.structs.replace(query, cursor=page.next_cursor)


QUESTIONS_OF: Final = {
    "q of three letters": by_word,
    "plan=pro and mrr>=99, sorted by lastSeenAt": by_filter,
    "the same with other plans and numbers": by_other_filter,
    "count by a metadata key": counted,
    "page 1,000 of a sort by a field": late_page_of_field,
    "page 1,000 of a sort by a metadata key": late_page_of_key,
}
_befores: dict[str, bytes] = {}


def at_page(side: Side, query: Query, contacts: int) -> Query:
    """The query for page 1,000 (of a smaller population: for the page in the middle)."""
    rows = min(LATE_PAGE, contacts // PAGE // 2) * PAGE - PAGE
    wide = msgspec.structs.replace(query, limit=1000)
    while rows > 0:
        page = side.find(msgspec.structs.replace(wide, limit=min(1000, rows)))
        rows -= len(page.records)
        wide = msgspec.structs.replace(wide, cursor=page.next_cursor)
        _befores[page.next_cursor] = page.records[-1]
    return msgspec.structs.replace(wide, limit=query.limit)


def before(side: Side, query: Query) -> bytes:
    """The record of the last row before this page."""
    assert query.cursor is not None
    record = _befores[query.cursor]
    page = side.find(query)
    if page.next_cursor is not None:
        _befores[page.next_cursor] = page.records[-1]
    return record


# --- measuring --------------------------------------------------------------------------------------------------------------


def measure(side: Side, name: str, questions: int, contacts: int) -> Timed:
    """Ask all questions of one kind, each three ways."""
    asked = list(QUESTIONS_OF[name](side, questions, contacts))
    for each in asked[:10]:
        each.ours()  # what SQLAlchemy and psycopg keep
        side.fetch(each.statement, each.parameters)
    ours, by_hand, plain = [], [], []
    for number, each in enumerate(asked):
        by_hand_first = number % 2 == 1  # the second one finds the pages in memory
        if by_hand_first:
            by_hand_found, theirs = timed(side, lambda each=each: side.fetch(each.statement, each.parameters))
        found, mine = timed(side, each.ours)
        statement = side.last
        if not by_hand_first:
            by_hand_found, theirs = timed(side, lambda each=each: side.fetch(each.statement, each.parameters))
        _, itself = timed(side, lambda statement=statement: side.fetch(*statement))
        assert found == by_hand_found, f"{name}: {found} rows, by hand {by_hand_found}: {each.parameters}"
        ours.append(mine)
        by_hand.append(theirs)
        plain.append(itself)
    slowest = max(range(len(asked)), key=lambda number: ours[number][1])
    return Timed(
        name,
        len(asked),
        *(ms(quantile(sorted(each[0] for each in ours), share)) for share in (0.5, 0.95)),
        *(ms(quantile(sorted(each[1] for each in ours), share)) for share in (0.5, 0.95)),
        *(ms(quantile(sorted(each[0] for each in by_hand), share)) for share in (0.5, 0.95)),
        *(ms(quantile(sorted(each[1] for each in by_hand), share)) for share in (0.5, 0.95)),
        significant(sum(each[1] for each in ours) / sum(each[1] for each in by_hand)),
        significant(statistics.median(one[1] / other[1] for one, other in zip(ours, plain, strict=True))),
        ms(statistics.median(one[1] - other[1] for one, other in zip(ours, plain, strict=True))),
        f"{asked[slowest].parameters[1:-1]}: {ours[slowest][1] * 1000:.0f} ms of CPU",
    )


def timed(side: Side, ask: Callable[[], int]) -> tuple[int, tuple[float, float]]:
    """How many rows it found, and the seconds: by the clock, and of CPU."""
    used, started = side.cpu_s(), time.perf_counter()
    found = ask()
    return found, (time.perf_counter() - started, side.cpu_s() - used)


def quantile(ordered: list[float], share: float) -> float:
    """A quantile."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def ms(seconds: float) -> float:
    """Milliseconds."""
    return significant(seconds * 1000)


@contextmanager
def sides(name: str, contacts: int) -> Iterator[tuple[str, Side]]:
    """One database, with its name and version."""
    if name == "sqlite":
        settings = sqlite_directory(contacts)
        with closing(sqlite3.connect(settings.data_dir / FILE, isolation_level=None)) as raw:
            raw.execute("PRAGMA cache_size = -65536")
            yield f"SQLite {sqlite3.sqlite_version}", Side(settings, raw, None)
        return
    with postgresql_directory(contacts) as settings:
        url = str(settings.directory_url).replace("+psycopg", "", 1)
        # Without further processes, whose CPU time nobody would count.
        options = f"-c search_path={POSTGRESQL_SCHEMA},public -c max_parallel_workers_per_gather=0"
        with psycopg.connect(url, autocommit=True, options=options) as raw:
            version = raw.execute("SHOW server_version").fetchone()
            yield f"PostgreSQL {version[0].split()[0] if version else ''}", Side(settings, raw, raw.info.backend_pid)


def main() -> None:
    """Print the tables and write `benchmarks/results/directory_queries.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--contacts", type=int, default=CONTACTS)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--json", type=Path, help="output file; default: benchmarks/results/directory_queries.json")
    options: Any = parser.parse_args()
    results: dict[str, Any] = {}
    for database in options.databases.split(","):
        with sides(database, options.contacts) as (version, side):
            found = [measure(side, name, options.questions, options.contacts) for name in QUESTIONS_OF]
            results[database] = {"version": version, "questions": found}
            side.database.close()
        times = ("p50", "p95", "CPU p50", "p95")
        columns = ("", "asked", *times, *(f"by hand {each}" for each in times), "× by hand", "overhead", "ms", "slowest")
        show(f"{version}, {options.contacts:,} contacts, milliseconds", columns, map(msgspec.structs.astuple, found))
    where = environment(", ".join(each["version"] for each in results.values()))
    write("directory_queries", {"environment": where, "contacts": options.contacts, "databases": results}, options.json)


if __name__ == "__main__":
    main()
