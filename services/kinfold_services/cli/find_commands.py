"""The commands `kinfold count`, `conflicts` and `timeline`, with their options. `finding.py` does the work."""

import asyncio
import sys
from typing import Annotated

import typer

from kinfold_schemas import filters
from kinfold_services.cli.options import (
    WAIT_S,
    ByOption,
    ContactOption,
    DataDir,
    EmailOption,
    ExternalIdOption,
    RedisUrl,
    SearchOption,
    SeenBefore,
    VisitorOption,
    Wait,
    WaitTimeout,
    WhereOption,
    WorkspaceName,
    filter_from,
    settings_from,
    which_from,
)


def add_find_commands(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (count, conflicts, timeline):
        app.command()(command)


def count(
    search: SearchOption = None,
    where: WhereOption = None,
    seen_before: SeenBefore = None,
    by: ByOption = None,
    limit: Annotated[int | None, typer.Option(min=1, max=1000, help="With --by: at most this many values.")] = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    wait: Wait = None,
    wait_timeout: WaitTimeout = WAIT_S,
) -> int:
    """Prints how many contacts match, exactly up to 10,000. With --by, one line for each value, and one for the rest."""
    from kinfold_services.cli import finding  # noqa: PLC0415  SQLAlchemy loads slowly

    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    wanted = finding.Wanted(search, filter_from(where, seen_before), None, limit)
    field = None if by is None else filters.field(by)
    return asyncio.run(finding.print_count(settings, wanted, field, wait, wait_timeout))


def conflicts(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    wait: Wait = None,
    wait_timeout: WaitTimeout = WAIT_S,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Include settled conflicts.")] = False,
) -> int:
    """Prints addresses that one contact was to have and another one keeps, one a line, newest first."""
    from kinfold_services.cli import finding  # noqa: PLC0415  SQLAlchemy loads slowly

    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    return asyncio.run(finding.print_conflicts(settings, "all" if everything else "open", wait, wait_timeout))


def timeline(
    visitor: VisitorOption = None,
    external_id: ExternalIdOption = None,
    email: EmailOption = None,
    contact: ContactOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Print at most this many changes.")] = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    wait: Wait = None,
    wait_timeout: WaitTimeout = WAIT_S,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, also on a terminal.")] = False,
) -> int:
    """Prints the changes of a contact and of those merged into it, newest first. Exit status 1: not found."""
    from kinfold_services.cli import finding  # noqa: PLC0415  SQLAlchemy loads slowly

    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    which = which_from(visitor, external_id, email, contact)
    as_json = json or not sys.stdout.isatty()
    return asyncio.run(finding.print_timeline(settings, which, limit, wait, wait_timeout, as_json=as_json))
