"""README.md does what it says: its commands are run, in order, and what they print is compared.

- A block that begins with three backticks and `console` is run by bash, in a scratch directory with the project's `examples`,
  its `kinfold` on PATH and a data dir of its own. Lines that begin with `$ ` are commands (`> ` goes on with the one before);
  the lines below are what it prints, on standard output and standard error together. `...` stands for anything, also in the
  middle of a line. Every command has to end with status 0, and what prints something has to show it, if only as `...`.
- A `python` block is run as a script, in its place among the others.
- Other blocks (`sh`, `json`, …) are only read. So is a block below a comment `<!-- not run: why -->`.
- Commands that need redis-cli or curl are left out where there is none. Port 8000 stands for one that is free.
- `$GATEWAY` and `$KEY` are what `kinfold up` printed: a reader copies them from there.
"""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from kinfold_services.settings import Settings
from tests.support.engines import free_port
from tests.support.projecting import clean_environment

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
OPTIONAL_PROGRAMS: Final = ("redis-cli", "curl")
FIRST_SCREEN_LINES: Final = 40
PORT: Final = "8000"
PATIENCE_S: Final = 120

_BLOCK: Final = re.compile(
    r"^(?P<skip><!-- not run: .+? -->\n+)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)

_PRINTED: Final = {
    "GATEWAY": re.compile(r"^  the gateway +(http://\S+)", re.MULTILINE),
    "KEY": re.compile(r"^  its key +(kf_sk_\S+)", re.MULTILINE),
}


class Block(NamedTuple):
    """A fenced block, and the line of README.md on which its text begins."""

    kind: str
    text: str
    line: int


class Command(NamedTuple):
    """A command, and what it is said to print."""

    text: str
    expected: str
    line: int


def blocks() -> Iterator[Block]:
    """Every block that is to be run."""
    readme = README.read_text("utf-8")
    for match in _BLOCK.finditer(readme):
        if match["skip"] is None:
            yield Block(match["kind"], match["text"], readme.count("\n", 0, match.start("text")) + 1)


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
            assert command, f"README.md:{number}: output without a command"
            expected.append(line)


def matches(printed: str, expected: str) -> bool:
    """Whether a command printed that, `...` standing for anything."""
    pattern = re.escape(expected.strip()).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@pytest.mark.slow
def test_what_the_readme_shows_is_what_happens() -> None:
    """From the first block to the last, as somebody who reads and tries."""
    with tempfile.TemporaryDirectory(prefix="kf-") as scratch:  # short: the path of a socket is
        shutil.copytree(ROOT / "examples", Path(scratch) / "examples")
        shell = Shell(Path(scratch))
        try:
            for block in blocks():
                if block.kind == "console":
                    for command in commands(block):
                        shell.check(command)
                elif block.kind == "python":
                    shell.check_python(block)
        finally:
            shell.run("kinfold down")


class Shell:
    """Runs commands one after the other, in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = str(free_port())
        path = f"{Path(sys.executable).parent}:{clean_environment()['PATH']}"
        self._environment = clean_environment(PATH=path, KINFOLD_GATEWAY_PORT=self._port)

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Runs one; all that it prints is in `stdout`."""
        return self._run(["bash", "-c", command.replace(PORT, self._port)])

    def check(self, command: Command) -> None:
        """Runs one, and compares."""
        if any(name in command.text and shutil.which(name) is None for name in OPTIONAL_PROGRAMS):
            return
        done = self.run(command.text)
        where = f"README.md:{command.line}: $ {command.text}\n"
        assert done.returncode == 0, f"{where}ended with status {done.returncode} and printed\n{done.stdout}"
        for name, line in _PRINTED.items():
            if (found := line.search(done.stdout)) is not None:
                self._environment[name] = found[1]
        printed = done.stdout.replace(self._port, PORT)
        assert matches(printed, command.expected), f"{where}printed\n{printed}\nand README.md shows\n{command.expected}"

    def check_python(self, block: Block) -> None:
        """Runs a script: it has to end without an error or a warning."""
        done = self._run([sys.executable, "-W", "error", "-c", block.text.replace(PORT, self._port)])
        assert done.returncode == 0, f"README.md:{block.line}: the script failed\n{done.stdout}"

    def _run(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        with (
            tempfile.TemporaryFile(
                "w+", encoding="utf-8"
            ) as output,  # a pipe would be kept open by what goes on in the background
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
            return subprocess.CompletedProcess(command, status, output.read())


def test_the_first_screen_says_what_it_is_for_and_shows_it_working() -> None:
    """A sentence, then at most five commands."""
    first = next(blocks())

    assert first.kind == "console"
    assert len(list(commands(first))) <= 5
    assert first.line + first.text.count("\n") < FIRST_SCREEN_LINES
    above = README.read_text("utf-8").splitlines()[: first.line - 2]
    assert any(line.startswith("**") for line in above)


@pytest.mark.parametrize("setting", Settings.model_fields)
def test_every_setting_is_in_the_table(setting: str) -> None:
    """By the name that it has in the environment."""
    assert f"`KINFOLD_{setting.upper()}`" in README.read_text("utf-8")


@pytest.mark.parametrize(
    ("printed", "expected", "matching"),
    [
        ("", "", True),
        ("a\n", "a", True),
        ("a\nb\n", "a", False),
        ("a\nb\n", "a\n...", True),
        ('{"id":"ct_1","name":"Ada"}', '{"id":"ct_...","name":"Ada"}', True),
        ("something", "", False),
        ("something", "...", True),
        ("", "...", True),
    ],
)
def test_what_dots_stand_for(printed: str, expected: str, *, matching: bool) -> None:
    """Anything; and nothing else is left to chance."""
    assert matches(printed, expected) is matching


def test_how_a_block_is_read() -> None:
    """Commands, their continuations and what they print."""
    block = Block("console", "$ one\n$ two \\\n> more\nprints\n> this\n\n$ three\n...\n", 10)

    assert list(commands(block)) == [
        Command("one", "", 10),
        Command("two \\\nmore", "prints\n> this\n", 11),
        Command("three", "...", 16),
    ]
