"""Erasing a person over HTTP (contract section 10).

The projector does it. These routes record the request, and show the receipt.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath, QueryParameter

from kinfold_schemas.contacts import Contact
from kinfold_schemas.identifiers import email_key, id_key
from kinfold_services.gateway.callers import caller_of, secret_key
from kinfold_services.gateway.events.bodies import read_body
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.problems import Problem, wrong_body
from kinfold_services.gateway.workspaces import GatewayWorkspace, shared
from kinfold_services.privacy.eraser import Eraser
from kinfold_services.privacy.receipt_page import receipt_page
from kinfold_services.privacy.records import Receipt
from kinfold_services.state.queries import Identifier, find_contact

MAX_REASON_CHARS: Final = 1000
_MAX_BODY_BYTES: Final = 8 * 1024
_FIELDS: Final = {"externalId": "external_id", "email": "email", "visitorId": "visitor", "contactId": "contact"}
_REQUEST_FIELDS: Final = {
    **dict.fromkeys(_FIELDS, "a string or null"),
    "by": "a string of at most 255 characters, or null",
    "reason": f"a string of at most {MAX_REASON_CHARS} characters, or null",
}


class ErasureRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Whom to erase: exactly one of the four identifiers. `by` and `reason` are for the receipt."""

    external_id: str | None = None
    email: str | None = None
    visitor_id: str | None = None
    contact_id: str | None = None
    by: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON_CHARS)] | None = None


_decode: Final = msgspec.json.Decoder(ErasureRequest).decode
_encode: Final = msgspec.json.Encoder().encode


@post(
    "/v1/erasures",
    guards=[secret_key],
    status_code=202,
    responses=answers(Receipt, 400, 401, 403, 404, 410, 413, 415, 429, 503, status=202),
    tags=["erasures"],
    summary="Erase a person",
)
async def request_erasure(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Erase everything about a person, from the log on.

    The body is an object with one of `externalId`, `email`, `visitorId` and `contactId`. `by` and `reason` are for the receipt.
    202 means that the erasure is recorded, and will be finished by the projector. This cannot be undone.
    """
    body = await read_body(request, _MAX_BODY_BYTES)
    try:
        asked = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise wrong_body(body, error, "a JSON object that names a person", _REQUEST_FIELDS) from error
    named = {
        "externalId": asked.external_id,
        "email": asked.email,
        "visitorId": asked.visitor_id,
        "contactId": asked.contact_id,
    }
    given = {_FIELDS[name]: value for name, value in named.items() if value}
    if len(given) != 1:
        raise Problem(400, f"body: expected exactly one of {', '.join(named)}, got {len(given)}")
    workspace = _workspace(request)
    identifier = Identifier(**given)
    await _check_known(workspace, identifier)
    receipt = await eraser_of(request, workspace).request([identifier], by=asked.by, reason=asked.reason)
    headers = {"Location": f"/v1/erasures/{receipt.erasure}"}
    return Response(_encode(receipt), status_code=202, headers=headers, media_type="application/json")


@get(
    "/v1/erasures",
    guards=[secret_key],
    responses=answers(list[Receipt], 400, 401, 403, 429, 503),
    tags=["erasures"],
    summary="The receipts of all erasures",
)
async def erasures(request: Request[Any, Any, Any]) -> Response[bytes]:
    """All receipts, the oldest first, and those of pending erasures at the end."""
    return Response(_encode(await eraser_of(request, _workspace(request)).records.receipts()), media_type="application/json")


@get(
    "/v1/erasures/{erasure:str}",
    guards=[secret_key],
    responses=answers(Receipt, 400, 401, 403, 404, 429, 503),
    tags=["erasures"],
    summary="The receipt of an erasure",
)
async def erasure_receipt(
    request: Request[Any, Any, Any],
    erasure: FromPath[str],
    page: Annotated[bool, QueryParameter(name="page", description="As an HTML page to print")] = False,  # noqa: FBT002
) -> Response[bytes]:
    """What the erasure removed, when, and where it looked again. `state` is `pending` or `done`. It has no personal data."""
    receipt = await eraser_of(request, _workspace(request)).records.receipt(erasure)
    if receipt is None:
        raise Problem(404, f"erasure: no erasure has the id {erasure!r}")
    if page:
        return Response(receipt_page(receipt).encode(), media_type="text/html")
    return Response(_encode(receipt), media_type="application/json")


def _workspace(request: Request[Any, Any, Any]) -> GatewayWorkspace:
    return shared(request).workspace(caller_of(request).workspace)


def eraser_of(request: Request[Any, Any, Any], workspace: GatewayWorkspace) -> Eraser:
    """What requests erasures in a workspace, and reads their receipts."""
    return Eraser(workspace.client, shared(request).settings.model_copy(update={"workspace": workspace.name}))


async def pending_erasure(eraser: Eraser, contact: Contact, merged: Iterable[str] = ()) -> Receipt | None:
    """The oldest erasure that is requested and not done for a contact, by an identifier that it has; None if there is none.

    `merged`: the ids of contacts that were merged into it. It takes one round trip.
    """
    ids = {contact.id, *merged}
    for each in await eraser.records.pending():
        if any(_names(identifier, contact, ids) for identifier in each.identifiers):
            return each.receipt
    return None


def _names(identifier: Identifier, contact: Contact, ids: set[str]) -> bool:
    if identifier.visitor is not None:
        return id_key(identifier.visitor) in contact.visitor_ids
    if identifier.external_id is not None:
        return contact.external_id is not None and id_key(identifier.external_id) == id_key(contact.external_id)
    if identifier.email is not None:
        return contact.email is not None and email_key(identifier.email) == email_key(contact.email)
    return identifier.contact in ids


async def _check_known(workspace: GatewayWorkspace, identifier: Identifier) -> None:
    """Raise Problem: 404 if the identifier names nobody, 410 if its contact was erased."""
    if await find_contact(workspace.queries, identifier) is not None:
        return
    if identifier.visitor is not None and await workspace.queries.visitor(identifier.visitor) is not None:
        return
    if identifier.contact is not None and await workspace.queries.is_erased(identifier.contact):
        raise Problem(410, "contact: the person was erased")
    raise Problem(404, f"{identifier}: not found")
