"""Prints contacts in a format, or writes them to a file: for every command whose answer is a list of contacts."""

import errno
import io
import os
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Final, Literal, get_args

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kinfold_schemas.contacts import Contact
from kinfold_services.cli.output import CannotPrint, json_line, print_bytes, say
from kinfold_services.contact_files.arrow import load_arrow
from kinfold_services.contact_files.writing import WaitingContacts, csv_pages, mixed_keys, write_parquet
from kinfold_services.runtime.terminal import visible, visible_lines
from kinfold_services.transfer.files import replacing

Format = Literal["table", "json", "csv", "parquet"]
Write = Callable[[Contact], bool]
"""Writes a contact. Returns False if the reader has closed the pipe: then nothing more is needed."""

_Sink = Callable[[bytes], bool]

_WAITING: Final = frozenset({"csv", "parquet"})
"""The formats that begin with what is known only when the last contact was seen."""
_JSON: Final = frozenset({"json", "jsonl", "ndjson", ""})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_PACKED: Final = frozenset({".gz", ".zst"})
_CHUNK_BYTES: Final = 1 << 20
_PAGE: Final = 200
"""How many contacts have one heading in a table."""
_FILE_WIDTH: Final = 160
_ID_CHARS: Final = 29
_MINUTE_CHARS: Final = len("2026-11-22T08:00")

_encode: Final = msgspec.json.Encoder().encode


def _check_format(value: str | None) -> str | None:
    if value is not None and value not in get_args(Format):
        raise typer.BadParameter(f"expected one of {', '.join(get_args(Format))}, got {value!r}")
    return value


FormatName = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="|".join(get_args(Format)),
        callback=_check_format,
        help="table for people, json (one object per line), csv, or parquet. Default: by the name of --output, or json.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="FILE",
        dir_okay=False,
        help="Write to this file, which only its owner can read, and replace a file of that name; compressed as .gz or .zst.",
    ),
]


@contextmanager
def contact_writer(form: str | None, output: Path | None) -> Generator[Write]:
    """What writes contacts in a format, by default the one that the name of `output` tells, else JSON.

    A file is written whole or not at all: an exception within the block leaves the old one. Raises typer.BadParameter,
    NoPyarrow and CannotPrint.
    """
    chosen = form or _format_of(output)
    if chosen == "parquet":
        load_arrow()  # else the message would come after all contacts were read
        if output is None and sys.stdout.isatty():
            raise typer.BadParameter("--format parquet: expected --output FILE or a pipe, got a terminal")
    try:
        if output is None:
            sink = _print_visible if chosen == "csv" and sys.stdout.isatty() else print_bytes
            with _writing(chosen, sink, _console()) as write:
                yield write
        else:
            with replacing(output) as file, _writing(chosen, _sink(file), _file_console()) as write:
                yield write
    except OSError as error:
        if error.filename is None and isinstance(error, (ConnectionError, TimeoutError)):
            raise  # the server's
        is_full = chosen in _WAITING and error.errno in _FULL
        hint = f"; contacts wait in {tempfile.gettempdir()}, and TMPDIR sets another directory" if is_full else ""
        raise CannotPrint(f"{output or 'standard output'}: cannot be written ({error.strerror or error}){hint}") from error


def _format_of(output: Path | None) -> str:
    if output is None:
        return "json"
    name = output.with_suffix("") if output.suffix in _PACKED else output
    suffix = name.suffix.removeprefix(".").lower()
    if suffix not in {*_WAITING, *_JSON}:
        expected = "a name that ends in .csv, .parquet, .json, .jsonl or .ndjson, or --format"
        raise typer.BadParameter(f"--output: expected {expected}, got {output.name!r}")
    return suffix if suffix in _WAITING else "json"


def _sink(file: IO[bytes]) -> _Sink:
    def write(data: bytes) -> bool:
        file.write(data)
        return True

    return write


def _print_visible(data: bytes) -> bool:
    return print_bytes(visible_lines(data.decode().replace("\r\n", "\n")).encode())


@contextmanager
def _writing(form: str, sink: _Sink, console: Console) -> Generator[Write]:
    if form == "json":
        yield lambda contact: sink(json_line(contact))
    elif form == "table":
        table = _Tables(sink, console)
        yield table.add
        table.print_page()
    else:
        with _waiting() as (contacts, write):
            yield write
            if form == "csv":
                all(sink(page) for page in csv_pages(contacts))
            else:
                _print_parquet(contacts, sink)


@contextmanager
def _waiting() -> Generator[tuple[WaitingContacts, Write]]:
    with tempfile.TemporaryFile() as file:
        contacts = WaitingContacts(file)

        def write(contact: Contact) -> bool:
            contacts.add(contact)
            return True

        yield contacts, write


def _print_parquet(contacts: WaitingContacts, sink: _Sink) -> None:
    if mixed := mixed_keys(contacts):
        say(f"kinfold: Parquet has one type for a column: values of several types are text in {', '.join(mixed)}")
    with tempfile.TemporaryFile() as file:  # because a pipe may be closed at any time, and pyarrow wants a file
        write_parquet(contacts, file)
        file.seek(0)
        while (data := file.read(_CHUNK_BYTES)) and sink(data):
            pass


# --- tables -------------------------------------------------------------------------------------------------------------


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _FILE_WIDTH)


def _file_console() -> Console:
    return Console(file=io.StringIO(), width=_FILE_WIDTH)


class _Tables:
    """Prints contacts as tables of `_PAGE` rows, so that the first ones are there at once."""

    def __init__(self, sink: _Sink, console: Console) -> None:
        self._sink: Final = sink
        self._console: Final = console
        self._page: Final[list[Contact]] = []

    def add(self, contact: Contact) -> bool:
        self._page.append(contact)
        return self.print_page() if len(self._page) == _PAGE else True

    def print_page(self) -> bool:
        if not self._page:
            return True
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("name", "email", "externalId", "lastSeenAt"):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        table.add_column("metadata", overflow="ellipsis", no_wrap=True, ratio=1)
        table.add_column("id", no_wrap=True, min_width=_ID_CHARS)  # whole, because people copy it
        for each in self._page:
            metadata = ", ".join(f"{key}={_shown(value)}" for key, value in each.metadata.items())
            seen = each.last_seen_at[:_MINUTE_CHARS].replace("T", " ")
            cells = (each.name, each.email, each.external_id, seen, metadata, each.id)
            table.add_row(*(Text(visible(cell or "")) for cell in cells))
        self._page.clear()
        with self._console.capture() as printed:
            self._console.print(table)
        return self._sink(printed.get().encode())


def _shown(value: object) -> str:
    return value if isinstance(value, str) else _encode(value).decode()
