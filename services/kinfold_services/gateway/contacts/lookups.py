"""Lookups: one contact by its id or an identifier, and one visitor with its contacts."""

from datetime import datetime
from importlib.resources import files
from typing import Annotated, Any, Final, NamedTuple, cast
from urllib.parse import unquote

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath, HeaderParameter, QueryParameter

import kinfold_services.gateway.contacts
from kinfold_schemas.contacts import Contact, Link, Visitor
from kinfold_schemas.identifiers import id_key
from kinfold_schemas.keys import key
from kinfold_schemas.times import LAST_MS, to_ms, to_text
from kinfold_services.gateway.callers import READING, any_key, caller_of, reading_key
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.workspaces import GatewayWorkspace, shared

After = Annotated[
    str | None,
    QueryParameter(name="after", description="Wait (up to 5 s) until the log is folded up to this position", max_length=64),
]
IfNoneMatch = Annotated[
    str | None, HeaderParameter(name="If-None-Match", description="A known `metadataHash`: 304 if it has not changed")
]

_VISITORS: Final = "/v1/visitors/"
_NEWEST: Final = 1
_ALL: Final = 2**31
"""How many of a visitor's links the script follows."""

_VISITOR: Final = files(kinfold_services.gateway.contacts).joinpath("visitor.lua").read_text()
_decode_visitor: Final = msgspec.json.Decoder(Visitor).decode
_decode_contact: Final = msgspec.json.Decoder(Contact).decode
_encode: Final = msgspec.json.Encoder().encode
_NO_STORE: Final = {"Cache-Control": "no-store"}
"""The ETag covers the metadata, not the whole contact, so a proxy's cache must not use it."""


class ContactAnswer(Contact, frozen=True, rename="camel", gc=False):
    """A contact. `mergedFrom` is the requested id if its contact was merged into this one."""

    merged_from: str | msgspec.UnsetType = msgspec.UNSET


class VisitorAnswer(Visitor, kw_only=True, frozen=True, rename="camel", gc=False):
    """A visitor with its contact and the contact's other visitors.

    `contactId` and `links` name living contacts, even where a link was made to a contact that has been merged since. With
    `?at=`, the contact is the one that had the visitor at that time. `otherVisitorIds` are the contact's other visitors now,
    the 100 linked most recently.
    """

    contact: Contact | None
    other_visitor_ids: list[str]


class OwnContact(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The part of a contact that a publishable key may read.

    `metadataHash` changes when the metadata changes. It is not the contact's own hash: a page could find out by trying which
    metadata has that one.
    """

    name: str | None
    metadata_hash: str


class OwnVisitor(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The part of a visitor that a publishable key may read."""

    id: str
    contact: OwnContact | None


@get(
    "/v1/contacts/{contact_id:str}",
    guards=[reading_key],
    responses=answers(ContactAnswer, 304, 400, 401, 403, 404, 410, 429, 503),
    tags=["contacts"],
    summary="One contact by its id",
)
async def contact_by_id(
    request: Request[Any, Any, Any], contact_id: FromPath[str], after: After = None, if_none_match: IfNoneMatch = None
) -> Response[bytes]:
    """The contact with this id, or the one that it was merged into. Then `mergedFrom` is the requested id."""
    workspace = await folded(request, after)
    contact = await workspace.queries.contact(contact_id)
    if contact is None and await workspace.queries.is_erased(contact_id):
        raise Problem(410, "contact: the person was erased")
    if contact is None:
        raise Problem(404, f"contact: no contact has the id {contact_id!r}")
    return contact_answer(contact, if_none_match, contact_id if contact_id != contact.id else None)


async def find_contact(workspace: GatewayWorkspace, field: str, value: str) -> Contact:
    """The contact with an `externalId`, an `email` or a `visitorId`. Raises Problem (404)."""
    queries = workspace.queries
    find = {
        "externalId": queries.contact_by_external_id,
        "email": queries.contact_by_email,
        "visitorId": queries.contact_by_visitor,
    }[field]
    if (contact := await find(value)) is None:
        raise Problem(404, f"{field}: no contact has {value!r}")
    return contact


@get(
    _VISITORS + "{visitor_id:path}",
    guards=[any_key],
    responses=answers(VisitorAnswer | OwnVisitor, 304, 400, 401, 403, 404, 429, 503),
    tags=["visitors"],
    summary="A visitor with its contact and the contact's other visitors",
)
async def visitor_by_id(
    request: Request[Any, Any, Any],
    visitor_id: FromPath[str],
    at: Annotated[
        str | None, QueryParameter(name="at", description="Return the contact at this time (RFC 3339)", max_length=64)
    ] = None,
    after: After = None,
    if_none_match: IfNoneMatch = None,
) -> Response[bytes]:
    """The visitor, its contact and the contact's other visitors.

    A conversation store finds a person's threads by the contact. With `?at=`, a thread does not leak to the next user of a
    shared device. A publishable key gets only the contact's name and `metadataHash`.
    """
    is_page = caller_of(request).kind not in READING
    if is_page and at is not None:
        raise Problem(403, f"at: expected a secret or read key, got a {caller_of(request).kind} one")
    workspace = await folded(request, after)
    moment = None if at is None else _moment(at)
    visitor_id = _visitor_id(request)  # the parameter only documents it
    found = await _visitor(workspace, visitor_id, _NEWEST if is_page else _ALL)
    if found is None:
        raise Problem(404, f"visitor: no visitor has the id {visitor_id!r}")
    visitor = found.visitor
    links, contact = _history(found, moment)
    if is_page:
        if contact is None:
            return _tagged(OwnVisitor(visitor.id, None), None, if_none_match)
        tag = await shared(request).sessions.opaque(workspace.name, f"{contact.id} {contact.metadata_hash}")
        return _tagged(OwnVisitor(visitor.id, OwnContact(contact.name, tag)), tag, if_none_match)
    others = [] if contact is None else [each for each in contact.visitor_ids if each != visitor.id]
    contact_id = None if contact is None else contact.id
    shown: dict[str, Any] = msgspec.structs.asdict(visitor) | {"contact_id": contact_id, "links": links}
    answer = VisitorAnswer(**shown, contact=contact, other_visitor_ids=others)
    return _tagged(answer, contact.metadata_hash if contact is not None and moment is None else None, if_none_match)


async def find_visitor(workspace: GatewayWorkspace, visitor_id: str) -> tuple[Visitor, Contact | None] | None:
    """The visitor with this id, and the living contact that has it now; None if no visitor has the id."""
    found = await _visitor(workspace, visitor_id, _NEWEST)
    return None if found is None else (found.visitor, _history(found, None)[1])


def _visitor_id(request: Request[Any, Any, Any]) -> str:
    """The id in the path. The framework's parameter no longer tells which slashes were escaped, nor how many there were."""
    raw_path = cast("bytes", cast("dict[str, Any]", request.scope)["raw_path"]).decode()
    return unquote(raw_path.partition(_VISITORS)[2].rstrip("/"))


class _Found(NamedTuple):
    """A visitor, and the living contacts that its links lead to, by the ids in the links."""

    visitor: Visitor
    contacts: dict[str, Contact]


async def _visitor(workspace: GatewayWorkspace, visitor_id: str, links: int) -> _Found | None:
    """The visitor and the contacts of its newest `links` links, read in one step."""
    script = workspace.client.register_script(_VISITOR)
    keys = [key(workspace.name, "visitors"), key(workspace.name, "contacts")]
    reply: list[bytes] = await script(keys=keys, args=[id_key(visitor_id), links])
    if not reply:
        return None
    stored, *rest = reply
    contacts = {named.decode(): _decode_contact(data) for named, data in zip(rest[::2], rest[1::2], strict=True)}
    return _Found(msgspec.structs.replace(_decode_visitor(stored), id=id_key(visitor_id)), contacts)


def _history(found: _Found, moment: str | None) -> tuple[list[Link], Contact | None]:
    """The visitor's links to living contacts, and its contact at `moment` (None: now). Repeated links to a contact are one."""
    links: list[Link] = []
    living: dict[str, Contact] = {}
    for link in found.visitor.links:
        contact = found.contacts.get(link.contact_id or "")
        if contact is not None:
            living[contact.id] = contact
        elif link.contact_id is not None:  # not read, or the state is damaged
            continue
        contact_id = None if contact is None else contact.id
        if not links or links[-1].contact_id != contact_id:
            links.append(Link(contact_id, link.since))
    holder = links[-1] if links else None
    if moment is not None and links:
        holder = next((link for link in reversed(links) if link.since <= moment), links[0])
    return links, None if holder is None else living.get(holder.contact_id or "")


async def folded(request: Request[Any, Any, Any], after: str | None) -> GatewayWorkspace:
    """The caller's workspace, once its log is folded up to `after`. Raises Problem (400) and NotFolded."""
    workspace = shared(request).workspace(caller_of(request).workspace)
    if after is not None:
        await workspace.wait_until_folded(after)
    return workspace


def contact_answer(contact: Contact, if_none_match: str | None, merged_from: str | None = None) -> Response[bytes]:
    """The response with a contact and its ETag. `merged_from` is the requested id, if another one."""
    merged = msgspec.UNSET if merged_from is None else merged_from
    answer = ContactAnswer(**msgspec.structs.asdict(contact), merged_from=merged)
    headers = {"Content-Location": f"/v1/contacts/{contact.id}"} if merged_from is not None else {}
    return _tagged(answer, contact.metadata_hash, if_none_match, headers)


def _tagged(answer: Any, tag: str | None, if_none_match: str | None, headers: dict[str, str] | None = None) -> Response[bytes]:
    headers = {**_NO_STORE, **(headers or {})}
    if tag is not None:
        headers["ETag"] = f'"{tag}"'
        known = {item.strip().removeprefix("W/").strip('"') for item in (if_none_match or "").split(",")}
        if known & {tag, "*"}:
            return Response(b"", status_code=304, headers=headers, media_type="application/json")
    return Response(_encode(answer), headers=headers, media_type="application/json")


def _moment(text: str) -> str:
    """An RFC 3339 time in the form in which times are stored. A `+` that a URL does not escape arrives as a space."""
    try:
        moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text or "t" in text else text)
        ms = to_ms(moment) if moment.tzinfo is not None else -1
    except (ValueError, OverflowError) as error:
        raise Problem(400, f"at: expected an RFC 3339 time with an offset, got {text!r}") from error
    if not 0 <= ms <= LAST_MS:
        raise Problem(400, f"at: expected an RFC 3339 time with an offset, 1970 or later, got {text!r}")
    return to_text(ms)
