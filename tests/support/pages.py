"""README.md and the pages of docs/ as programs: their commands, and what they print.

- A `console` block is run by bash, in a scratch directory with the project's `examples`, its `kinfold` on PATH and its own data
  dir. Lines that begin with `$ ` are commands (`> ` continues the command before); the lines below are what it prints, on
  standard output and standard error together. `...` stands for any text, also in the middle of a line. Every command has to end
  with status 0. A command that prints something has to show it, if only as `...`.
- An `sh` block is run by bash as a reader pastes it: all lines at once, up to the first that fails. A `text` block directly
  below it is what it prints; without one it may print anything. Variables that it exports are set for what follows on the page.
- A `python` block is run as a script, in its place among the others.
- Progress lines that only a slow machine prints are left out of what a command printed.
- Other blocks (`js`, `json`, …) are only read. So is a block below a comment `<!-- not run: why -->`.
- Commands that need a program of `OPTIONAL_PROGRAMS` are left out where it is missing. Port 8000 stands for one that is free.
- A page with such blocks says below its title where they run: `<!-- server: shared -->` is a server with the Swift history that
  all those pages use one after the other; with `<!-- server: own -->` the page starts what it needs itself.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self, cast

from tests.support.engines import free_port
from tests.support.prefork import preforked
from tests.support.projecting import clean_environment
from tests.support.shown_secrets import as_on_a_terminal

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
PAGES: Final = (README, *sorted((ROOT / "docs").rglob("*.md")))
OPTIONAL_PROGRAMS: Final = ("redis-cli", "curl")
PORT: Final = "8000"
PATIENCE_S: Final = 120
_PREFORKED: Final = Path(__file__).with_name("preforked_kinfold.py")

Place = Literal["own", "shared"]

_BLOCK: Final = re.compile(
    r"^(?P<skip><!-- not run: .+? -->\n+)?```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$(?:\n+```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
_PLACE: Final = re.compile(r"^<!-- server: (own|shared) -->$", re.MULTILINE)
_PROGRESS: Final = re.compile(r"^(?P<label>.+): (?P<done>\d+) of (?P<total>\d+)\n", re.MULTILINE)
_RUN: Final = frozenset({"console", "python", "sh"})


class Block(NamedTuple):
    """A fenced block, and the line of its page on which its text begins."""

    kind: str
    text: str
    line: int
    is_skipped: bool = False
    """Whether a comment says why it is not run."""
    printed: str | None = None
    """The `text` block directly below it."""


class Command(NamedTuple):
    """A command, and what the page says it prints."""

    text: str
    expected: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """Every block of a page, also those that are only read."""
    text = page.read_text("utf-8")
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        yield Block(match["kind"], match["text"], line, match["skip"] is not None, match["printed"])


def runnable(page: Path) -> list[Block]:
    """The blocks that are run."""
    return [block for block in blocks(page) if block.kind in _RUN and not block.is_skipped]


def place(page: Path) -> Place | None:
    """Where a page's commands run; None where the page does not say."""
    if page == README:
        return "own"
    found = _PLACE.search(page.read_text("utf-8"))
    return None if found is None else cast("Place", found[1])


def commands(block: Block) -> Iterator[Command]:
    """The commands of a `console` block."""
    command, expected, started = "", list[str](), 0
    for number, line in enumerate([*block.text.splitlines(), "$ "], block.line):
        if line.startswith("$ "):
            if command:
                yield Command(command, "\n".join(expected), started)
            command, expected, started = line[2:], [], number
        elif line.startswith("> ") and not expected:
            command += "\n" + line[2:]
        else:
            assert command, f"line {number}: output without a command"
            expected.append(line)


def matches(printed: str, expected: str) -> bool:
    """Whether a command printed that, with `...` for any text. Progress lines that only a slow machine prints do not count."""
    pattern = re.escape(expected.strip()).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, _PROGRESS.sub(_without_slow, printed).strip(), re.DOTALL) is not None


def _without_slow(progress: re.Match[str]) -> str:
    """Keep the last progress line of work, which every machine prints, but not that of a wait for the projector."""
    is_last = progress["done"] == progress["total"]
    return progress[0] if is_last and progress["label"] != "folding the remaining events" else ""


class Shell:
    """Runs the commands of pages one after the other, in a scratch directory. At its end it stops what they started.

    Unless `installed`, their `kinfold` is a fork (see `tests.support.prefork`), which saves half a second for each command.
    """

    def __init__(self, *, installed: bool) -> None:
        self._scratch: Final = tempfile.TemporaryDirectory(prefix="kf-")  # short: the path of a socket is limited
        self._directory: Final = Path(self._scratch.name)
        shutil.copytree(ROOT / "examples", self._directory / "examples")
        self._port: Final = str(free_port())
        programs = [str(Path(sys.executable).parent), clean_environment()["PATH"]]
        if not installed:
            program = self._directory / "bin/kinfold"
            program.parent.mkdir()
            words = [sys.executable, str(_PREFORKED), preforked()]
            program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            program.chmod(0o700)
            programs.insert(0, str(program.parent))
        path = os.pathsep.join(programs)
        self._environment: Final = clean_environment(PATH=path, KINFOLD_GATEWAY_PORT=self._port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.run("kinfold down")
        self._scratch.cleanup()

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Run one command; `stdout` is all that it prints."""
        return self._run(["bash", "-c", command.replace(PORT, self._port)])

    def check_page(self, page: Path) -> None:
        """Run a page from its first block to its last, as a reader would who tries everything."""
        name = page.relative_to(ROOT).as_posix()
        for block in runnable(page):
            if block.kind == "python":
                self._check_python(block, name)
            elif block.kind == "sh":
                self.check_pasted(block, name)
            else:
                for command in commands(block):
                    self.check(command, name)

    def check(self, command: Command, page: str) -> None:
        """Run one command, and compare what it prints."""
        if any(name in command.text and shutil.which(name) is None for name in OPTIONAL_PROGRAMS):
            return
        done = self.run(command.text)
        where = f"{page}:{command.line}: $ {command.text}\n"
        assert done.returncode == 0, f"{where}ended with status {done.returncode} and printed\n{done.stdout}"
        printed = done.stdout.replace(self._port, PORT)
        assert matches(printed, command.expected), f"{where}printed\n{printed}\nand the page shows\n{command.expected}"

    def check_pasted(self, block: Block, page: str) -> None:
        """Run an `sh` block, and compare what it prints."""
        exported = self._directory / "exported"
        exported.touch()  # a block whose program is missing is not run
        self.check(Command(f"set -e\n{block.text}env -0 > '{exported}'", block.printed or "...", block.line), page)
        pairs = (each.partition("=") for each in exported.read_text().split("\0"))
        self._environment.update({name: value for name, _, value in pairs if name})

    def _check_python(self, block: Block, page: str) -> None:
        done = self._run([sys.executable, "-W", "error", "-c", block.text.replace(PORT, self._port)])
        assert done.returncode == 0, f"{page}:{block.line}: the script failed\n{done.stdout}"

    def _run(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8") as output,  # what goes on in the background would keep a pipe open
            subprocess.Popen(
                command,
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            try:
                status = process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                raise
            output.seek(0)
            return subprocess.CompletedProcess(command, status, as_on_a_terminal(output.read()))
