"""`GET /v1/subjects`: everything held about one person, as a zip file.

The answer folds the whole log. So it is made in a thread with a connection of its own, one at a time, into a temporary file
without a name.
"""

import asyncio
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import IO, Annotated, Any, Final

from litestar import Request, get
from litestar.params import QueryParameter
from litestar.response import Stream

from kinfold_schemas.times import to_text
from kinfold_services.connections import connect
from kinfold_services.directory.database import Database
from kinfold_services.directory.errors import DirectoryUnavailable
from kinfold_services.directory.held import held_rows
from kinfold_services.gateway.callers import caller_of, secret_key
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.problems import Problem, unavailable
from kinfold_services.gateway.workspaces import ANSWER_S, shared
from kinfold_services.log.pages import NoLog
from kinfold_services.privacy.subject import DirectoryRows, Subject, write_subject
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.server.choice import server_url
from kinfold_services.settings import Settings
from kinfold_services.state.queries import Identifier

_LIMIT_S: Final = 120.0
_LOOK_AGAIN_S: Final = 0.1
"""How often the thread looks whether the request was cancelled."""
_BLOCK_BYTES: Final = 1 << 16
_making: Final = asyncio.Semaphore(1)


@get(
    "/v1/subjects",
    guards=[secret_key],
    responses=answers(bytes, 400, 401, 403, 404, 429, 503, media_type="application/zip"),
    tags=["subjects"],
    summary="Everything held about one person",
)
async def subject(
    request: Request[Any, Any, Any],
    external_id: Annotated[str | None, QueryParameter(name="externalId", max_length=1024)] = None,
    email: Annotated[str | None, QueryParameter(name="email", max_length=1024)] = None,
    visitor_id: Annotated[str | None, QueryParameter(name="visitorId", max_length=1024)] = None,
    contact_id: Annotated[str | None, QueryParameter(name="contactId", max_length=64)] = None,
) -> Stream:
    """A zip file with `subject.json` and `subject.html`: what `kinfold subject` writes.

    Expects exactly one of the four identifiers. It folds the whole log, one request at a time. `kinfold subject` has no limit.
    """
    identifier = Identifier(visitor_id, external_id, email, contact_id)
    given = sum(each is not None for each in identifier)
    if given != 1:
        raise Problem(400, f"query: expected exactly one of externalId, email, visitorId and contactId, got {given}")
    if _making.locked():
        raise unavailable("another file about a person is being made; it folds the whole log; try again in a moment")
    gateway, workspace = shared(request), caller_of(request).workspace
    settings = gateway.settings.model_copy(update={"workspace": workspace})
    async with _making:
        try:
            file = await make_file(settings, identifier, gateway.workspace(workspace).directory.database)
        except TimeoutError:
            raise unavailable(f"the log is too long to fold within {_LIMIT_S:g} s; kinfold subject has no limit") from None
    if file is None:
        raise Problem(404, f"{identifier}: not found")
    headers = {"Content-Disposition": 'attachment; filename="subject.zip"', "Cache-Control": "no-store"}
    return Stream(_blocks(file), media_type="application/zip", headers=headers)


async def make_file(settings: Settings, identifier: Identifier, database: Database) -> IO[bytes] | None:
    """The file, which the caller closes; None if nobody is named so. Raises TimeoutError.

    A cancellation also ends the work in the thread, and waits for that.
    """
    file, is_given_up = tempfile.TemporaryFile(), threading.Event()  # noqa: SIM115  see above
    making = asyncio.ensure_future(asyncio.to_thread(_make, settings, identifier, file, database, is_given_up))
    try:
        if await asyncio.shield(making):
            return file
    except BaseException:
        is_given_up.set()
        await asyncio.wait([making])
        file.close()
        raise
    file.close()
    return None


def _make(
    settings: Settings, identifier: Identifier, file: IO[bytes], database: Database, is_given_up: threading.Event
) -> bool:
    """Write the file; return False if nobody is named so, or if it is given up. Runs in a thread."""

    async def make() -> bool:
        async with asyncio.timeout(_LIMIT_S), connect(server_url(settings), ANSWER_S) as client:
            found = Subject(client, settings)
            try:
                if not await found.find(identifier):
                    return False
            except NoLog:
                return False
            await write_subject(found, file, to_text(time.time_ns() // 1_000_000), _directory(settings, database))
            return True

    async def make_unless_given_up() -> bool:
        making = asyncio.create_task(make())
        while not making.done():
            await asyncio.wait([making], timeout=_LOOK_AGAIN_S)
            if is_given_up.is_set():
                await end_tasks([making])
                return False
        return await making

    return asyncio.run(make_unless_given_up())


def _directory(settings: Settings, database: Database) -> DirectoryRows:
    def ask(query: Any) -> Any:
        with database.reading() as connection:
            return query(connection)

    async def rows(contact_id: str) -> AsyncIterator[dict[str, Any]]:
        try:
            for row in held_rows(ask, settings.workspace, contact_id):
                yield row
        except DirectoryUnavailable:  # it has nothing that log and feed have not
            return

    return rows


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while block := file.read(_BLOCK_BYTES):
            yield block
