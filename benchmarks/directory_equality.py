"""Compare the directory with the projector's contacts, row by row, at 1,000,000 contacts, in SQLite or PostgreSQL.

    python benchmarks/directory_equality.py [--contacts 1000000] [--later 100000] [--kills 20] [--database sqlite] [--json FILE]

They are compared three times: after the load, after further events, and after a replay without some of the events, which
changes and removes contacts. The load and the further events come in as many pieces as there are SIGKILLs. The directory is
killed in the middle of each piece, at a random moment. With `--kills 1`, a load of a million makes more changes than the feed
keeps, so the directory is killed while it fills a build from a snapshot.

Each contact's row has to have all values that the contact in Redis gives. The metadata rows have to be those of all contacts:
as many, with the same sum of digests. The table of counts has to be what GROUP BY finds, and the text index passes FTS5's own
check against the contacts. Nothing is kept in memory but a page.
"""

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.population import Population
from harness.projector import Projector
from harness.results import environment, show, significant, write
from harness.servers import BenchServer, bench_server
from harness.wire import append

from kinfold_projections.directory import index_value
from kinfold_projections.directory_feed import decode_contact
from kinfold_projections.directory_rows import Living, contact_row
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.directory import tables
from kinfold_services.directory.builds import Build, current_build
from kinfold_services.directory.database import Database
from kinfold_services.directory.errors import DirectoryUnavailable
from kinfold_services.settings import Settings
from tests.support.directories import DirectoryProcess
from tests.support.postgres import postgres_server
from tests.support.projecting import KINFOLD

WORKSPACE: Final = "default"
_PAGE: Final = 2000
_PATIENCE_S: Final = 3600.0
_LOOK_AGAIN_S: Final = 0.1
_EXCLUDED: Final = 500
"""The replay leaves out one event in this many."""
_DIGEST_BITS: Final = 128
_LATEST_KILL_S: Final = 0.3
"""So much later than the directory got far enough, so that a SIGKILL also comes in the middle of a transaction."""

_VALUES: Final = ("contact_id", "key", "kind", "number", "text")


class Compared(msgspec.Struct):
    """What was compared, and how long it took."""

    after: str
    contacts: int
    metadata_rows: int
    differences: int
    """Contacts whose row is missing, superfluous or different, and tables that differ."""
    current_s: float
    """Until the directory had all changes."""
    compared_s: float


# --- the comparison -------------------------------------------------------------------------------------------------------


def living(server: BenchServer) -> Iterator[list[tuple[str, bytes]]]:
    """The projector's living contacts by id, in pages."""
    behind = "-"
    while ids := cast(
        "list[bytes]", server.client.zrange(key(WORKSPACE, "created"), behind, "+", bylex=True, offset=0, num=_PAGE)
    ):
        found = cast("list[bytes]", server.client.hmget(key(WORKSPACE, "contacts"), cast("Any", ids)))
        yield [(each.decode(), data) for each, data in zip(ids, found, strict=True)]
        behind = f"({ids[-1].decode()}"


def rows_by_id(connection: sa.Connection, build: int) -> Iterator[dict[str, Any]]:
    """The rows of contacts by id."""
    columns = [column for column in tables.contacts.columns if column.name not in {"build", "n"}]
    query = sa.select(*columns).where(tables.contacts.c.build == build).order_by(tables.contacts.c.id).limit(_PAGE)
    rows = connection.execute(query).mappings().all()
    while rows:
        yield from map(dict, rows)
        rows = connection.execute(query.where(tables.contacts.c.id > rows[-1]["id"])).mappings().all()


class Sum:
    """The number of some rows, and the sum of their digests: equal for the same rows in any order."""

    def __init__(self) -> None:
        self.rows = 0
        self.digest = 0

    def add(self, row: tuple[Any, ...]) -> None:
        """Add a row."""
        digest = hashlib.blake2b(repr(row).encode(), digest_size=_DIGEST_BITS // 8).digest()
        self.rows += 1
        self.digest = (self.digest + int.from_bytes(digest)) % 2**_DIGEST_BITS

    @property
    def value(self) -> tuple[int, int]:
        """Both."""
        return self.rows, self.digest


def different_contacts(server: BenchServer, connection: sa.Connection, build: int, values: Sum) -> tuple[int, int]:
    """How many contacts there are, and how many of their rows differ. Adds the metadata that the contacts give to `values`."""
    contacts = differences = 0
    rows = rows_by_id(connection, build)
    row = next(rows, None)
    for page in living(server):
        for contact_id, data in page:
            contacts += 1
            expected = contact_row(Living(decode_contact(data), data.decode()))
            for name, value in expected["metadata"].items():
                values.add((contact_id, name, *index_value(value)))
            while row is not None and row["id"] < contact_id:  # no contact has it
                differences += 1
                row = next(rows, None)
            if row is None or row["id"] != contact_id:
                differences += 1
                continue
            differences += row != expected
            row = next(rows, None)
    return contacts, differences + (row is not None) + sum(1 for _ in rows)


def metadata_sum(connection: sa.Connection, build: int) -> Sum:
    """The sum of the metadata rows."""
    found = Sum()
    query = sa.select(*(tables.metadata.c[name] for name in _VALUES)).where(tables.metadata.c.build == build)
    for row in connection.execution_options(yield_per=_PAGE).execute(query):
        found.add(tuple(row))
    return found


def counts_differ(connection: sa.Connection, build: int) -> bool:
    """Whether the counts are not those of the metadata rows."""
    names = _VALUES[1:]
    its = [tables.metadata.c[name] for name in names]
    counted = sa.select(*its, sa.func.count()).where(tables.metadata.c.build == build).group_by(*its)
    kept = sa.select(*(tables.counts.c[name] for name in names), tables.counts.c.contacts).where(tables.counts.c.build == build)
    return any(
        connection.execute(one.except_(other).limit(1)).first() is not None for one, other in ((counted, kept), (kept, counted))
    )


def text_index_differs(database: Database) -> bool:
    """Whether SQLite's text index is not that of the contacts."""
    try:
        with database.writing() as connection:
            if connection.dialect.name == "sqlite":
                name = tables.search.name
                connection.exec_driver_sql(f"INSERT INTO {name} ({name}, rank) VALUES ('integrity-check', 1)")
    except DirectoryUnavailable:
        return True
    return False


def build_of(settings: Settings) -> Build | None:
    """The current build, if there is one."""
    database = Database(settings, read_only=True)
    try:
        with database.reading() as connection:
            return current_build(connection, WORKSPACE)
    except DirectoryUnavailable:
        return None
    finally:
        database.close()


class Comparison:
    """A directory, and the projector's contacts that it has to equal."""

    def __init__(self, server: BenchServer, settings: Settings, log: Path) -> None:
        self._server: Final = server
        self._settings: Final = settings
        self._log: Final = log
        self._dice: Final = random.Random(14)  # noqa: S311  the same delays every time
        self.found: Final[list[Compared]] = []

    @contextmanager
    def directory(self) -> Generator[DirectoryProcess]:
        """A running `kinfold directory`."""
        settings: dict[str, object] = {"data_dir": self._settings.data_dir}
        if self._settings.directory_url is not None:
            settings["directory_url"] = self._settings.directory_url
        with DirectoryProcess(self._server.url, self._log, settings) as process:
            yield process

    def killed_when(self, is_time: Callable[[sa.Connection], bool]) -> None:
        """Run a directory until something is in its database, and kill it a little later."""
        with self.directory() as process:
            deadline = time.monotonic() + _PATIENCE_S
            database = Database(self._settings, read_only=True)
            while time.monotonic() < deadline:
                with suppress(DirectoryUnavailable), database.reading() as connection:
                    if is_time(connection):
                        break
                time.sleep(_LOOK_AGAIN_S)
            time.sleep(self._dice.uniform(0, _LATEST_KILL_S))
            process.kill()
            database.close()

    def compare(self, after: str) -> None:
        """Let a directory apply all changes, and compare it."""
        started = time.monotonic()
        newest: Any = self._server.client.xrevrange(key(WORKSPACE, "changes"), count=1)
        wanted = position_key(newest[0][0].decode())
        with self.directory():
            while (build := build_of(self._settings)) is None or position_key(build.position) < wanted:
                if time.monotonic() - started > _PATIENCE_S:
                    raise TimeoutError("the directory has not reached the end of the feed")
                time.sleep(_LOOK_AGAIN_S)
        current_s = time.monotonic() - started
        started = time.monotonic()
        database = Database(self._settings, read_timeout_s=_PATIENCE_S)
        values = Sum()
        with database.reading() as connection:
            contacts, differences = different_contacts(self._server, connection, build.id, values)
            metadata = metadata_sum(connection, build.id)
            differences += contacts != build.contacts
            differences += values.value != metadata.value
            differences += counts_differ(connection, build.id)
        differences += text_index_differs(database)
        database.close()
        compared_s = time.monotonic() - started
        result = Compared(after, contacts, metadata.rows, differences, significant(current_s), significant(compared_s))
        print(result, flush=True)
        self.found.append(result)


# --- the load -------------------------------------------------------------------------------------------------------------


def has_filled(rows: int) -> Callable[[sa.Connection], bool]:
    """Whether the builds together have this many contacts."""
    count = sa.select(sa.func.coalesce(sa.func.sum(tables.builds.c.contacts), 0))
    rows_there = sa.select(sa.func.count()).select_from(sa.select(tables.contacts.c.n).limit(rows).subquery())
    return lambda connection: max(connection.scalar(count) or 0, connection.scalar(rows_there) or 0) >= rows


def has_left(position: str) -> Callable[[sa.Connection], bool]:
    """Whether the current build is behind a position."""
    return lambda connection: position_key(current_build(connection, WORKSPACE).position) > position_key(position)


def replay(server: BenchServer, excluded: Path) -> int:
    """Fold the log again without some of its events. Returns how many were left out."""
    dice = random.Random(3)  # noqa: S311  the same events every time
    left_out, behind = 0, "-"
    with excluded.open("w") as file:
        while entries := cast("Any", server.client.xrange(key(WORKSPACE, "events"), behind, "+", count=10_000)):
            chosen = [entry.decode() for entry, _ in entries if dice.random() < 1 / _EXCLUDED]
            file.writelines(f"{each}\n" for each in chosen)
            left_out += len(chosen)
            behind = f"({entries[-1][0].decode()}"
    command = [*KINFOLD, "replay", "--redis-url", server.url, "--workspace", WORKSPACE, "--exclude-events", str(excluded)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return left_out


@contextmanager
def settings_of(name: str, directory: Path) -> Generator[Settings]:
    """Settings of an empty database."""
    if name == "sqlite":
        yield Settings(data_dir=directory / "data")
        return
    with postgres_server() as server, server.database() as url:
        yield Settings(data_dir=directory / "data", directory_url=url.replace("postgresql://", "postgresql+psycopg://", 1))


def main() -> None:
    """Print the table and write `benchmarks/results/directory_equality.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--contacts", type=int, default=1_000_000)
    parser.add_argument("--later", type=int, default=100_000, help="how many events follow the load")
    parser.add_argument(
        "--kills", type=int, default=20, help="how often (at least once) it is killed in the load, and as often after it"
    )
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--json", type=Path, help="output file; default: benchmarks/results/directory_equality.json")
    options: Any = parser.parse_args()
    contacts: int = options.contacts
    later: int = options.later
    kills: int = options.kills
    events = Population(contacts).events()
    with (
        tempfile.TemporaryDirectory(prefix="kinfold-bench-") as name,
        settings_of(options.database, Path(name)) as settings,
        bench_server() as server,
    ):
        comparison = Comparison(server, settings, Path(name) / "directory.log")
        with Projector(server) as projector:

            def fold(some: Iterator[bytes]) -> None:
                projector.fold({WORKSPACE: append(server.socket, WORKSPACE, some)}, _PATIENCE_S)

            for number in range(1, kills + 1):
                fold(islice(events, contacts * number // kills - contacts * (number - 1) // kills))
                comparison.killed_when(has_filled(contacts * (2 * number - 1) // (2 * kills)))
            comparison.compare(f"{contacts:,} contacts, SIGKILLs: {kills}")
            for number in range(1, kills + 1):
                build = build_of(settings)
                assert build is not None
                fold(islice(events, later * number // kills - later * (number - 1) // kills))
                comparison.killed_when(has_left(build.position))
            comparison.compare(f"{later:,} events more, SIGKILLs: {kills}")
            left_out = replay(server, Path(name) / "excluded")
            comparison.compare(f"a replay without {left_out:,} events")
        where = environment(server.name)
    rows = [msgspec.structs.astuple(each) for each in comparison.found]
    show(f"the directory against the contacts, {options.database}", Compared.__struct_fields__, rows)
    write(
        "directory_equality",
        {"environment": where, "database": options.database, "kills": kills, "compared": comparison.found},
        options.json,
    )
    if any(each.differences for each in comparison.found):
        sys.exit(1)


if __name__ == "__main__":
    main()
