"""`kinfold publish`: appends NDJSON files to the log, all or nothing."""

import asyncio
import shlex
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Final, NamedTuple

from redis.exceptions import RedisError

from kinfold_schemas.codec import decode_event
from kinfold_schemas.event_fields import nearest_field, unknown_fields, unknown_in_rejected
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.rejections import found
from kinfold_services.cli.appending import Appender, report
from kinfold_services.cli.inputs import STANDARD_INPUT, readable_twice, why_unreadable
from kinfold_services.cli.interrupts import interruptible
from kinfold_services.cli.ndjson import Line, read_lines
from kinfold_services.cli.options import repeated_options
from kinfold_services.cli.output import DONE, INTERRUPTED, NO, USAGE, complain, say
from kinfold_services.cli.progress import Advance, progress
from kinfold_services.connections import Client
from kinfold_services.runtime.terminal import counted
from kinfold_services.server.choice import connected
from kinfold_services.settings import Settings
from kinfold_services.state.reader import StateReader
from kinfold_services.transfer.files import DECOMPRESSION_ERRORS, open_compressed

_NAMED_LINES: Final = 20
_PROMPT: Final = "reading events from the terminal, one JSON object per line; Ctrl-D publishes them, Ctrl-C cancels"
_UNPACK: Final = {".gz": "gzip -dc", ".zst": "zstd -dc"}


class _Checked(NamedTuple):
    """A validated file: its name, the path to read it again, and the number of its events (None if a line is invalid)."""

    name: Path
    path: Path
    events: int | None


async def publish(settings: Settings, files: list[Path], *, skip_invalid: bool, wait_s: float | None) -> int:
    """Validate every file, then append the events, and print the position of the last one.

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
        answer = {"workspace": settings.workspace, "position": job.position}
        return await report(client, settings.workspace, job.position, answer, wait_s)


def _check(files: list[Path], spool: str, rules: IdentifierRules, *, skip_invalid: bool) -> list[_Checked] | int:
    """Validate every line of every file. Returns an exit status if nothing may be appended."""
    checked: list[_Checked] = []
    for number, name in enumerate(files):
        try:
            with interruptible():
                path = readable_twice(name, Path(spool) / f"{number}{name.suffix}", _PROMPT)
                checked.append(_Checked(name, path, _validate(name, path, rules)))
        except KeyboardInterrupt:
            return complain("interrupted; nothing was appended", INTERRUPTED)
        except (OSError, *DECOMPRESSION_ERRORS) as error:
            return complain(f"{name}: {why_unreadable(error, spool)}; nothing was appended", USAGE)
        if checked[-1].events is None and not skip_invalid:
            return complain(f"{name}: nothing was appended; --skip-invalid appends the valid lines", NO)
    return checked


class _Appending:
    """Appends files, and knows at any time how much of them is in the log."""

    def __init__(
        self, client: Client, settings: Settings, rules: IdentifierRules, files: list[_Checked], *, skip_invalid: bool
    ) -> None:
        self._log: Final = Appender(client, settings.workspace)
        self._settings: Final = settings
        self._rules: Final = rules
        self._files: Final = files
        self._options: Final = " --skip-invalid" if skip_invalid else ""
        self._file = 0
        self._line = 0
        """The last line of the current file up to which every event is in the log."""
        self._read_line = 0

    @property
    def position(self) -> str | None:
        """The position of the last event in the log."""
        return self._log.position

    async def run(self) -> None:
        """Append all files. Raises RedisError, and CancelledError once the events that were sent are acknowledged."""
        for number, file in enumerate(self._files):
            self._file = number
            with progress(f"publishing {file.name}", file.events) as advance:
                await self._append(file.path, advance)

    def how_to_continue(self) -> str:
        """A sentence that tells how much is in the log, and the command that appends the rest."""
        totals = [file.events for file in self._files]
        of_all = "" if None in totals else f" of {sum(each or 0 for each in totals)}"
        name = self._files[self._file].name
        following = "".join(f" {shlex.quote(str(file.name))}" for file in self._files[self._file + 1 :])
        options = repeated_options(self._settings, "redis_url", "data_dir", "workspace") + self._options
        return (
            f"{self._log.events}{of_all} events are in the log, up to line {self._line} of {name}{self._log.unsure}; "
            f"to continue: {_from_line(name, self._line + 1)} | kinfold publish -{following}{options}"
        )

    async def _append(self, path: Path, advance: Advance) -> None:
        self._line = self._read_line = 0

        def acknowledged(count: int) -> None:
            self._line = self._read_line
            advance(count)

        with open_compressed(path) as file:
            await self._log.append(self._good_events(file), acknowledged)

    def _good_events(self, file: IO[bytes]) -> Iterator[bytes]:
        for line in read_lines(file, self._rules):
            if line.rejection is None:
                self._read_line = line.number
                yield line.data


def _from_line(name: Path, number: int) -> str:
    """A shell command that prints a file, beginning at a line."""
    tail, quoted = f"tail -n +{number}", shlex.quote(str(name))
    if name == STANDARD_INPUT or not name.is_file():
        return f"… | {tail}"  # only the user knows how to make the input again
    return f"{_UNPACK[name.suffix]} {quoted} | {tail}" if name.suffix in _UNPACK else f"{tail} {quoted}"


def _validate(name: Path, path: Path, rules: IdentifierRules) -> int | None:
    """Count the valid events; print the invalid lines, and return None if there are any. Prints unknown fields, too."""
    good = bad = 0
    ignored: dict[tuple[str, str], int] = {}
    with open_compressed(path) as file:
        for line in read_lines(file, rules):
            if line.rejection is None:
                good += 1
                _note_ignored(line, ignored)
                continue
            bad += 1
            if bad <= _NAMED_LINES:
                say(f"{name}:{line.number}: {line.rejection.reason}: {line.rejection.detail}{unknown_in_rejected(line.data)}")
    if bad > _NAMED_LINES:
        say(f"{name}: and {counted(bad - _NAMED_LINES, 'more invalid line')}")
    _say_ignored(name, ignored)
    return good if bad == 0 else None


def _note_ignored(line: Line, ignored: dict[tuple[str, str], int]) -> None:
    """Note the fields that the event's type does not have, with the first line of each: one more than are printed."""
    event_type = type(decode_event(line.data)).__name__
    for field in unknown_fields(line.data, event_type):
        if len(ignored) <= _NAMED_LINES:
            ignored.setdefault((event_type, field), line.number)


def _say_ignored(name: Path, ignored: dict[tuple[str, str], int]) -> None:
    for (event_type, field), number in islice(ignored.items(), _NAMED_LINES):
        nearest = nearest_field(field, event_type)
        hint = f"; the nearest is {nearest!r}" if nearest else ""
        say(f"{name}:{number}: ignored: expected a field of {event_type}, got {found(field)}{hint}")
    if len(ignored) > _NAMED_LINES:
        say(f"{name}: and more ignored fields")
