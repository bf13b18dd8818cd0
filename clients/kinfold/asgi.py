"""Visitors for ASGI applications: Starlette, FastAPI, Litestar and others.

    from kinfold.asgi import VisitorMiddleware, identify, reset

    app.add_middleware(VisitorMiddleware, producer=visitors)                            # Starlette, FastAPI
    Litestar(..., middleware=[DefineMiddleware(VisitorMiddleware, producer=visitors)],  # Litestar
             on_shutdown=[lambda: visitors.close()])

See `examples/fastapi_app.py`, and `kinfold.web` for what is published and what is not.

The cookie is Secure, so a test client has to speak https, or every request of it is another visitor's:
`TestClient(app, base_url="https://testserver")`.

uvicorn ends by the very signal that stopped it, so nothing runs there `atexit`: what was said last has to be sent when the
application's lifespan ends. `VisitorMiddleware` sees to that where the framework lets it see the lifespan (Starlette,
FastAPI), Litestar has `on_shutdown`, and for what has no lifespan at all (Django) there is `Lifespan`.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, Unpack, cast
from urllib.parse import quote

from kinfold import web
from kinfold.errors import NotSent
from kinfold.producer import Producer

log = logging.getLogger("kinfold")

# Each framework has its own types for these, and none of them fits another's.
Scope = Any
Receive = Any
Send = Any
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_Message = MutableMapping[str, Any]

_VISIT: Final = "kinfold.visit"
_PATH_CHARS: Final = "/!$&'()*+,;=:@"
"""Which RFC 3986 allows in a path as they are (`pchar`, 3.3); a scope's path is no longer quoted."""


class VisitorMiddleware:
    """Gives every visitor a cookie, and publishes VisitorSeen for page views. Settings: `kinfold.web.Settings`.

    The producer is a blocking one; the middleware never waits for it (`Producer.never_waiting`). Raises TypeError for an
    unknown setting.

    >>> from kinfold.asgi import VisitorMiddleware
    >>> async def app(scope, receive, send): ...
    >>> visitors = kinfold.Producer("redis://localhost:6379/0")
    >>> app = VisitorMiddleware(app, producer=visitors, cookie="visitor")
    """

    def __init__(self, app: App, producer: web.Publisher, **settings: Unpack[web.Settings]) -> None:
        self._app: Final = app
        self._tracking: Final = web.Tracking(producer, settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request, and sends what waits at the end of the lifespan; a WebSocket is the application's alone."""
        if scope["type"] != "http":
            await self._app(scope, receive, self._ending(send) if scope["type"] == "lifespan" else send)
            return
        request = _Request(scope)
        visit = scope[_VISIT] = self._tracking.begin(request)

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

    def _ending(self, send: Send) -> Send:
        async def answer(message: _Message) -> None:
            producer = self._tracking.producer
            if message["type"].startswith("lifespan.shutdown.") and isinstance(producer, Producer):
                try:  # and waits for it: nobody is served any more. Not closed, for a test client starts it again.
                    producer.flush(producer.exit_timeout_s)
                except NotSent as error:
                    log.warning("the application ends: %s", error)
            await send(message)

        return answer


class Lifespan:
    """Sends what waits when the server stops, for an application that has no lifespan (Django); it is not asked for one.

    >>> from kinfold.asgi import Lifespan
    >>> async def app(scope, receive, send): ...
    >>> visitors = kinfold.Producer("redis://localhost:6379/0")
    >>> app = Lifespan(app, producer=visitors)
    """

    def __init__(self, app: App, producer: Producer) -> None:
        self._app: Final = app
        self._producer: Final = producer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers to the lifespan; anything else is the application's alone."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        self._producer.close(self._producer.exit_timeout_s)
        await send({"type": "lifespan.shutdown.complete"})


def identify(request: Any, **person: Unpack[web.Person]) -> bool:
    """Says who the visitor of this request is: a Request of the framework's, or the scope. False where the visitor opted out.

    Raises EventError; LookupError outside of the middleware.

    >>> from kinfold.asgi import identify
    >>> try:
    ...     identify({"type": "http"}, external_id="u-1")
    ... except LookupError as error:
    ...     print(error)
    identify: found no visit, allowed is a request that kinfold's VisitorMiddleware handles
    """
    return web.identify(_visit(request), person)


def visitor_id(request: Any) -> str | None:
    """The visitor of this request; None where the visitor opted out. Raises LookupError outside of the middleware.

    >>> from kinfold.asgi import visitor_id
    >>> def view(request):
    ...     return visitor_id(request)
    """
    return web.visitor_id(_visit(request))


def reset(response: Any) -> None:
    """After a log-out: the next user of this browser is another visitor. Needs the response that is going to be sent.

    Raises LookupError outside of the middleware.

    >>> from kinfold.asgi import reset
    >>> def log_out(response):
    ...     reset(response)
    """
    web.reset(response)


def _visit(request: Any) -> web.Visit | None:
    scope = cast("Mapping[str, Any]", request if isinstance(request, Mapping) else getattr(request, "scope", {}))
    return cast("web.Visit | None", scope.get(_VISIT))


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
