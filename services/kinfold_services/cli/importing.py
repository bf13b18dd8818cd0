"""`kinfold import-contacts`: makes events of the rows of a CSV or Parquet file, and appends them, all or nothing."""

import asyncio
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final, NamedTuple

import msgspec
from redis.exceptions import RedisError

from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.rejections import Rejection
from kinfold_schemas.times import LAST_MS, to_text
from kinfold_services.cli.appending import Appender, report
from kinfold_services.cli.inputs import readable_twice, why_unreadable
from kinfold_services.cli.interrupts import interruptible
from kinfold_services.cli.output import DONE, INTERRUPTED, NO, USAGE, complain, print_json, say
from kinfold_services.cli.progress import Advance, progress
from kinfold_services.contact_files.arrow import NoPyarrow
from kinfold_services.contact_files.cells import Kind
from kinfold_services.contact_files.columns import WrongColumns, columns_of
from kinfold_services.contact_files.guesses import guesses
from kinfold_services.contact_files.reading_csv import CsvTable
from kinfold_services.contact_files.reading_parquet import ParquetTable
from kinfold_services.contact_files.row_events import RowEvents
from kinfold_services.contact_files.tables import Table, WrongFile
from kinfold_services.runtime.terminal import counted
from kinfold_services.server.choice import connected
from kinfold_services.settings import Settings
from kinfold_services.state.reader import StateReader
from kinfold_services.transfer.files import DECOMPRESSION_ERRORS

PARQUET_SUFFIXES: Final = frozenset({".parquet", ".pq"})
_PROMPT: Final = "reading CSV from the terminal; Ctrl-D imports it, Ctrl-C cancels"
_NAMED_ROWS: Final = 20
_SHOWN_EVENTS: Final = 5
_STEP: Final = 1000
"""How many rows lie between two reports of progress."""


class Options(NamedTuple):
    """How a file is read, and what is done with it."""

    maps: Mapping[str, str]
    """Field -> heading."""
    kinds: Mapping[str, Kind]
    """Metadata key -> what its cells are."""
    only_mapped: bool
    delimiter: str | None
    encoding: str | None
    at: str | None
    """When the values were true, as RFC 3339; None: when the file was last written."""
    skip_invalid: bool
    dry_run: bool
    wait_s: float | None


class _Prepared(NamedTuple):
    """The outcome of reading a file to its end."""

    at: str
    events: int
    refused: int
    first: list[bytes]
    """The first events."""


async def import_contacts(settings: Settings, name: Path, options: Options) -> int:
    """Validate every row, then append the events, and print the position of the last one.

    Exit status 1 if a row is refused and `skip_invalid` is not set: then nothing is appended.
    """
    async with connected(settings, writes=not options.dry_run) as client:
        rules = IdentifierRules(await StateReader(client, settings.workspace).blocked_identifiers())
        with tempfile.TemporaryDirectory() as spool:
            path = Path(spool) / "events"
            prepared = _prepare_or_complain(name, path, options, rules)
            if isinstance(prepared, int):
                return prepared
            if options.dry_run:
                return _show(name, prepared, skip_invalid=options.skip_invalid)
            if prepared.refused and not options.skip_invalid:
                return complain(
                    f"{name}: nothing was imported; --dry-run names every wrong row, --skip-invalid imports the others", NO
                )
            appender = Appender(client, settings.workspace)
            try:
                with path.open("rb") as events, progress(f"importing {name}", prepared.events) as advance:
                    await appender.append(map(bytes.rstrip, events), advance)
            except asyncio.CancelledError:
                return complain(f"interrupted; {_how_to_continue(appender, prepared)}", INTERRUPTED)
            except (RedisError, OSError):
                say(f"kinfold: {_how_to_continue(appender, prepared)}")
                raise
        if appender.position is None:
            return complain("no contacts", DONE)
        answer = {
            "workspace": settings.workspace,
            "position": appender.position,
            "at": prepared.at,
            "imported": prepared.events,
            "refused": prepared.refused,
        }
        return await report(client, settings.workspace, appender.position, answer, options.wait_s)


def _prepare_or_complain(name: Path, path: Path, options: Options, rules: IdentifierRules) -> _Prepared | int:
    """As `_prepare`. Returns an exit status if the file cannot be read."""
    nothing = "nothing was imported"
    try:
        with interruptible():
            return _prepare(name, path, options, rules)
    except KeyboardInterrupt:
        return complain(f"interrupted; {nothing}", INTERRUPTED)
    except (WrongFile, WrongColumns, NoPyarrow) as error:
        return complain(f"{name}: {error}; {nothing}", USAGE)
    except (OSError, *DECOMPRESSION_ERRORS) as error:
        return complain(f"{name}: {why_unreadable(error, str(path.parent))}; {nothing}", USAGE)


def _prepare(name: Path, path: Path, options: Options, rules: IdentifierRules) -> _Prepared:
    """Write the events of the good rows to `path`, one event per line, and name the rows that are refused."""
    source = readable_twice(name, path.with_suffix(name.suffix or ".csv"), _PROMPT)
    at = options.at or _written_at(name if source == name else None)
    table: Table = (
        ParquetTable(source)
        if name.suffix.lower() in PARQUET_SUFFIXES
        else CsvTable(source, delimiter=options.delimiter, encoding=options.encoding)
    )
    columns = columns_of(table.headings, options.maps, only_mapped=options.only_mapped)
    say(f"{name}: {columns}")
    kinds = dict(options.kinds)
    for guess in guesses(table, columns, kinds):
        if (note := guess.note()) is not None:
            say(f"{name}: {note}")
        if guess.kind is not None:
            kinds[guess.key] = guess.kind
    rows = RowEvents(table, columns, kinds, at, rules)
    refusals = _Refusals(name, table, named=None if options.dry_run else _NAMED_ROWS)
    with path.open("wb") as spool, progress(f"checking {name}", table.total) as advance:
        return _spool(rows, spool, refusals, advance)


class _Refusals:
    """Prints the rows that are refused, up to `named` of them, and counts them."""

    def __init__(self, name: Path, table: Table, named: int | None) -> None:
        self.count = 0
        self._name: Final = name
        self._table: Final = table
        self._named: Final = named

    def add(self, number: int, rejection: Rejection) -> None:
        self.count += 1
        if self._named is None or self.count <= self._named:
            say(f"{self._name}{self._table.place(number)}: {rejection.reason}: {rejection.detail}")

    def end(self) -> None:
        if self._named is not None and self.count > self._named:
            say(f"{self._name}: and {counted(self.count - self._named, 'more wrong row')}")


def _spool(rows: RowEvents, spool: IO[bytes], refusals: _Refusals, advance: Advance) -> _Prepared:
    events = done = 0
    first: list[bytes] = []
    for number, event, rejection in rows:
        if rejection is not None:
            refusals.add(number, rejection)
        else:
            spool.write(event + b"\n")
            events += 1
            if len(first) < _SHOWN_EVENTS:
                first.append(event)
        if (events + refusals.count) % _STEP == 0:
            advance(_STEP)
            done += _STEP
    advance(events + refusals.count - done)
    refusals.end()
    return _Prepared(rows.at, events, refusals.count, first)


def _show(name: Path, prepared: _Prepared, *, skip_invalid: bool) -> int:
    """The answer of a dry run: the first events, and the numbers."""
    for event in prepared.first:
        print_json(msgspec.Raw(event))
    will_import = prepared.refused == 0 or skip_invalid
    return complain(
        f"{name}: as of {prepared.at}: good rows: {prepared.events}, refused rows: {prepared.refused}, "
        f"events to append: {prepared.events if will_import else 0}; nothing was imported",
        DONE if will_import else NO,
    )


def _how_to_continue(appender: Appender, prepared: _Prepared) -> str:
    return (
        f"{appender.events} of {prepared.events} contacts are in the log{appender.unsure}; "
        "to continue, repeat the command: a row that is in the log already changes nothing"
    )


def _written_at(path: Path | None) -> str:
    """When a file was last written, as RFC 3339; the present for standard input and a pipe, which were not written before."""
    ms = (time.time_ns() if path is None else path.stat().st_mtime_ns) // 1_000_000
    return to_text(min(max(ms, 0), LAST_MS))
