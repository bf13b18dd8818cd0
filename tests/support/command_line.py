"""`kinfold`, as somebody at a terminal or a script runs it."""

import io
import json
import os
import subprocess
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from kinfold_services.cli import main
from tests.support.projecting import KINFOLD, clean_environment

PATIENCE_S: Final = 60


class Said(NamedTuple):
    """What a command came to."""

    status: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[Any]:
        """Standard output: one JSON value a line, and nothing else."""
        return [json.loads(line) for line in self.out.splitlines()]


class Kinfold:
    """The program with some options at the end of every command."""

    def __init__(self, *options: object, **variables: str) -> None:
        self._options = [str(option) for option in options]
        self._variables = variables

    def run(self, *arguments: object, stdin: bytes = b"") -> Said:
        """Runs a command to its end, in this process: it takes the program half a second to start in one of its own."""
        out, err = io.BytesIO(), io.StringIO()
        status: object = 0
        with ExitStack() as stack:
            enter = stack.enter_context
            enter(patch.dict(os.environ, self.environment(), clear=True))
            enter(patch.object(sys, "argv", ["kinfold", *map(str, arguments), *self._options]))
            enter(patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))))
            enter(redirect_stdout(io.TextIOWrapper(out, write_through=True)))
            enter(redirect_stderr(err))
            try:
                main()
            except SystemExit as leave:
                status = leave.code
            return Said(int(str(status or 0)), out.getvalue(), err.getvalue())

    def run_apart(self, *arguments: object, stdin: bytes = b"") -> Said:
        """The same in a process of its own."""
        done = subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            env=self.environment(),
            timeout=PATIENCE_S,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr.decode())

    def lines(self, *arguments: object, stdin: bytes = b"") -> list[Any]:
        """What a command that succeeds prints."""
        said = self.run(*arguments, stdin=stdin)
        assert said.status == 0, said
        return said.lines

    def json(self, *arguments: object, stdin: bytes = b"") -> Any:
        """The one thing that a command that succeeds prints."""
        (line,) = self.lines(*arguments, stdin=stdin)
        return line

    def command(self, *arguments: object) -> list[str]:
        """The command, for whoever wants to start it."""
        return [*KINFOLD, *map(str, arguments), *self._options]

    def environment(self) -> dict[str, str]:
        """Without anybody's settings, as wide as a terminal may be, and with a gateway on whichever port is free."""
        return clean_environment(**{"COLUMNS": "200", "KINFOLD_GATEWAY_PORT": "0", **self._variables})
