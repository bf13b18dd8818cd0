"""The settings of a middleware, and what it does with a request.

The cookie is first-party and contains only a random id, signed: HttpOnly, Secure, SameSite=Lax, and with the prefix `__Host-`
over TLS. A cookie that the application did not make is not adopted, and with an identification the browser gets a new id: so
nobody can follow a visitor by a cookie that was planted before.

A visitor who opts out is not followed. With `DNT: 1` (Tracking Preference Expression), `Sec-GPC: 1` (Global Privacy Control),
or without consent, the middleware sets no cookie, removes an existing one, and publishes nothing.
"""

import logging
from collections.abc import Callable
from typing import Any, Final, Protocol, Required, TypedDict

from kinfold.calls import Calls
from kinfold.errors import KinfoldError
from kinfold.producer import AsyncProducer, Producer
from kinfold.web.cookies import Browser, Cookie, Signer, new_visitor_id, values_of
from kinfold.web.visits import Visit
from kinfold_schemas.canonical import Primitive
from kinfold_schemas.rejections import EventError

log = logging.getLogger("kinfold")

_MAX_CHARS: Final = 2000
_REDIRECT: Final = 300
_OK: Final = 200


Publisher = Calls[None]
"""What a middleware needs: a `Producer`, or a `kinfold.testing.Recorder`."""


class Settings(TypedDict, total=False):
    """The settings of a middleware."""

    secret: Required[str]
    """Signs the cookie: at least 16 characters, random, secret, and the same in all processes of the application. Required;
    Django's SECRET_KEY by default. With another one, every browser is a new visitor."""
    cookie: str
    """The name of the cookie; default `kinfold_visitor`. Over TLS, and without `domain`, it gets the prefix `__Host-`."""
    domain: str | None
    """The domain of the cookie; default None: only the host that sets it."""
    secure: bool
    """Whether browsers send the cookie over TLS only; default True. They treat http://localhost as secure."""
    consent: Callable[[Any], bool] | None
    """Called with the request (ASGI: the scope; WSGI: the environ; Django: the request). Returns whether to follow the visitor.
    Default None: follow unless the browser opts out."""
    is_page: Callable[[Any], bool] | None
    """Called likewise. Returns whether this is a page view. Default None: a GET answered with HTML and a status of 2xx."""
    query: bool
    """Whether `url` and `referrer` keep their query; default False, because a query may contain secrets."""
    ip: bool
    """Whether to publish the visitor's address; default False. Behind a proxy it is the proxy's address."""


class Request(Protocol):
    """What a middleware knows about its kind of request."""

    raw: Any
    method: str

    def header(self, name: str) -> str:
        """A header; empty if it is missing."""
        ...

    def url(self) -> str:
        """The whole URL."""
        ...

    def ip(self) -> str:
        """The address of the peer."""
        ...


class Tracking:
    """Follows the visitors of an application. Raises TypeError for an unknown setting or a wrong producer."""

    def __init__(self, producer: Publisher, settings: Settings) -> None:
        for name in settings:
            if name not in Settings.__annotations__:
                raise TypeError(f"{name}: unknown setting, expected one of {', '.join(Settings.__annotations__)}")
        given: object = producer
        if isinstance(given, AsyncProducer):  # nothing would await its calls
            raise TypeError("producer: expected a Producer (the middleware never waits), got an AsyncProducer")
        if not callable(getattr(given, "seen", None)):
            raise TypeError(f"producer: expected a Producer, got {given!r:.60}")
        self.producer: Final = producer
        self._calls: Final[Publisher] = producer.never_waiting if isinstance(producer, Producer) else producer
        """No request waits because Redis is unreachable."""
        self._cookie: Final = Cookie(
            settings.get("cookie", "kinfold_visitor"), settings.get("domain"), settings.get("secure", True)
        )
        self._signer: Final = Signer(settings.get("secret"))
        self._consent: Final = settings.get("consent")
        self._is_page: Final = settings.get("is_page")
        self._query: Final = settings.get("query", False)
        self._ip: Final = settings.get("ip", False)

    def begin(self, request: Request) -> Visit:
        """The visit of a request."""
        cookie = self._cookie.on(request.header("host"))
        values = values_of(request.header("cookie"), cookie.name)
        if not self._may_follow(request):
            return self._visit(cookie, None, is_known=bool(values))
        known = next((browser for each in values if (browser := self._signer.read(each)) is not None), None)
        return self._visit(cookie, known or Browser(new_visitor_id()), is_known=known is not None)

    def answered(self, request: Request, visit: Visit, status: int, content_type: str) -> str | None:
        """Publish a page view after the application answered. Returns the Set-Cookie header to add, if any."""
        if visit.visitor_id is not None and self._is_page_view(request, status, content_type):
            visit.is_used = True
            try:
                self._calls.seen(visit.visitor_id, context=self._context(request))
            except (KinfoldError, EventError) as error:  # the application must not fail because of it
                log.warning("a page view was not published: %s", error)
        return visit.set_cookie()

    def _visit(self, cookie: Cookie, browser: Browser | None, *, is_known: bool) -> Visit:
        return Visit(cookie, self._signer, self._calls.identify, browser, is_known=is_known)

    def _may_follow(self, request: Request) -> bool:
        if request.header("dnt") == "1" or request.header("sec-gpc") == "1":
            return False
        return self._consent is None or bool(self._consent(request.raw))

    def _is_page_view(self, request: Request, status: int, content_type: str) -> bool:
        if self._is_page is not None:
            return bool(self._is_page(request.raw))
        return (
            request.method == "GET"
            and _OK <= status < _REDIRECT
            and content_type.partition(";")[0].strip().lower() in {"text/html", "application/xhtml+xml"}
            and request.header("sec-fetch-dest") in {"", "document"}
            and "prefetch" not in (request.header("sec-purpose") + request.header("purpose")).lower()
        )

    def _context(self, request: Request) -> dict[str, Primitive]:
        context = {
            "url": self._without_query(request.url()),
            "referrer": self._without_query(request.header("referer")),
            "userAgent": request.header("user-agent"),
            "locale": request.header("accept-language").partition(",")[0].partition(";")[0].strip(),
            "ip": request.ip() if self._ip else "",
        }
        return {name: value[:_MAX_CHARS] for name, value in context.items() if value}

    def _without_query(self, url: str) -> str:
        return url if self._query else url.partition("#")[0].partition("?")[0]
