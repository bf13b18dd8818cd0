"""The timeline of a contact, which the directory keeps."""

from typing import Any

from litestar import Request, Response, get
from litestar.params import FromPath

from kinfold_schemas.rejections import found
from kinfold_services.directory.reading import NoContact, Timeline, read_timeline
from kinfold_services.gateway.callers import reading_key
from kinfold_services.gateway.contacts.lookups import After
from kinfold_services.gateway.contacts.searching import Cursor, Limit, in_directory, json_answer
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.problems import Problem


@get(
    "/v1/contacts/{contact_id:str}/timeline",
    guards=[reading_key],
    responses=answers(Timeline, 400, 401, 403, 404, 429, 503),
    tags=["contacts"],
    summary="What changed a contact, and by which rule, page by page",
)
async def contact_timeline(
    request: Request[Any, Any, Any], contact_id: FromPath[str], limit: Limit = 100, cursor: Cursor = None, after: After = None
) -> Response[bytes]:
    """The changes of the contact and of those merged into it, newest first. The id may be that of a merged contact.

    A visit (`ContactSeen`) is not listed. This asks the directory, and `after` also waits for it.
    """
    workspace = await in_directory(request, after)
    try:
        page = await workspace.directory.ask(
            lambda connection: read_timeline(connection, workspace.name, contact_id, limit, cursor)
        )
    except NoContact:
        raise Problem(404, f"contact: no contact has the id {found(contact_id)}") from None
    await workspace.check_directory(page.position)
    return json_answer(page)
