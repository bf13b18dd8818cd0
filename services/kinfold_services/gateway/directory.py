"""The gateway's queries to the directory, in threads: SQLAlchemy blocks."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import sqlalchemy as sa

from kinfold_services.directory.database import Database
from kinfold_services.directory.waiting import applied_position
from kinfold_services.gateway.problems import unavailable
from kinfold_services.settings import Settings

T = TypeVar("T")

THREADS: Final = 4
"""How many queries run at once, each for at most 5 s (`Database.reading`)."""
WAITING: Final = 64
"""How many queries may wait for a thread."""


class Directory:
    """Asks the directory's database, which it opens at the first query."""

    def __init__(self, settings: Settings) -> None:
        self._settings: Final = settings
        self._database: Database | None = None
        self._threads: Final = ThreadPoolExecutor(THREADS, "directory")
        self._watcher: Final = ThreadPoolExecutor(1, "directory-position")
        """For positions alone, so that waiting for them does not take longer while queries do."""
        self._asked = 0

    async def ask(self, query: Callable[[sa.Connection], T]) -> T:
        """Call `query` with a connection to one state of the database, in a thread.

        Raises Problem (503) if too many queries wait, and what `Database.reading` and the query raise.
        """
        if self._asked >= THREADS + WAITING:
            raise unavailable(f"{WAITING} queries already wait for the directory; try again")
        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, query)
        finally:
            self._asked -= 1

    async def position(self, workspace: str) -> str:
        """The feed entry that the directory has applied; 0-0 as long as it has not built the workspace."""
        return await asyncio.get_running_loop().run_in_executor(self._watcher, self._position, workspace)

    @property
    def database(self) -> Database:
        """The database. Raises DirectoryUnavailable if this Python's SQLite is too old."""
        # Two threads may both create one at first; the other one is dropped before it has connected.
        self._database = self._database or Database(self._settings, read_only=True, connections=THREADS + 1)
        return self._database

    def close(self) -> None:
        """Close the idle connections. A query that still runs ends at its timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._watcher.shutdown(wait=False, cancel_futures=True)
        if self._database is not None:
            self._database.close()

    def _ask(self, query: Callable[[sa.Connection], T]) -> T:
        with self.database.reading() as connection:
            return query(connection)

    def _position(self, workspace: str) -> str:
        return applied_position(self.database, workspace)
