"""`kinfold replay` and `verify`: fold the log again."""

from pathlib import Path
from typing import Final, cast

import typer

from kinfold_projections.entries import EVENT_FIELD
from kinfold_schemas.codec import decode_event
from kinfold_schemas.events import Erased
from kinfold_schemas.identifiers import BadPattern, IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.access.rights import REPLAY, VERIFY
from kinfold_services.cli.hints import warn_about_losses
from kinfold_services.cli.output import DONE, NO, complain, print_json, say
from kinfold_services.cli.progress import progress
from kinfold_services.connections import Client, RawEntry
from kinfold_services.history.moments import what_was_cut
from kinfold_services.log.exclusions import excludes, is_cut, record_exclusions
from kinfold_services.log.pages import LogExtent, log_extent
from kinfold_services.replay.replay import Replay, WouldLose
from kinfold_services.replay.verify import Verification
from kinfold_services.runtime.garbage import collect_seldom
from kinfold_services.runtime.terminal import counted
from kinfold_services.server.choice import connected
from kinfold_services.settings import Settings
from kinfold_services.state.position import Replaced
from kinfold_services.state.reader import StateReader
from kinfold_services.transfer.files import bounded_lines

_CUT: Final = "{} was cut, and the baseline contains it"
_LINES_MAX: Final = 1_000_000
_LINE_BYTES_MAX: Final = 8 << 10
_EXCLUDE: Final = "--exclude-events"
_BLOCK: Final = "--blocked-identifiers"


async def replay(settings: Settings, *, dry_run: bool, allow_truncated: bool, exclude: Path | None, block: Path | None) -> int:
    """Rebuild the state from the log and replace the living one; with `dry_run` only print the differences."""
    collect_seldom()
    excluded = [_entry_id(line) for line in lines_of(exclude, _EXCLUDE)]
    blocked = lines_of(block, _BLOCK)
    async with connected(settings, role=REPLAY) as client:
        extent = await log_extent(client, settings.workspace)
        warn_about_losses(extent)
        for entry_id in excluded:
            if reason := await _why_not_excluded(client, settings.workspace, entry_id, extent):
                return complain(f"{exclude}: {reason}; nothing was done", NO)
        rules = _rules(await StateReader(client, settings.workspace).blocked_identifiers(), blocked)
        job = Replay(client, settings, rules, frozenset(excluded))
        recorded: str | None = None
        try:
            with progress("replaying", extent.entries) as advance:
                await job.build(advance)
            changes = await job.compare()
            if not dry_run:
                if not allow_truncated:
                    await job.check_loss()
                unrecorded = [each for each in excluded if each not in job.rebuild.excluded_by_log]
                recorded = await record_exclusions(client, settings.workspace, unrecorded, "kinfold replay --exclude-events")
                if blocked:
                    await client.sadd(key(settings.workspace, "blocked-identifiers"), *blocked)
                changes = await job.replace(allow_lost=allow_truncated)
        except WouldLose as error:
            return complain(str(error), NO)
        except Replaced:
            return complain(
                f"workspace {settings.workspace}: another kinfold replay has taken over; this one replaced nothing",
                NO,
            )
        finally:
            await job.close()
    for change in changes:
        print_json(change)
    _warn_about_exclusions(job.rebuild.too_late)
    if recorded is not None:
        say(f"the log excludes them from now on, by entry {recorded}; exclude that entry to take it back")
    folded = job.rebuild.position.counts.entries
    count = len(changes)
    differ = f"{counted(count, 'contact differs', 'contacts differ')}, nothing is replaced"
    changed = f"{counted(count, 'contact')} changed"
    say(f"{counted(folded, 'entry', 'entries')} folded, {differ if dry_run else changed}")
    return DONE


async def verify(settings: Settings) -> int:
    """Compare the living state with the log. Exit status 1 if they differ."""
    collect_seldom()
    async with connected(settings, role=VERIFY) as client:
        extent = await log_extent(client, settings.workspace)
        warn_about_losses(extent)
        rules = IdentifierRules(await StateReader(client, settings.workspace).blocked_identifiers())
        job = Verification(client, settings, rules)
        with progress("verifying", extent.entries) as advance:
            differences = await job.differences(advance)
    for difference in differences:
        print_json(difference)
    _warn_about_exclusions(job.rebuild.too_late)
    position = job.rebuild.position
    if differences:
        advice = "lost log entries may be the cause" if position.counts.lost else "kinfold replay repairs them"
        return complain(f"{counted(len(differences), 'difference')} at {position.stream_id}; {advice}", NO)
    say(f"equal at {position.stream_id or 'the beginning'}: {counted(position.counts.entries, 'entry', 'entries')} folded")
    return DONE


async def _why_not_excluded(client: Client, workspace: str, entry_id: str, extent: LogExtent) -> str | None:
    """Why a replay cannot leave out an entry; None if it can."""
    if extent.baseline is not None and is_cut(entry_id, position_key(extent.begins)):
        return f"{_CUT.format(entry_id)}: {what_was_cut(extent.baseline)}"
    found = await client.xrange(key(workspace, "events"), entry_id, entry_id)
    if not found:
        return f"the log has no entry {entry_id}"
    if _is_erased(cast("list[RawEntry]", found)[0]):
        return f"entry {entry_id}: its person was erased, so what it did (a merge, for example) cannot be undone"
    event = excludes(cast("list[RawEntry]", found)[0][1])
    if event is None or extent.baseline is None:
        return None
    cut = [each for each in event.entries if is_cut(each, position_key(extent.begins))]
    return f"{entry_id} excludes {cut[0]}, and {_CUT.format(cut[0])}: {what_was_cut(extent.baseline)}" if cut else None


def _warn_about_exclusions(too_late: frozenset[str]) -> None:
    """Warn about exclusions that came after their entries were cut."""
    if too_late:
        first = min(too_late, key=position_key)
        entries = counted(len(too_late), "entry that was cut before", "entries that were cut before")
        first_of = "" if len(too_late) == 1 else ", the first of them"
        say(f"the log excludes {entries} ({first}{first_of}); what was cut stays in the baseline")


def _is_erased(raw: RawEntry) -> bool:
    return isinstance(decode_event(raw[1].get(EVENT_FIELD, b"")), Erased)


def lines_of(path: Path | None, option: str) -> list[str]:
    """The lines of a file, without blank lines and comments."""
    if path is None:
        return []
    found: list[str] = []
    try:
        with path.open("rb") as file:
            for line in bounded_lines(file, _LINE_BYTES_MAX):
                if line is None or len(found) == _LINES_MAX:
                    expected = f"at most {_LINES_MAX} lines of at most {_LINE_BYTES_MAX} bytes"
                    raise typer.BadParameter(f"{path}: expected {expected}, got more", param_hint=option)
                text = line.decode().strip()
                if text and not text.startswith("#"):
                    found.append(text)
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint=option) from error
    return found


def _entry_id(line: str) -> str:
    try:
        ms, seq = position_key(line)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=_EXCLUDE) from error
    return f"{ms}-{seq}"


def _rules(stored: set[str], also: list[str]) -> IdentifierRules:
    try:
        return IdentifierRules({*stored, *also})
    except BadPattern as error:
        raise typer.BadParameter(str(error), param_hint=_BLOCK) from error
