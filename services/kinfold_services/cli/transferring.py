"""`kinfold export`, `kinfold import`: the log into a file, and back."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import cast

from kinfold_schemas.keys import DEFAULT_WORKSPACE, WORKSPACES, key
from kinfold_services.cli.interrupts import interruptible
from kinfold_services.cli.output import DONE, INTERRUPTED, NO, complain, print_json, say
from kinfold_services.connections import Client
from kinfold_services.files import replacing
from kinfold_services.log_file import BrokenFile
from kinfold_services.progress import progress
from kinfold_services.replay.log import log_extent
from kinfold_services.servers import connected
from kinfold_services.settings import Settings
from kinfold_services.transfer import Checked, Import, ImportRefused, check_file, export_log


async def export_file(settings: Settings, path: Path) -> int:
    """Writes the log to a file, and prints its trailer. Exit status 1 where there is no log or the file cannot be written."""
    async with connected(settings) as client:
        extent = await log_extent(client, settings.workspace)
        try:
            with replacing(path) as file, progress(f"exporting {settings.workspace}", extent.entries) as advance:
                trailer = await export_log(client, settings.workspace, extent, file, advance)
        except OSError as error:
            return _file_trouble(path, error)
    if trailer.lost:
        say(f"the log has lost {trailer.lost} entries (trimmed or deleted): the file cannot give what they had made")
    print_json({"workspace": settings.workspace, "trailer": trailer})
    return DONE


async def import_file(settings: Settings, path: Path, *, rename: bool, allow_truncated: bool) -> int:
    """Appends a file's entries to an empty log, and prints where that ends. Exit status 1 where it is refused."""
    try:
        with interruptible(), progress(f"checking {path}", None) as advance:
            checked = check_file(path, advance)
        if reason := _not_allowed(settings, checked, rename=rename, allow_truncated=allow_truncated):
            return complain(f"{path}: {reason}", NO)
        async with connected(settings, writes=True) as client:
            job = Import(client, settings.workspace, path, checked)
            try:
                with progress(f"importing {path}", checked.trailer.entries) as advance:
                    await job.run(advance)
            except asyncio.CancelledError:
                return complain("interrupted; a part of the file may be in the log, and the same command goes on", INTERRUPTED)
            await _hint(client, settings.workspace, checked)
    except (BrokenFile, ImportRefused) as error:
        return complain(str(error), NO)
    except OSError as error:
        return _file_trouble(path, error)
    trailer = checked.trailer
    print_json(
        {"workspace": settings.workspace, "entries": trailer.entries, "appended": job.appended, "position": trailer.last}
    )
    return DONE


def _not_allowed(settings: Settings, checked: Checked, *, rename: bool, allow_truncated: bool) -> str | None:
    header, trailer = checked.header, checked.trailer
    if header.workspace != settings.workspace and not rename:
        return (
            f"workspace: expected {settings.workspace}, got {header.workspace}; contact ids are derived from the workspace's "
            f"name. --workspace {header.workspace} keeps them, --rename gives every contact another"
        )
    if trailer.lost and not allow_truncated:
        return (
            f"lost: expected a complete log, got one that had lost {trailer.lost} entries before it was exported; "
            "contacts may come out different. --allow-truncated imports the entries that are left"
        )
    return None


async def _hint(client: Client, workspace: str, checked: Checked) -> None:
    if checked.exclusions:
        say(f"the log has {checked.exclusions} EventsExcluded: run kinfold replay once it is folded, which honours them")
    await say_if_not_served(client, workspace)


async def say_if_not_served(client: Client, workspace: str) -> bool:
    """Says, of a workspace that no projector serves, that its log will not be folded. Returns whether it said so.

    A projector serves `default`, the members of `kinfold:workspaces`, and what it is given; of those it has made the group.
    """
    if workspace == DEFAULT_WORKSPACE or await cast("Awaitable[int]", client.sismember(WORKSPACES, workspace)):
        return False
    log = key(workspace, "events")
    if await client.exists(log) and await client.xinfo_groups(log):
        return False
    say(
        f"workspace {workspace} is not in {WORKSPACES}: SADD it there, "
        f"or start kinfold up or kinfold projector with --workspace {workspace}"
    )
    return True


def _file_trouble(path: Path, error: OSError) -> int:
    if error.filename is None and isinstance(error, (ConnectionError, TimeoutError)):
        raise error
    return complain(f"{path}: cannot be read or written ({error.strerror or error})", NO)
