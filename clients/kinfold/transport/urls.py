"""The URLs that the client accepts, and the key that goes with a gateway's URL."""

import re
from typing import Final, cast
from urllib.parse import urlsplit

from kinfold_schemas.keys import DEFAULT_WORKSPACE
from kinfold_schemas.urls import REDIS_SCHEMES, hide_password, parse_redis_url

HTTP_SCHEMES: Final = frozenset(["http", "https"])

_is_key: Final = re.compile(r"kf_[a-z]{2}_([a-z0-9_-]+)_[0-9a-f]{12}_[0-9a-f]{64}").fullmatch
"""The form of the keys of `kinfold keys create`."""


def is_http(url: str) -> bool:
    """Whether `url` is a gateway's; otherwise it is a Redis URL. Raises ValueError for any other URL, TypeError for no text.

    Callers check URLs early: a background thread would fail later, and could only lose events.
    """
    if not isinstance(cast("object", url), str):  # usually an environment variable that is not set
        raise TypeError(f"url: expected a string such as redis://localhost:6379/0, got {url!r}")
    scheme = url.partition(":")[0].lower()
    if scheme in HTTP_SCHEMES:
        _check_gateway(url)
        return True
    if scheme not in REDIS_SCHEMES:
        expected = ", ".join(f"{each}://" for each in sorted(HTTP_SCHEMES | REDIS_SCHEMES))
        raise ValueError(f"url: expected one that begins with {expected}, got {hide_password(url)!r}")
    try:
        parse_redis_url(url)
    except ValueError as error:
        raise ValueError(f"url: {error}") from None
    return False


def gateway_key(key: str | None, expected: str, workspace: str) -> str:
    """The key for a gateway. Raises ValueError for no key, and for text that an HTTP header cannot hold; it shows no key.

    The key determines the workspace. So a ValueError is raised for the key of another one than `workspace`, unless that is the
    default, which the caller may not have chosen.
    """
    if not key:
        raise ValueError(f"key: expected {expected} for a gateway (`kinfold keys create`), got none")
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise ValueError("key: expected printable ASCII without white space around it, got something else (a line end?)")
    if workspace != DEFAULT_WORKSPACE and (named := _is_key(key)) is not None and named[1] != workspace:
        raise ValueError(f"key: expected one of workspace {workspace!r}, got one of {named[1]!r}")
    return key


def _check_gateway(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError(f"url: expected https://host or https://host:port, got {hide_password(url)!r}")
