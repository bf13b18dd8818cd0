"""Input files of commands: files, named pipes and standard input."""

import errno
import shutil
import sys
from pathlib import Path
from typing import Final

from kinfold_services.cli.output import say

STANDARD_INPUT: Final = Path("-")


def readable_twice(name: Path, spool: Path, prompt: str) -> Path:
    """The path of a file that can be read twice. Copies a pipe or standard input to `spool`. Raises OSError.

    `prompt` tells a person at a terminal what to type.
    """
    if name != STANDARD_INPUT and (name.is_file() or not name.exists()):
        return name
    with spool.open("wb") as kept:
        if name == STANDARD_INPUT:
            if sys.stdin.isatty():
                say(prompt)
            shutil.copyfileobj(sys.stdin.buffer, kept)
        else:
            with name.open("rb") as pipe:
                shutil.copyfileobj(pipe, kept)
    return spool


def why_unreadable(error: Exception, spool: str) -> str:
    """Why a file cannot be read, or cannot be copied to the directory `spool`."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"cannot be copied, because the disk of {spool} is full (set TMPDIR to use another directory)"
    return f"cannot be read ({(isinstance(error, OSError) and error.strerror) or error})"
