"""The visitor of a request, and what an application does with it: `identify`, `visitor_id` and `reset`."""

import secrets
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, TypedDict, Unpack, cast

from kinfold_schemas.canonical import Primitive

VISIT: Final = "kinfold.visit"
"""The key of the visit in an ASGI scope and a WSGI environ, and its name among the attributes of a Django request."""

YEAR_S: Final = 400 * 24 * 3600
"""The longest time that browsers keep a cookie (RFC 6265bis, 5.5)."""
_ID_BYTES: Final = 16


class Person(TypedDict, total=False):
    """The keyword arguments of `identify`: those of `Producer.identify` without the visitor."""

    external_id: str | None
    email: str | None
    name: str | None
    image: str | None
    metadata: Mapping[str, Primitive] | None
    unset: Iterable[str] | None


class Cookie(NamedTuple):
    """The name and the scope of the cookie."""

    name: str
    domain: str | None
    secure: bool

    def header(self, value: str, max_age_s: int) -> str:
        """A Set-Cookie header."""
        domain = f"; Domain={self.domain}" if self.domain else ""
        secure = "; Secure" if self.secure else ""
        return f"{self.name}={value}; Max-Age={max_age_s}; Path=/{domain}{secure}; HttpOnly; SameSite=Lax"


class Visit:
    """The visitor of one request. `visitor_id` is None if the visitor opted out."""

    def __init__(self, cookie: Cookie, publish: Callable[..., None], visitor_id: str | None, *, is_known: bool) -> None:
        self._cookie: Final = cookie
        self._publish: Final = publish
        self.visitor_id = visitor_id
        self.is_known = is_known
        """Whether the browser has this id, or was sent it."""
        self.is_used = False
        """Whether an event was published with it, or the application asked for it."""

    def identify(self, person: Person) -> bool:
        """Publish who the visitor is. Returns False if the visitor opted out. Raises EventError."""
        if self.visitor_id is None:
            return False
        self.is_used = True
        self._publish(self.visitor_id, **person)
        return True

    def reset(self, response: Any) -> None:
        """Give the browser the id of a new visitor."""
        if self.visitor_id is None:
            return
        self.visitor_id, self.is_known, self.is_used = new_visitor_id(), True, False
        response.set_cookie(
            self._cookie.name,
            self.visitor_id,
            max_age=YEAR_S,
            path="/",
            domain=self._cookie.domain,
            secure=self._cookie.secure,
            httponly=True,
            samesite="Lax",
        )


_current: ContextVar[Visit | None] = ContextVar("kinfold_visit", default=None)


@contextmanager
def entered(visit: Visit) -> Generator[None]:
    """Make `visit` the visit of this context."""
    token = _current.set(visit)
    try:
        yield
    finally:
        _current.reset(token)


def new_visitor_id() -> str:
    """A random id of 128 bits."""
    return f"v_{secrets.token_urlsafe(_ID_BYTES)}"


def identify(request: Any, **person: Unpack[Person]) -> bool:
    """Publish who the visitor of this request is. Returns False if the visitor opted out.

    `request` is the framework's Request, an ASGI scope or a WSGI environ. Raises EventError; LookupError outside of the
    middleware.

    >>> from kinfold.asgi import identify
    >>> try:
    ...     identify({"type": "http"}, external_id="u-1")
    ... except LookupError as error:
    ...     print(error)
    identify: expected a request that passed through kinfold's VisitorMiddleware, got another one
    """
    return _required(_visit(request), "identify").identify(person)


def visitor_id(request: Any) -> str | None:
    """The visitor of this request; None if the visitor opted out. The browser will keep the id.

    `request` is the same as in `identify`. Raises LookupError outside of the middleware.

    >>> from kinfold.asgi import visitor_id
    >>> def view(request):
    ...     return visitor_id(request)
    """
    visit = _required(_visit(request), "visitor_id")
    visit.is_used = True
    return visit.visitor_id


def reset(response: Any) -> None:
    """Forget the visitor after a log-out: the next user of this browser is another visitor.

    `response` is the one that will be sent. Raises LookupError outside of the middleware.

    >>> from kinfold.asgi import reset
    >>> def log_out(response):
    ...     reset(response)
    """
    _required(_current.get(), "reset").reset(response)


def _visit(request: Any) -> Visit | None:
    for holder in (request, getattr(request, "scope", None), getattr(request, "environ", None)):
        if isinstance(holder, Mapping) and VISIT in holder:
            return cast("Visit", holder[VISIT])
    return cast("Visit | None", getattr(request, VISIT, None))


def _required(visit: Visit | None, what: str) -> Visit:
    if visit is None:
        raise LookupError(f"{what}: expected a request that passed through kinfold's VisitorMiddleware, got another one")
    return visit
