"""Segment's tracking API: existing SDKs become producers with another host and write key.

The write key is an API key: the user of Basic authentication, or `writeKey` in the query or the body, where browsers' beacons
send it. The response to a batch is 200 even if some of its calls are rejected, and lists them. For another status an SDK would
drop the whole batch, or send it again forever.
"""

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Final, cast

import msgspec
import structlog
from litestar import Request, Response, post
from litestar.params import QueryParameter

from kinfold_schemas.rejections import Rejection, json_type
from kinfold_services.gateway.callers import WRITE_KEY, identify, presented_write_key
from kinfold_services.gateway.events.bodies import MAX_EVENTS, read_body
from kinfold_services.gateway.events.ingest import (
    BAD_TOKEN,
    MAX_LISTED,
    PER_TURN,
    Author,
    Judged,
    append_judged,
    author_of,
    judge_one,
)
from kinfold_services.gateway.events.segment_calls import MAX_WRITTEN_BYTES, TYPES, Call, fit, translate, written
from kinfold_services.gateway.events.segment_traits import Ignored, Notes
from kinfold_services.gateway.openapi import SegmentOperation, answers
from kinfold_services.gateway.problems import Problem, RejectedEvent
from kinfold_services.gateway.workspaces import shared

BATCH_PATHS: Final = ["/v1/batch", "/v1/b", "/v1/import"]
_TYPE_OF: Final = {f"/v1/{name}": kind for kind in TYPES for name in (kind, kind[0])}
CALL_PATHS: Final = list(_TYPE_OF)

_SUMMARY_HEADER: Final = "Kinfold-Ignored"
"""Repeats `SegmentAnswer.error`: the debug output of Node's SDK contains the headers of a response, but not the body."""

_encode: Final = msgspec.json.Encoder().encode


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


@post(
    BATCH_PATHS,
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
    if len(cast("list[object]", calls)) > MAX_EVENTS:
        raise Problem(413, f"batch: expected at most {MAX_EVENTS} calls, got {len(cast('list[object]', calls))}")
    return await _append(request, cast("list[object]", calls), body)


@post(
    CALL_PATHS,
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
        await identify(request, key)  # before the body is read, if the key is not in it
    data = await read_body(request)
    body = _loads(data)
    if not key:
        found: object = cast("Call", body).get(WRITE_KEY) if isinstance(body, dict) else None
        await identify(request, found if isinstance(found, str) else "")
    if not isinstance(body, dict):
        raise Problem(400, "body: expected a JSON object with one call or a batch of calls, got something else")
    return cast("Call", body)


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
    gateway = shared(request)
    author, workspace = await author_of(request)
    judged, notes = Judged([], [], []), Notes(0)
    batch = {"context": notes.object_of(batch, "context", "context"), "sentAt": batch.get("sentAt")}
    ignored = notes.ignored
    for index, call in enumerate(calls):
        if index % PER_TURN == PER_TURN - 1:
            await asyncio.sleep(0)
        ignored.extend(_judge(call, index, batch, author, judged))
    for reason, count in Counter(each.reason for each in ignored).items():
        gateway.metrics.ignored.labels(workspace.name, reason).inc(count)
    if times := [each.detail for each in ignored if each.reason == "time"]:
        log = structlog.get_logger()
        log.warning("times of calls ignored", workspace=workspace.name, count=len(times), first=times[0])
    for each in judged.rejected:
        gateway.metrics.refused.labels(workspace.name, each.reason).inc()
    if one and judged.rejected:
        first = judged.rejected[0]
        status = 403 if first.reason == BAD_TOKEN else 422
        raise Problem(status, first.detail, appended=0, rejected_count=1, rejected=judged.rejected)
    position = await append_judged(gateway, workspace, judged)
    return _answer(position, len(judged.good), ignored, judged.rejected)


def _answer(position: str | None, appended: int, ignored: list[Ignored], rejected: list[RejectedEvent]) -> Response[bytes]:
    summary = _summary(ignored, rejected)
    answer = SegmentAnswer(
        not rejected, position, appended, len(ignored), ignored[:MAX_LISTED], len(rejected), rejected[:MAX_LISTED], summary
    )
    headers = {} if summary is None else {_SUMMARY_HEADER: ascii(summary)[1:-1]}
    return Response(_encode(answer), headers=headers, media_type="application/json")


def _summary(ignored: list[Ignored], rejected: list[RejectedEvent]) -> str | None:
    """The number of rejected calls and ignored parts, and the first one, as a sentence. None if there are none."""
    if not ignored and not rejected:
        return None
    first = rejected[0] if rejected else ignored[0]
    counts = f"{len(rejected)} calls were rejected and {len(ignored)} parts of calls ignored"
    return f"{counts}, the first in call {first.index}: {first.detail}"


def _judge(call: object, index: int, batch: Call, author: Author, judged: Judged) -> list[Ignored]:
    """Check one call, and add its events to `judged`. Returns the ignored parts.

    An unsigned or blocked `userId` of a track is one of them: the visit itself still counts.
    """
    if not isinstance(call, dict):
        rejection = Rejection("invalid", f"batch[{index}]", "an object", json_type(call))
        judged.rejected.append(RejectedEvent.of(index, rejection))
        return []
    fields = cast("Call", call)
    translated = translate(index, fields, batch, author.rules)
    if isinstance(translated, Rejection):
        judged.rejected.append(RejectedEvent.of(index, translated))
        return []
    notes = Notes(index)
    for event in translated.events:
        data = written(event)
        if len(data) > MAX_WRITTEN_BYTES:
            data = written(fit(event, notes))
        verdict = judge_one(data, author, secrets.token_hex(12))
        if not isinstance(verdict, RejectedEvent):
            judged.good.append(verdict[0])
            judged.types.append(verdict[1])
        elif verdict.reason == BAD_TOKEN and fields["type"] != "identify":
            notes.leave_out("userId", "unsigned-identity", verdict.detail)
        elif verdict.reason == "blocked-identifier" and event is not translated.events[-1]:
            notes.leave_out("userId", "blocked-identity", verdict.detail)  # the VisitorSeen behind it is checked separately
        else:
            judged.rejected.append(msgspec.structs.replace(verdict, index=index))
    return translated.ignored + notes.ignored
