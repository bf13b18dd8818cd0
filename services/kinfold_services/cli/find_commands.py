"""The commands that find contacts and tell about one, with their options.

`reading.py` and `explaining.py` answer from the state and the log, `finding.py` from the directory.
"""

import asyncio
import sys
from typing import Annotated, Final

import typer
import uvloop

from kinfold_schemas import filters
from kinfold_services.cli import explaining, reading
from kinfold_services.cli.contact_output import FormatName, Output
from kinfold_services.cli.options import (
    WAIT_S,
    At,
    ByOption,
    ContactArgument,
    ContactOption,
    DataDir,
    EmailOption,
    ExternalIdOption,
    RedisUrl,
    SearchOption,
    SeenBefore,
    SortOption,
    VisitorOption,
    Wait,
    WaitTimeout,
    WhereOption,
    WorkspaceName,
    check_text,
    filter_from,
    identifier_from,
    settings_from,
)
from kinfold_services.runtime.tasks import cancellable


def show(
    contact_id: ContactArgument = None,
    visitor: Annotated[
        str | None, typer.Option(callback=check_text, help="The contact of this visitor, or an anonymous visitor.")
    ] = None,
    external_id: ExternalIdOption = None,
    email: EmailOption = None,
    contact: ContactOption = None,
    at: At = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    wait: Wait = None,
    wait_timeout: WaitTimeout = WAIT_S,
) -> int:
    """Print one contact. Exit status 1: not found.

    The directory also finds a contact by an e-mail address that it had before.
    """
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    identifier = identifier_from(visitor, external_id, email, contact, contact_id)
    return asyncio.run(reading.show(settings, identifier, reading.When(at, wait, wait_timeout)))


def contacts(
    search: SearchOption = None,
    where: WhereOption = None,
    seen_before: SeenBefore = None,
    sort: SortOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Print at most this many.")] = None,
    form: FormatName = None,
    output: Output = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    at: At = None,
    wait: Wait = None,
    wait_timeout: WaitTimeout = WAIT_S,
) -> int:
    """Print contacts: those that match a search, or every living one by id. One JSON object per line, or another format.

    --search, --where, --seen-before and --sort ask the directory.
    """
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    if (search, where or None, seen_before, sort) == (None, None, None, None):
        return asyncio.run(reading.contacts(settings, limit, reading.When(at, wait, wait_timeout), form, output))
    if at is not None:
        raise typer.BadParameter("expected --at or a search, got both: the directory has only the present state")
    from kinfold_services.cli import finding  # noqa: PLC0415  SQLAlchemy loads slowly

    wanted = finding.Wanted(search, filter_from(where, seen_before), sort, limit)
    return asyncio.run(finding.contacts(settings, wanted, finding.Until(wait, wait_timeout), form, output))


def explain(
    contact_id: ContactArgument = None,
    visitor: VisitorOption = None,
    external_id: ExternalIdOption = None,
    email: EmailOption = None,
    contact: ContactOption = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    at: At = None,
    wait: Wait = None,
    wait_timeout: WaitTimeout = WAIT_S,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line, also on a terminal.")] = False,
) -> int:
    """Explain a contact: print every event that shaped it, what the event did, and the rule of the contract that applied."""
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    identifier = identifier_from(visitor, external_id, email, contact, contact_id)
    when = reading.When(at, wait, wait_timeout)
    return uvloop.run(cancellable(explaining.explain(settings, identifier, when, as_json=json or not sys.stdout.isatty())))


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
    """Print how many contacts match, exactly up to 10,000. With --by, one line for each value, and one for the rest."""
    from kinfold_services.cli import finding  # noqa: PLC0415  SQLAlchemy loads slowly

    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    wanted = finding.Wanted(search, filter_from(where, seen_before), None, limit)
    field = None if by is None else filters.field(by)
    return asyncio.run(finding.print_count(settings, wanted, field, finding.Until(wait, wait_timeout)))


def conflicts(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    wait: Wait = None,
    wait_timeout: WaitTimeout = WAIT_S,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Include settled conflicts.")] = False,
) -> int:
    """Print addresses that an event named for one contact while another one holds them, one per line, newest first."""
    from kinfold_services.cli import finding  # noqa: PLC0415  SQLAlchemy loads slowly

    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    return asyncio.run(finding.print_conflicts(settings, "all" if everything else "open", finding.Until(wait, wait_timeout)))


def timeline(
    contact_id: ContactArgument = None,
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
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line, also on a terminal.")] = False,
) -> int:
    """Print the changes of a contact and of those merged into it, newest first. Exit status 1: not found."""
    from kinfold_services.cli import finding  # noqa: PLC0415  SQLAlchemy loads slowly

    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    identifier = identifier_from(visitor, external_id, email, contact, contact_id)
    as_json = json or not sys.stdout.isatty()
    return asyncio.run(finding.print_timeline(settings, identifier, limit, finding.Until(wait, wait_timeout), as_json=as_json))


FIND_COMMANDS: Final = (show, contacts, explain, count, conflicts, timeline)
