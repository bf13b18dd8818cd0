"""Whether this Python's SQLite can hold a directory."""

import sqlite3
from typing import Final

from kinfold_services.settings import Settings

OLDEST_SQLITE: Final = (3, 38)
"""The first version with FTS5's trigrams, UPSERT, RETURNING and `->`."""


def sqlite_problem(settings: Settings) -> str | None:
    """Why it cannot, if the directory is to be in SQLite; None if it can."""
    if settings.directory_url is not None or sqlite3.sqlite_version_info >= OLDEST_SQLITE:
        return None
    oldest = ".".join(map(str, OLDEST_SQLITE))
    return f"the directory needs SQLite {oldest} or newer, and this Python has {sqlite3.sqlite_version}"
