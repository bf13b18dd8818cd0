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
from litestar import Request, Response, post
from litestar.params import QueryParameter

from kinfold_schemas.codec import decode_event, named_by_producer, nearest_field, unknown_fields
from kinfold_schemas.events import BROWSER, MAX_EVENT_BYTES, Event, MetadataSet, VisitorIdentified, VisitorSeen
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.names import Names
from kinfold_schemas.rejections import Rejection, found
from kinfold_services.access.identity_tokens import BadToken, Proof, prove
from kinfold_services.gateway.callers import WRITE_KEY, any_key_or_write_key, bounds_of, caller_of, charge_events
from kinfold_services.gateway.events.bodies import read_body, split_events
from kinfold_services.gateway.events.listing import MAX_LISTED, Ignored, Listed
from kinfold_services.gateway.openapi import EventsOperation, answers
from kinfold_services.gateway.problems import Problem, RejectedEvent
from kinfold_services.gateway.workspaces import Gateway, GatewayWorkspace, shared

PER_TURN: Final = 250
"""After this many events the event loop runs other tasks, so that a large body does not delay the feed."""

TOKEN: Final = "token"  # noqa: S105  the name of a field
"""The field of an event that holds an identity token."""

_UNKNOWN: Final = "unknown-field"
_FIELD_CHARS: Final = 60
"""How much of the name of an unknown field a response shows."""

_OWN_FIELDS: Final = (TOKEN, "source", "visitorProven")
_FROM_PAGE: Final = f',"source":"{BROWSER}"'.encode()
_PROVEN: Final = b',"visitorProven":true'

BAD_TOKEN: Final = "bad-token"  # noqa: S105  a reason
_FORBIDDEN: Final = frozenset({"not-allowed", BAD_TOKEN})

WriteKey = Annotated[str | None, QueryParameter(name=WRITE_KEY, description="The publishable key of a page")]
Partial = Annotated[bool, QueryParameter(name="partial", description="Append the valid events, and list the rejected ones")]

_decode_token: Final = msgspec.json.Decoder(msgspec.defstruct("_WithToken", [(TOKEN, Any, None)])).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
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


class Judged(NamedTuple):
    """The events of a request, in order: the valid ones, their types, and the rejected ones."""

    good: list[bytes]
    types: list[str]
    rejected: Listed[RejectedEvent]


@post(
    "/v1/events",
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
) -> Response[bytes]:
    """Append one event, an array or NDJSON, plain or gzipped: all events or none, with `?partial=true` the valid ones.

    202 means that the events are in the log. If every event has an id, it is safe to send the request again.
    """
    gateway = shared(request)
    author, workspace = await author_of(request)
    body = await read_body(request, bounds_of(caller_of(request)).body_bytes)
    events = split_events(body, request.headers.get("content-type", ""))
    charge_events(request, len(events))
    ignored = Listed[Ignored]()
    judged = await judge(events, author, ignored)
    for reason, count in judged.rejected.counts.items():
        gateway.metrics.refused.labels(workspace.name, reason).inc(count)
    if judged.rejected and not partial:
        raise _refusal(judged.rejected)
    position = await append_judged(gateway, workspace, judged)
    appended, rejected = len(judged.good), judged.rejected
    answer = Accepted(position, appended, rejected.first, len(rejected), len(ignored), ignored.first)
    return Response(_encode(answer), status_code=202, media_type="application/json")


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
    batch = secrets.token_hex(10)
    for index, data in enumerate(events):
        if index % PER_TURN == PER_TURN - 1:
            await asyncio.sleep(0)
        verdict = judge_one(data, author, f"{batch}-{index}")
        if isinstance(verdict, RejectedEvent):
            judged.rejected.add(msgspec.structs.replace(verdict, index=index))
        else:
            judged.good.append(verdict[0])
            judged.types.append(verdict[1])
            if names := unknown_fields(*verdict):
                _note_unknown(index, names, verdict[1], ignored)
    return judged


def judge_one(data: bytes, author: Author, new_id: str) -> tuple[bytes, str] | RejectedEvent:
    """Check one event. Returns the bytes to append and the event's type, or the rejection."""
    event = decode_event(data)
    names = event if isinstance(event, Rejection) else named_by_producer(event, author.rules)
    if isinstance(event, Rejection) or isinstance(names, Rejection):
        return RejectedEvent.of(0, cast("Rejection", names))
    more = b"" if author.secrets is None else _from_page(event, names, data, author.secrets, author.is_developer)
    if isinstance(more, RejectedEvent):
        return more
    if _may_have_own_fields(data):
        data = _without_own_fields(data)
    if not event.id:
        more += f',"id":"{new_id}"'.encode()
    if more:
        # At the end: the event may contain `"id": null`, and JSON readers use the last of two fields with one name.
        data = data.rstrip()[:-1] + more + b"}"
    if len(data) > MAX_EVENT_BYTES:
        too_large = Rejection("too-large", "event", f"at most {MAX_EVENT_BYTES} bytes", f"{len(data)} bytes")
        return RejectedEvent.of(0, too_large)
    return data, type(event).__name__


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


def _from_page(
    event: Event,
    names: Names,
    data: bytes,
    by_kid: Mapping[str, str],
    is_developer: bool,  # noqa: FBT001
) -> bytes | RejectedEvent:
    """The fields that say that a page sent the event, as JSON, or why a page may not send it."""
    if isinstance(event, VisitorSeen) or (isinstance(event, MetadataSet) and event.visitor_id is not None):
        return _FROM_PAGE
    if isinstance(event, VisitorIdentified):
        proof = Proof(visitor=True) if is_developer else prove(_token_of(data), by_kid, event, names)
        if isinstance(proof, BadToken):
            return _refused(BAD_TOKEN, TOKEN, *proof)
        return _FROM_PAGE + _PROVEN if proof.visitor else _FROM_PAGE
    expected = "VisitorSeen, MetadataSet for a visitor or VisitorIdentified with a token, with a key for pages"
    got = "MetadataSet for a contact" if isinstance(event, MetadataSet) else type(event).__name__
    return _refused("not-allowed", "type", expected, got)


def _token_of(data: bytes) -> object:
    try:
        return cast("Any", _decode_token(data)).token
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""  # such a value cannot be a token


def _refused(reason: Any, field: str, expected: str, got: str) -> RejectedEvent:
    return RejectedEvent.of(0, Rejection(reason, field, expected, got))


def _refusal(rejected: Listed[RejectedEvent]) -> Problem:
    first = rejected.first[0]
    status = 403 if any(rejected.counts[reason] for reason in _FORBIDDEN) else 422
    detail = f"events[{first.index}]: {first.detail}; no event of the request was appended"
    return Problem(status, detail, appended=0, rejected_count=len(rejected), rejected=rejected.first)


def _may_have_own_fields(data: bytes) -> bool:
    """Whether an event contains the name of one of these fields; a name may be written with escapes."""
    return b'"token"' in data or b'"source"' in data or b'"visitorProven"' in data or b"\\u" in data


def _without_own_fields(data: bytes) -> bytes:
    fields = _decode_members(data)  # raw values: an unknown field may hold a number that we cannot decode
    own = [fields.pop(name, None) for name in _OWN_FIELDS]
    return data if own == [None] * len(own) else _encode(fields)
