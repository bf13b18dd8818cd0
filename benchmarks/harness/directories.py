"""The directory's tables, filled with the population without a server or a projector: built once, and kept between runs.

    KINFOLD_BENCH_DIR   where they are kept; by default `kinfold-bench` in the directory for temporary files

The rows are those that the directory itself writes for these contacts, except that nothing has happened to them: timeline,
visitors, former identifiers and conflicts are empty. Indexes are made after the rows. To build again, remove the directory.
"""

import os
import sqlite3
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg
import sqlalchemy as sa

from harness.population import NOW_MS, Population
from kinfold_projections.directory import index_value
from kinfold_schemas.times import to_text
from kinfold_services.directory import shapes, tables
from kinfold_services.directory.database import FILE, Database
from kinfold_services.settings import Settings
from tests.support.directory import contact_row
from tests.support.postgres import PostgresServer, postgres_server

WORKSPACE: Final = "default"
BUILD: Final = 1

_AT_ONCE: Final = 20_000
_encode: Final = msgspec.json.Encoder().encode
_CONTACTS: Final = [column.name for column in tables.contacts.columns]
_METADATA: Final = [column.name for column in tables.metadata.columns]
_POSTGRESQL: Final = {"shared_buffers": "512MB", "maintenance_work_mem": "256MB", "max_wal_size": "4GB", "jit": "on"}
"""More memory than the default, as on a small server; the rest is PostgreSQL's default."""
_COUNT: Final = (
    f"INSERT INTO {tables.counts.name} SELECT build, key, kind, number, text, count(*) FROM {tables.metadata.name} "
    "GROUP BY build, key, kind, number, text"
)


def kept_in(contacts: int) -> Path:
    """The directory for a population of this size."""
    root = Path(os.environ.get("KINFOLD_BENCH_DIR", Path(tempfile.gettempdir()) / "kinfold-bench"))
    return root / f"directory{tables.SHAPE}-{contacts}"


def sqlite_directory(contacts: int) -> Settings:
    """A directory in SQLite with a number of contacts."""
    data_dir = kept_in(contacts) / "sqlite"
    settings = Settings(data_dir=data_dir)
    if not (data_dir / FILE).exists():
        started = time.monotonic()
        beside = data_dir.with_name("sqlite-unfinished")
        beside.mkdir(mode=0o700, parents=True, exist_ok=True)
        (beside / FILE).unlink(missing_ok=True)
        _fill_sqlite(Settings(data_dir=beside), contacts)
        beside.rename(data_dir)
        print(f"built {contacts:,} contacts in SQLite in {time.monotonic() - started:.0f} s")
    return settings


@contextmanager
def postgresql_directory(contacts: int) -> Generator[Settings]:
    """A running server with a directory with a number of contacts."""
    with postgres_server(kept_in(contacts) / "postgresql", _POSTGRESQL) as server:
        if not server.execute("SELECT 1 FROM pg_database WHERE datname = 'filled'"):
            started = time.monotonic()
            server.execute("DROP DATABASE IF EXISTS unfinished")
            server.execute("CREATE DATABASE unfinished")
            _fill_postgresql(_settings(server, "unfinished"), sqlite_directory(contacts).data_dir / FILE)
            server.execute("ALTER DATABASE unfinished RENAME TO filled")
            print(f"copied {contacts:,} contacts to PostgreSQL in {time.monotonic() - started:.0f} s")
        yield _settings(server, "filled")


def _settings(server: PostgresServer, database: str) -> Settings:
    return Settings(directory_url=server.url_of(database).replace("postgresql://", "postgresql+psycopg://", 1))


def _create(settings: Settings, contacts: int) -> None:
    database = Database(settings)
    with database.writing() as connection:
        shapes.create_tables(connection)
        now = to_text(NOW_MS)
        row = {"id": BUILD, "workspace": WORKSPACE, "shape": tables.SHAPE, "state": "current", "position": f"{NOW_MS}-0"}
        connection.execute(sa.insert(tables.builds).values(**row, contacts=contacts, updated_at=now))
    database.close()


# --- SQLite ---------------------------------------------------------------------------------------------------------------


def _fill_sqlite(settings: Settings, contacts: int) -> None:
    _create(settings, contacts)
    with closing(sqlite3.connect(settings.data_dir / FILE, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -262144"):
            connection.execute(f"PRAGMA {pragma}")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND name LIKE 'directory2_%'"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.execute(f"CREATE TEMP TABLE unsorted ({', '.join(_METADATA)})")
        connection.execute("BEGIN")
        for rows in _batches(_rows(contacts), _AT_ONCE):
            marks = ", ".join("?" * len(_CONTACTS))
            values = [tuple(_for_sqlite(row[name]) for name in _CONTACTS) for row in rows]
            connection.executemany(f"INSERT INTO {tables.contacts.name} ({', '.join(_CONTACTS)}) VALUES ({marks})", values)
            marks = ", ".join("?" * len(_METADATA))
            connection.executemany(f"INSERT INTO unsorted VALUES ({marks})", _metadata_rows(rows))
        connection.execute("COMMIT")
        names = ", ".join(_METADATA)
        connection.execute(f"INSERT INTO {tables.metadata.name} ({names}) SELECT * FROM unsorted ORDER BY {names}")
        connection.execute("DROP TABLE unsorted")
        connection.execute(_COUNT)
        for _, statement in indexes:
            connection.execute(statement)
        connection.execute(f"INSERT INTO {tables.search.name} ({tables.search.name}) VALUES ('rebuild')")
        connection.execute("PRAGMA journal_mode = WAL")


def _rows(contacts: int) -> Iterator[dict[str, Any]]:
    for n, contact in enumerate(Population(contacts).contacts(WORKSPACE), 1):
        yield {"n": n, "build": BUILD, **contact_row(contact)}


def _metadata_rows(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        for name, value in row["metadata"].items():
            yield (BUILD, name, *index_value(value), row["id"])


def _for_sqlite(value: Any) -> Any:
    return _encode(value).decode() if isinstance(value, dict) else value


def _batches(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(rows, size)):
        yield batch


# --- PostgreSQL -----------------------------------------------------------------------------------------------------------


def _fill_postgresql(settings: Settings, source: Path) -> None:
    assert settings.directory_url is not None
    url = settings.directory_url.replace("+psycopg", "", 1)
    with closing(sqlite3.connect(source)) as original, psycopg.connect(url, autocommit=True) as connection:
        total = original.execute("SELECT contacts FROM directory_builds").fetchone()[0]
        _create(settings, total)
        connection.execute(f"SET search_path = {tables.POSTGRESQL_SCHEMA}, public")
        indexes = connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = %s AND indexname LIKE %s AND indexname NOT IN "
            "(SELECT conname FROM pg_constraint)",
            (tables.POSTGRESQL_SCHEMA, "directory2_%"),
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        for table in (tables.contacts, tables.metadata):
            columns = [column.name for column in table.columns]
            flag = columns.index("sampled") if "sampled" in columns else None
            names = ", ".join(columns)
            with connection.cursor().copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                for row in original.execute(f"SELECT {names} FROM {table.name}"):
                    values = list(row)
                    if flag is not None:
                        values[flag] = bool(values[flag])
                    copy.write_row(values)
        connection.execute(_COUNT)
        for _, definition in indexes:
            connection.execute(definition)
        connection.execute("VACUUM ANALYZE")
