"""Visitors of Django applications.

    # settings.py
    MIDDLEWARE = [..., "kinfold.django.VisitorMiddleware"]
    KINFOLD = {"producer": kinfold.Producer("redis://localhost:6379/0", workspace="acme"), "cookie": "visitor"}

`producer` may also be a dotted path to one. The other keys are those of `kinfold.web.Settings`. SECRET_KEY signs the cookie.
See `examples/django_app.py`, and `kinfold.web.tracking` for what is published.

Under an ASGI server that ends by the signal that stopped it (uvicorn), `atexit` does not run. This sends the last events:

    # asgi.py
    application = kinfold.asgi.Lifespan(get_asgi_application(), producer=visitors)
"""

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, ClassVar, Final, cast

from kinfold import web
from kinfold.web import identify, reset, visitor_id

__all__ = ["VisitorMiddleware", "identify", "reset", "visitor_id"]


class VisitorMiddleware:
    """Gives every visitor a cookie, and publishes VisitorSeen for page views; for blocking and asynchronous views.

    Raises Django's ImproperlyConfigured if `settings.KINFOLD` has no producer, and TypeError for an unknown setting.

    >>> MIDDLEWARE = ["kinfold.django.VisitorMiddleware"]
    >>> KINFOLD = {"producer": kinfold.Producer("redis://localhost:6379/0"), "consent": lambda request: True}
    """

    sync_capable: ClassVar = True
    async_capable: ClassVar = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response: Final = get_response
        self._tracking: Final = _configured()
        self._is_async: Final = iscoroutinefunction(get_response)
        if self._is_async:
            from asgiref.sync import markcoroutinefunction  # noqa: PLC0415  a dependency of Django

            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Handle a request; returns a coroutine if Django calls it asynchronously."""
        if self._is_async:
            return self._acall(request)
        described, visit = self._begin(request)
        with web.entered(visit):
            return self._end(described, visit, self._get_response(request))

    async def _acall(self, request: Any) -> Any:
        described, visit = self._begin(request)
        with web.entered(visit):
            return self._end(described, visit, await cast("Awaitable[Any]", self._get_response(request)))

    def _begin(self, request: Any) -> tuple["_Request", web.Visit]:
        described = _Request(request)
        visit = self._tracking.begin(described)
        setattr(request, web.VISIT, visit)
        return described, visit

    def _end(self, request: "_Request", visit: web.Visit, response: Any) -> Any:
        cookie = self._tracking.answered(request, visit, response.status_code, response.headers.get("Content-Type", ""))
        if cookie is not None:
            response.cookies.load(cookie)
        return response


def _configured() -> web.Tracking:
    from django.conf import settings  # noqa: PLC0415  configured when a middleware is made
    from django.core.exceptions import ImproperlyConfigured  # noqa: PLC0415
    from django.utils import module_loading  # noqa: PLC0415

    given = dict(getattr(settings, "KINFOLD", {}))
    producer = given.pop("producer", None)
    if producer is None:
        raise ImproperlyConfigured("KINFOLD: expected a kinfold.Producer or the dotted path to one as 'producer', got none")
    load = cast("Any", module_loading).import_string
    if "secret" not in given:
        given["secret"] = settings.SECRET_KEY
    return web.Tracking(load(producer) if isinstance(producer, str) else producer, cast("web.Settings", given))


class _Request:
    def __init__(self, request: Any) -> None:
        self.raw: Any = request
        self.method: str = request.method

    def header(self, name: str) -> str:
        return str(self.raw.headers.get(name, ""))

    def url(self) -> str:
        # Not build_absolute_uri(), which raises for a host that is not in ALLOWED_HOSTS: the views decide about that.
        return f"{self.raw.scheme}://{self.header('host')}{self.raw.get_full_path()}"

    def ip(self) -> str:
        return str(self.raw.META.get("REMOTE_ADDR", ""))
