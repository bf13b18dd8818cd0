"""Bounds on what the framework makes of a request before any route or guard is asked.

- Litestar keeps the latest 1,024 paths and query strings that it has parsed, in any size. One of 32 KiB takes up to 700 KB.
- It raises ValueError, also in handlers of errors, for a `Host` that cannot be a part of a URL.
"""

import re
from collections.abc import Awaitable
from typing import Any, Final, cast
from urllib.parse import urlsplit

from litestar import Litestar
from litestar._kwargs.extractors import create_query_default_dict
from litestar._parsers import parse_query_string
from litestar.types import ASGIApp, Receive, Scope, Send

LONG: Final = 256
"""A path and a query string that have more bytes together are forgotten with the next such request."""

_PLAIN_HOST: Final = re.compile(rb"[\w.-]{1,253}(?::\d{1,4})?\Z")


def with_bounds(app: ASGIApp, litestar: Litestar) -> ASGIApp:
    """Wrap the application. Its requests have a `Host` that fits into a URL, or none."""
    caches = cast("Any", [litestar.asgi_router.handle_routing, parse_query_string, create_query_default_dict])

    def bounded(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] in {"http", "websocket"}:
            if len(scope["path"]) + len(scope["query_string"]) > LONG:
                for cached in caches:
                    cached.cache_clear()
            for name, value in scope["headers"]:
                if name == b"host" and not _PLAIN_HOST.match(value) and not _fits(value):
                    others = [each for each in scope["headers"] if each[0] != b"host"]
                    return app(cast("Scope", {**scope, "headers": others}), receive, send)
        return app(scope, receive, send)

    return bounded


def _fits(host: bytes) -> bool:
    try:
        _ = urlsplit(f"//{host.decode('latin-1')}").port
    except ValueError:
        return False
    return True
