"""`kinfold export` and `kinfold import`: move the log to a file and back."""

import asyncio
from pathlib import Path

from kinfold_services.cli.hints import warn_if_not_served
from kinfold_services.cli.interrupts import interruptible
from kinfold_services.cli.output import DONE, INTERRUPTED, NO, complain, print_json, say
from kinfold_services.cli.progress import progress
from kinfold_services.connections import Client
from kinfold_services.log.pages import log_extent
from kinfold_services.runtime.terminal import counted
from kinfold_services.server.choice import connected
from kinfold_services.settings import Settings
from kinfold_services.transfer.exporting import export_log
from kinfold_services.transfer.files import replacing
from kinfold_services.transfer.importing import Checked, Import, ImportRefused, check_file
from kinfold_services.transfer.log_file import BrokenFile, EntryTooLarge


async def export_file(settings: Settings, path: Path) -> int:
    """Write the log to a file, and print the trailer. Exit status 1 if there is no log or the file cannot be written."""
    async with connected(settings) as client:
        extent = await log_extent(client, settings.workspace)
        try:
            with replacing(path) as file, progress(f"exporting {settings.workspace}", extent.entries) as advance:
                trailer = await export_log(client, settings.workspace, extent, file, advance)
        except EntryTooLarge as error:
            return complain(f"{path}: nothing was written; {error}", NO)
        except OSError as error:
            return _file_error(path, error)
    if trailer.lost:
        lost = counted(trailer.lost, "entry", "entries")
        say(f"the log has lost {lost} (trimmed or deleted): contacts made from the file may differ")
    print_json({"workspace": settings.workspace, "trailer": trailer})
    return DONE


async def import_file(settings: Settings, path: Path, *, rename: bool, allow_truncated: bool) -> int:
    """Append the entries of a file to an empty log, and print the last position. Exit status 1 if the import is refused."""
    try:
        with interruptible(), progress(f"checking {path}", None) as advance:
            checked = check_file(path, advance)
        if reason := _why_refused(settings, checked, rename=rename, allow_truncated=allow_truncated):
            return complain(f"{path}: {reason}", NO)
        async with connected(settings, writes=True) as client:
            job = Import(client, settings.workspace, path, checked)
            try:
                with progress(f"importing {path}", checked.trailer.entries) as advance:
                    await job.run(advance)
            except asyncio.CancelledError:
                return complain("interrupted; part of the file may be in the log; repeat the command to continue", INTERRUPTED)
            if job.erased:
                entries = counted(job.erased, "entry of the file stays", "entries of the file stay")
                say(f"{entries} erased: people were erased since it was written")
            await _print_hints(client, settings.workspace, checked)
    except (BrokenFile, ImportRefused) as error:
        return complain(str(error), NO)
    except OSError as error:
        return _file_error(path, error)
    trailer = checked.trailer
    print_json(
        {"workspace": settings.workspace, "entries": trailer.entries, "appended": job.appended, "position": trailer.last}
    )
    return DONE


def _why_refused(settings: Settings, checked: Checked, *, rename: bool, allow_truncated: bool) -> str | None:
    header, trailer = checked.header, checked.trailer
    if header.workspace != settings.workspace and not rename:
        return (
            f"workspace: expected {settings.workspace}, got {header.workspace}; contact ids are derived from the workspace's "
            f"name. --workspace {header.workspace} keeps them, --rename gives every contact another"
        )
    if header.workspace != settings.workspace and header.cut is not None:
        return (
            f"workspace: expected {header.workspace}, got {settings.workspace}; the file begins at a baseline, whose contacts "
            "keep their ids, which are derived from the workspace's name"
        )
    if trailer.lost and not allow_truncated:
        return (
            f"lost: expected a complete log, got one that had lost {counted(trailer.lost, 'entry', 'entries')} before it was "
            "exported; contacts may differ. --allow-truncated imports the remaining entries"
        )
    return None


async def _print_hints(client: Client, workspace: str, checked: Checked) -> None:
    if checked.exclusions:
        say(f"the log has {checked.exclusions} EventsExcluded: run kinfold replay once the log is folded, to honour them")
    await warn_if_not_served(client, workspace)


def _file_error(path: Path, error: OSError) -> int:
    if error.filename is None and isinstance(error, (ConnectionError, TimeoutError)):
        raise error
    return complain(f"{path}: cannot be read or written ({error.strerror or error})", NO)
