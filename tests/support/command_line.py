"""Run `kinfold` as a user or a script does."""

import io
import json
import os
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from kinfold_services.cli import main
from tests.support.prefork import run_to_end
from tests.support.projecting import KINFOLD, clean_environment

PATIENCE_S: Final = 120


class Said(NamedTuple):
    """The result of a command."""

    status: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[Any]:
        """Standard output, parsed as one JSON value per line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Kinfold:
    """The program, with options that are appended to every command."""

    def __init__(self, *options: object, **variables: str) -> None:
        self._options = [str(option) for option in options]
        self._variables = variables

    def run(self, *arguments: object, stdin: bytes = b"") -> Said:
        """Run a command to its end in this process, because a new process takes half a second to start."""
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
        """Run a command to its end in a new process."""
        ended = run_to_end([*map(str, arguments), *self._options], self.environment(), PATIENCE_S, stdin)
        return Said(ended.status, ended.out, ended.err.decode())

    def lines(self, *arguments: object, stdin: bytes = b"") -> list[Any]:
        """Run a command that must succeed; returns its output lines."""
        said = self.run(*arguments, stdin=stdin)
        assert said.status == 0, said
        return said.lines

    def json(self, *arguments: object, stdin: bytes = b"") -> Any:
        """Run a command that must succeed and print one line; returns its value."""
        (line,) = self.lines(*arguments, stdin=stdin)
        return line

    def command(self, *arguments: object) -> list[str]:
        """The command line, for tests that start the process themselves."""
        return [*KINFOLD, *map(str, arguments), *self._options]

    def environment(self) -> dict[str, str]:
        """The environment without settings of the machine, with a wide terminal, and with the gateway on any free port."""
        return clean_environment(**{"COLUMNS": "200", "KINFOLD_GATEWAY_PORT": "0", **self._variables})
