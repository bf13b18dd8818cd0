"""The directory's database: SQLite in the data dir, or PostgreSQL by `directory_url`.

`Database.writing` and `Database.reading` are the only ways in. A reading transaction sees one state of the database from its
first query on. Its queries are ended when their time is up.
"""

import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from kinfold_schemas.filters import text_time_ms
from kinfold_services.directory.errors import DirectoryUnavailable, NoDirectory, QueryTookTooLong
from kinfold_services.directory.sqlite_version import sqlite_problem
from kinfold_services.directory.tables import CREATE_TRIGRAMS, POSTGRESQL_SCHEMA, decode_json, encode_json, search
from kinfold_services.server.data_dir import make_data_dir
from kinfold_services.server.errors import DataDirUnusable
from kinfold_services.settings import Settings

FILE: Final = "directory.db"
"""The SQLite file in the data dir."""

READ_TIMEOUT_S: Final = 5.0

_LOCK_TIMEOUT_S: Final = 10.0
_LOCK_RETRY_S: Final = 0.01
_CLEAN_TIMEOUT_S: Final = 1.0
"""How long the cleaning waits for readers to end. Nobody can write in the meantime."""
_IDLE_TIMEOUT_S: Final = 30.0
"""PostgreSQL ends the transaction of a process that hangs, so that others do not wait for its locks."""
_CONNECT_TIMEOUT_S: Final = 5
_SILENCE_MS: Final = 10_000
"""A connection to PostgreSQL counts as lost after this time without an answer of the other machine."""
_STEPS: Final = 10_000
"""How many instructions SQLite runs between two looks at the clock: about a millisecond."""
_WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024
_CACHE_KIB: Final = 64 * 1024

_WRITES: Final = "kinfold_writes"
_QUERY_CANCELED: Final = "57014"
_UNDEFINED_TABLE: Final = "42P01"


class Database:
    """A pool of connections to the directory's database. It connects at the first transaction."""

    def __init__(
        self,
        settings: Settings,
        *,
        read_only: bool = False,
        read_timeout_s: float = READ_TIMEOUT_S,
        connections: int = 5,
    ) -> None:
        """Prepare a pool of at most `connections` connections. With `read_only`, the database itself refuses to write.

        Raises:
            DirectoryUnavailable: this Python's SQLite is too old.

        """
        if (problem := sqlite_problem(settings)) is not None:
            raise DirectoryUnavailable(problem)
        self._read_timeout_s: Final = read_timeout_s
        self._is_sqlite: Final = settings.directory_url is None
        self._path: Final = settings.data_dir / FILE
        common: dict[str, Any] = {
            "poolclass": QueuePool,
            "pool_size": connections,
            "max_overflow": 0,
            "json_serializer": encode_json,
            "json_deserializer": decode_json,
        }
        self.engine: Final = (
            _sqlite_engine(self._path, common, read_only=read_only)
            if settings.directory_url is None
            else _postgresql_engine(settings.directory_url, common, read_timeout_s if read_only else None)
        )

    @property
    def name(self) -> str:
        """The database as it may be shown: a path, or a URL without its password."""
        return str(self._path) if self._is_sqlite else self.engine.url.render_as_string()

    @contextmanager
    def writing(self) -> Generator[sa.Connection]:
        """Run a transaction that writes; it is rolled back if the block raises.

        It waits up to 10 s for another transaction that writes the same (on SQLite: that writes at all).

        Raises:
            DirectoryUnavailable: the database cannot be reached, or failed.

        """
        if self._is_sqlite:
            try:
                make_data_dir(self._path.parent)
            except DataDirUnusable as error:
                raise DirectoryUnavailable(str(error)) from error
        with self._translated(lambda: False), self.engine.connect() as connection:
            marked = connection.execution_options(**{_WRITES: True})
            with marked.begin():
                yield marked

    def clean(self) -> None:
        """On SQLite, rewrite the text index and empty the write-ahead log, so that no file keeps what was erased.

        On PostgreSQL, only VACUUM FULL does it, which locks each table while it rewrites it, so it is left to the operator.
        Raises DirectoryUnavailable.
        """
        if not self._is_sqlite:
            return
        with self._translated(lambda: False):
            connection = self.engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute(f"PRAGMA busy_timeout = {_CLEAN_TIMEOUT_S * 1000:.0f}")
                cursor.execute(f"INSERT INTO {search.name} ({search.name}) VALUES ('optimize')")  # noqa: S608  a name of ours
                (is_busy, *_) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                connection.invalidate()  # with its timeout
        if is_busy:
            raise DirectoryUnavailable(f"the write-ahead log of {self.name} cannot be emptied: another process reads from it")

    @contextmanager
    def reading(self) -> Generator[sa.Connection]:
        """Run a transaction that reads one state of the database.

        On SQLite, the block has `read_timeout_s` for its queries together, on PostgreSQL each query has as long.

        Raises:
            NoDirectory: nothing has been built in the database.
            QueryTookTooLong: the time was up.
            DirectoryUnavailable: the database cannot be reached, or failed.

        """
        deadline = time.monotonic() + self._read_timeout_s

        def is_late() -> bool:
            return self._is_sqlite and time.monotonic() > deadline

        with self._translated(is_late), self.engine.connect() as connection, connection.begin():
            if not self._is_sqlite:
                yield connection
                return
            raw: Any = connection.connection.driver_connection
            raw.set_progress_handler(is_late, _STEPS)
            try:
                yield connection
            finally:
                raw.set_progress_handler(None, 0)

    def close(self) -> None:
        """Close the connections that no transaction uses."""
        self.engine.dispose()

    @contextmanager
    def _translated(self, is_late: Callable[[], bool]) -> Generator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state == _QUERY_CANCELED or is_late():
                raise QueryTookTooLong(f"the query took longer than {self._read_timeout_s:g} s; narrow it") from error
            if state == _UNDEFINED_TABLE or "no such table" in str(error.orig) or self._is_missing():
                raise NoDirectory(_not_built(self.name)) from error
            raise self._failed(error.orig) from error
        except sqlite3.Error as error:  # of a statement that does not pass through SQLAlchemy
            raise self._failed(error) from error
        except exc.TimeoutError as error:
            raise DirectoryUnavailable("all connections to the directory's database are busy") from error

    def _failed(self, error: object) -> DirectoryUnavailable:
        return DirectoryUnavailable(f"the directory's database ({self.name}) failed: {_first_line(error)}")

    def _is_missing(self) -> bool:
        return self._is_sqlite and not self._path.exists()


def _not_built(name: object) -> str:
    return f"{name} holds no directory yet; `kinfold directory` builds it"


def _time_ms(value: object) -> int | None:
    return text_time_ms(value) if isinstance(value, str) else None


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0]


def _sqlite_engine(path: Path, options: dict[str, Any], *, read_only: bool) -> sa.Engine:
    # A reader does not create the file. It does not open it with mode=ro either: then it could not open one in WAL mode that
    # no other process has open.
    uri = f"{path.absolute().as_uri()}?mode={'rw' if read_only else 'rwc'}"

    def connect() -> sqlite3.Connection:
        # SQLite cannot open a missing file. Looked for afterwards, it may be there: a directory has just created it.
        if read_only and not path.exists():
            raise NoDirectory(_not_built(path))
        connection = sqlite3.connect(uri, uri=True, timeout=_LOCK_TIMEOUT_S, check_same_thread=False)
        connection.isolation_level = None  # transactions begin and end as SQLAlchemy says
        if not read_only:
            _use_wal(connection)
        # Rows and position are in one transaction: if a power failure takes the last ones, they are applied again.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA secure_delete = ON")  # no page keeps what was erased
        connection.execute(CREATE_TRIGRAMS)
        connection.execute(f"PRAGMA query_only = {int(read_only)}")
        connection.create_function("kinfold_time_ms", 1, _time_ms, deterministic=True)  # for conditions.py
        return connection

    engine = sa.create_engine("sqlite+pysqlite://", creator=connect, **options)

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        # A transaction that begins to write after it has read fails if another one has written in between.
        writes = connection.get_execution_options().get(_WRITES, False)
        raw: Any = connection.connection.driver_connection
        raw.execute("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL mode, which lasts. SQLite itself does not wait if two processes do it at once."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOCK_RETRY_S)
        else:
            return


def _postgresql_engine(url: str, options: dict[str, Any], read_timeout_s: float | None) -> sa.Engine:
    settings = {
        "timezone": "UTC",
        "lock_timeout": f"{_LOCK_TIMEOUT_S * 1000:.0f}",
        "idle_in_transaction_session_timeout": f"{_IDLE_TIMEOUT_S * 1000:.0f}",
    }
    if read_timeout_s is not None:
        # A plan for any value walks where few match. To compile a plan, or to start processes, takes longer than most queries.
        settings |= {"plan_cache_mode": "force_custom_plan", "jit": "off", "max_parallel_workers_per_gather": "0"}
        settings |= {"default_transaction_read_only": "on", "statement_timeout": f"{read_timeout_s * 1000:.0f}"}
        options["isolation_level"] = "REPEATABLE READ"
    engine = sa.create_engine(
        url,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "application_name": "kinfold",
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": _SILENCE_MS,
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
        },
        **options,
    )

    @event.listens_for(engine, "connect")
    def find_names(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:  # pyright: ignore[reportUnusedFunction]
        # pg_trgm may be in any schema; its operators are found by the path alone.
        cursor = connection.cursor()
        cursor.execute(
            "SELECT set_config('search_path', concat_ws(', ', %s::text, ("
            "SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace AS n ON n.oid = extnamespace "
            "WHERE extname = 'pg_trgm'), 'public'), false)",
            (POSTGRESQL_SCHEMA,),
        )
        cursor.close()
        connection.commit()

    return engine
