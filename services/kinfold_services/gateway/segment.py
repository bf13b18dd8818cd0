"""Segment's tracking API: every SDK that people already have is a producer, once it has another host and write key.

The write key is an API key: the user of Basic authentication, or `writeKey` in the body, as browsers' beacons send it. A
batch is answered with 200, and what is bad in it is listed and left out: an SDK would drop the whole, or send it again for
ever.
"""

import asyncio
import json
import secrets
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec
from litestar import Request, Response, post

from kinfold_schemas.rejections import Rejection
from kinfold_services.gateway.bodies import MAX_EVENTS, read_body
from kinfold_services.gateway.callers import identify, write_key
from kinfold_services.gateway.ingest import BREATH, LISTED, Author, Judged, append_judged, author_of, judge_one
from kinfold_services.gateway.openapi import SEGMENT_OPERATION, answers
from kinfold_services.gateway.problems import Problem, RejectedEvent
from kinfold_services.gateway.segment_calls import Call, translate
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

_encode: Final = msgspec.json.Encoder().encode


class SegmentAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """What came of the calls: events appended, calls and traits that kinfold has no use for, and calls that were refused."""

    success: bool
    position: str | None
    appended: int
    ignored: int
    rejected: list[RejectedEvent]


@post(
    BATCH_PATHS,
    status_code=200,
    operation_class=SEGMENT_OPERATION,
    responses=answers(SegmentAnswer, 400, 401, 403, 413, 415, 429, 503),
    security=[{"writeKey": []}, {"key": []}],
    tags=["segment"],
    summary="Many calls of Segment's tracking API",
)
async def segment_batch(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Appends what the calls of a batch come to."""
    body = await _read(request)
    calls = body.get("batch")
    if not isinstance(calls, list):
        raise Problem(400, "batch: found none, allowed is an array of calls")
    if len(cast("list[object]", calls)) > MAX_EVENTS:
        raise Problem(413, f"batch: found {len(cast('list[object]', calls))} calls, allowed are {MAX_EVENTS}")
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
async def segment_call(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Appends what one call comes to: the path tells which it is."""
    body = await _read(request)
    kind = _KIND_OF[request.url.path.rstrip("/")]
    return await _append(request, [{**body, "type": kind}], {}, one=True)


async def _read(request: Request[Any, Any, Any]) -> Call:
    cast("dict[str, Any]", request.scope)["segment"] = True
    key = write_key(request)
    if key:
        await identify(request, key)  # before the body is looked at, where that can be done
    data = await read_body(request)
    body = _loads(data)
    if not key:
        found: object = cast("Call", body).get("writeKey") if isinstance(body, dict) else None
        await identify(request, found if isinstance(found, str) else "")
    if not isinstance(body, dict):
        raise Problem(400, "body: found no JSON object, allowed is one call, or a batch of calls")
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
    context = cast("Call", batch["context"]) if isinstance(batch.get("context"), dict) else {}
    judged, ignored = Judged([], [], []), list[str]()
    for index, call in enumerate(calls):
        if index % BREATH == BREATH - 1:
            await asyncio.sleep(0)
        ignored.extend(_judge(call, index, (context, batch.get("sentAt")), author, judged))
    for what in ignored:
        gateway.metrics.ignored.labels(workspace.name, what).inc()
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
    answer = SegmentAnswer(not judged.rejected, position, len(judged.good), len(ignored), judged.rejected[:LISTED])
    return Response(_encode(answer), media_type="application/json")


def _judge(call: object, index: int, shared_fields: tuple[Call, object], author: Author, judged: Judged) -> list[str]:
    """Judges one call into `judged`; what of it is left out: also the identity that a track brings, unsigned or blocked."""
    if not isinstance(call, dict):
        rejection = Rejection("invalid", f"batch[{index}]: found {type(call).__name__}, allowed is an object")
        judged.rejected.append(RejectedEvent.of(index, rejection))
        return []
    fields = cast("Call", call)
    translated = translate(fields, *shared_fields)
    if isinstance(translated, Rejection):
        judged.rejected.append(RejectedEvent.of(index, translated))
        return []
    ignored = list(translated.ignored)
    for event in translated.events:
        verdict = judge_one(_written(event), author, secrets.token_hex(12))
        if not isinstance(verdict, RejectedEvent):
            judged.good.append(verdict[0])
            judged.types.append(verdict[1])
        elif verdict.reason == "bad-signature" and fields["type"] != "identify":
            ignored.append("identity not signed")
        elif verdict.reason == "blocked-identifier" and event is not translated.events[-1]:
            ignored.append("identity blocked")  # the visit that it came with is judged for itself
        else:
            judged.rejected.append(msgspec.structs.replace(verdict, index=index))
    return ignored


def _written(event: Call) -> bytes:
    try:
        return _encode(event)
    except UnicodeEncodeError:  # half of an emoji, where a name was cut: refused like everywhere, in the same words
        return json.dumps(event).encode()
