"""The visitor of a request, and what an application does with it: `identify`, `visitor_id` and `reset`."""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypedDict, Unpack, cast

from kinfold.web.cookies import YEAR_S, Browser, Cookie, Signer, new_visitor_id
from kinfold_schemas.canonical import Primitive

VISIT: Final = "kinfold.visit"
"""The key of the visit in an ASGI scope and a WSGI environ, and its name among the attributes of a Django request."""


class Person(TypedDict, total=False):
    """The keyword arguments of `identify`: those of `Producer.identify` without the visitor."""

    external_id: str | None
    email: str | None
    name: str | None
    image: str | None
    metadata: Mapping[str, Primitive] | None
    unset: Iterable[str] | None


class Visit:
    """The visitor of one request. `visitor_id` is None if the visitor opted out."""

    def __init__(
        self, cookie: Cookie, signer: Signer, publish: Callable[..., None], browser: Browser | None, *, is_known: bool
    ) -> None:
        self._cookie: Final = cookie
        self._signer: Final = signer
        self._publish: Final = publish
        self._browser = browser
        self.is_known = is_known
        """Whether the browser has this id, or was sent it."""
        self.is_used = False
        """Whether an event was published with it, or the application asked for it."""
        self.is_answered = False
        """Whether the response has begun: then the browser cannot get another id."""

    @property
    def visitor_id(self) -> str | None:
        """The visitor's id."""
        return None if self._browser is None else self._browser.visitor_id

    def identify(self, person: Person) -> bool:
        """Publish who the visitor is. Returns False if the visitor opted out. Raises EventError.

        A browser that came with an id gets a new one, which is linked to the same contact, unless the application has
        identified this person with the present one. So an id that somebody else put into the browser before is worth nothing.
        """
        if self._browser is None:
            return False
        self.is_used = True
        before, who = self._browser, self._signer.person(person.get("external_id"), person.get("email"))
        gets_another = (self.is_known or before.person) and who != before.person and not self.is_answered
        if not (gets_another and before.person):  # the id of somebody else stays theirs
            self._publish(before.visitor_id, **person)
        if gets_another:
            self._browser, self.is_known = Browser(new_visitor_id(), who), False
            self._publish(self._browser.visitor_id, **person)
        elif not self.is_known:  # it was made for this request, so nobody else has it
            self._browser = Browser(before.visitor_id, who)
        return True

    def set_cookie(self) -> str | None:
        """The Set-Cookie header for the response, if any. The response begins now."""
        self.is_answered = True
        if self._browser is None:
            return self._cookie.header("", 0) if self.is_known else None
        if self.is_known or not self.is_used:
            return None
        return self._cookie.header(self._signer.value(self._browser), YEAR_S)

    def reset(self, response: Any) -> None:
        """Give the browser the id of a new visitor."""
        if self._browser is None:
            return
        self._browser, self.is_known, self.is_used = Browser(new_visitor_id()), True, False
        response.set_cookie(
            self._cookie.name,
            self._signer.value(self._browser),
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


def identify(request: Any, **person: Unpack[Person]) -> bool:
    """Publish who the visitor of this request is. Returns False if the visitor opted out.

    Call it before the response begins. The browser gets a new id with the response, if the visitor was somebody else before.

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
