"""Takes passwords out of the process list, which every user of the machine can read. An environment only its owner can."""

import os
import sys
from typing import Final

from kinfold_schemas.urls import hide_password

_OPTION: Final = "--redis-url"
_VARIABLE: Final = "KINFOLD_REDIS_URL"


def hide_passwords() -> None:
    """Start this program again if its arguments contain a password: the URL then comes from the environment."""
    arguments, url = _without_password(sys.orig_argv)
    if url is not None:
        sys.stderr.flush()
        os.execve(sys.executable, arguments, {**os.environ, _VARIABLE: url})  # noqa: S606  this program again


def _without_password(arguments: list[str]) -> tuple[list[str], str | None]:
    """The arguments without the URLs that have a password, and the last such URL."""
    kept: list[str] = []
    found: str | None = None
    remaining = iter(arguments)
    for each in remaining:
        name, equals, value = each.partition("=")
        given = [each] if equals or name != _OPTION else [each, *([next_one] if (next_one := next(remaining, None)) else [])]
        url = value if equals else given[-1]
        if name == _OPTION and "@" in url and hide_password(url) != url:
            found = url
        else:
            kept += given
    return kept, found
