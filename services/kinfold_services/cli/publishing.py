"""`kinfold publish`: NDJSON into the log, all of the files or nothing."""

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.positions import position_key
from kinfold_services.cli.interrupts import interruptible
from kinfold_services.cli.output import DONE, NO, USAGE, complain, print_json, say
from kinfold_services.cli.transferring import say_if_not_served
from kinfold_services.connections import Client
from kinfold_services.files import UNPACKING_ERRORS, open_packed
from kinfold_services.progress import Advance, progress
from kinfold_services.projector.store import StateStore
from kinfold_services.publishing import Line, append, read_lines
from kinfold_services.queries import NotFolded, Workspace
from kinfold_services.servers import connected
from kinfold_services.settings import Settings

_NAMED_LINES: Final = 20
_LOOK_AGAIN_S: Final = 0.05
_STANDARD_INPUT: Final = Path("-")


async def publish(settings: Settings, files: list[Path], *, skip_invalid: bool, wait_s: float | None) -> int:
    """Validates every file, then appends them; prints the position of the last event.

    With `wait_s` it returns when the projector has folded them, or has folded nothing for so many seconds.
    """
    async with connected(settings, writes=True) as client:
        rules = IdentifierRules(await StateStore(client, settings.workspace).blocked_identifiers())
        position: str | None = None
        with tempfile.TemporaryDirectory() as spool:
            paths: list[Path] = []
            good: list[int | None] = []
            for number, name in enumerate(files):
                try:
                    with interruptible():
                        paths.append(_readable_twice(name, Path(spool) / f"{number}{name.suffix}"))
                        good.append(_validate(name, paths[-1], rules))
                except (OSError, *UNPACKING_ERRORS) as error:
                    return complain(f"{name}: cannot be read ({error}); nothing is appended", USAGE)
                if good[-1] is None and not skip_invalid:
                    return complain(f"{name}: nothing is appended; --skip-invalid appends the good lines", NO)
            for name, path, count in zip(files, paths, good, strict=True):
                with progress(f"publishing {name}", count) as advance:
                    position = await _append(client, settings, path, rules, advance) or position
        if position is None:
            return complain("no events", DONE)
        if not (await StateStore(client, settings.workspace).position()).stream_id:  # else somebody serves it
            await say_if_not_served(client, settings.workspace)
        if wait_s is not None:
            await _wait(Workspace(client, settings.workspace), position, wait_s)
        print_json({"workspace": settings.workspace, "position": position})
    return DONE


def _validate(name: Path, path: Path, rules: IdentifierRules) -> int | None:
    """How many good events there are; None where a line is bad, which is then named."""
    good = bad = 0
    with open_packed(path) as file:
        for line in read_lines(file, rules):
            if line.rejection is None:
                good += 1
                continue
            bad += 1
            if bad <= _NAMED_LINES:
                say(f"{name}:{line.number}: {line.rejection.reason}: {line.rejection.detail}")
    if bad > _NAMED_LINES:
        say(f"{name}: and {bad - _NAMED_LINES} more bad lines")
    return good if bad == 0 else None


async def _append(client: Client, settings: Settings, path: Path, rules: IdentifierRules, advance: Advance) -> str | None:
    position: str | None = None
    with open_packed(path) as file:
        async for count, last in append(client, settings.workspace, _good_events(read_lines(file, rules))):
            position = last
            advance(count)
    return position


async def _wait(workspace: Workspace, position: str, patience_s: float) -> None:
    status = await workspace.status()
    moved_at = time.monotonic()
    with progress("folding", status.lag) as advance:
        while position_key(status.position or "") < position_key(position):
            if time.monotonic() - moved_at > patience_s:
                raise NotFolded(f"position {position} is not folded after {patience_s:g} s; does a projector run?")
            await asyncio.sleep(_LOOK_AGAIN_S)
            before, status = status, await workspace.status()
            if status.position != before.position:
                moved_at = time.monotonic()
            advance(max(0, before.lag - status.lag))  # others may append meanwhile


def _good_events(lines: Iterator[Line]) -> Iterator[bytes]:
    return (line.data for line in lines if line.rejection is None)


def _readable_twice(name: Path, spool: Path) -> Path:
    """A file to read twice, for the whole is judged before the first event is appended: what flows by is kept aside."""
    if name != _STANDARD_INPUT and (name.is_file() or not name.exists()):
        return name
    with spool.open("wb") as kept:
        if name == _STANDARD_INPUT:
            shutil.copyfileobj(sys.stdin.buffer, kept)
        else:
            with name.open("rb") as pipe:
                shutil.copyfileobj(pipe, kept)
    return spool
