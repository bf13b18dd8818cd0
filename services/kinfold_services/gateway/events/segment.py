"""Segment's tracking API: existing SDKs become producers with another host and write key.

The write key is an API key: the user of Basic authentication, or `writeKey` in the query or the body, where browsers' beacons
send it. The response to a batch is 200 even if some of its calls are rejected, and lists them. For another status an SDK would
drop the whole batch, or send it again forever.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any, Final, cast

import msgspec
import structlog
from litestar import Request, Response
from litestar.params import QueryParameter

from kinfold_schemas.codec import decode_event
from kinfold_schemas.rejections import Rejection, json_type
from kinfold_services.gateway.callers import (
    MAX_BODY_BYTES,
    WRITE_KEY,
    address_of,
    bounds_of,
    caller_of,
    charge_events,
    identify,
    presented_write_key,
)
from kinfold_services.gateway.events.bodies import read_body
from kinfold_services.gateway.events.ingest import (
    BAD_TOKEN,
    PER_TURN,
    Author,
    Judged,
    Verdict,
    append_judged,
    author_of,
    judge_one,
)
from kinfold_services.gateway.events.known_claims import Claim, as_metadata
from kinfold_services.gateway.events.listing import Ignored, Listed
from kinfold_services.gateway.events.segment_calls import (
    MAX_WRITTEN_BYTES,
    TYPES,
    Call,
    fit,
    shared_context,
    translate,
    written,
)
from kinfold_services.gateway.events.segment_traits import Notes
from kinfold_services.gateway.openapi import SegmentOperation, answers
from kinfold_services.gateway.problems import Problem, RejectedEvent
from kinfold_services.gateway.routes import FrequentRoute
from kinfold_services.gateway.workspaces import GatewayWorkspace, shared

BATCH_PATHS: Final = ["/v1/batch", "/v1/b", "/v1/import", "/beacon/v1/batch"]
_TYPE_OF: Final = {f"/v1/{name}": kind for kind in TYPES for name in (kind, kind[0])}
CALL_PATHS: Final = list(_TYPE_OF)

_SUMMARY_HEADER: Final = "Kinfold-Ignored"
"""Repeats `SegmentAnswer.error`: the debug output of Node's SDK contains the headers of a response, but not the body."""

_BYTES_A_TOKEN: Final = 64 * 1024
"""A body without a key beside it costs one token of the rate limit of strangers for each of these that it may decompress to."""

_GROWTH: Final = 8
"""A request's events may take as many times the limit of its body: the calls of a batch share one context."""

_MAX_KEY_BYTES: Final = 1024


class _Keyed(msgspec.Struct, rename="camel"):
    write_key: msgspec.Raw = msgspec.Raw(b"null")


_encode: Final = msgspec.json.Encoder().encode
_decode_keyed: Final = msgspec.json.Decoder(_Keyed).decode


WriteKey = Annotated[str | None, QueryParameter(name=WRITE_KEY, description="The key, for clients that cannot set headers")]


class SegmentAnswer(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How many events were appended, which parts of calls were ignored, and which calls were rejected.

    `ignored` and `rejected` list the first 100 of `ignoredCount` and `rejectedCount`. If either is not empty, `error` sums them
    up in a sentence: some SDKs write it to their debug log even for status 200.
    """

    success: bool
    position: str | None
    appended: int
    ignored_count: int
    ignored: list[Ignored]
    rejected_count: int
    rejected: list[RejectedEvent]
    error: str | None = None


@FrequentRoute(
    BATCH_PATHS,
    http_method="POST",
    status_code=200,
    operation_class=SegmentOperation,
    responses=answers(SegmentAnswer, 400, 401, 403, 413, 415, 429, 503),
    security=[{"writeKey": []}, {"key": []}],
    tags=["segment"],
    summary="A batch of calls of Segment's tracking API",
)
async def segment_batch(request: Request[Any, Any, Any], write_key: WriteKey = None) -> Response[bytes]:  # noqa: ARG001  `_read` uses it
    """Append the events that the calls of a batch translate to."""
    body = await _read(request)
    calls = body.get("batch")
    if not isinstance(calls, list):
        raise Problem(400, "batch: expected an array of calls, got something else or nothing")
    return await _append(request, cast("list[object]", calls), body)


@FrequentRoute(
    CALL_PATHS,
    http_method="POST",
    status_code=200,
    operation_class=SegmentOperation,
    responses=answers(SegmentAnswer, 400, 401, 403, 413, 415, 422, 429, 503),
    security=[{"writeKey": []}, {"key": []}],
    tags=["segment"],
    summary="One call of Segment's tracking API",
)
async def segment_call(request: Request[Any, Any, Any], write_key: WriteKey = None) -> Response[bytes]:  # noqa: ARG001  `_read` uses it
    """Append the events that one call translates to. The path names the type of the call."""
    body = await _read(request)
    return await _append(request, [{**body, "type": _TYPE_OF[request.url.path.rstrip("/")]}], {}, one=True)


async def _read(request: Request[Any, Any, Any]) -> Call:
    cast("dict[str, Any]", request.scope)["segment"] = True
    key = presented_write_key(request)
    if key:
        caller = await identify(request, key)
        body: object = _loads(await read_body(request, bounds_of(caller).body_bytes))
    else:
        body = await _read_to_the_key(request)
    if not isinstance(body, dict):
        raise Problem(400, "body: expected a JSON object with one call or a batch of calls, got something else")
    return cast("Call", body)


async def _read_to_the_key(request: Request[Any, Any, Any]) -> object:
    """Read a body that has the key in it. The address pays by size in advance, and gets it back if the key is valid."""
    strangers, address = shared(request).limits["unknown"], address_of(request)
    is_compressed = "content-encoding" in request.headers or request.content_length is None
    size = MAX_BODY_BYTES if is_compressed else min(cast("int", request.content_length), MAX_BODY_BYTES)
    cost = 1 + size // _BYTES_A_TOKEN
    strangers.take("", address, cost)
    data = await read_body(request, MAX_BODY_BYTES)
    caller = await identify(request, _key_in(data))
    limit = bounds_of(caller).body_bytes
    if len(data) > limit:
        raise Problem(413, f"body: expected at most {limit} bytes, got {len(data)}")
    strangers.give_back("", address, cost)
    return _loads(data)


def _key_in(data: bytes) -> str:
    """The key in a body; empty if there is none. Skips the rest: a megabyte may hold 350,000 arrays, which take a second."""
    try:
        raw = bytes(_decode_keyed(data).write_key)
        presented = msgspec.json.decode(raw) if len(raw) <= _MAX_KEY_BYTES else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = _loads(data) if len(data) <= _BYTES_A_TOKEN else None  # it may have NaN
        presented = cast("Call", body).get(WRITE_KEY) if isinstance(body, dict) else None
    return presented if isinstance(presented, str) else ""


def _loads(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(data)  # Python's SDKs write NaN, which is not JSON; it is ignored later
    except (ValueError, RecursionError):
        return None


async def _append(
    request: Request[Any, Any, Any], calls: Sequence[object], batch: Call, *, one: bool = False
) -> Response[bytes]:
    charge_events(request, len(calls))
    gateway = shared(request)
    author, workspace = await author_of(request)
    judged, ignored, claims = Judged([], [], Listed()), Listed[Ignored](), list[Claim]()
    context = shared_context(Notes(0, ignored).object_of(batch, "context", "context"))
    batch = {"context": context, "sentAt": batch.get("sentAt")}
    most, size = bounds_of(caller_of(request)).body_bytes * _GROWTH, 0
    for index, call in enumerate(calls):
        if index % PER_TURN == PER_TURN - 1:
            await asyncio.sleep(0)
        size += _judge(call, batch, author, judged, claims, Notes(index, ignored))
        if size > most:
            raise Problem(413, f"batch: expected calls that make at most {most} bytes of events together, got more")
    position, appended = None, 0
    if claims:  # the calls before them may hold the proof
        position, appended = await append_judged(gateway, workspace, judged), len(judged.good)
        judged = await _judge_claims(claims, workspace, author, judged.rejected)
    for reason, count in ignored.counts.items():
        gateway.metrics.ignored.labels(workspace.name, reason).inc(count)
    if ignored:
        workspace.ignored.update(ignored.counts)
        workspace.last_ignored = ignored.first[-1].detail
    if times := ignored.counts.get("time"):
        first = next((each.detail for each in ignored.first if each.reason == "time"), None)
        log = structlog.get_logger()
        log.warning("times of calls ignored", workspace=workspace.name, count=times, first=first)
    for reason, count in judged.rejected.counts.items():
        gateway.metrics.refused.labels(workspace.name, reason).inc(count)
    if one and judged.rejected:
        rejected = judged.rejected.first[0]
        status = 403 if rejected.reason == BAD_TOKEN else 422
        raise Problem(status, rejected.detail, appended=0, rejected_count=1, rejected=judged.rejected.first)
    position = await append_judged(gateway, workspace, judged) or position
    return _answer(position, appended + len(judged.good), ignored, judged.rejected)


async def _judge_claims(
    claims: list[Claim], workspace: GatewayWorkspace, author: Author, rejected: Listed[RejectedEvent]
) -> Judged:
    """Check the identities without proof. Adds those that are new to `rejected`."""
    judged = Judged([], [], rejected)
    for claim in claims:
        event = await as_metadata(workspace, claim.event)
        verdict = claim.rejected if event is None else _judge_event(written(event), author)
        if isinstance(verdict, RejectedEvent):
            rejected.add(msgspec.structs.replace(verdict, index=claim.rejected.index))
        else:
            judged.good.append(verdict[0])
            judged.types.append(verdict[1])
    return judged


def _answer(position: str | None, appended: int, ignored: Listed[Ignored], rejected: Listed[RejectedEvent]) -> Response[bytes]:
    summary = _summary(ignored, rejected)
    answer = SegmentAnswer(
        not rejected, position, appended, len(ignored), ignored.first, len(rejected), rejected.first, summary
    )
    headers = {} if summary is None else {_SUMMARY_HEADER: ascii(summary)[1:-1]}
    return Response(_encode(answer), headers=headers, media_type="application/json")


def _summary(ignored: Listed[Ignored], rejected: Listed[RejectedEvent]) -> str | None:
    """The number of rejected calls and ignored parts, and the first one, as a sentence. None if there are none."""
    if not ignored and not rejected:
        return None
    first = rejected.first[0] if rejected else ignored.first[0]
    return f"rejected calls: {len(rejected)}, ignored parts of calls: {len(ignored)}; first, call {first.index}: {first.detail}"


def _judge(  # noqa: PLR0913, PLR0917
    call: object, batch: Call, author: Author, judged: Judged, claims: list[Claim], notes: Notes
) -> int:
    """Check one call, and add its events to `judged` or `claims`. Returns their size in bytes.

    An unsigned or blocked `userId` of a track is ignored: the visit itself still counts.
    """
    if not isinstance(call, dict):
        rejection = Rejection("invalid", f"batch[{notes.index}]", "an object", json_type(call))
        judged.rejected.add(RejectedEvent.of(notes.index, rejection))
        return 0
    fields = cast("Call", call)
    events = translate(fields, batch, author.rules, notes)
    if isinstance(events, Rejection):
        judged.rejected.add(RejectedEvent.of(notes.index, events))
        return 0
    size = 0
    for event in events:
        data = written(event)
        if len(data) > MAX_WRITTEN_BYTES:
            data = written(fit(event, notes))
        verdict = _judge_event(data, author)
        if not isinstance(verdict, RejectedEvent):
            judged.good.append(verdict[0])
            judged.types.append(verdict[1])
            size += len(verdict[0])
        elif verdict.reason == BAD_TOKEN and fields["type"] != "identify":
            notes.leave_out("userId", "unsigned-identity", verdict.detail)
        elif verdict.reason == "blocked-identifier" and event is not events[-1]:
            notes.leave_out("userId", "blocked-identity", verdict.detail)  # the VisitorSeen behind it is checked separately
        elif verdict.reason == BAD_TOKEN and "visitorId" in event:
            claims.append(Claim(event, msgspec.structs.replace(verdict, index=notes.index)))
            size += len(data)
        else:
            judged.rejected.add(msgspec.structs.replace(verdict, index=notes.index))
    return size


def _judge_event(data: bytes, author: Author) -> Verdict | RejectedEvent:
    return judge_one(data, decode_event(data), author)
