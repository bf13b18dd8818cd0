"""What the middlewares have in common: who the visitor is, whether to say so, and what a page view is.

The cookie is first-party, a random id and nothing else: HttpOnly, Secure, SameSite=Lax. Who says no is not followed: with
`DNT: 1` (Tracking Preference Expression), `Sec-GPC: 1` (Global Privacy Control) or without consent no cookie is set, one that
is there is removed, and nothing is published.
"""

import logging
import re
import secrets
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol, TypedDict

from kinfold.errors import KinfoldError
from kinfold.producer import AsyncProducer, Producer
from kinfold_schemas.canonical import Primitive
from kinfold_schemas.rejections import EventError

log = logging.getLogger("kinfold")

_ID: Final = re.compile(r"v_[A-Za-z0-9_-]{22}\Z")
_ID_BYTES: Final = 16
_YEAR_S: Final = 400 * 24 * 3600
"""As long as browsers keep a cookie at most (RFC 6265bis, 5.5)."""
_MAX_CHARS: Final = 2000
_REDIRECT: Final = 300
_OK: Final = 200


class Publisher(Protocol):
    """What a middleware needs of a producer; `Producer` and `kinfold.testing.Recorder` have it."""

    def seen(self, visitor_id: str, *, context: Mapping[str, Primitive] | None = None) -> None:
        """As `Producer.seen`."""
        ...

    def identify(
        self,
        visitor_id: str | None = None,
        *,
        external_id: str | None = None,
        email: str | None = None,
        name: str | None = None,
        image: str | None = None,
        metadata: Mapping[str, Primitive] | None = None,
        unset: Iterable[str] | None = None,
    ) -> None:
        """As `Producer.identify`."""
        ...


class Person(TypedDict, total=False):
    """The keyword arguments of the middlewares' `identify`: those of `Producer.identify`, the visitor aside."""

    external_id: str | None
    email: str | None
    name: str | None
    image: str | None
    metadata: Mapping[str, Primitive] | None
    unset: Iterable[str] | None


class Settings(TypedDict, total=False):
    """The settings of a middleware."""

    cookie: str
    """The cookie's name; default `kinfold_visitor`."""
    domain: str | None
    """The cookie's domain; default None: the host that sets it, alone."""
    secure: bool
    """Whether the cookie is for TLS alone; default True. Browsers take http://localhost as safe."""
    consent: Callable[[Any], bool] | None
    """Called with the request (ASGI: the scope; WSGI: the environ; Django: the request): whether it may be followed.
    Default None: unless the browser says no."""
    is_page: Callable[[Any], bool] | None
    """Called likewise, and decides what is a page view. Default None: a GET answered with HTML and a status of 2xx."""
    query: bool
    """Whether `url` and `referrer` keep their query; default False, for a query may hold what nobody should keep."""
    ip: bool
    """Whether the visitor's address is published; default False. Behind a proxy it is the proxy's."""


class Request(Protocol):
    """What a middleware's kind of request can tell."""

    raw: Any
    method: str

    def header(self, name: str) -> str:
        """A header, empty where it is not there."""
        ...

    def url(self) -> str:
        """The whole URL."""
        ...

    def ip(self) -> str:
        """The address of the other end."""
        ...


class Visit:
    """One request's visitor. `visitor_id` is None where the visitor is not to be followed."""

    def __init__(self, tracking: "Tracking", visitor_id: str | None, *, is_known: bool) -> None:
        self.tracking: Final = tracking
        self.visitor_id = visitor_id
        self.is_known = is_known
        """Whether the browser holds this very id, or has been sent it."""
        self.is_used = False
        """Whether something was published with it."""

    def identify(self, person: Person) -> bool:
        """Publishes who the visitor is; False where that is not to be. Raises EventError."""
        if self.visitor_id is None:
            return False
        self.is_used = True
        self.tracking.calls.identify(self.visitor_id, **person)
        return True

    def reset(self, response: Any) -> None:
        """From now on the browser is another visitor's."""
        tracking = self.tracking
        if self.visitor_id is None:
            return
        self.visitor_id, self.is_known, self.is_used = new_visitor_id(), True, False
        response.set_cookie(
            tracking.cookie,
            self.visitor_id,
            max_age=_YEAR_S,
            path="/",
            domain=tracking.domain,
            secure=tracking.secure,
            httponly=True,
            samesite="Lax",
        )


_current: ContextVar[Visit | None] = ContextVar("kinfold_visit", default=None)


class Tracking:
    """A middleware's settings, and what it does with a request. Raises TypeError for a setting that is none."""

    def __init__(self, producer: Publisher, settings: Settings) -> None:
        for name in settings:
            if name not in Settings.__annotations__:
                raise TypeError(f"{name}: found a setting of that name, allowed are {', '.join(Settings.__annotations__)}")
        given: object = producer
        if isinstance(given, AsyncProducer):  # nobody would await what its calls return
            raise TypeError("producer: expected a Producer (the middleware never waits), got an AsyncProducer")
        if not callable(getattr(given, "seen", None)):
            raise TypeError(f"producer: found {given!r:.60}, allowed is a Producer")
        self.producer: Final = producer
        self.calls: Final[Publisher] = producer.never_waiting if isinstance(producer, Producer) else producer
        """How things are published: no request waits because Redis is away."""
        self.cookie: Final = settings.get("cookie", "kinfold_visitor")
        self.domain: Final = settings.get("domain")
        self.secure: Final = settings.get("secure", True)
        self._consent: Final = settings.get("consent")
        self._is_page: Final = settings.get("is_page")
        self._query: Final = settings.get("query", False)
        self._ip: Final = settings.get("ip", False)

    def begin(self, request: Request) -> Visit:
        """Who this is."""
        if not self._may_follow(request):
            return Visit(self, None, is_known=_cookie(request.header("cookie"), self.cookie) is not None)
        held = _cookie(request.header("cookie"), self.cookie) or ""
        is_known = _ID.match(held) is not None
        return Visit(self, held if is_known else new_visitor_id(), is_known=is_known)

    def answered(self, request: Request, visit: Visit, status: int, content_type: str) -> str | None:
        """The application has answered: publishes a page view, and returns the Set-Cookie to be added, if any."""
        if visit.visitor_id is None:
            return self._set_cookie("", 0) if visit.is_known else None
        if self._is_page_view(request, status, content_type):
            visit.is_used = True
            try:
                self.calls.seen(visit.visitor_id, context=self._context(request))
            except (KinfoldError, EventError) as error:  # never a reason for the application to fail
                log.warning("a page view was not published: %s", error)
        return None if visit.is_known or not visit.is_used else self._set_cookie(visit.visitor_id, _YEAR_S)

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
        told = {
            "url": self._without_query(request.url()),
            "referrer": self._without_query(request.header("referer")),
            "userAgent": request.header("user-agent"),
            "locale": request.header("accept-language").partition(",")[0].partition(";")[0].strip(),
            "ip": request.ip() if self._ip else "",
        }
        return {name: value[:_MAX_CHARS] for name, value in told.items() if value}

    def _without_query(self, url: str) -> str:
        return url if self._query else url.partition("#")[0].partition("?")[0]

    def _set_cookie(self, value: str, max_age_s: int) -> str:
        domain = f"; Domain={self.domain}" if self.domain else ""
        secure = "; Secure" if self.secure else ""
        return f"{self.cookie}={value}; Max-Age={max_age_s}; Path=/{domain}{secure}; HttpOnly; SameSite=Lax"


def new_visitor_id() -> str:
    """A random id of 128 bits."""
    return f"v_{secrets.token_urlsafe(_ID_BYTES)}"


@contextmanager
def entered(visit: Visit) -> Generator[None]:
    """Within it the request of this context is this visit."""
    token = _current.set(visit)
    try:
        yield
    finally:
        _current.reset(token)


def identify(visit: Visit | None, person: Person) -> bool:
    """What the middlewares' `identify` does. Raises LookupError outside of a request that a middleware handles."""
    return _required(visit, "identify").identify(person)


def reset(response: Any) -> None:
    """What the middlewares' `reset` does. Raises LookupError as `identify`."""
    _required(_current.get(), "reset").reset(response)


def visitor_id(visit: Visit | None) -> str | None:
    """What the middlewares' `visitor_id` does. The browser will hold the id. Raises LookupError as `identify`."""
    visit = _required(visit, "visitor_id")
    visit.is_used = True
    return visit.visitor_id


def _required(visit: Visit | None, what: str) -> Visit:
    if visit is None:
        raise LookupError(f"{what}: found no visit, allowed is a request that kinfold's VisitorMiddleware handles")
    return visit


def _cookie(header: str, name: str) -> str | None:
    for part in header.split(";"):
        key, equals, value = part.strip().partition("=")
        if equals and key == name:
            return value.strip('"')
    return None
