"""Visitors of WSGI applications: Flask and others.

    from kinfold.wsgi import VisitorMiddleware, identify, reset

    app.wsgi_app = VisitorMiddleware(app.wsgi_app, producer=visitors, secret=SECRET)

See `examples/flask_app.py`, and `kinfold.web.tracking` for what is published.
"""

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Unpack

from kinfold import web
from kinfold.web import identify, reset, visitor_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

__all__ = ["VisitorMiddleware", "identify", "reset", "visitor_id"]


class VisitorMiddleware:
    """Gives every visitor a cookie, and publishes VisitorSeen for page views. `kinfold.web.Settings` lists the settings.

    Raises TypeError for an unknown setting.

    >>> from kinfold.wsgi import VisitorMiddleware
    >>> def app(environ, start_response): ...
    >>> visitors = kinfold.Producer("redis://localhost:6379/0")
    >>> app = VisitorMiddleware(app, producer=visitors, secret="from your configuration", secure=False)
    """

    def __init__(self, app: "WSGIApplication", producer: web.Publisher, **settings: Unpack[web.Settings]) -> None:
        self._app: Final = app
        self._tracking: Final = web.Tracking(producer, settings)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Handle a request."""
        request = _Request(environ)
        visit = environ[web.VISIT] = self._tracking.begin(request)

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


class _Request:
    def __init__(self, environ: "WSGIEnvironment") -> None:
        self.raw: Any = environ
        self.method: str = environ["REQUEST_METHOD"]

    def header(self, name: str) -> str:
        return str(self.raw.get(f"HTTP_{name.upper().replace('-', '_')}", ""))

    def url(self) -> str:
        from wsgiref.util import request_uri  # noqa: PLC0415  only for page views

        return request_uri(self.raw)

    def ip(self) -> str:
        return str(self.raw.get("REMOTE_ADDR", ""))
