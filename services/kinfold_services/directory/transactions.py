"""Transactions on the directory's database from asynchronous code."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import sqlalchemy as sa

from kinfold_schemas.times import to_text
from kinfold_services.directory.database import Database

T = TypeVar("T")

THREADS: Final = 4


class Transactions:
    """Runs work in a transaction that writes, in a thread. On SQLite there is one at a time, so that none waits busily."""

    def __init__(self, database: Database, *, at_once: int) -> None:
        self._database: Final = database
        self._threads: Final = ThreadPoolExecutor(at_once, thread_name_prefix="directory")

    async def __call__(self, work: Callable[[sa.Connection], T]) -> T:
        """Run it, and return what it returns. Raises DirectoryUnavailable."""

        def transaction() -> T:
            with self._database.writing() as connection:
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._threads, transaction)

    async def clean(self) -> None:
        """Leave nothing of what was erased in the files of the database. Raises DirectoryUnavailable."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._database.clean)

    def close(self) -> None:
        """Wait for the transactions that run."""
        self._threads.shutdown()
        self._database.close()


def now() -> str:
    """The time of day, as the contract writes it."""
    return to_text(time.time_ns() // 1_000_000)
