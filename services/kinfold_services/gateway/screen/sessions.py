"""Signing in and out, the session of a request, and CSRF.

People sign in with a secret key or a read key, and a name for what they change by hand. `kinfold up` prints a link that signs
in once. It opens the same form, which has to be sent, so that no program that looks at links uses it up.
"""

import hmac
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

from litestar import Request, Response, get, post
from litestar.handlers.base import BaseRouteHandler
from litestar.params import QueryParameter

from kinfold_services.access.keys import Caller
from kinfold_services.access.sessions import (
    KINDS,
    MAX_NAME_CHARS,
    SESSION_S,
    SignedIn,
    look_at_link,
    use_link,
)
from kinfold_services.gateway.callers import address_of
from kinfold_services.gateway.problems import Connection, Problem
from kinfold_services.gateway.screen.pages import is_fragment, page, redirect
from kinfold_services.gateway.workspaces import GatewayWorkspace, shared

COOKIE: Final = "kinfold_session"
KEY_COOKIE: Final = "kinfold_first_key"
"""The key that somebody signed in with while the workspace was empty, for ten minutes: the first page shows how to use it."""

HOME: Final = "/people"

_USED: Final = (
    "This link was used already, or has expired. Sign in with a key, or with the new link that `kinfold up --detach` prints."
)
_ENDED: Final = "Your session has ended. Sign in again to go on. A form that you sent meanwhile changed nothing."
_KEY_COOKIE_S: Final = 600
_COOKIE_S: Final = 2 * SESSION_S
"""A browser keeps the cookie longer than the session lasts, so that the sign-in page can say that it has ended."""
_MAX_FORM_BYTES: Final = 64 * 1024
_MAX_FIELDS: Final = 100
_TRUSTED_SITES: Final = {"same-origin", "none"}


class NotSignedIn(Exception):
    """A page was asked for without a valid session."""


async def signed_in(connection: Connection, handler: BaseRouteHandler) -> None:
    """Guard of the screen's routes, except the open ones. Raises NotSignedIn, and Problem (429) above the rate limit."""
    gateway, address = shared(connection), address_of(connection)
    strangers = gateway.limits["unknown"]
    if handler.opt.get("open"):
        strangers.take(str(handler.opt["open"]), address)
        return
    text = cookie_of(connection, COOKIE)
    is_known = gateway.sessions.has_seen(text)
    if not is_known:
        strangers.take("", address)  # paid before anything is looked up
    found = await gateway.sessions.read(text) if text else None
    if found is None:
        raise NotSignedIn
    if not is_known:
        strangers.give_back("", address)
    gateway.limits[found.kind].take(f"{found.session.workspace}/{found.session.key_id}", address)
    cast("dict[str, Any]", connection.scope)["signed_in"] = found
    gateway.workspace(found.session.workspace).vitals.touch()


def session_of(request: Connection) -> SignedIn:
    """The session that the guard has found."""
    return cast("SignedIn", cast("dict[str, Any]", request.scope)["signed_in"])


def cookie_of(connection: Connection, name: str) -> str:
    """The text of a cookie; empty if the browser has none.

    The framework also reads quoted values, which takes Python 3.11 seconds for 12 KB, and keeps 1,024 headers of any size.
    """
    wanted = f"{_cookie_name(connection, name)}="
    for each in reversed(connection.headers.get("cookie", "").split(";")):
        if (cookie := each.strip()).startswith(wanted):
            return cookie.removeprefix(wanted)
    return ""


def workspace_of(request: Connection) -> GatewayWorkspace:
    """The workspace that the session is for."""
    return shared(request).workspace(session_of(request).session.workspace)


def first_key(request: Connection) -> str | None:
    """The key to show in the first example, if the browser still has it and it is of this session's workspace."""
    presented = cookie_of(request, KEY_COOKIE)
    return presented if presented.startswith(f"kf_sk_{session_of(request).session.workspace}_") else None


def require_secret(request: Connection) -> None:
    """Raise Problem (403) if the session's key may not change anything."""
    if session_of(request).kind != "secret":
        raise Problem(403, "This session is read only. Sign in with a secret key to change something.")


async def form_of(
    request: Request[Any, Any, Any], max_bytes: int = _MAX_FORM_BYTES, max_fields: int = _MAX_FIELDS
) -> dict[str, str]:
    """The fields of a form. Raises Problem: 403 if another site sent it or its `csrf` is not the session's, 400 and 413."""
    if request.headers.get("sec-fetch-site", "same-origin") not in _TRUSTED_SITES:
        raise Problem(403, "form: expected one of this page, got one of another site")
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise Problem(400, "form: expected application/x-www-form-urlencoded, got another type")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise Problem(413, f"form: expected at most {max_bytes} bytes, got more")
    try:
        fields = dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=max_fields))
    except ValueError as error:
        raise Problem(400, "form: expected fields in UTF-8, got something else") from error
    session = cast("SignedIn | None", cast("dict[str, Any]", request.scope).get("signed_in"))
    if session is not None and not hmac.compare_digest(fields.get("csrf", "").encode(), session.csrf.encode()):
        raise Problem(403, "form: expected the token of this session, got another one; load the page again")
    return fields


def reason_of(fields: Mapping[str, str], max_chars: int) -> str | None:
    """The reason that somebody gave in a form, without control characters; None if there is none."""
    return "".join(filter(str.isprintable, fields.get("reason", ""))).strip()[:max_chars] or None


@get("/sign-in", opt={"open": "/sign-in"})
async def sign_in_page(
    request: Request[Any, Any, Any],
    link: Annotated[str | None, QueryParameter(name="link", max_length=256)] = None,
    next_path: Annotated[str | None, QueryParameter(name="next", max_length=4096)] = None,
    ended: Annotated[Literal["1"] | None, QueryParameter(name="ended")] = None,
) -> Response[bytes]:
    """The form to sign in with, or to follow a link with. `ended` says that a session has ended."""
    found = None if link is None else await look_at_link(shared(request).client, link)
    error = _USED if link is not None and found is None else _ENDED if ended and link is None else None
    by = "" if found is None else found.by
    shown_link = link if found is not None else None
    return page(request, "sign_in.html", error=error, is_wrong=False, link=shown_link, by=by, next=local_path(next_path))


@post("/sign-in", opt={"open": "/sign-in"})
async def sign_in(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Start a session with a key or a link, and go on to the page that was asked for."""
    fields = await form_of(request)
    gateway = shared(request)
    by = " ".join("".join(filter(str.isprintable, fields.get("by", ""))).split())[:MAX_NAME_CHARS]
    link, presented = fields.get("link", ""), fields.get("key", "").strip() or None
    caller: Caller | None = None
    error = "Enter your name. Changes that you make are recorded under it."
    if by and link:
        used = await use_link(gateway.client, link)
        caller = None if used is None else await gateway.keys.holder(used.workspace, used.key_id)
        presented = None if used is None else used.presented
        link, error = "", _USED
    elif by:
        caller = None if presented is None else await gateway.keys.recognise(presented)
        error = "This is not a key of a workspace here, or it was revoked. `kinfold keys create` creates a key."
    if caller is not None and caller.kind not in KINDS:
        error = f"Expected a secret or a read key, got a {caller.kind} one: it may not see people."
        caller = None
    if caller is None:
        shown: dict[str, Any] = {"error": error, "link": link or None, "by": by, "next": local_path(fields.get("next"))}
        return page(request, "sign_in.html", status=401, is_wrong=True, **shown)
    response = redirect(local_path(fields.get("next")))
    text = await gateway.sessions.start(caller, by)
    _set_cookie(request, response, COOKIE, text, _COOKIE_S)
    if caller.kind == "secret" and presented and await _is_empty(gateway.workspace(caller.workspace)):
        _set_cookie(request, response, KEY_COOKIE, presented, _KEY_COOKIE_S)
    return response


@post("/sign-out")
async def sign_out(request: Request[Any, Any, Any]) -> Response[bytes]:
    """End the session in this browser."""
    await form_of(request)
    response = redirect("/sign-in")
    for name in (COOKIE, KEY_COOKIE):
        _set_cookie(request, response, name, "", 0)
    return response


def to_sign_in(request: Request[Any, Any, Any], _: NotSignedIn) -> Response[bytes]:
    """Respond to a request without a session: a page leads to the form, a part of a page makes htmx go there."""
    if request.headers.get("accept", "") == "text/event-stream":
        return page(request, "empty.html", status=204)  # the browser must not try again
    ended = bool(cookie_of(request, COOKIE))
    if is_fragment(request):
        path, query = _shown_at(request.headers.get("hx-current-url", ""))
        return page(request, "empty.html", headers={"HX-Redirect": _sign_in_url(path, query, ended=ended)})
    is_page = request.method == "GET"
    path, query = (request.url.path, request.url.query) if is_page else ("", "")
    return redirect(_sign_in_url(path, query, ended=ended))


def _shown_at(url: str) -> tuple[str, str]:
    """The path and the query of the page that htmx says it is on; empty if that cannot be parsed."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.path, parts.query


def _sign_in_url(path: str, query: str, *, ended: bool) -> str:
    """The address of the form that leads on to a page, and says whether a session has ended."""
    asked = f"{path}?{query}" if query else path
    given = {"next": asked} if asked not in {"", "/", HOME} else {}
    given |= {"ended": "1"} if ended else {}
    return f"/sign-in?{urlencode(given)}" if given else "/sign-in"


def local_path(path: str | None) -> str:
    """The path if it is one of this site, else the first page."""
    if path is None or not path.startswith("/") or path.startswith(("//", "/\\")) or not path.isprintable():
        return HOME
    return path


async def _is_empty(workspace: GatewayWorkspace) -> bool:
    return (await workspace.queries.status()).contacts == 0


def _is_tls(connection: Connection) -> bool:
    return connection.scope["scheme"] in {"https", "wss"}


def _cookie_name(connection: Connection, name: str) -> str:
    """The name of a cookie. With the prefix, a browser accepts it over TLS and from this host only."""
    return f"__Host-{name}" if _is_tls(connection) else name


def _set_cookie(request: Request[Any, Any, Any], response: Response[bytes], name: str, text: str, max_age_s: int) -> None:
    response.set_cookie(
        _cookie_name(request, name),
        text,
        max_age=max_age_s,
        path="/",
        secure=_is_tls(request),
        httponly=True,
        samesite="strict",
    )
