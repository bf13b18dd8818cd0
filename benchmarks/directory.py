"""Measure how the directory follows: changes applied a second, the lag behind the feed, and how long it takes to build.

    python benchmarks/directory.py [--contacts 20000] [--rounds 3] [--built 1000000] [--seconds 10] [--json FILE]

**Applied**: the feed of a population is applied page by page, as the follower does, on SQLite and on PostgreSQL. The reference
is the driver's `executemany` of the same rows in the same transactions, without reading, folding or encoding anything.

**Lag**: `kinfold directory` follows a feed of 1,000 changes a second. A change's lag is the time from its arrival at a reader
of the feed to the first look that finds its position in the database.

**Built**: `kinfold directory` starts beside a full feed; until it is current, and the size of its SQLite file.
"""

import argparse
import contextlib
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec
import redis
import sqlalchemy as sa
from sqlalchemy import event

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.population import Population
from harness.projector import Projector
from harness.results import environment, show, significant, write
from harness.servers import BenchServer, bench_server, cpu_s, precise_cpu_s
from harness.wire import append
from harness.workloads import MIDDLE, Producer

from kinfold_projections.directory_rows import FeedEntry
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.directory import building, store
from kinfold_services.directory.database import FILE, Database
from kinfold_services.directory.shapes import create_tables
from kinfold_services.directory.tables import builds
from kinfold_services.directory.transactions import now
from kinfold_services.settings import Settings
from kinfold_services.state.snapshot import entry_of
from tests.support.directories import DirectoryProcess
from tests.support.postgres import postgres_server

WORKSPACE: Final = "default"
PAGE: Final = 1000
CHANGES_PER_S: Final = 1000
EVENTS_PER_CHANGE: Final = 1.58
"""How many events of the mix of `latency.py`, after its population, make one change."""
_LOOK_S: Final = 0.002
_PATIENCE_S: Final = 3600.0

Written = list[tuple[str, Any]]
"""The statements of a transaction that write, each with its rows."""


class Spent(NamedTuple):
    """Seconds by the clock, and of CPU: of this thread and the database's server."""

    clock_s: float
    cpu_s: float


class Applied(msgspec.Struct):
    """One database: medians of all rounds."""

    database: str
    changes: int
    changes_per_s: int
    bare_per_s: int
    ratio: float
    """Of the clock times."""
    cpu_ratio: float
    cpu_us_per_change: float


# --- applied a second -------------------------------------------------------------------------------------------------------


def fill_feed(server: BenchServer, projector: Projector, contacts: int) -> str:
    """Fold the population; returns the last entry of the feed."""
    projector.fold({WORKSPACE: append(server.socket, WORKSPACE, Population(contacts).events())}, _PATIENCE_S)
    newest: Any = server.client.xrevrange(key(WORKSPACE, "changes"), count=1)
    return cast("str", newest[0][0].decode())


def pages(server: BenchServer) -> list[store.Page]:
    """The whole feed in pages."""
    found, before = [], building.BEGINNING
    while raws := cast("Any", server.client.xrange(key(WORKSPACE, "changes"), min=f"({before}", count=PAGE)):
        entries = [cast("FeedEntry", entry_of(entry.decode(), fields)) for entry, fields in raws]
        after = raws[-1][0].decode()
        found.append(store.Page(before, after, entries))
        before = after
    return found


@contextmanager
def empty(settings: Settings) -> Iterator[Database]:
    """A database with empty tables and a build."""
    database = Database(settings)
    with database.writing() as connection:
        create_tables(connection)
        building.begin_build(connection, WORKSPACE, building.BEGINNING, now())
    yield database
    database.close()


def server_process(database: Database) -> list[int]:
    """PostgreSQL's process of the database's only connection."""
    with database.engine.connect() as connection:
        raw: Any = connection.connection.driver_connection
        return [raw.info.backend_pid] if hasattr(raw, "info") else []


def apply_pages(database: Database, feed: list[store.Page]) -> Spent:
    """Apply them as the follower does."""
    servers = server_process(database)
    used, started = precise_cpu_s(servers), time.perf_counter()
    for page in feed:
        with database.writing() as connection:
            store.apply(connection, 1, page, {}, now())
    return Spent(time.perf_counter() - started, precise_cpu_s(servers) - used)


def written_by(database: Database, feed: list[store.Page]) -> list[Written]:
    """Apply them, and note what the driver is told to write."""
    transactions: list[Written] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: Any) -> None:
        if executemany:
            transactions[-1].append((statement, list(parameters)))

    for page in feed:
        transactions.append([])
        with database.writing() as connection:
            store.apply(connection, 1, page, {}, now())
    return transactions


def write_bare(database: Database, transactions: list[Written]) -> Spent:
    """Give the same rows to the driver's `executemany`."""
    servers = server_process(database)
    with database.writing() as connection:
        raw: Any = connection.connection.driver_connection
        if not servers:
            raw.execute("COMMIT")
        raw.commit()
        used, started = precise_cpu_s(servers), time.perf_counter()
        for statements in transactions:
            cursor = raw.cursor()
            if not servers:
                cursor.execute("BEGIN")
            for statement, rows in statements:
                cursor.executemany(statement, rows)
            raw.commit()
        spent = Spent(time.perf_counter() - started, precise_cpu_s(servers) - used)
        if not servers:
            raw.execute("BEGIN")
    return spent


@contextmanager
def settings_of(name: str) -> Iterator[Settings]:
    """Settings of an empty database."""
    with tempfile.TemporaryDirectory(prefix="kinfold-bench-") as directory:
        if name == "sqlite":
            yield Settings(data_dir=Path(directory))
            return
        with postgres_server() as server, server.database() as url:
            yield Settings(data_dir=Path(directory), directory_url=url.replace("postgresql://", "postgresql+psycopg://", 1))


def applied(name: str, feed: list[store.Page], rounds: int) -> Applied:
    """Apply the feed and write the bare rows in turns, each into an empty database."""
    with settings_of(name) as settings, empty(settings) as database:
        transactions = written_by(database, feed)
    ours, bare = [], []
    for _ in range(rounds):
        with settings_of(name) as settings, empty(settings) as database:
            ours.append(apply_pages(database, feed))
        with settings_of(name) as settings, empty(settings) as database:
            bare.append(write_bare(database, transactions))
    changes = sum(len(page.entries) for page in feed)
    return Applied(
        name,
        changes,
        round(changes / statistics.median(each.clock_s for each in ours)),
        round(changes / statistics.median(each.clock_s for each in bare)),
        significant(statistics.median(b.clock_s / o.clock_s for o, b in zip(ours, bare, strict=True))),
        significant(statistics.median(b.cpu_s / o.cpu_s for o, b in zip(ours, bare, strict=True))),
        significant(statistics.median(each.cpu_s for each in ours) / changes * 1e6),
    )


# --- the service: built, and the lag ----------------------------------------------------------------------------------------


def wait_until_current(settings: Settings, upto: str) -> None:
    """Wait until the directory has applied an entry."""
    query = sa.select(builds.c.position).where(builds.c.state == "current", builds.c.workspace == WORKSPACE)
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        database = Database(settings, read_only=True)
        with contextlib.suppress(Exception), database.reading() as connection:
            position = connection.scalar(query)
            if position is not None and position_key(position) >= position_key(upto):
                return
        database.close()
        time.sleep(0.1)
    raise TimeoutError(f"the directory has not reached {upto}")


def built(server: BenchServer, last: str, directory: Path) -> dict[str, Any]:
    """Build the directory of the whole feed with the service."""
    settings = Settings(data_dir=directory)
    started = time.monotonic()
    with DirectoryProcess(server.url, directory.parent / "directory.log", {"data_dir": directory}) as service:
        wait_until_current(settings, last)
        seconds, cpu = time.monotonic() - started, cpu_s(service.process.pid)
    changes = cast("int", server.client.xlen(key(WORKSPACE, "changes")))
    size = sum(each.stat().st_size for each in directory.glob(f"{FILE}*"))
    return {"changes": changes, "seconds": significant(seconds), "cpu_s": significant(cpu), "bytes": size}


def lag(server: BenchServer, projector: Projector, directory: Path, seconds: float) -> dict[str, Any]:
    """The lag of each change at 1,000 changes a second."""
    first = append(server.socket, WORKSPACE, Producer(MIDDLE).population(0, MIDDLE))
    projector.fold({WORKSPACE: first}, _PATIENCE_S)
    newest: Any = server.client.xrevrange(key(WORKSPACE, "changes"), count=1)
    settings = Settings(data_dir=directory)
    with DirectoryProcess(server.url, directory.parent / "directory.log", {"data_dir": directory}) as service:
        wait_until_current(settings, newest[0][0].decode())
        cpu = cpu_s(service.process.pid)
        arrivals: list[tuple[tuple[int, int], float]] = []
        positions: list[tuple[tuple[int, int], float]] = []
        stopped = threading.Event()
        threads = [
            threading.Thread(target=_receive, args=(server.url, newest[0][0].decode(), arrivals, stopped)),
            threading.Thread(target=_look, args=(directory / FILE, positions, stopped)),
        ]
        for thread in threads:
            thread.start()
        rate = round(CHANGES_PER_S * EVENTS_PER_CHANGE)
        sender = [
            sys.executable,
            str(Path(__file__).with_name("latency.py")),
            "send",
            server.socket,
            str(rate),
            str(seconds),
            "7",
        ]
        subprocess.run(sender, stdout=subprocess.DEVNULL, check=True)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (arrivals and positions and positions[-1][0] >= arrivals[-1][0]):
            time.sleep(0.2)
        cpu = cpu_s(service.process.pid) - cpu
        stopped.set()
        for thread in threads:
            thread.join()
    lags, at = [], 0
    for entry, arrived in arrivals:
        while positions[at][0] < entry:
            at += 1
        lags.append(max(0.0, positions[at][1] - arrived))
    lags.sort()
    shares = {"p50_ms": 0.5, "p99_ms": 0.99}
    found = {name: significant(lags[int(len(lags) * share)] * 1000) for name, share in shares.items()}
    per_change = significant(cpu / len(lags) * 1e6)
    rate_found = round(len(lags) / (arrivals[-1][1] - arrivals[0][1]))
    return {
        "changes": len(lags),
        "changes_per_s": rate_found,
        **found,
        "max_ms": significant(lags[-1] * 1000),
        "cpu_us": per_change,
    }


def _receive(url: str, last: str, arrivals: list[tuple[tuple[int, int], float]], stopped: threading.Event) -> None:
    client = redis.Redis.from_url(url, socket_timeout=None)
    while not stopped.is_set():
        reply: Any = client.xread({key(WORKSPACE, "changes"): last}, count=1000, block=200)
        at = time.monotonic()
        for entry, _ in reply[0][1] if reply else []:
            last = entry.decode()
            arrivals.append((position_key(last), at))
    client.close()


def _look(path: Path, positions: list[tuple[tuple[int, int], float]], stopped: threading.Event) -> None:
    query = "SELECT position FROM directory_builds WHERE state = 'current' AND workspace = ?"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        seen = ""
        while not stopped.is_set():
            (position,) = connection.execute(query, (WORKSPACE,)).fetchone()
            if position != seen:
                positions.append((position_key(position), time.monotonic()))
                seen = position
            time.sleep(_LOOK_S)


def main() -> None:
    """Print the tables and write `benchmarks/results/directory.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--contacts", type=int, default=20_000, help="the population whose changes are applied")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--built", type=int, default=1_000_000, help="the population of which the service builds a directory")
    parser.add_argument("--seconds", type=float, default=10, help="how long the lag is measured")
    parser.add_argument("--json", type=Path, help="output file; default: benchmarks/results/directory.json")
    options: Any = parser.parse_args()
    with bench_server() as server, Projector(server) as projector:
        fill_feed(server, projector, options.contacts)
        feed = pages(server)
        where = environment(server.name)
    found = [applied(name, feed, options.rounds) for name in ("sqlite", "postgresql")]
    columns = ("", "changes", "a second", "bare executemany", "ratio", "of CPU", "CPU µs a change")
    show("changes applied", columns, map(msgspec.structs.astuple, found))
    with tempfile.TemporaryDirectory() as name, bench_server() as server, Projector(server) as projector:
        lags = lag(server, projector, Path(name) / "data", options.seconds)
    show("lag on SQLite", lags, [lags.values()])
    with tempfile.TemporaryDirectory() as name, bench_server() as server, Projector(server) as projector:
        whole = {"contacts": options.built, **built(server, fill_feed(server, projector, options.built), Path(name) / "data")}
    show("built from the feed, on SQLite", whole, [whole.values()])
    write("directory", {"environment": where, "applied": found, "lag": lags, "built": whole}, options.json)


if __name__ == "__main__":
    main()
