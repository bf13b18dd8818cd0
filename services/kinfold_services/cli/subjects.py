"""`kinfold subject`: everything held about one person, as a zip file."""

import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

from kinfold_schemas.times import to_text
from kinfold_services.cli.output import DONE, NO, complain, print_json, say
from kinfold_services.cli.progress import progress
from kinfold_services.directory.database import Database
from kinfold_services.directory.errors import DirectoryUnavailable
from kinfold_services.directory.held import held_rows
from kinfold_services.log.pages import log_extent
from kinfold_services.privacy.subject import DirectoryRows, Subject, write_subject
from kinfold_services.runtime.garbage import collect_seldom
from kinfold_services.server.choice import connected
from kinfold_services.settings import Settings
from kinfold_services.state.queries import Identifier
from kinfold_services.transfer.files import replacing


async def subject(settings: Settings, identifier: Identifier, output: Path) -> int:
    """Write the file, which only its owner can read, and print what is in it. Exit status 1 if nobody is named so."""
    collect_seldom()
    made_at = to_text(time.time_ns() // 1_000_000)
    async with connected(settings) as client:
        extent = await log_extent(client, settings.workspace)
        found = Subject(client, settings)
        with progress("folding", extent.entries) as advance:
            if not await found.find(identifier, advance):
                return complain(f"{identifier}: not found in workspace {settings.workspace}; there is nothing about them", NO)
        try:
            with replacing(output) as file:
                counts = await write_subject(found, file, made_at, _directory(settings))
        except OSError as error:
            if error.filename is None:
                raise
            return complain(f"{output}: cannot be written ({error.strerror or error})", NO)
    print_json({"workspace": settings.workspace, "contactId": found.contact_id, "file": str(output), "items": counts})
    return DONE


def _directory(settings: Settings) -> DirectoryRows:
    async def rows(contact_id: str) -> AsyncIterator[dict[str, Any]]:
        try:
            with closing(Database(settings, read_only=True)) as database:
                for row in held_rows(lambda ask: _ask(database, ask), settings.workspace, contact_id):
                    yield row
        except DirectoryUnavailable as error:
            say(f"the directory is not in the file: {error}")

    return rows


def _ask(database: Database, query: Any) -> Any:
    with database.reading() as connection:
        return query(connection)
