"""Visitors of ASGI applications: Starlette, FastAPI, Litestar and others.

    from kinfold.asgi import VisitorMiddleware, identify, reset

    app.add_middleware(VisitorMiddleware, producer=visitors, secret=SECRET)                            # Starlette, FastAPI
    Litestar(..., middleware=[DefineMiddleware(VisitorMiddleware, producer=visitors, secret=SECRET)],  # Litestar
             on_shutdown=[lambda: visitors.close()])

See `examples/fastapi_app.py`, and `kinfold.web.tracking` for what is published.

The cookie is Secure, so a test client must use https. Otherwise each of its requests is another visitor's:
`TestClient(app, base_url="https://testserver")`.

uvicorn ends by the signal that stopped it, so `atexit` does not run: the last events must be sent when the application's
lifespan ends. `VisitorMiddleware` does so if the framework passes the lifespan through it (Starlette, FastAPI). Litestar has
`on_shutdown`. For an application without a lifespan (Django) use `Lifespan`.
"""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Unpack, cast
from urllib.parse import quote

from kinfold import web
from kinfold.errors import NotSent
from kinfold.producer import Producer
from kinfold.web import identify, reset, visitor_id

__all__ = ["App", "Lifespan", "Receive", "Scope", "Send", "VisitorMiddleware", "identify", "reset", "visitor_id"]

log = logging.getLogger("kinfold")

# Each framework has its own incompatible types for these.
Scope = Any
Receive = Any
Send = Any
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_Message = MutableMapping[str, Any]

_PATH_CHARS: Final = "/!$&'()*+,;=:@"
"""The characters that RFC 3986 allows unquoted in a path (`pchar`, 3.3). The path of a scope is unquoted."""


class VisitorMiddleware:
    """Gives every visitor a cookie, and publishes VisitorSeen for page views. `kinfold.web.Settings` lists the settings.

    The producer is a blocking one, and the middleware never waits for it (`Producer.never_waiting`). Raises TypeError for an
    unknown setting.

    >>> from kinfold.asgi import VisitorMiddleware
    >>> async def app(scope, receive, send): ...
    >>> visitors = kinfold.Producer("redis://localhost:6379/0")
    >>> app = VisitorMiddleware(app, producer=visitors, secret="from your configuration", cookie="visitor")
    """

    def __init__(self, app: App, producer: web.Publisher, **settings: Unpack[web.Settings]) -> None:
        self._app: Final = app
        self._tracking: Final = web.Tracking(producer, settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request. Flush at the end of the lifespan. Pass a WebSocket through."""
        if scope["type"] != "http":
            await self._app(scope, receive, self._flushing(send) if scope["type"] == "lifespan" else send)
            return
        request = _Request(scope)
        visit = scope[web.VISIT] = self._tracking.begin(request)

        async def answer(message: _Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(cast("list[tuple[bytes, bytes]]", message.get("headers", ())))
                content_type = next((value for name, value in headers if name.lower() == b"content-type"), b"")
                cookie = self._tracking.answered(request, visit, message["status"], content_type.decode("latin-1"))
                if cookie is not None:
                    message["headers"] = [*headers, (b"set-cookie", cookie.encode("latin-1"))]
            await send(message)

        with web.entered(visit):
            await self._app(scope, receive, answer)

    def _flushing(self, send: Send) -> Send:
        async def answer(message: _Message) -> None:
            producer = self._tracking.producer
            if message["type"].startswith("lifespan.shutdown.") and isinstance(producer, Producer):
                try:  # blocking is fine, no request is left; a test client may start the lifespan again, so do not close
                    producer.flush(producer.exit_timeout_s)
                except NotSent as error:
                    log.warning("the application ends: %s", error)
            await send(message)

        return answer


class Lifespan:
    """Closes the producer when the server stops, for an application without a lifespan (Django).

    >>> from kinfold.asgi import Lifespan
    >>> async def app(scope, receive, send): ...
    >>> visitors = kinfold.Producer("redis://localhost:6379/0")
    >>> app = Lifespan(app, producer=visitors)
    """

    def __init__(self, app: App, producer: Producer) -> None:
        self._app: Final = app
        self._producer: Final = producer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the lifespan; pass everything else through."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        self._producer.close(self._producer.exit_timeout_s)
        await send({"type": "lifespan.shutdown.complete"})


class _Request:
    def __init__(self, scope: Scope) -> None:
        self.raw: Any = scope
        self.method: str = scope["method"]
        self._headers: Final = cast("list[tuple[bytes, bytes]]", scope["headers"])

    def header(self, name: str) -> str:
        wanted = name.encode()
        return "; ".join(value.decode("latin-1") for key, value in self._headers if key == wanted)

    def url(self) -> str:
        host = self.header("host")
        query = cast("bytes", self.raw.get("query_string", b"")).decode("latin-1")
        path = quote(self.raw.get("path", ""), safe=_PATH_CHARS) + ("?" if query else "") + query
        return f"{self.raw.get('scheme', 'http')}://{host}{path}" if host else path

    def ip(self) -> str:
        client = self.raw.get("client")
        return str(client[0]) if client else ""
