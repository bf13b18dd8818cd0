"""`kinfold retention`: how long a workspace keeps what, and the runs that remove the rest (contract section 11)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import typer

from kinfold_services.access.rights import RETENTION
from kinfold_services.cli.options import DataDir, RedisUrl, WorkspaceName, settings_from
from kinfold_services.cli.output import DONE, NO, complain, print_json, say
from kinfold_services.cli.progress import progress
from kinfold_services.connections import Client
from kinfold_services.log.baseline import read_baseline
from kinfold_services.log.pages import log_extent
from kinfold_services.replay.replay import WouldLose
from kinfold_services.retention.baselines import ChangedMeanwhile, Differs
from kinfold_services.retention.limits import Limits, parse_age, read_limits, remove_limits, write_limits
from kinfold_services.retention.run import By, run_retention
from kinfold_services.retention.run import receipts as stored_receipts
from kinfold_services.runtime.garbage import collect_seldom
from kinfold_services.server.choice import connected
from kinfold_services.settings import Settings

retention_commands: Final = typer.Typer(
    help="Set how long a workspace keeps its log, rejects and feed, and remove what is older.", no_args_is_help=True
)


def _check_age(value: str | None) -> str | None:
    try:
        if value is not None:
            parse_age(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return value


def _age(help_text: str) -> Any:
    return typer.Option(metavar="AGE", callback=_check_age, help=help_text)


@retention_commands.command(name="set")
def set_limits(
    events: Annotated[str | None, _age("The log, and rejects of its entries: an age such as 400d or 36h.")] = None,
    anonymous: Annotated[
        str | None, _age("Visitors that no event identified, since they were last seen. They go with their events.")
    ] = None,
    rejects: Annotated[str | None, _age("Rejected entries.")] = None,
    feed: Annotated[str | None, _age("The change feed.")] = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
) -> int:
    """Set how long a workspace keeps what, and print all limits. A limit that is not given stays as it is.

    The projector removes what is older from now on. What was removed is gone for good.
    """
    given = Limits(*(None if each is None else parse_age(each) for each in (events, anonymous, rejects, feed)))
    if not given:
        raise typer.BadParameter("expected at least one of --events, --anonymous, --rejects and --feed")
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)

    async def write(client: Client) -> int:
        await write_limits(client, settings.workspace, given)
        print_json({"workspace": settings.workspace, "limits": (await read_limits(client, settings.workspace)).shown()})
        return DONE

    return _run(settings, write)


@retention_commands.command()
def show(redis_url: RedisUrl = None, data_dir: DataDir = None, workspace: WorkspaceName = None) -> int:
    """Print the limits of a workspace, where its log begins, and the last receipt."""
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)

    async def read(client: Client) -> int:
        baseline = await read_baseline(client, settings.workspace)
        known = await stored_receipts(client, settings.workspace)
        print_json(
            {
                "workspace": settings.workspace,
                "limits": (await read_limits(client, settings.workspace)).shown(),
                "baseline": baseline
                and {"position": baseline.position, "entries": baseline.counts.entries, "madeAt": baseline.made_at},
                "lastReceipt": known[-1] if known else None,
            }
        )
        return DONE

    return _run(settings, read)


@retention_commands.command()
def off(redis_url: RedisUrl = None, data_dir: DataDir = None, workspace: WorkspaceName = None) -> int:
    """Remove all limits of a workspace: it keeps everything from now on. What was removed stays removed."""
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)

    async def remove(client: Client) -> int:
        await remove_limits(client, settings.workspace)
        print_json({"workspace": settings.workspace, "limits": Limits().shown()})
        return DONE

    return _run(settings, remove)


@retention_commands.command()
def run(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go, and remove nothing.")] = False,
    by_projector: Annotated[bool, typer.Option("--by-projector", hidden=True)] = False,
) -> int:
    """Remove now what is older than the limits, and print the receipt.

    Exit status 1: nothing was removed, because the state differs from a fold of the log, or changed too often meanwhile.
    """
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    collect_seldom()

    async def remove(client: Client) -> int:
        if not await read_limits(client, settings.workspace):
            return complain(f"workspace {settings.workspace} has no limits; `kinfold retention set` sets them", NO)
        extent = await log_extent(client, settings.workspace)
        try:
            with progress("folding", 2 * extent.entries) as advance:
                by: By = "projector" if by_projector else "kinfold retention run"
                receipt = await run_retention(client, settings, by, advance, dry=dry_run)
        except (ChangedMeanwhile, Differs, WouldLose) as error:
            return complain(str(error), NO)
        if receipt is None:
            say("nothing is older than the limits")
        else:
            print_json(receipt)
        return DONE

    return _run(settings, remove, writes=True)


@retention_commands.command()
def receipts(redis_url: RedisUrl = None, data_dir: DataDir = None, workspace: WorkspaceName = None) -> int:
    """Print what every run has removed, one receipt per line, oldest first."""
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)

    async def read(client: Client) -> int:
        for each in await stored_receipts(client, settings.workspace):
            print_json(each)
        return DONE

    return _run(settings, read)


def _run(settings: Settings, work: Callable[[Client], Awaitable[int]], *, writes: bool = False) -> int:
    async def perform() -> int:
        async with connected(settings, role=RETENTION if writes else None) as client:
            return await work(client)

    return asyncio.run(perform())
