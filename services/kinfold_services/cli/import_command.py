"""The command `kinfold import-contacts` with its options. `importing` does the work."""

import asyncio
import io
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, get_args

import typer

from kinfold_schemas.times import YEAR_2000_MS, to_ms, to_text
from kinfold_services.cli import importing
from kinfold_services.cli.options import WAIT_S, DataDir, RedisUrl, WorkspaceName, settings_from
from kinfold_services.contact_files.cells import Kind
from kinfold_services.contact_files.columns import METADATA, WrongColumns, parse_maps
from kinfold_services.history.moments import date_ms

_NOW: Final = "now"
_TABS: Final = frozenset({"tab", "\\t", "\t"})


def import_contacts(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="CSV, also as .gz or .zst, or .parquet; `-`: CSV from standard input."),
    ],
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=HEADING",
            help="Fill email, external-id, name, image, metadata.KEY or at (the time of the row) from this column; "
            "can be repeated. Default: by the headings email, externalId (or userId or id), name and image; other columns are "
            "metadata.",
        ),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--as",
            metavar="KEY=KIND",
            help="Make this metadata key a string, number or boolean; can be repeated. Default: a cell of a CSV file is a "
            "number or boolean if it is written as one (12, -0.5, true) and nothing is lost (as it would be from 007 or 1.50).",
        ),
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option(help="What separates the cells of a CSV file; `tab` for tabs. Default: found in the headings.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(metavar="NAME", help="The encoding of a CSV file, such as latin-1. Default: UTF-8.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="When the values were true, or `now`: later events win over them. Default: when the file was last written.",
        ),
    ] = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    *,
    only_mapped: Annotated[
        bool, typer.Option("--only-mapped", help="Leave out the columns that neither --map nor their heading maps to a field.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the first events and every row that is refused, and import nothing.")
    ] = False,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Import only the valid rows.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the projector has folded the events.")] = False,
    wait_timeout: Annotated[
        float, typer.Option("--wait-timeout", help="Give up when nothing was folded for this many seconds.")
    ] = WAIT_S,
) -> int:
    """Import contacts from a CSV or Parquet file, all or nothing: one event for each row.

    Importing the same file again changes nothing. `--dry-run` first shows what would be imported.
    """
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    try:
        fields = parse_maps(maps or ())
    except WrongColumns as error:
        raise typer.BadParameter(str(error)) from error
    options = importing.Options(
        maps=fields,
        kinds=_parse_kinds(kinds or ()),
        only_mapped=only_mapped,
        delimiter=_parse_delimiter(delimiter),
        encoding=_parse_encoding(encoding),
        at=_parse_time(at),
        skip_invalid=skip_invalid,
        dry_run=dry_run,
        wait_s=wait_timeout if wait else None,
    )
    return asyncio.run(importing.import_contacts(settings, file, options))


def _parse_kinds(texts: Iterable[str]) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    names: dict[str, Kind] = {name: name for name in get_args(Kind)}
    for text in texts:
        key, _, name = text.rpartition("=")
        key = key.removeprefix(METADATA)
        if not key or name not in names:
            raise typer.BadParameter(f"--as: expected KEY=KIND with a KIND of {', '.join(names)}, got {text!r}")
        if kinds.setdefault(key, names[name]) != name:
            raise typer.BadParameter(f"--as: expected one kind for {key}, got {kinds[key]} and {name}")
    return kinds


def _parse_delimiter(text: str | None) -> str | None:
    if text in _TABS:
        return "\t"
    if text is not None and (len(text) != 1 or text in '"\r\n'):
        raise typer.BadParameter(f"--delimiter: expected one character or tab, got {text!r}")
    return text


def _parse_encoding(name: str | None) -> str | None:
    try:
        io.TextIOWrapper(io.BytesIO(), name)
    except LookupError as error:  # or it is a codec for bytes and not for text, such as base64
        raise typer.BadParameter(f"--encoding: expected the name of an encoding, got {name!r}") from error
    return name


def _parse_time(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        moment = datetime.now(UTC) if text == _NOW else datetime.fromisoformat(text.upper())
    except ValueError:
        moment = None
    if moment is not None and date_ms(text) is not None:
        moment = moment.replace(tzinfo=UTC)
    if moment is None or moment.tzinfo is None or to_ms(moment) < YEAR_2000_MS:
        expected = "a time since 2000 with an offset (2026-11-22T08:00:00Z), a date (2026-11-22) or now"
        raise typer.BadParameter(f"--at: expected {expected}, got {text!r}")
    return to_text(to_ms(moment))
