"""Visitors for WSGI applications: Flask and others.

    from kinfold.wsgi import VisitorMiddleware, identify, reset

    app.wsgi_app = VisitorMiddleware(app.wsgi_app, producer=visitors)

See `examples/flask_app.py`, and `kinfold.web` for what is published and what is not.
"""

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Unpack, cast

from kinfold import web

if TYPE_CHECKING:
    from collections.abc import Callable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

_VISIT: Final = "kinfold.visit"


class VisitorMiddleware:
    """Gives every visitor a cookie, and publishes VisitorSeen for page views. Settings: `kinfold.web.Settings`.

    Raises TypeError for a setting that is none.

    >>> from kinfold.wsgi import VisitorMiddleware
    >>> def app(environ, start_response): ...
    >>> visitors = kinfold.Producer("redis://localhost:6379/0")
    >>> app = VisitorMiddleware(app, producer=visitors, secure=False)
    """

    def __init__(self, app: "WSGIApplication", producer: web.Publisher, **settings: Unpack[web.Settings]) -> None:
        self._app: Final = app
        self._tracking: Final = web.Tracking(producer, settings)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Handles a request."""
        request = _Request(environ)
        visit = environ[_VISIT] = self._tracking.begin(request)

        def answer(
            status: str, headers: list[tuple[str, str]], exc_info: "ExcInfo | None" = None, /
        ) -> "Callable[[bytes], object]":
            content_type = next((value for name, value in headers if name.lower() == "content-type"), "")
            cookie = self._tracking.answered(request, visit, int(status[:3]), content_type)
            if cookie is not None:
                headers = [*headers, ("Set-Cookie", cookie)]
            return start_response(status, headers, exc_info)

        with web.entered(visit):
            return self._app(environ, answer)


def identify(request: Any, **person: Unpack[web.Person]) -> bool:
    """Says who the visitor of this request is: a Request with an `environ`, or that. False where the visitor opted out.

    Raises EventError; LookupError outside of the middleware.

    >>> from kinfold.wsgi import identify
    >>> try:
    ...     identify({}, external_id="u-1")
    ... except LookupError as error:
    ...     print(error)
    identify: found no visit, allowed is a request that kinfold's VisitorMiddleware handles
    """
    return web.identify(_visit(request), person)


def visitor_id(request: Any) -> str | None:
    """The visitor of this request; None where the visitor opted out. Raises LookupError outside of the middleware.

    >>> from kinfold.wsgi import visitor_id
    >>> def view(request):
    ...     return visitor_id(request)
    """
    return web.visitor_id(_visit(request))


def reset(response: Any) -> None:
    """After a log-out: the next user of this browser is another visitor. Needs the response that is going to be sent.

    Raises LookupError outside of the middleware.

    >>> from kinfold.wsgi import reset
    >>> def log_out(response):
    ...     reset(response)
    """
    web.reset(response)


def _visit(request: Any) -> web.Visit | None:
    environ = cast("Mapping[str, Any]", request if isinstance(request, Mapping) else getattr(request, "environ", {}))
    return cast("web.Visit | None", environ.get(_VISIT))


class _Request:
    def __init__(self, environ: "WSGIEnvironment") -> None:
        self.raw: Any = environ
        self.method: str = environ["REQUEST_METHOD"]

    def header(self, name: str) -> str:
        return str(self.raw.get(f"HTTP_{name.upper().replace('-', '_')}", ""))

    def url(self) -> str:
        from wsgiref.util import request_uri  # noqa: PLC0415  for page views alone

        return request_uri(self.raw)

    def ip(self) -> str:
        return str(self.raw.get("REMOTE_ADDR", ""))
