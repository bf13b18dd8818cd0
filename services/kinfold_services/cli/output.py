"""What commands print: data as JSON on standard output, everything else on standard error."""

import os
import sys
from typing import Final

import msgspec

DONE: Final = 0
NO: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130
"""Ended by Ctrl-C, as shells have it: 128 and the number of the signal."""


class CannotPrint(RuntimeError):
    """Standard output takes nothing: a full disk, most of all."""


def open_closed_streams() -> None:
    """Opens to nowhere what our caller has closed (`2>&-`): else the next connection has its number, and gets the text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))


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
    Raises CannotPrint.
    """
    try:
        sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _print_nothing_more()
        return False
    except OSError as error:
        _print_nothing_more()
        raise CannotPrint(f"standard output: cannot be written ({error.strerror})") from error
    return True


def _print_nothing_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
