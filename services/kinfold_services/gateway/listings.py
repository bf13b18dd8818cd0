"""Questions about many, page by page: contacts, and a contact's visitors.

A cursor says where the page before ended, by the order itself and not by a number of rows, so that nothing is shown twice or
left out because something else was added or removed. In the recent order a contact that is seen meanwhile moves to the front:
the next walk begins with it.
"""

import base64
import re
from collections.abc import Awaitable, Sequence
from importlib.resources import files
from typing import Annotated, Any, Final, Literal, cast

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath, QueryParameter

import kinfold_services.gateway
from kinfold_projections.members import Membership
from kinfold_schemas.contacts import Contact, Visitor
from kinfold_schemas.keys import key
from kinfold_services.gateway.callers import secret_key
from kinfold_services.gateway.lookups import After, ContactAnswer, IfNoneMatch, contact_answer, find_contact, folded
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.workspaces import GatewayWorkspace
from kinfold_services.members import walk_members

_SCORE: Final = re.compile(r"[0-9]+(\.[0-9]+)?\Z")
_OPENED: Final = 40
"""A cursor names the merged contacts that the walk has opened. Where they are more, the next walk begins at the top."""

_RECENT: Final = files(kinfold_services.gateway).joinpath("page.lua").read_text()
_encode: Final = msgspec.json.Encoder().encode
_decode_visitor: Final = msgspec.json.Decoder(Visitor).decode

Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=500, description="How many at most")]
Cursor = Annotated[str | None, QueryParameter(name="cursor", description="`nextCursor` of the page before", max_length=4096)]


class ContactPage(msgspec.Struct, frozen=True, rename="camel"):
    """Some contacts, and where the rest goes on; `nextCursor` is null at the end."""

    contacts: list[Contact]
    next_cursor: str | None


class ListedVisitor(Visitor, frozen=True, rename="camel", gc=False):
    """A visitor of a contact, and since when it is."""

    since: str


class VisitorPage(msgspec.Struct, frozen=True, rename="camel"):
    """Some visitors of a contact, the ones linked most recently first."""

    contact_id: str
    visitors: list[ListedVisitor]
    next_cursor: str | None


class _Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended: a contact's place in its order, or a membership and what the walk has opened."""

    kind: Literal["recent", "created", "visitors"]
    first: str
    second: str
    opened: list[str] = []


_decode_place: Final = msgspec.json.Decoder(_Place).decode


@get(
    "/v1/contacts",
    guards=[secret_key],
    responses=answers(ContactPage | ContactAnswer, 304, 400, 401, 403, 404, 429, 503),
    tags=["contacts"],
    summary="One contact by an identifier, or all, page by page",
)
async def contacts(  # noqa: PLR0913, PLR0917  each is a query parameter
    request: Request[Any, Any, Any],
    external_id: Annotated[str | None, QueryParameter(name="externalId", description="The contact that has it")] = None,
    email: Annotated[
        str | None, QueryParameter(name="email", description="The contact that has it, however it is written")
    ] = None,
    visitor_id: Annotated[str | None, QueryParameter(name="visitorId", description="The contact that the visitor is")] = None,
    order: Annotated[
        Literal["recent", "created"],
        QueryParameter(
            name="order", description="What comes first: `recent` those seen last, to the minute; `created` those made last"
        ),
    ] = "recent",
    limit: Limit = 100,
    cursor: Cursor = None,
    after: After = None,
    if_none_match: IfNoneMatch = None,
) -> Response[bytes]:
    """With one of `externalId`, `email`, `visitorId`: that contact, or 404. Without: all living contacts, page by page.

    By `recent`, those seen in the same minute stand in the order of their ids: a contact that is there moves once a minute.
    """
    workspace = await folded(request, after)
    named = {"externalId": external_id, "email": email, "visitorId": visitor_id}
    given = [(field, value) for field, value in named.items() if value is not None]
    if len(given) > 1:
        raise Problem(400, f"{', '.join(field for field, _ in given)}: expected one of them, got {len(given)}")
    if given:
        return contact_answer(await find_contact(workspace, *given[0]), if_none_match)
    place = None if cursor is None else _place(cursor, order)
    page = await (_recent(workspace, limit, place) if order == "recent" else _created(workspace, limit, place))
    return _json(page)


@get(
    "/v1/contacts/{contact_id:str}/visitors",
    guards=[secret_key],
    responses=answers(VisitorPage, 400, 401, 403, 404, 429, 503),
    tags=["contacts"],
    summary="A contact's visitors, page by page",
)
async def contact_visitors(
    request: Request[Any, Any, Any], contact_id: FromPath[str], limit: Limit = 100, cursor: Cursor = None, after: After = None
) -> Response[bytes]:
    """All visitors that are the contact's now, those of the contacts merged into it included, newest link first."""
    workspace = await folded(request, after)
    contact = await workspace.queries.contact(contact_id)
    if contact is None:
        raise Problem(404, f"contact: no contact has the id {contact_id!r}")
    place = None if cursor is None else _place(cursor, "visitors")
    behind = None if place is None else Membership(place.first, place.second)
    opened = [contact.id] if place is None or not place.opened else [contact.id, *place.opened]
    from_the_top = behind is not None and not cast("_Place", place).opened and cast("_Place", place).kind == "visitors"
    members = key(workspace.name, "members")
    found: list[Membership] = []
    opened_so_far: list[str] = []
    # A cursor that names nothing opened may come from a walk that had opened too much to name.
    walk = walk_members(workspace.client, members, opened, None if from_the_top else behind)
    async for membership in walk:
        if behind is not None and membership >= behind:
            continue
        found.append(membership)
        if len(found) == limit:
            opened_so_far = opened[1:]  # what is opened for the one beyond the page, the next page opens again
        if len(found) > limit:
            break
    page, has_more = found[:limit], len(found) > limit
    nameable = opened_so_far if len(opened_so_far) <= _OPENED else []
    next_cursor = _cursor(_Place("visitors", *page[-1], nameable)) if has_more else None
    return _json(VisitorPage(contact.id, await _visitors(workspace, page), next_cursor))


async def _recent(workspace: GatewayWorkspace, limit: int, place: _Place | None) -> ContactPage:
    script = workspace.client.register_script(_RECENT)
    score, contact_id = ("", "") if place is None else (place.first, place.second)
    reply = await script(keys=[key(workspace.name, "recent")], args=[score, contact_id, limit + 1])
    rows = [(ident.decode(), seen.decode()) for ident, seen in zip(reply[::2], reply[1::2], strict=True)]
    found = await _contacts(workspace, [ident for ident, _ in rows[:limit]])
    last = rows[limit - 1] if len(rows) > limit else None
    return ContactPage(found, None if last is None else _cursor(_Place("recent", last[1], last[0])))


async def _created(workspace: GatewayWorkspace, limit: int, place: _Place | None) -> ContactPage:
    upper = "+" if place is None else f"({place.first}"
    reply = await workspace.client.zrange(
        key(workspace.name, "created"), cast("Any", upper), cast("Any", "-"), desc=True, bylex=True, offset=0, num=limit + 1
    )
    ids = [each.decode() for each in cast("list[bytes]", reply)]
    found = await _contacts(workspace, ids[:limit])
    return ContactPage(found, _cursor(_Place("created", ids[limit - 1], "")) if len(ids) > limit else None)


async def _contacts(workspace: GatewayWorkspace, ids: list[str]) -> list[Contact]:
    """Those of the contacts that still live: one may have been merged since its id was read."""
    if not ids:
        return []
    stored = await cast("Awaitable[list[bytes | None]]", workspace.client.hmget(key(workspace.name, "contacts"), ids))
    return [contact for data in stored if data is not None and (contact := workspace.queries.living(data)) is not None]


async def _visitors(workspace: GatewayWorkspace, page: Sequence[Membership]) -> list[ListedVisitor]:
    if not page:
        return []
    names = [each.visitor_id for each in page]
    stored = await cast("Awaitable[list[bytes | None]]", workspace.client.hmget(key(workspace.name, "visitors"), names))
    return [
        ListedVisitor(**msgspec.structs.asdict(_decode_visitor(data)), since=each.since)
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
    if place is None or place.kind != kind or (kind == "recent" and not _SCORE.match(place.first)):
        raise Problem(400, f"cursor: expected the nextCursor of a page in the same order, got {cursor[:60]!r}")
    return place


def _json(answer: Any) -> Response[bytes]:
    return Response(_encode(answer), media_type="application/json", headers={"Cache-Control": "no-store"})
