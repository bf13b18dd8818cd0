"""What commands print: data as JSON on standard output, everything else on standard error."""

import os
import sys
from typing import Final

import msgspec

DONE: Final = 0
NO: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3


def say(text: str) -> None:
    """For people: a line on standard error."""
    sys.stderr.write(f"{text}\n")


def complain(text: str, status: int) -> int:
    """An error, and the exit status that goes with it."""
    say(f"kinfold: {text}")
    return status


def print_json(value: object) -> bool:
    """One JSON object on a line of standard output; whether somebody reads it.

    Where nobody does (`| head`) that is no error: nothing more is printed, and the command ends with the status that it has.
    """
    try:
        sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
