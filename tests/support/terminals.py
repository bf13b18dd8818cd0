"""Run a program on a terminal, and read what reaches it."""

import contextlib
import os
import pty
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

PATIENCE_S = 60


class Shown(NamedTuple):
    """The exit status, and all bytes that the program wrote to its terminal: standard output and standard error."""

    status: int
    data: bytes


def run_on_a_terminal(command: Sequence[str], environment: Mapping[str, str]) -> Shown:
    """Run a program to its end. Its standard input is empty."""
    ours, its = pty.openpty()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        data = b"".join(iter(lambda: _read(ours), b""))
        os.close(ours)
        return Shown(process.wait(PATIENCE_S), data)


def _read(terminal: int) -> bytes:
    with contextlib.suppress(OSError):  # EIO: the program has closed it
        return os.read(terminal, 1 << 16)
    return b""
