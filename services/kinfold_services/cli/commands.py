"""The commands of `kinfold` with their options. The modules beside this one do the work."""

import asyncio
import re
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import uvloop
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from typer.core import TyperGroup

from kinfold_schemas.json_schema import schemas
from kinfold_services.cli import publishing, reading, rejecting, replaying, running, serving, transferring
from kinfold_services.cli.correct_commands import correct_commands
from kinfold_services.cli.find_commands import FIND_COMMANDS
from kinfold_services.cli.import_command import import_contacts
from kinfold_services.cli.key_commands import key_commands
from kinfold_services.cli.options import (
    WAIT_S,
    DataDir,
    RedisUrl,
    Wait,
    WaitTimeout,
    WorkspaceName,
    check_position,
    check_workspace_name,
    check_workspace_names,
    settings_from,
)
from kinfold_services.cli.output import DONE, print_json
from kinfold_services.cli.privacy_commands import PRIVACY_COMMANDS
from kinfold_services.cli.retention_commands import retention_commands
from kinfold_services.runtime.logs import configure_logs
from kinfold_services.runtime.tasks import cancellable
from kinfold_services.server.choice import server_url
from kinfold_services.settings import expected_and_got


def leave(status: int, **_: object) -> None:
    """End the program with the status that a command returns."""
    raise typer.Exit(status)


def _say_version(value: bool) -> None:  # noqa: FBT001  typer's signature
    if value:
        print_json({"version": version("kinfold")})
        raise typer.Exit(DONE)


class _Commands(TyperGroup):
    """The commands. What pydantic says of an option is reworded as "expected X, got Y"."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if error.param is not None and isinstance(error.__cause__, ValidationError):  # else it is ours
                error.message = "; ".join(map(_expected_and_got, error.__cause__.errors()))
            raise


def _expected_and_got(wrong: ErrorDetails) -> str:
    said = expected_and_got(wrong)
    choice = re.fullmatch(r"(.+) is not one of (.+)\.", said, re.DOTALL)  # typer's own sentence
    return said if choice is None else f"expected one of {choice[2]}, got {choice[1]}"


app: Final = typer.Typer(
    cls=_Commands,
    result_callback=leave,
    name="kinfold",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def kinfold(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Turn events on a Redis stream into contacts: one for each person, with all their devices."""


@app.command()
def up(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: Annotated[
        str | None,
        typer.Option(
            "--workspace",
            callback=check_workspace_name,
            help="Also serve this workspace from now on, and create its first key. Default: KINFOLD_WORKSPACE, or `default`.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65_535, help="Port of the gateway; 0: any free port. Default: the port of the last start, or 8000."
        ),
    ] = None,
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background; return when everything is ready.")] = False,
) -> int:
    """Run everything: projector, directory, gateway and, without a Redis URL, an embedded Valkey server."""
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace, gateway_port=port)
    return running.up_detached(settings) if detach else running.up(settings)


@app.command()
def down(data_dir: DataDir = None) -> int:
    """Stop what `kinfold up` started on a data dir. The data stays."""
    return running.down(settings_from(data_dir=data_dir))


@app.command()
def projector(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: Annotated[
        list[str] | None,
        typer.Option(
            "--workspace",
            metavar="NAME",
            callback=check_workspace_names,
            help="Serve only this workspace; can be repeated. Default: KINFOLD_SERVE, or all.",
        ),
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, console or json.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> int:
    """Run the projector alone: fold the log into contacts, and write the feed."""
    settings = settings_from(
        redis_url=redis_url,
        data_dir=data_dir,
        serve=frozenset(workspace) if workspace else None,
        log_format=log_format,
        log_level=log_level,
    )
    configure_logs(settings.log_format, settings.log_level)
    return running.run_projector(settings, server_url(settings))


@app.command()
def publish(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="NDJSON; `-` or no file: standard input.")] = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    *,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Append only the valid lines.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the projector has folded the events.")] = False,
    wait_timeout: Annotated[
        float, typer.Option("--wait-timeout", help="Give up when nothing was folded for this many seconds.")
    ] = WAIT_S,
) -> int:
    """Append events from NDJSON files, all or nothing, and print the position of the last event."""
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    work = publishing.publish(settings, files or [Path("-")], skip_invalid=skip_invalid, wait_s=wait_timeout if wait else None)
    return asyncio.run(work)


@app.command()
def tail(
    since: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            callback=check_position,
            help="Start after this feed entry; `0` is the beginning. Default: only new changes.",
        ),
    ] = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    wait: Wait = None,
    wait_timeout: WaitTimeout = WAIT_S,
) -> int:
    """Follow the change feed: one object per line, `entry` (its id on the feed) and `change`."""
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    try:
        return uvloop.run(cancellable(reading.tail(settings, since, wait, wait_timeout)))
    except KeyboardInterrupt:
        return DONE


@app.command()
def status(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: Annotated[
        str | None,
        typer.Option("--workspace", callback=check_workspace_name, help="One workspace. Default: KINFOLD_WORKSPACE, or all."),
    ] = None,
    wait: Wait = None,
    wait_timeout: WaitTimeout = WAIT_S,
) -> int:
    """Print the status of every workspace, one per line: entries, position, lag, contacts, visitors, and counts by outcome.

    --workspace or KINFOLD_WORKSPACE selects one workspace.
    """
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    return asyncio.run(reading.status(settings, wait, wait_timeout))


@app.command()
def replay(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would differ, and replace nothing.")] = False,
    exclude_events: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Fold as if these log entries (one id per line) were not in the log."),
    ] = None,
    blocked_identifiers: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Block these identifiers as well (one value or /pattern/ per line)."),
    ] = None,
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Replace even where the log has lost entries and contacts with them.")
    ] = False,
) -> int:
    """Rebuild all contacts from the log, replace the present ones in one step, and print what changed."""
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    work = replaying.replay(
        settings, dry_run=dry_run, allow_truncated=allow_truncated, exclude=exclude_events, block=blocked_identifiers
    )
    return uvloop.run(work)


@app.command()
def verify(redis_url: RedisUrl = None, data_dir: DataDir = None, workspace: WorkspaceName = None) -> int:
    """Compare the state with what the log says. Exit status 1: they differ, and each difference is printed."""
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    return uvloop.run(cancellable(replaying.verify(settings)))


@app.command()
def schema() -> int:
    """Print the JSON Schemas of events, changes, contacts and visitors."""
    print_json(schemas())
    return DONE


@app.command(name="export")
def export_log(
    file: Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="NDJSON; compressed if it ends in .gz or .zst.")],
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
) -> int:
    """Write the current log to a file that only its owner can read. Replace a file of that name."""
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    return asyncio.run(transferring.export_file(settings, file))


@app.command(name="import")
def import_log(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A file from kinfold export.")],
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    *,
    rename: Annotated[
        bool,
        typer.Option(
            "--rename",
            help="Import into a workspace of another name. Every contact gets another id, and events that name a contact by "
            "its id are rejected.",
        ),
    ] = False,
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Import a file even if its log had lost entries.")
    ] = False,
) -> int:
    """Append the entries of a file, with their ids, to an empty log. Repeat an interrupted import to continue it."""
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    return asyncio.run(transferring.import_file(settings, file, rename=rename, allow_truncated=allow_truncated))


@app.command()
def rejects(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    *,
    count: Annotated[bool, typer.Option("--count", help="Print the number of rejects by reason.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Include settled rejects.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Append again what is valid now. Exit status 1: some are left.")
    ] = False,
    edit: Annotated[
        bool, typer.Option("--edit", help="Open each event in $EDITOR first, and append the changed ones. Implies --retry.")
    ] = False,
) -> int:
    """Print the rejects that are not settled: entries that could not be folded, one per line, each with the reason."""
    if (retry or edit) and (count or everything):
        raise typer.BadParameter("expected --count and --all, or --retry and --edit, got options of both")
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    if retry or edit:
        return asyncio.run(rejecting.retry_rejects(settings, edit=edit))
    return asyncio.run(rejecting.list_rejects(settings, count=count, everything=everything))


@app.command()
def gateway(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="0: any free port. Default: 8000.")] = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    log_format: Annotated[str | None, typer.Option(help="auto, console or json.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    *,
    until_stdin_ends: Annotated[bool, typer.Option("--until-stdin-ends", hidden=True)] = False,
) -> int:
    """Run the gateway: receive events over HTTP, answer queries, and stream changes.

    It serves every workspace: the API key of a request determines the workspace.
    """
    settings = settings_from(
        redis_url=redis_url,
        data_dir=data_dir,
        gateway_host=host,
        gateway_port=port,
        log_format=log_format,
        log_level=log_level,
    )
    configure_logs(settings.log_format, settings.log_level)
    return serving.run_gateway(settings, until_stdin_ends=until_stdin_ends)


@app.command()
def directory(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: Annotated[
        list[str] | None,
        typer.Option(
            "--workspace",
            metavar="NAME",
            callback=check_workspace_names,
            help="Follow only this workspace; can be repeated. Default: KINFOLD_SERVE, or all.",
        ),
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, console or json.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    *,
    until_stdin_ends: Annotated[bool, typer.Option("--until-stdin-ends", hidden=True)] = False,
) -> int:
    """Run the directory: keep the contacts in SQL tables, from the change feed.

    The tables are in `directory.db` in the data dir (SQLite), or in the PostgreSQL database of KINFOLD_DIRECTORY_URL.
    """
    settings = settings_from(
        redis_url=redis_url,
        data_dir=data_dir,
        serve=frozenset(workspace) if workspace else None,
        log_format=log_format,
        log_level=log_level,
    )
    configure_logs(settings.log_format, settings.log_level)
    return serving.run_directory(settings, until_stdin_ends=until_stdin_ends)


for _command in (*FIND_COMMANDS, *PRIVACY_COMMANDS):
    app.command()(_command)
app.command(name="import-contacts")(import_contacts)
app.add_typer(key_commands, name="keys")
app.add_typer(retention_commands, name="retention")
app.add_typer(correct_commands, name="correct")
