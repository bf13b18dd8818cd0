"""Ctrl-C at a terminal: commands tell what they wait for, and what was done before the interrupt."""

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kinfold_services.cli.process_file import process_on
from kinfold_services.server.embedded import EmbeddedServer, running_url
from tests.support.command_line import PATIENCE_S, Kinfold
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.slow

INTERRUPTED = 130
CTRL_C = b"\x03"


class Terminal:
    """A program that runs in its own terminal."""

    def __init__(self, process: "subprocess.Popen[bytes]", master: int) -> None:
        self.process = process
        self.seen = ""
        self._master = master

    def press(self, keys: bytes) -> None:
        """Types keys."""
        os.write(self._master, keys)

    def read_until(self, text: str) -> None:
        """Read the screen until `text` appears. Raises AssertionError after PATIENCE_S."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            assert self._read(), self.seen

    def read_to_the_end(self) -> int:
        """Read until the program has ended, and return its exit status."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read():
            assert time.monotonic() < deadline, self.seen
        return self.process.wait(PATIENCE_S)

    def _read(self) -> bool:
        if select.select([self._master], [], [], 1.0)[0]:
            try:
                self.seen += os.read(self._master, 65_536).decode(errors="replace")
            except OSError:  # Linux: the other end is closed
                return False
        return True


def _take_terminal() -> None:
    """Make standard input the controlling terminal, which sends Ctrl-C."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def terminal(kinfold: Kinfold, *arguments: str, **variables: str) -> Generator[Terminal]:
    """Run a command in a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        kinfold.command(*arguments),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=kinfold.environment() | variables,
        start_new_session=True,
        preexec_fn=_take_terminal,  # noqa: PLW1509  needs no lock that a thread of a test holds
    ) as process:
        os.close(slave)
        try:
            yield Terminal(process, master)
        finally:
            process.kill()
            os.close(master)


def test_publish_tells_that_it_reads_the_terminal(kinfold: Kinfold) -> None:
    """Otherwise it seems to do nothing."""
    with terminal(kinfold, "publish") as screen:
        screen.read_until("reading events from the terminal")
        screen.press(CTRL_C)
        status = screen.read_to_the_end()

    assert "kinfold: interrupted; nothing was appended" in screen.seen
    assert status == INTERRUPTED


def test_tail_tells_that_it_follows_the_feed(kinfold: Kinfold, workspace: str) -> None:
    """Without changes nothing else is printed. Ctrl-C is the normal end, so the status is 0."""
    with terminal(kinfold, "tail") as screen:
        screen.read_until(f"following the changes of workspace {workspace}; Ctrl-C stops")
        screen.press(CTRL_C)
        status = screen.read_to_the_end()

    assert status == 0
    assert "Traceback" not in screen.seen


def test_ctrl_c_during_wait_tells_that_the_events_are_in_the_log(tmp_path: Path) -> None:
    """No projector runs here, so the wait does not end. The events need not be published again."""
    events = tmp_path / "events"
    events.write_text('{"type":"VisitorSeen","visitorId":"v-1"}\n')
    with EmbeddedServer.start(tmp_path / "data") as server:
        kinfold = Kinfold("--redis-url", server.url)
        with terminal(kinfold, "publish", "--wait", str(events)) as screen:
            screen.read_until('"position":')
            screen.read_until("folding")
            screen.press(CTRL_C)
            status = screen.read_to_the_end()

    assert status == INTERRUPTED
    assert "interrupted while waiting; the events are in the log" in screen.seen


def test_ctrl_c_during_up_detach_stops_what_it_started(tmp_path: Path) -> None:
    """No process is left running."""
    data_dir = tmp_path / "data"
    kinfold = Kinfold("--data-dir", data_dir)
    with terminal(kinfold, "up", "--detach") as screen:
        wait_until_sync((data_dir / "kinfold.log").exists, PATIENCE_S)
        screen.press(CTRL_C)
        status = screen.read_to_the_end()

    if status == 0:  # it was ready before it read the key
        assert kinfold.run("down").status == 0
        pytest.skip("it was too fast")
    assert status == INTERRUPTED
    assert "kinfold: interrupted; the services that had started were stopped" in screen.seen
    assert process_on(data_dir) is None
    assert str(data_dir) not in subprocess.run(["ps", "-axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    wait_until_sync(lambda: running_url(data_dir) is None, PATIENCE_S)


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_no_colours_on_a_terminal_without_colours(tmp_path: Path, variables: dict[str, str]) -> None:
    """Neither the log of `up` nor a progress bar uses colours."""
    with terminal(Kinfold("--data-dir", tmp_path), "up", **variables) as screen:
        screen.read_until("gateway listens")
        screen.press(CTRL_C)
        assert screen.read_to_the_end() == 0

    assert "\x1b[3" not in screen.seen
    assert "(or Ctrl-C)" in screen.seen


def test_ctrl_c_while_the_program_loads_ends_it_without_a_traceback() -> None:
    program = """
import sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "kinfold_services.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from kinfold_services.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=200)

    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
