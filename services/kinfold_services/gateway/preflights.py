"""CORS: which pages of other origins may use the gateway, which headers they may send, and how a preflight is rejected."""

from typing import Final

import msgspec
from litestar.config.cors import CORSConfig
from litestar.datastructures import Headers
from litestar.types import ASGIApp, Receive, Scope, Send

from kinfold_services.gateway.problems import Error, request_id
from kinfold_services.settings import Settings

ALLOWED_HEADERS: Final = [
    "Authorization",
    "Cache-Control",  # sent by EventSource libraries that use fetch or XMLHttpRequest
    "Content-Encoding",
    "If-None-Match",
    "Kinfold-Workspace",
    "Last-Event-ID",
    "X-Request-Id",
]
"""In addition to those that the framework always allows, such as Accept and Content-Type."""

LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_LOOPBACK_ORIGIN: Final = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"

_ASKED: Final = (
    ("Access-Control-Request-Method", "Access-Control-Allow-Methods"),
    ("Access-Control-Request-Headers", "Access-Control-Allow-Headers"),
)


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
        allow_headers=ALLOWED_HEADERS,
        expose_headers=["ETag", "Kinfold-Ignored", "Retry-After", "X-Request-Id"],
        max_age=600,
    )


def with_refused_preflights(app: ASGIApp, cors: CORSConfig) -> ASGIApp:
    """Wrap the application: a rejected preflight gets an `Error` like every other request. The framework sends plain text."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        detail = _refusal(Headers.from_scope(scope), cors) if scope.get("method") == "OPTIONS" else ""
        if not detail:
            await app(scope, receive, send)
            return
        body = msgspec.json.encode(Error("bad-request", detail, request_id()))
        await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return answered


def _refusal(headers: Headers, cors: CORSConfig) -> str:
    origin = headers.get("origin", "")
    if not origin:
        return ""
    if not cors.is_origin_allowed(origin):
        return wrong_origin(origin)
    for asking, allowing in _ASKED:
        allowed = cors.preflight_headers[allowing]
        for each in filter(None, map(str.strip, headers.get(asking, "").split(","))):
            if each.lower() not in allowed.lower().split(", "):
                return f"{asking}: expected {allowed}, got {each!r}"
    return ""


def wrong_origin(origin: str) -> str:
    """The sentence for a page whose origin is not allowed."""
    return f"Origin: expected one of KINFOLD_GATEWAY_ORIGINS, got {origin!r}"
