"""CORS: which pages of other origins may use the gateway, and how a preflight is rejected.

A page may send every header that it asks for. SDKs add headers of their own, some only to a retry, and without them the events
are lost. There is nothing to protect: the gateway reads no cookie, so that a page can do no more than its key may do.
"""

from collections.abc import Awaitable
from typing import Final

import msgspec
from litestar.config.cors import CORSConfig
from litestar.datastructures import Headers
from litestar.types import ASGIApp, Receive, Scope, Send

from kinfold_services.gateway.problems import Error, request_id
from kinfold_services.settings import Settings

LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_LOOPBACK_ORIGIN: Final = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


def cors_config(settings: Settings) -> CORSConfig | None:
    """Which pages may use the gateway; None: no page of another origin.

    If the settings name no origins and only this machine can reach the gateway, the pages of this machine may use it.
    """
    is_local = not settings.gateway_origins and settings.gateway_host in LOOPBACK_HOSTS
    if not (settings.gateway_origins or is_local):
        return None
    return CORSConfig(
        allow_origins=sorted(settings.gateway_origins),
        allow_origin_regex=_LOOPBACK_ORIGIN if is_local else None,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],  # the framework answers with the names that were asked for; `*` would leave out Authorization
        expose_headers=["ETag", "Kinfold-Ignored", "Retry-After", "X-Request-Id"],
        max_age=600,
    )


def with_refused_preflights(app: ASGIApp, cors: CORSConfig) -> ASGIApp:
    """Wrap the application: a rejected preflight gets an `Error` like every other request. The framework sends plain text."""

    async def refused(detail: str, send: Send) -> None:
        body = msgspec.json.encode(Error("bad-request", detail, request_id()))
        await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def answered(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        detail = _refusal(Headers.from_scope(scope), cors) if scope.get("method") == "OPTIONS" else ""
        return refused(detail, send) if detail else app(scope, receive, send)

    return answered


def _refusal(headers: Headers, cors: CORSConfig) -> str:
    origin = headers.get("origin", "")
    if not origin:
        return ""
    if not cors.is_origin_allowed(origin):
        return wrong_origin(origin)
    method = headers.get("access-control-request-method", "")
    if method and method not in cors.allow_methods:
        return f"Access-Control-Request-Method: expected {', '.join(cors.allow_methods)}, got {method!r}"
    return ""


def wrong_origin(origin: str) -> str:
    """The sentence for a page whose origin is not allowed."""
    return f"Origin: expected one of KINFOLD_GATEWAY_ORIGINS, got {origin!r}"
