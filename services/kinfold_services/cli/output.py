"""The output of commands: data as JSON on standard output, everything else on standard error."""

import os
import re
import sys
from typing import Final

import msgspec

from kinfold_services.runtime.terminal import visible_lines

DONE: Final = 0
NO: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130
"""Ended by Ctrl-C; as in shells, 128 plus the number of the signal."""


_CONTROLS: Final = re.compile(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]")
"""Control characters in UTF-8, and those that turn the direction of text. Terminals obey C1 like an escape sequence."""
_JSON_SPACES: Final = frozenset({b"\t", b"\n", b"\r"})
"""Control characters that JSON permits between values. What is inside a `msgspec.Raw` may contain them."""


class CannotPrint(RuntimeError):
    """Standard output cannot be written, for example to a full disk."""


def open_closed_streams() -> None:
    """Open /dev/null for a closed standard stream (`2>&-`): else the next connection gets its number, and its text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))


def say(text: str) -> None:
    """Print text for people on standard error. It may contain text from strangers, such as the name of a file."""
    sys.stderr.write(f"{visible_lines(text)}\n")


def complain(text: str, status: int) -> int:
    """Print an error on standard error, and return `status`."""
    say(f"kinfold: {text}")
    return status


def print_json(value: object) -> bool:
    """Print one JSON object on a line of standard output. Returns False if the reader has closed the pipe.

    Raises CannotPrint.
    """
    return print_bytes(json_line(value))


def json_line(value: object) -> bytes:
    """A value as JSON, on one line, without a control character: JSON permits DEL and C1 to be raw."""
    data = msgspec.json.encode(value)
    return (_CONTROLS.sub(_escaped, data) if _CONTROLS.search(data) else data) + b"\n"


def _escaped(found: re.Match[bytes]) -> bytes:
    return b" " if found[0] in _JSON_SPACES else b"\\u%04x" % ord(found[0].decode())


def print_bytes(data: bytes) -> bool:
    """Print bytes on standard output. Returns False if the reader has closed the pipe.

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


def _print_nothing_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
