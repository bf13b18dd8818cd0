"""`POST /v1/events`: checks events and appends them to the log (contract section 2).

All events of a request are checked as the fold checks them, by the workspace's rules, before the first one is appended. The
log gets the bytes that were sent, including unknown fields of newer producers, with three changes:

- An event without an id gets one.
- Tokens are removed. Otherwise a reader of the log could use them to claim the identity.
- `source` and `visitorProven` are the gateway's own (contract section 2, Trust). They are removed, and written for the event of
  a page.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple, cast

import msgspec
from litestar import Request
from litestar.params import QueryParameter
from litestar.response.base import ASGIResponse

from kinfold_schemas.codec import decode_events, named_by_producer
from kinfold_schemas.event_fields import EVENT_FIELDS, decode_members, nearest_field, unknown_in_rejected
from kinfold_schemas.events import BROWSER, MAX_EVENT_BYTES, Event, MetadataSet, VisitorIdentified, VisitorSeen
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.names import Names
from kinfold_schemas.rejections import Rejection, found
from kinfold_services.access.identity_tokens import BadToken, prove
from kinfold_services.gateway.callers import WRITE_KEY, any_key_or_write_key, bounds_of, caller_of, charge_events
from kinfold_services.gateway.events.bodies import read_body, split_events
from kinfold_services.gateway.events.listing import MAX_LISTED, Ignored, Listed
from kinfold_services.gateway.openapi import EventsOperation, answers
from kinfold_services.gateway.problems import Problem, RejectedEvent
from kinfold_services.gateway.routes import FrequentRoute
from kinfold_services.gateway.workspaces import Gateway, GatewayWorkspace, shared

PER_TURN: Final = 250
"""At most this many events are checked at once. Then the event loop runs other tasks: a large body must not delay the feed."""

TOKEN: Final = "token"  # noqa: S105  the name of a field
"""The field of an event that holds an identity token."""

_UNKNOWN: Final = "unknown-field"
_FIELD_CHARS: Final = 60
"""How much of the name of an unknown field a response shows."""

_OWN_FIELDS: Final = frozenset([TOKEN, "source", "visitorProven"])
_PRODUCER_FIELDS: Final = {event_type: fields - _OWN_FIELDS for event_type, fields in EVENT_FIELDS.items()}
"""The fields of each event type that a caller may set."""
_FROM_PAGE: Final = f',"source":"{BROWSER}"'.encode()
_PROVEN: Final = b',"visitorProven":true'

BAD_TOKEN: Final = "bad-token"  # noqa: S105  a reason
_FORBIDDEN: Final = frozenset({"not-allowed", BAD_TOKEN})

WriteKey = Annotated[str | None, QueryParameter(name=WRITE_KEY, description="The publishable key of a page")]
Partial = Annotated[bool, QueryParameter(name="partial", description="Append the valid events, and list the rejected ones")]

_encode: Final = msgspec.json.Encoder().encode


class Accepted(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How many events were appended, and the position of the last.

    With `?partial=true`, `rejected` lists the first 100 rejected events, in order, of `rejectedCount`.

    `ignored` lists the first 100 of `ignoredCount` fields that the types of the events do not have. The log keeps them, and
    nothing reads them. Both fields are absent if there are none.
    """

    position: str | None
    appended: int
    rejected: list[RejectedEvent]
    rejected_count: int = 0
    ignored_count: int = 0
    ignored: list[Ignored] = []


class Author(NamedTuple):
    """The sender of events: the workspace's rules, and its identity secrets by kid (None for a trusted sender).

    What a developer's page claims needs no token.
    """

    rules: IdentifierRules
    secrets: Mapping[str, str] | None
    is_developer: bool = False


Verdict = tuple[bytes, str, list[str]]
"""A valid event: the bytes to append, its type, and its fields that the type does not have."""


class Judged(NamedTuple):
    """The events of a request, in order: the valid ones, their types, and the rejected ones."""

    good: list[bytes]
    types: list[str]
    rejected: Listed[RejectedEvent]


@FrequentRoute(
    "/v1/events",
    http_method="POST",
    guards=[any_key_or_write_key],
    status_code=202,
    operation_class=EventsOperation,
    responses=answers(Accepted, 400, 401, 403, 413, 415, 422, 429, 503, status=202),
    tags=["events"],
    summary="Append events to the log",
)
async def append_events(
    request: Request[Any, Any, Any],
    partial: Partial = False,  # noqa: FBT002  a query parameter
    write_key: WriteKey = None,  # noqa: ARG001  the guard uses it
) -> ASGIResponse:
    """Append one event, an array or NDJSON, plain or gzipped: all events or none, with `?partial=true` the valid ones.

    202 means that the events are in the log. If every event has an id, it is safe to send the request again.
    """
    gateway = shared(request)
    author, workspace = await author_of(request)
    body = await read_body(request, bounds_of(caller_of(request)).body_bytes)
    events = split_events(body, request.headers.get("content-type", ""))
    charge_events(request, len(events))
    ignored: Listed[Ignored] = Listed()
    judged = await judge(events, author, ignored)
    for reason, count in judged.rejected.counts.items():
        gateway.metrics.refused.labels(workspace.name, reason).inc(count)
    if judged.rejected and not partial:
        raise _refusal(judged.rejected)
    position = await append_judged(gateway, workspace, judged)
    appended, rejected = len(judged.good), judged.rejected
    answer = Accepted(position, appended, rejected.first, len(rejected), len(ignored), ignored.first)
    return ASGIResponse(body=_encode(answer), status_code=202)


async def author_of(request: Request[Any, Any, Any]) -> tuple[Author, GatewayWorkspace]:
    """The caller of a request as an author of events, and its workspace. Raises Problem (403) for a read key."""
    caller = caller_of(request)
    if caller.kind == "read":
        raise Problem(403, "key: expected a key that may send events, got a read one")
    workspace = shared(request).workspace(caller.workspace)
    by_kid = None if caller.kind == "secret" else await workspace.secrets()
    return Author(await workspace.rules(), by_kid, caller.kind == "development"), workspace


async def judge(events: list[bytes], author: Author, ignored: Listed[Ignored]) -> Judged:
    """Check the events of a request. Adds the unknown fields of the valid ones to `ignored`."""
    judged = Judged([], [], Listed())
    for start in range(0, len(events), PER_TURN):
        if start:
            await asyncio.sleep(0)
        datas = events[start : start + PER_TURN]
        for index, (data, event) in enumerate(zip(datas, decode_events(datas), strict=True), start):
            verdict = judge_one(data, event, author)
            if type(verdict) is RejectedEvent:
                # Slow, so only for those that are listed.
                hint = unknown_in_rejected(data, _OWN_FIELDS) if len(judged.rejected.first) < MAX_LISTED else ""
                judged.rejected.add(msgspec.structs.replace(verdict, index=index, detail=verdict.detail + hint))
                continue
            good, event_type, unknown = verdict
            judged.good.append(good)
            judged.types.append(event_type)
            if unknown:
                _note_unknown(index, unknown, event_type, ignored)
    return judged


def judge_one(data: bytes, event: Event | Rejection, author: Author) -> Verdict | RejectedEvent:
    """Check one event, which `data` was decoded to."""
    # `type` and not `isinstance`, which is slow for the types of msgspec (see `kinfold_schemas.events`).
    names = event if type(event) is Rejection else named_by_producer(event, author.rules)
    if type(event) is Rejection or type(names) is Rejection:
        return RejectedEvent.of(0, cast("Rejection", names))
    members = decode_members(data)
    more = b"" if author.secrets is None else _from_page(event, names, members, author)
    if type(more) is RejectedEvent:
        return more
    event_type = type(event).__name__
    unknown: list[str] = []
    if not members.keys() <= _PRODUCER_FIELDS[event_type]:
        unknown = [name for name in members if name not in EVENT_FIELDS[event_type] and name not in _OWN_FIELDS]
        if not _OWN_FIELDS.isdisjoint(members):  # raw values: an unknown field may hold a number that we cannot decode
            data = _encode({name: value for name, value in members.items() if name not in _OWN_FIELDS})
    if not event.id:
        more += f',"id":"{secrets.token_hex(12)}"'.encode()
    if more:
        # At the end: the event may contain `"id": null`, and JSON readers use the last of two fields with one name.
        data = data.rstrip()[:-1] + more + b"}"
    if len(data) > MAX_EVENT_BYTES:
        too_large = Rejection("too-large", "event", f"at most {MAX_EVENT_BYTES} bytes", f"{len(data)} bytes")
        return RejectedEvent.of(0, too_large)
    return data, event_type, unknown


def _note_unknown(index: int, names: list[str], event_type: str, ignored: Listed[Ignored]) -> None:
    """Add the unknown fields of an event. The nearest field is slow to find, so only those that are listed get one."""
    listed = names[: MAX_LISTED - len(ignored.first)]
    for name in listed:
        nearest = nearest_field(name, event_type)
        hint = f"; the nearest is {nearest!r}" if nearest else ""
        field = name[:_FIELD_CHARS]
        detail = f"{field}: expected a field of {event_type}, got {found(name)}{hint}"
        ignored.add(Ignored(index, field, _UNKNOWN, detail))
    ignored.counts[_UNKNOWN] += len(names) - len(listed)


async def append_judged(gateway: Gateway, workspace: GatewayWorkspace, judged: Judged) -> str | None:
    """Append the valid events. Returns the position of the last, or None if there are none."""
    if not judged.good:
        return None
    started = time.perf_counter()
    position = await gateway.append(workspace, judged.good)
    gateway.metrics.append_s.observe(time.perf_counter() - started)
    for kind in set(judged.types):
        gateway.metrics.events.labels(workspace.name, kind).inc(judged.types.count(kind))
    return position


def _from_page(event: Event, names: Names, members: Mapping[str, msgspec.Raw], author: Author) -> bytes | RejectedEvent:
    """The fields that say that a page sent the event, as JSON, or why a page may not send it."""
    if type(event) is VisitorSeen or (type(event) is MetadataSet and event.visitor_id is not None):
        return _FROM_PAGE
    if type(event) is VisitorIdentified:
        if author.is_developer:
            return _FROM_PAGE + _PROVEN
        proof = prove(_token_of(members), author.secrets or {}, event, names)
        if isinstance(proof, BadToken):
            return _refused(BAD_TOKEN, TOKEN, *proof)
        return _FROM_PAGE + _PROVEN if proof.visitor else _FROM_PAGE
    expected = "VisitorSeen, MetadataSet for a visitor or VisitorIdentified with a token, with a key for pages"
    got = "MetadataSet for a contact" if type(event) is MetadataSet else type(event).__name__
    return _refused("not-allowed", "type", expected, got)


def _token_of(members: Mapping[str, msgspec.Raw]) -> object:
    try:
        return msgspec.json.decode(members[TOKEN]) if TOKEN in members else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""  # such a value cannot be a token


def _refused(reason: Any, field: str, expected: str, got: str) -> RejectedEvent:
    return RejectedEvent.of(0, Rejection(reason, field, expected, got))


def _refusal(rejected: Listed[RejectedEvent]) -> Problem:
    first = rejected.first[0]
    status = 403 if any(rejected.counts.get(reason) for reason in _FORBIDDEN) else 422
    detail = f"events[{first.index}]: {first.detail}; no event of the request was appended"
    return Problem(status, detail, appended=0, rejected_count=len(rejected), rejected=rejected.first)
