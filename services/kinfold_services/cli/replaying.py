"""`kinfold replay` and `verify`: fold the log again."""

from pathlib import Path
from typing import Final

import typer

from kinfold_schemas.identifiers import BadPattern, IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.access.rights import REPLAY, VERIFY
from kinfold_services.cli.hints import warn_about_losses
from kinfold_services.cli.output import DONE, NO, complain, print_json, say
from kinfold_services.cli.progress import progress
from kinfold_services.log.exclusions import record_exclusions
from kinfold_services.log.pages import log_extent
from kinfold_services.replay.replay import Replay, WouldLose
from kinfold_services.replay.verify import Verification
from kinfold_services.runtime.garbage import collect_seldom
from kinfold_services.server.choice import connected
from kinfold_services.settings import Settings
from kinfold_services.state.position import Replaced
from kinfold_services.state.reader import StateReader
from kinfold_services.transfer.files import bounded_lines

_LINES_MAX: Final = 1_000_000
_LINE_BYTES_MAX: Final = 8 << 10
_EXCLUDE: Final = "--exclude-events"
_BLOCK: Final = "--blocked-identifiers"


async def replay(settings: Settings, *, dry_run: bool, allow_truncated: bool, exclude: Path | None, block: Path | None) -> int:
    """Rebuilds the state from the log and replaces the living one; with `dry_run` only prints the differences."""
    collect_seldom()
    excluded = [_entry_id(line) for line in _lines(exclude, _EXCLUDE)]
    blocked = _lines(block, _BLOCK)
    async with connected(settings, role=REPLAY) as client:
        extent = await log_extent(client, settings.workspace)
        warn_about_losses(extent)
        for entry_id in excluded:
            if not await client.xrange(key(settings.workspace, "events"), entry_id, entry_id):
                return complain(f"{exclude}: the log has no entry {entry_id}; nothing was done", NO)
        rules = _rules(await StateReader(client, settings.workspace).blocked_identifiers(), blocked)
        job = Replay(client, settings, rules, frozenset(excluded))
        try:
            with progress("replaying", extent.entries) as advance:
                await job.build(advance)
            changes = await job.compare()
            if not dry_run:
                if not allow_truncated:
                    await job.check_loss()
                unrecorded = [each for each in excluded if each not in job.rebuild.excluded_by_log]
                await record_exclusions(client, settings.workspace, unrecorded, "kinfold replay --exclude-events")
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
    folded = job.rebuild.position.counts.entries
    say(f"{folded} entries folded, {len(changes)} contacts differ{', nothing is replaced' if dry_run else ''}")
    return DONE


async def verify(settings: Settings) -> int:
    """Compares the living state with the log. Exit status 1 if they differ."""
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
    position = job.rebuild.position
    if differences:
        advice = "lost log entries may be the cause" if position.counts.lost else "kinfold replay repairs them"
        return complain(f"{len(differences)} differences at {position.stream_id}; {advice}", NO)
    say(f"equal at {position.stream_id or 'the beginning'}: {position.counts.entries} entries folded")
    return DONE


def _lines(path: Path | None, option: str) -> list[str]:
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
