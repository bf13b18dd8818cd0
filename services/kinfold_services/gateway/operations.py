"""Health, readiness and metrics. These routes need no key: do not expose them through a public proxy."""

import asyncio
import time
from typing import Any, Final

import msgspec
from litestar import Request, Response, get, head

from kinfold_services.connections import SERVER_ERRORS
from kinfold_services.gateway.callers import keyless
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.workspaces import shared
from kinfold_services.state.queries import listed_workspaces
from kinfold_services.state.status import read_reports

_PATIENCE_S: Final = 2.0
_encode: Final = msgspec.json.Encoder().encode


class Health(msgspec.Struct, frozen=True):
    """The process is running."""

    status: str


class Readiness(msgspec.Struct, frozen=True, rename="camel"):
    """Whether Redis answers, and the state of the projector: the worst of all workspaces.

    `lag` counts the log entries that are not folded yet. `lastCommitAgeMs` is null if nothing was ever folded. It also grows
    while there is nothing to fold; something is wrong only if `lag` grows too. `entriesLost` counts the log entries of all
    workspaces that were trimmed or deleted before they were folded. `damaged` names the workspaces that no projector can
    serve; `kinfold status` says why. The gateway is ready in spite of lost entries and damaged workspaces.
    """

    ready: bool
    redis: bool
    lag: int | None = None
    last_commit_age_ms: int | None = None
    entries_lost: int = 0
    damaged: list[str] = []


@get("/healthz", responses=answers(Health, 400), security=[], tags=["operations"], summary="Health: is the process running?")
async def healthz() -> Health:
    """Answer while the process runs. Checks nothing else."""
    return Health("ok")


@head("/healthz", include_in_schema=False, security=[])
async def healthz_head() -> None:
    """The same without a body, for monitors that send HEAD."""


@get(
    "/readyz",
    guards=[keyless],
    responses={**answers(Readiness, 400, 429), **answers(Readiness, status=503)},
    security=[],
    tags=["operations"],
    summary="Readiness: does Redis answer?",
)
async def readyz(request: Request[Any, Any, Any]) -> Response[bytes]:
    """200 with the projector's lag and the age of its last commit, or 503 if Redis does not answer within 2 s.

    If the figures of many workspaces take longer than 2 s, the answer is 200 without them.
    """
    client = shared(request).client
    try:
        async with asyncio.timeout(_PATIENCE_S):
            workspaces = await listed_workspaces(client)
    except SERVER_ERRORS:
        return _json(Readiness(ready=False, redis=False), 503)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reports = await read_reports(client, workspaces)
    except TimeoutError:  # many workspaces, and not Redis: the load balancer must not take away every gateway
        return _json(Readiness(ready=True, redis=True), 200)
    except SERVER_ERRORS:
        return _json(Readiness(ready=False, redis=False), 503)
    ages = [_age_ms(each.committed_at_ms) for each in reports if each.committed_at_ms is not None]
    lag = max((each.status.lag for each in reports), default=0)
    readiness = Readiness(
        ready=True,
        redis=True,
        lag=lag,
        last_commit_age_ms=max(ages, default=None),
        entries_lost=sum(each.status.entries_lost for each in reports),
        damaged=[each.status.workspace for each in reports if each.status.damage is not None],
    )
    return _json(readiness, 200)


@head("/readyz", guards=[keyless], include_in_schema=False, security=[])
async def readyz_head(request: Request[Any, Any, Any]) -> Response[None]:
    """The same without a body, for monitors that send HEAD."""
    return Response(None, status_code=(await readyz.fn(request)).status_code)


@get(
    "/metrics",
    guards=[keyless],
    responses=answers(str, 400, 429, 503, media_type="text/plain"),
    media_type="text/plain",
    security=[],
    tags=["operations"],
    summary="Metrics for Prometheus",
)
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The metrics of this process and of the projector, in Prometheus's text format."""
    gateway = shared(request)
    async with asyncio.timeout(_PATIENCE_S):
        reports = await read_reports(gateway.client, await listed_workspaces(gateway.client))
    return Response(gateway.metrics.render(reports), media_type="text/plain; version=0.0.4")


def _age_ms(committed_at_ms: int) -> int:
    return max(0, time.time_ns() // 1_000_000 - committed_at_ms)


def _json(answer: Readiness, status: int) -> Response[bytes]:
    return Response(_encode(answer), status_code=status, media_type="application/json")
