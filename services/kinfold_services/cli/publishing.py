"""`kinfold publish`: appends NDJSON files to the log, all or nothing."""

import asyncio
import errno
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from redis.exceptions import RedisError

from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.positions import position_key
from kinfold_services.cli.hints import warn_if_not_served
from kinfold_services.cli.interrupts import interruptible
from kinfold_services.cli.ndjson import append, read_lines
from kinfold_services.cli.options import repeated_options
from kinfold_services.cli.output import DONE, INTERRUPTED, NO, USAGE, complain, print_json, say
from kinfold_services.cli.progress import Advance, progress
from kinfold_services.connections import Client
from kinfold_services.server.choice import connected
from kinfold_services.settings import Settings
from kinfold_services.state.queries import NotFolded, StateQueries
from kinfold_services.state.reader import StateReader
from kinfold_services.transfer.files import UNPACKING_ERRORS, open_packed

_NAMED_LINES: Final = 20
_LOOK_AGAIN_S: Final = 0.05
_STANDARD_INPUT: Final = Path("-")
_LAST_PAGE_S: Final = 5.0
"""How long Ctrl-C waits for the reply to the events that were sent; a second Ctrl-C ends the wait."""
_UNPACK: Final = {".gz": "gzip -dc", ".zst": "zstd -dc"}

T = TypeVar("T")


class _Checked(NamedTuple):
    """A validated file: its name, the path to read it again, and the number of its events (None if a line is invalid)."""

    name: Path
    path: Path
    events: int | None


async def publish(settings: Settings, files: list[Path], *, skip_invalid: bool, wait_s: float | None) -> int:
    """Validates every file, then appends the events, and prints the position of the last one.

    With `wait_s` it returns when the projector has folded the events, or has folded nothing for that time, in seconds. It does
    not wait if no projector serves the workspace. Exit status 1 if the events are in the log but not folded.
    """
    async with connected(settings, writes=True) as client:
        rules = IdentifierRules(await StateReader(client, settings.workspace).blocked_identifiers())
        with tempfile.TemporaryDirectory() as spool:
            checked = _check(files, spool, rules, skip_invalid=skip_invalid)
            if isinstance(checked, int):
                return checked
            job = _Appending(client, settings, rules, checked, skip_invalid=skip_invalid)
            try:
                await job.run()
            except asyncio.CancelledError:
                return complain(f"interrupted; {job.how_to_continue()}", INTERRUPTED)
            except (RedisError, OSError):
                say(f"kinfold: {job.how_to_continue()}")
                raise
        if job.position is None:
            return complain("no events", DONE)
        print_json({"workspace": settings.workspace, "position": job.position})
        is_not_served = await warn_if_not_served(client, settings.workspace)
        if wait_s is None:
            return DONE
        if is_not_served:
            return complain("the events are in the log; --wait does not wait, because no projector serves the workspace", NO)
        return await _wait(StateQueries(client, settings.workspace), job.position, wait_s)


def _check(files: list[Path], spool: str, rules: IdentifierRules, *, skip_invalid: bool) -> list[_Checked] | int:
    """Validates every line of every file. Returns an exit status if nothing may be appended."""
    checked: list[_Checked] = []
    for number, name in enumerate(files):
        try:
            with interruptible():
                path = _readable_twice(name, Path(spool) / f"{number}{name.suffix}")
                checked.append(_Checked(name, path, _validate(name, path, rules)))
        except KeyboardInterrupt:
            return complain("interrupted; nothing was appended", INTERRUPTED)
        except (OSError, *UNPACKING_ERRORS) as error:
            return complain(f"{name}: {_why_unreadable(error, spool)}; nothing was appended", USAGE)
        if checked[-1].events is None and not skip_invalid:
            return complain(f"{name}: nothing was appended; --skip-invalid appends the valid lines", NO)
    return checked


def _why_unreadable(error: Exception, spool: str) -> str:
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"cannot be copied, because the disk of {spool} is full (set TMPDIR to use another directory)"
    return f"cannot be read ({error})"


class _Appending:
    """Appends files, and knows at any time how much of them is in the log."""

    def __init__(
        self, client: Client, settings: Settings, rules: IdentifierRules, files: list[_Checked], *, skip_invalid: bool
    ) -> None:
        self.position: str | None = None
        """The position of the last event in the log."""
        self._client: Final = client
        self._settings: Final = settings
        self._rules: Final = rules
        self._files: Final = files
        self._options: Final = " --skip-invalid" if skip_invalid else ""
        self._file = 0
        self._line = 0
        """The last line of the current file up to which every event is in the log."""
        self._read_line = 0
        self._events = 0
        """How many events of all files are in the log."""
        self._sent = 0
        """How many events were sent but not acknowledged."""

    async def run(self) -> None:
        """Appends all files. Raises RedisError, and CancelledError once the events that were sent are acknowledged."""
        for number, file in enumerate(self._files):
            self._file = number
            with progress(f"publishing {file.name}", file.events) as advance:
                await self._append(file.path, advance)

    def how_to_continue(self) -> str:
        """A sentence that tells how much is in the log, and the command that appends the rest."""
        totals = [file.events for file in self._files]
        of_all = "" if None in totals else f" of {sum(each or 0 for each in totals)}"
        unsure = f" (and none, some or all of the {self._sent} after it)" if self._sent else ""
        name = self._files[self._file].name
        following = "".join(f" {shlex.quote(str(file.name))}" for file in self._files[self._file + 1 :])
        options = repeated_options(self._settings, "redis_url", "data_dir", "workspace") + self._options
        return (
            f"{self._events}{of_all} events are in the log, up to line {self._line} of {name}{unsure}; "
            f"to continue: {_from_line(name, self._line + 1)} | kinfold publish -{following}{options}"
        )

    async def _append(self, path: Path, advance: Advance) -> None:
        self._line = self._read_line = 0
        with open_packed(path) as file:
            pages = append(self._client, self._settings.workspace, self._good_events(file))
            while (page := await _whole(anext(pages, None))) is not None:
                count, self.position = page
                self._events += count
                self._sent -= count
                self._line = self._read_line
                advance(count)
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise asyncio.CancelledError

    def _good_events(self, file: Iterable[bytes]) -> Iterator[bytes]:
        for line in read_lines(file, self._rules):
            if line.rejection is None:
                self._read_line = line.number
                self._sent += 1
                yield line.data


def _from_line(name: Path, number: int) -> str:
    """A shell command that prints a file from a line on."""
    tail, quoted = f"tail -n +{number}", shlex.quote(str(name))
    if name == _STANDARD_INPUT or not name.is_file():
        return f"… | {tail}"  # only the user knows how to make the input again
    return f"{_UNPACK[name.suffix]} {quoted} | {tail}" if name.suffix in _UNPACK else f"{tail} {quoted}"


def _validate(name: Path, path: Path, rules: IdentifierRules) -> int | None:
    """Counts the valid events; prints the invalid lines, and returns None if there are any."""
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
        say(f"{name}: and {bad - _NAMED_LINES} more invalid lines")
    return good if bad == 0 else None


async def _whole(page: Awaitable[T]) -> T:
    """Awaits a page. After Ctrl-C it still waits, up to _LAST_PAGE_S, for the reply to events that were already sent."""
    task = asyncio.ensure_future(page)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=_LAST_PAGE_S)
        if not task.done():
            task.cancel()
            raise
        return task.result()


async def _wait(workspace: StateQueries, position: str, patience_s: float) -> int:
    try:
        await _until_folded(workspace, position, patience_s)
    except asyncio.CancelledError:
        return complain("interrupted while waiting; the events are in the log", INTERRUPTED)
    return DONE


async def _until_folded(workspace: StateQueries, position: str, patience_s: float) -> None:
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
            advance(max(0, before.lag - status.lag))  # the lag grows when others append


def _readable_twice(name: Path, spool: Path) -> Path:
    """The path of a file that can be read twice, to validate and to append it. Copies a pipe or standard input to `spool`."""
    if name != _STANDARD_INPUT and (name.is_file() or not name.exists()):
        return name
    with spool.open("wb") as kept:
        if name == _STANDARD_INPUT:
            if sys.stdin.isatty():
                say("reading events from the terminal, one JSON object a line; Ctrl-D publishes them, Ctrl-C cancels")
            shutil.copyfileobj(sys.stdin.buffer, kept)
        else:
            with name.open("rb") as pipe:
                shutil.copyfileobj(pipe, kept)
    return spool
