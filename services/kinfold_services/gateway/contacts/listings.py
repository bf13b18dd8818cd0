"""Listings, page by page: all contacts, and a contact's visitors.

A cursor holds the last item of a page, not a number of rows. So no item appears twice or is left out when others are added or
removed between two pages.
"""

import base64
import re
from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, Final, Literal, cast

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath, QueryParameter

from kinfold_projections.members import Membership
from kinfold_schemas.contacts import Contact, Visitor
from kinfold_schemas.directory import ContactCount
from kinfold_schemas.keys import key
from kinfold_schemas.times import text_ms, to_text
from kinfold_services.gateway.callers import reading_key
from kinfold_services.gateway.contacts.lookups import After, ContactAnswer, IfNoneMatch, contact_answer, find_contact, folded
from kinfold_services.gateway.contacts.searching import (
    Cursor,
    Limit,
    Search,
    SortBy,
    Where,
    WithCount,
    Words,
    found_contacts,
)
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.workspaces import GatewayWorkspace
from kinfold_services.state.members import walk_members

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z", re.ASCII)

_encode: Final = msgspec.json.Encoder().encode
_decode_visitor: Final = msgspec.json.Decoder(Visitor).decode


class ContactPage(msgspec.Struct, frozen=True, rename="camel"):
    """A page of contacts. `nextCursor` is null on the last page.

    The other fields are there with `q`, `where`, `sort` or `count`. `approximate`: no contact has the words of `q`, and these
    have similar ones. `position` is the entry of the change feed that the directory had applied. `count` is there with
    `count=true`. `unknownKeys` lists the metadata keys of `where` and `sort` that no contact has, if there are any: a misspelt
    field is such a key.
    """

    contacts: list[Contact]
    next_cursor: str | None
    approximate: bool | msgspec.UnsetType = msgspec.UNSET
    position: str | msgspec.UnsetType = msgspec.UNSET
    count: ContactCount | msgspec.UnsetType = msgspec.UNSET
    unknown_keys: list[str] | msgspec.UnsetType = msgspec.UNSET


class ListedVisitor(Visitor, kw_only=True, frozen=True, rename="camel", gc=False):
    """A visitor of a contact, and the time since which it is linked."""

    since: str


class VisitorPage(msgspec.Struct, frozen=True, rename="camel"):
    """A page of a contact's visitors, newest link first. `nextCursor` is null on the last page."""

    contact_id: str
    visitors: list[ListedVisitor]
    next_cursor: str | None


class _Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended: a contact's id, or a membership and the merged contacts that the walk has opened."""

    kind: Literal["created", "visitors"]
    first: str
    second: str
    opened: list[str] = []


_decode_place: Final = msgspec.json.Decoder(_Place).decode


@get(
    "/v1/contacts",
    guards=[reading_key],
    responses=answers(ContactPage | ContactAnswer, 304, 400, 401, 403, 404, 429, 503),
    tags=["contacts"],
    summary="One contact by an identifier, a search, or all contacts page by page",
)
async def contacts(  # noqa: PLR0913, PLR0917  each is a query parameter
    request: Request[Any, Any, Any],
    external_id: Annotated[str | None, QueryParameter(name="externalId", description="The contact's external id")] = None,
    email: Annotated[str | None, QueryParameter(name="email", description="The contact's address, in any spelling")] = None,
    visitor_id: Annotated[str | None, QueryParameter(name="visitorId", description="A visitor of the contact")] = None,
    order: Annotated[
        Literal["created"] | None, QueryParameter(name="order", description="`created`: newest first; the default")
    ] = None,
    q: Words = None,
    where: Where = None,
    sort: SortBy = None,
    count: WithCount = False,  # noqa: FBT002  a query parameter
    limit: Limit = 100,
    cursor: Cursor = None,
    after: After = None,
    if_none_match: IfNoneMatch = None,
) -> Response[bytes]:
    """One contact, a search, or all contacts.

    With `externalId`, `email` or `visitorId`: that contact, or 404.

    With `q`, `where`, `sort` or `count`: the contacts that match, page by page. This asks the directory, and `after` also waits
    for it. 503 with the error `no-directory` says that none has been built: start `kinfold up` or `kinfold directory`.

    Without any of these: all living contacts, newest first, page by page.

    A filter (`where`) compares fields with values: `plan=pro`, `mrr>=99 and not country in (DE, AT)`,
    `lastSeenAt before 30d`, `name contains "ada"`, `metadata."any key" exists`.

    Operators: `=`, `!=`, `<`, `<=`, `>`, `>=`, `in (…, …)`, `contains`, `exists`, `before`, `after`. `and`, `or`, `not` and
    parentheses combine comparisons.

    Fields: `id`, `externalId`, `email`, `name`, `image`, `visitorCount`, `firstSeenAt`, `lastSeenAt`, `createdAt`, `updatedAt`,
    `version`. Any other name is a metadata key, and `metadata.plan` always is one.

    Values have JSON's types: `1` is a number, `"1"` a string, and so is `pro`. Times are RFC 3339, a date, or an age: `30d`,
    `12h`, `15m`, `90s`, `4w`.
    """
    named = {"externalId": external_id, "email": email, "visitorId": visitor_id}
    given = [(field, value) for field, value in named.items() if value is not None]
    if len(given) > 1:
        raise Problem(400, f"{', '.join(field for field, _ in given)}: expected one of them, got {len(given)}")
    search = Search(q, where, sort, limit, cursor, with_count=count)
    if search.parameters and (given or order):
        others = [field for field, _ in given] or ["order"]
        raise Problem(400, f"{', '.join([*others, *search.parameters])}: expected {others[0]} or a search, got both")
    if search.parameters:
        return await found_contacts(request, search, after)
    workspace = await folded(request, after)
    if given:
        return contact_answer(await find_contact(workspace, *given[0]), if_none_match)
    place = None if cursor is None else _place(cursor, "created")
    return _json(await _created(workspace, limit, place))


@get(
    "/v1/contacts/{contact_id:str}/visitors",
    guards=[reading_key],
    responses=answers(VisitorPage, 400, 401, 403, 404, 429, 503),
    tags=["contacts"],
    summary="A contact's visitors, page by page",
)
async def contact_visitors(
    request: Request[Any, Any, Any], contact_id: FromPath[str], limit: Limit = 100, cursor: Cursor = None, after: After = None
) -> Response[bytes]:
    """The contact's visitors, including those of contacts merged into it, newest link first."""
    workspace = await folded(request, after)
    contact = await workspace.queries.contact(contact_id)
    if contact is None:
        raise Problem(404, f"contact: no contact has the id {contact_id!r}")
    place = None if cursor is None else _place(cursor, "visitors")
    start = None if place is None else Membership(text_ms(place.first), place.second)
    opened = [contact.id, *(place.opened if place is not None else ())]
    opened_by_page: list[str] = []
    found: list[Membership] = []
    async for membership in walk_members(workspace.client, key(workspace.name, "members"), opened, start):
        found.append(membership)
        if len(found) == limit:
            opened_by_page = opened[1:]  # the next page opens again what the item beyond this page needed
        if len(found) > limit:
            break
    page, has_more = found[:limit], len(found) > limit
    last = page[-1] if has_more else None
    place = None if last is None else _Place("visitors", to_text(last.since_ms), last.visitor_id, opened_by_page)
    next_cursor = None if place is None else _cursor(place)
    return _json(VisitorPage(contact.id, await _visitors(workspace, page), next_cursor))


async def _created(workspace: GatewayWorkspace, limit: int, place: _Place | None) -> ContactPage:
    upper = "+" if place is None else f"({place.first}"
    reply = await workspace.client.zrange(
        key(workspace.name, "created"), cast("Any", upper), cast("Any", "-"), desc=True, bylex=True, offset=0, num=limit + 1
    )
    ids = [each.decode() for each in cast("list[bytes]", reply)]
    found = await _contacts(workspace, ids[:limit])
    return ContactPage(found, _cursor(_Place("created", ids[limit - 1], "")) if len(ids) > limit else None)


async def _contacts(workspace: GatewayWorkspace, ids: list[str]) -> list[Contact]:
    """The living contacts among these ids: one may have been merged since its id was read."""
    if not ids:
        return []
    stored = await cast("Awaitable[list[bytes | None]]", workspace.client.hmget(key(workspace.name, "contacts"), ids))
    return [contact for data in stored if data is not None and (contact := workspace.queries.living(data)) is not None]


def _visitor_fields(data: bytes, visitor_id: str) -> dict[str, Any]:
    return {**msgspec.structs.asdict(_decode_visitor(data)), "id": visitor_id}


async def _visitors(workspace: GatewayWorkspace, page: Sequence[Membership]) -> list[ListedVisitor]:
    if not page:
        return []
    names = [each.visitor_id for each in page]
    stored = await cast("Awaitable[list[bytes | None]]", workspace.client.hmget(key(workspace.name, "visitors"), names))
    return [
        ListedVisitor(**_visitor_fields(data, each.visitor_id), since=to_text(each.since_ms))
        for each, data in zip(page, stored, strict=True)
        if data is not None
    ]


def _cursor(place: _Place) -> str:
    return base64.urlsafe_b64encode(_encode(place)).decode().rstrip("=")


def _place(cursor: str, kind: str) -> _Place:
    try:
        place = _decode_place(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, msgspec.MsgspecError):
        place = None
    if place is None or place.kind != kind or (kind == "visitors" and not _TIME.match(place.first)):
        raise Problem(400, f"cursor: expected the nextCursor of a page in the same order, got {cursor[:60]!r}")
    return place


def _json(answer: Any) -> Response[bytes]:
    return Response(_encode(answer), media_type="application/json", headers={"Cache-Control": "no-store"})
