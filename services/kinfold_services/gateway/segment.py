"""Segment's tracking API: every SDK that people already have is a producer, once it has another host and write key.

The write key is an API key: the user of Basic authentication, or `writeKey` in the query or the body, as browsers' beacons
send it. A batch is answered with 200, and what is bad in it is listed and left out: an SDK would drop the whole, or send it
again for ever.
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
from kinfold_services.gateway.bodies import MAX_EVENTS, read_body
from kinfold_services.gateway.callers import WRITE_KEY, identify, presented_write_key
from kinfold_services.gateway.ingest import BREATH, LISTED, Author, Judged, append_judged, author_of, judge_one
from kinfold_services.gateway.openapi import SEGMENT_OPERATION, answers
from kinfold_services.gateway.problems import Problem, RejectedEvent
from kinfold_services.gateway.segment_calls import MAX_WRITTEN_BYTES, Call, fit, translate, written
from kinfold_services.gateway.segment_traits import Ignored, Notes
from kinfold_services.gateway.workspaces import shared

_KINDS: Final = {
    "identify": ("identify", "i"),
    "track": ("track", "t"),
    "page": ("page", "p"),
    "screen": ("screen", "s"),
    "alias": ("alias", "a"),
    "group": ("group", "g"),
}
BATCH_PATHS: Final = ["/v1/batch", "/v1/b", "/v1/import"]
CALL_PATHS: Final = [f"/v1/{name}" for names in _KINDS.values() for name in names]
_KIND_OF: Final = {f"/v1/{name}": kind for kind, names in _KINDS.items() for name in names}

_SUMMARY_HEADER: Final = "Kinfold-Ignored"
"""`SegmentAnswer.error` as a header as well: Node's SDK shows headers of an answer to who debugs it, and no body."""

_encode: Final = msgspec.json.Encoder().encode


WriteKey = Annotated[str | None, QueryParameter(name=WRITE_KEY, description="The key, where headers cannot be set")]


class SegmentAnswer(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What came of the calls: how many events were appended, what was left out of calls, and which calls were refused.

    `ignored` and `rejected` list the first 100 of `ignoredCount` and `rejectedCount`. `error` sums them up in a sentence, and
    is there where there is something to say: some SDKs write it into their debug log, also with status 200.
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
    operation_class=SEGMENT_OPERATION,
    responses=answers(SegmentAnswer, 400, 401, 403, 413, 415, 429, 503),
    security=[{"writeKey": []}, {"key": []}],
    tags=["segment"],
    summary="Many calls of Segment's tracking API",
)
async def segment_batch(request: Request[Any, Any, Any], write_key: WriteKey = None) -> Response[bytes]:  # noqa: ARG001  `_read` looks at it
    """Appends what the calls of a batch come to."""
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
    operation_class=SEGMENT_OPERATION,
    responses=answers(SegmentAnswer, 400, 401, 403, 413, 415, 422, 429, 503),
    security=[{"writeKey": []}, {"key": []}],
    tags=["segment"],
    summary="One call of Segment's tracking API",
)
async def segment_call(request: Request[Any, Any, Any], write_key: WriteKey = None) -> Response[bytes]:  # noqa: ARG001  `_read` looks at it
    """Appends what one call comes to: the path tells which it is."""
    body = await _read(request)
    kind = _KIND_OF[request.url.path.rstrip("/")]
    return await _append(request, [{**body, "type": kind}], {}, one=True)


async def _read(request: Request[Any, Any, Any]) -> Call:
    cast("dict[str, Any]", request.scope)["segment"] = True
    key = presented_write_key(request)
    if key:
        await identify(request, key)  # before the body is looked at, where that can be done
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
        return json.loads(data)  # Python's SDKs write NaN, which is no JSON; it is left out like any value that does not fit
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
        if index % BREATH == BREATH - 1:
            await asyncio.sleep(0)
        ignored.extend(_judge(call, index, batch, author, judged))
    for reason, count in Counter(each.reason for each in ignored).items():
        gateway.metrics.ignored.labels(workspace.name, reason).inc(count)
    if times := [each.detail for each in ignored if each.reason == "time"]:
        log = structlog.get_logger()
        log.warning("times of calls cannot be used", workspace=workspace.name, count=len(times), first=times[0])
    for each in judged.rejected:
        gateway.metrics.refused.labels(workspace.name, each.reason).inc()
    if one and judged.rejected:
        first = judged.rejected[0]
        raise Problem(
            403 if first.reason == "bad-signature" else 422,
            first.detail,
            appended=0,
            rejected_count=1,
            rejected=judged.rejected,
        )
    position = await append_judged(gateway, workspace, judged)
    return _answer(position, len(judged.good), ignored, judged.rejected)


def _answer(position: str | None, appended: int, ignored: list[Ignored], rejected: list[RejectedEvent]) -> Response[bytes]:
    summary = _summary(ignored, rejected)
    answer = SegmentAnswer(
        not rejected, position, appended, len(ignored), ignored[:LISTED], len(rejected), rejected[:LISTED], summary
    )
    headers = {} if summary is None else {_SUMMARY_HEADER: ascii(summary)[1:-1]}
    return Response(_encode(answer), headers=headers, media_type="application/json")


def _summary(ignored: list[Ignored], rejected: list[RejectedEvent]) -> str | None:
    """What was left out, in a sentence; None where nothing was."""
    if not ignored and not rejected:
        return None
    first = rejected[0] if rejected else ignored[0]
    counts = f"{len(rejected)} calls were refused and {len(ignored)} parts of calls ignored"
    return f"{counts}, the first in call {first.index}: {first.detail}"


def _judge(call: object, index: int, batch: Call, author: Author, judged: Judged) -> list[Ignored]:
    """Judges one call into `judged`; what of it is left out: also the identity that a track brings, unsigned or blocked."""
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
        elif verdict.reason == "bad-signature" and fields["type"] != "identify":
            notes.leave_out("userId", "unsigned-identity", verdict.detail)
        elif verdict.reason == "blocked-identifier" and event is not translated.events[-1]:
            notes.leave_out("userId", "blocked-identity", verdict.detail)  # the visit that it came with is judged for itself
        else:
            judged.rejected.append(msgspec.structs.replace(verdict, index=index))
    return translated.ignored + notes.ignored
