"""Request ids and the access log. The log leaves out the query string, which may contain a key."""

import re
import secrets
import time
from typing import Any, Final, cast

import structlog
from litestar.status_codes import HTTP_429_TOO_MANY_REQUESTS
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from kinfold_services.gateway.metrics import Metrics
from kinfold_services.gateway.problems import Refusal

_HEADER: Final = b"x-request-id"
_GIVEN: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z")
_QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics"})

_PREFLIGHT: Final = "OPTIONS"
"""The method of CORS preflights. They have no limit, and say nothing that the request behind them does not say."""

_QUIET_STATUSES: Final = frozenset({HTTP_429_TOO_MANY_REQUESTS})
"""A flood of refused requests must not fill the log."""

_PATH_CHARS: Final = 256
_UNDECIDED: Final = 500
_CAN_ANSWER: Final = "websocket.http.response"
"""The ASGI extension for rejecting a WebSocket with any status. Servers without it always answer 403."""


def with_access_log(app: ASGIApp, metrics: Metrics) -> ASGIApp:
    """Wrap the application, so that errors raised by the framework get an id and a log line too."""
    log = structlog.get_logger("kinfold.access")

    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name.lower() == _HEADER), b"")
        request_id = given.decode() if _GIVEN.match(given) else secrets.token_hex(12)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        status = _UNDECIDED
        method = str(scope.get("method", "WEBSOCKET"))

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close" and status == _UNDECIDED:
                refusal: Refusal = cast("dict[str, Any]", scope).get("refusal", Refusal(_UNDECIDED, {}, b""))
                status = refusal.status
                if _CAN_ANSWER in (scope.get("extensions") or {}):
                    await _refuse(send, refusal, request_id)
                    return
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (_HEADER, request_id.encode())]}
            await send(message)

        started = time.perf_counter()
        try:
            await app(scope, receive, send_with_id)
        finally:
            metrics.requests.labels(method, str(status)).inc()
            is_quiet = method == _PREFLIGHT or scope["path"] in _QUIET or status in _QUIET_STATUSES
            say = log.debug if is_quiet else log.info
            fields: dict[str, Any] = {"status": status, "duration_ms": round((time.perf_counter() - started) * 1000, 2)}
            client = scope.get("client")
            say("request", method=method, path=_shown(scope["path"]), address=client[0] if client else None, **fields)

    return logged


def _shown(path: str) -> str:
    return path if len(path) <= _PATH_CHARS else f"{path[:_PATH_CHARS]}…"


async def _refuse(send: Send, refusal: Refusal, request_id: str) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
    headers.append((_HEADER, request_id.encode()))
    answer: list[Any] = [
        {"type": "websocket.http.response.start", "status": refusal.status, "headers": headers},
        {"type": "websocket.http.response.body", "body": refusal.body},
    ]
    for message in answer:
        await send(message)
