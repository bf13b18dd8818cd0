"""The output of commands: data as JSON on standard output, everything else on standard error."""

import os
import sys
from typing import Final

import msgspec

DONE: Final = 0
NO: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130
"""Ended by Ctrl-C; as in shells, 128 plus the number of the signal."""


class CannotPrint(RuntimeError):
    """Standard output cannot be written, for example to a full disk."""


def open_closed_streams() -> None:
    """Opens /dev/null for a closed standard stream (`2>&-`): else the next connection gets its number, and its text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))


def say(text: str) -> None:
    """Prints a line for people on standard error."""
    sys.stderr.write(f"{text}\n")


def complain(text: str, status: int) -> int:
    """Prints an error on standard error, and returns `status`."""
    say(f"kinfold: {text}")
    return status


def print_json(value: object) -> bool:
    """Prints one JSON object on a line of standard output. Returns False if the reader has closed the pipe.

    Raises CannotPrint.
    """
    return print_bytes(msgspec.json.encode(value) + b"\n")


def print_bytes(data: bytes) -> bool:
    """Prints bytes on standard output. Returns False if the reader has closed the pipe.

    A closed pipe (`| head`) is not an error: later output is discarded, and the exit status does not change.
    Raises CannotPrint.
    """
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _print_nothing_more()
        return False
    except OSError as error:
        _print_nothing_more()
        raise CannotPrint(f"standard output: cannot be written ({error.strerror})") from error
    return True


def visible(text: str) -> str:
    """Escapes control characters: contacts and events contain text from strangers, which must not control the terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _print_nothing_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
