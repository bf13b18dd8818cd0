"""Questions about one: a contact by any of its names, and a visitor with whose it is and was."""

from datetime import datetime
from importlib.resources import files
from typing import Annotated, Any, Final, NamedTuple, cast
from urllib.parse import unquote

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath, HeaderParameter, QueryParameter

import kinfold_services.gateway
from kinfold_schemas.contacts import Contact, Link, Visitor
from kinfold_schemas.identifiers import id_key
from kinfold_schemas.keys import key
from kinfold_schemas.times import LAST_MS, to_ms, to_text
from kinfold_services.gateway.callers import any_key, caller_of, secret_key
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.workspaces import GatewayWorkspace, shared

After = Annotated[
    str | None,
    QueryParameter(name="after", description="Wait (up to 5 s) until the log is folded as far as this position", max_length=64),
]
IfNoneMatch = Annotated[
    str | None, HeaderParameter(name="If-None-Match", description="The `metadataHash` that is known: 304 where it still is")
]

_VISITORS: Final = "/v1/visitors/"
_NEWEST: Final = 1
_ALL: Final = 2**31
"""How many of a visitor's links are followed."""

_VISITOR: Final = files(kinfold_services.gateway).joinpath("visitor.lua").read_text()
_decode_visitor: Final = msgspec.json.Decoder(Visitor).decode
_decode_contact: Final = msgspec.json.Decoder(Contact).decode
_encode: Final = msgspec.json.Encoder().encode
_NO_STORE: Final = {"Cache-Control": "no-store"}
"""The ETag is the metadata's and not the whole contact's, so a cache between must not answer by it."""


class ContactAnswer(Contact, frozen=True, rename="camel", gc=False):
    """A contact; `mergedFrom` is the id that was asked for, where its contact was merged into this one."""

    merged_from: str | msgspec.UnsetType = msgspec.UNSET


class VisitorAnswer(Visitor, frozen=True, rename="camel", gc=False):
    """A visitor, its contact, and who else that is.

    `contactId` and `links` name living contacts, whatever the link named when it was made. With `?at=` the contact is the one
    that held the visitor then. `otherVisitorIds` are the contact's other visitors now, the 100 linked most recently.
    """

    contact: Contact | None
    other_visitor_ids: list[str]


class OwnContact(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What a page may know of whoever looks at it."""

    name: str | None
    metadata_hash: str


class OwnVisitor(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A visitor, as a publishable key sees it."""

    id: str
    contact: OwnContact | None


@get(
    "/v1/contacts/{contact_id:str}",
    guards=[secret_key],
    responses=answers(ContactAnswer, 304, 400, 401, 403, 404, 429, 503),
    tags=["contacts"],
    summary="One contact by its id",
)
async def contact_by_id(
    request: Request[Any, Any, Any], contact_id: FromPath[str], after: After = None, if_none_match: IfNoneMatch = None
) -> Response[bytes]:
    """The contact, or the one that it was merged into, however long ago: then `mergedFrom` says so."""
    workspace = await _folded(request, after)
    contact = await workspace.queries.contact(contact_id)
    if contact is None:
        raise Problem(404, f"contact: no contact has the id {contact_id!r}")
    return _contact(contact, if_none_match, contact_id if contact_id != contact.id else None)


async def find_contact(workspace: GatewayWorkspace, field: str, value: str) -> Contact:
    """The contact that has an identifier, or that a visitor is. Raises Problem (404)."""
    contact: Contact | None = None
    if field == "externalId":
        contact = await workspace.queries.contact_by_external_id(value)
    elif field == "email":
        contact = await workspace.queries.contact_by_email(value)
    else:
        contact = await workspace.queries.contact_by_visitor(value)
    if contact is None:
        raise Problem(404, f"{field}: no contact has {value!r}")
    return contact


@get(
    _VISITORS + "{visitor_id:path}",
    guards=[any_key],
    responses=answers(VisitorAnswer | OwnVisitor, 304, 400, 401, 403, 404, 429, 503),
    tags=["visitors"],
    summary="A visitor, whose it is, and who else that is",
)
async def visitor_by_id(
    request: Request[Any, Any, Any],
    visitor_id: FromPath[str],
    at: Annotated[
        str | None, QueryParameter(name="at", description="Whose it was at this time (RFC 3339)", max_length=64)
    ] = None,
    after: After = None,
    if_none_match: IfNoneMatch = None,
) -> Response[bytes]:
    """The visitor, its contact, and the contact's other visitors: what a conversation store needs.

    A thread follows the person by the contact, and by `?at=` it does not leak to the next user of the device. A publishable key
    sees the contact's name and `metadataHash`.
    """
    is_page = caller_of(request).kind != "secret"
    if is_page and at is not None:
        raise Problem(403, "at: expected a secret key, got a publishable one")
    workspace = await _folded(request, after)
    moment = None if at is None else _moment(at)
    visitor_id = _visitor_id(request)  # the parameter is for the document
    found = await _visitor(workspace, visitor_id, _NEWEST if is_page else _ALL)
    if found is None:
        raise Problem(404, f"visitor: no visitor has the id {visitor_id!r}")
    visitor = found.visitor
    links, contact = _history(found, moment)
    if is_page:
        own = None if contact is None else OwnContact(contact.name, contact.metadata_hash)
        return _tagged(OwnVisitor(visitor.id, own), None if contact is None else contact.metadata_hash, if_none_match)
    others = [] if contact is None else [each for each in contact.visitor_ids if each != visitor.id]
    contact_id = None if contact is None else contact.id
    answer = VisitorAnswer(
        visitor.id,
        contact_id,
        links,
        visitor.metadata,
        visitor.context,
        visitor.first_seen_at,
        visitor.last_seen_at,
        contact,
        others,
    )
    return _tagged(answer, contact.metadata_hash if contact is not None and moment is None else None, if_none_match)


def _visitor_id(request: Request[Any, Any, Any]) -> str:
    """The id in the path. The framework's own has lost which slashes were escaped, and how many there were."""
    raw_path = cast("bytes", cast("dict[str, Any]", request.scope)["raw_path"]).decode()
    return unquote(raw_path.partition(_VISITORS)[2].rstrip("/"))


class _Found(NamedTuple):
    """A visitor, and the living contacts that its links have led to, by the ids that they name."""

    visitor: Visitor
    contacts: dict[str, Contact]


async def _visitor(workspace: GatewayWorkspace, visitor_id: str, links: int) -> _Found | None:
    """The visitor with the contacts of so many of its links, of one state."""
    script = workspace.client.register_script(_VISITOR)
    keys = [key(workspace.name, "visitors"), key(workspace.name, "contacts")]
    reply: list[bytes] = await script(keys=keys, args=[id_key(visitor_id), links])
    if not reply:
        return None
    stored, *rest = reply
    contacts = {named.decode(): _decode_contact(data) for named, data in zip(rest[::2], rest[1::2], strict=True)}
    return _Found(_decode_visitor(stored), contacts)


def _history(found: _Found, moment: str | None) -> tuple[list[Link], Contact | None]:
    """The visitor's links, to living contacts, two in a row to one contact as one; and the contact that holds it."""
    links: list[Link] = []
    living: dict[str, Contact] = {}
    for link in found.visitor.links:
        contact = found.contacts.get(link.contact_id)
        if contact is None:  # not asked for, or not in a state that the fold has made
            continue
        living[contact.id] = contact
        if not links or links[-1].contact_id != contact.id:
            links.append(Link(contact.id, link.since))
    holder = links[-1] if links else None
    if moment is not None and links:
        holder = next((link for link in reversed(links) if link.since <= moment), links[0])
    return links, None if holder is None else living[holder.contact_id]


async def _folded(request: Request[Any, Any, Any], after: str | None) -> GatewayWorkspace:
    workspace = shared(request).workspace(caller_of(request).workspace)
    if after is not None:
        await workspace.wait_until_folded(after)
    return workspace


folded: Final = _folded


def contact_answer(contact: Contact, if_none_match: str | None) -> Response[bytes]:
    """A contact with its ETag."""
    return _contact(contact, if_none_match, None)


def _contact(contact: Contact, if_none_match: str | None, merged_from: str | None) -> Response[bytes]:
    merged = msgspec.UNSET if merged_from is None else merged_from
    answer = ContactAnswer(**msgspec.structs.asdict(contact), merged_from=merged)
    headers = {"Content-Location": f"/v1/contacts/{contact.id}"} if merged_from is not None else {}
    return _tagged(answer, contact.metadata_hash, if_none_match, headers)


class _Tag(NamedTuple):
    value: str

    def is_known(self, if_none_match: str | None) -> bool:
        known = [item.strip().removeprefix("W/").strip('"') for item in (if_none_match or "").split(",")]
        return self.value in known or "*" in known


def _tagged(answer: Any, tag: str | None, if_none_match: str | None, headers: dict[str, str] | None = None) -> Response[bytes]:
    headers = {**_NO_STORE, **(headers or {})}
    if tag is not None:
        headers["ETag"] = f'"{tag}"'
        if _Tag(tag).is_known(if_none_match):
            return Response(b"", status_code=304, headers=headers, media_type="application/json")
    return Response(_encode(answer), headers=headers, media_type="application/json")


def _moment(text: str) -> str:
    """RFC 3339 as times are stored. A `+` that was not escaped in a URL arrives as a space."""
    try:
        moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text or "t" in text else text)
        ms = to_ms(moment) if moment.tzinfo is not None else -1
    except (ValueError, OverflowError) as error:
        raise Problem(400, f"at: expected an RFC 3339 time with an offset, got {text!r}") from error
    if not 0 <= ms <= LAST_MS:
        raise Problem(400, f"at: expected an RFC 3339 time with an offset, 1970 or later, got {text!r}")
    return to_text(ms)
