"""The identity conflicts of a workspace, which the directory keeps."""

from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.params import QueryParameter

from kinfold_services.directory.reading import Conflicts, Status, read_conflicts
from kinfold_services.gateway.callers import reading_key
from kinfold_services.gateway.contacts.lookups import After
from kinfold_services.gateway.contacts.searching import Cursor, Limit, in_directory, json_answer
from kinfold_services.gateway.openapi import answers


@get(
    "/v1/conflicts",
    guards=[reading_key],
    responses=answers(Conflicts, 400, 401, 403, 429, 503),
    tags=["contacts"],
    summary="Identity conflicts, page by page",
)
async def identity_conflicts(
    request: Request[Any, Any, Any],
    status: Annotated[
        Status, QueryParameter(name="status", description="`open`: those that are not settled; `all`: also settled ones")
    ] = "open",
    limit: Limit = 100,
    cursor: Cursor = None,
    after: After = None,
) -> Response[bytes]:
    """Addresses that an event named for one contact while another one holds them, newest first (contract section 5).

    A conflict is settled when the other contact loses the address, or when the two become one. This asks the directory, and
    `after` also waits for it.
    """
    workspace = await in_directory(request, after)
    page = await workspace.directory.ask(lambda connection: read_conflicts(connection, workspace.name, status, limit, cursor))
    await workspace.check_directory(page.position)
    return json_answer(page)
