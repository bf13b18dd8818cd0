"""Visitors for Django.

    # settings.py
    MIDDLEWARE = [..., "kinfold.django.VisitorMiddleware"]
    KINFOLD = {"producer": kinfold.Producer("redis://localhost:6379/0", workspace="acme"), "cookie": "visitor"}

`producer` may also be a dotted path to one; the other keys are the settings of `kinfold.web.Settings`.
See `examples/django_app.py`, and `kinfold.web` for what is published and what is not.

Under an ASGI server that ends by the signal that stopped it (uvicorn), nothing runs `atexit`; there what was said last is
sent by

    # asgi.py
    application = kinfold.asgi.Lifespan(get_asgi_application(), producer=visitors)
"""

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, ClassVar, Final, Unpack, cast

from kinfold import web

_VISIT: Final = "kinfold_visit"


class VisitorMiddleware:
    """Gives every visitor a cookie, and publishes VisitorSeen for page views; for blocking and asynchronous views.

    Raises Django's ImproperlyConfigured where `settings.KINFOLD` has no producer, and TypeError for a setting that is none.

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
            from asgiref.sync import markcoroutinefunction  # noqa: PLC0415  Django brings it

            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Handles a request; a coroutine where Django calls it asynchronously."""
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
        setattr(request, _VISIT, visit)
        return described, visit

    def _end(self, request: "_Request", visit: web.Visit, response: Any) -> Any:
        cookie = self._tracking.answered(request, visit, response.status_code, response.headers.get("Content-Type", ""))
        if cookie is not None:
            response.cookies.load(cookie)
        return response


def identify(request: Any, **person: Unpack[web.Person]) -> bool:
    """Says who the visitor of this request is. False where the visitor opted out.

    Raises EventError; LookupError outside of the middleware.

    >>> from kinfold.django import identify
    >>> try:
    ...     identify(None, external_id="u-1")
    ... except LookupError as error:
    ...     print(error)
    identify: found no visit, allowed is a request that kinfold's VisitorMiddleware handles
    """
    return web.identify(getattr(request, _VISIT, None), person)


def visitor_id(request: Any) -> str | None:
    """The visitor of this request; None where the visitor opted out. Raises LookupError outside of the middleware.

    >>> from kinfold.django import visitor_id
    >>> def view(request):
    ...     return visitor_id(request)
    """
    return web.visitor_id(getattr(request, _VISIT, None))


def reset(response: Any) -> None:
    """After a log-out: the next user of this browser is another visitor. Needs the response that is going to be sent.

    Raises LookupError outside of the middleware.

    >>> from kinfold.django import reset
    >>> def log_out(response):
    ...     reset(response)
    """
    web.reset(response)


def _configured() -> web.Tracking:
    from django.conf import settings  # noqa: PLC0415  configured by the time a middleware is made
    from django.core.exceptions import ImproperlyConfigured  # noqa: PLC0415
    from django.utils import module_loading  # noqa: PLC0415

    given = dict(getattr(settings, "KINFOLD", {}))
    producer = given.pop("producer", None)
    if producer is None:
        raise ImproperlyConfigured("KINFOLD: found no 'producer', allowed is a kinfold.Producer or the dotted path to one")
    load = cast("Any", module_loading).import_string
    return web.Tracking(load(producer) if isinstance(producer, str) else producer, cast("web.Settings", given))


class _Request:
    def __init__(self, request: Any) -> None:
        self.raw: Any = request
        self.method: str = request.method

    def header(self, name: str) -> str:
        return str(self.raw.headers.get(name, ""))

    def url(self) -> str:
        # Not build_absolute_uri(), which refuses a host that is not in ALLOWED_HOSTS: that is for the views to decide.
        return f"{self.raw.scheme}://{self.header('host')}{self.raw.get_full_path()}"

    def ip(self) -> str:
        return str(self.raw.META.get("REMOTE_ADDR", ""))
