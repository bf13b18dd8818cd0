"""The routes of the screen, and how errors look there."""

from typing import Any, Final

import structlog
from litestar import Request, Response, Router
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.types import ControllerRouterHandler
from redis.exceptions import RedisError

from kinfold_services.directory.errors import DirectoryUnavailable, NoDirectory, WrongQuery
from kinfold_services.gateway.problems import limited, on_http_error, request_id, sentence_of
from kinfold_services.gateway.screen.as_of import as_of
from kinfold_services.gateway.screen.conflicts import conflict, conflicts, live_conflicts
from kinfold_services.gateway.screen.corrections import confirm, correct, correction, edit, merge, preview, take, undo, unmerge
from kinfold_services.gateway.screen.erasing import confirm_erasure, erase, erasure_page
from kinfold_services.gateway.screen.events import events, live_events, one_event
from kinfold_services.gateway.screen.health import health
from kinfold_services.gateway.screen.live import live_people, live_person
from kinfold_services.gateway.screen.pages import html, is_fragment, page, render, static_file
from kinfold_services.gateway.screen.people import chrome, home, newest, people, people_csv, values
from kinfold_services.gateway.screen.person import person, why
from kinfold_services.gateway.screen.rejects import reject, rejects, retry
from kinfold_services.gateway.screen.sessions import (
    NotSignedIn,
    local_path,
    sign_in,
    sign_in_page,
    sign_out,
    signed_in,
    to_sign_in,
)

ROUTES: Final[list[ControllerRouterHandler]] = [
    home,
    people,
    people_csv,
    values,
    newest,
    live_people,
    live_person,
    person,
    why,
    as_of,
    correct,
    merge,
    preview,
    take,
    edit,
    confirm,
    correction,
    undo,
    unmerge,
    erase,
    confirm_erasure,
    erasure_page,
    conflicts,
    live_conflicts,
    conflict,
    rejects,
    reject,
    retry,
    events,
    live_events,
    one_event,
    health,
    sign_in_page,
    sign_in,
    sign_out,
    static_file,
]

_TITLES: Final = {
    400: "That did not work",
    403: "Not allowed",
    404: "Not found",
    405: "No page to open",
    410: "Erased",
    413: "Too large",
    429: "Too many requests",
    503: "Not available right now",
}
_PASSING: Final = frozenset({429, 500, 503})
"""The same page may come a moment later."""
_NO_DIRECTORY: Final = (
    "Search and lists come from the directory, and none is running for this workspace yet. `kinfold directory` starts one; it "
    "builds itself from the change feed."
)


_API: Final = "/v1/"
"""Paths below it are answered in JSON, also to a browser."""


def screen_router() -> Router:
    """The routes, with the guard of sessions and with errors as pages."""
    return Router(
        path="/",
        route_handlers=ROUTES,
        guards=[signed_in],
        include_in_schema=False,
        exception_handlers={
            NotSignedIn: to_sign_in,
            HTTPException: _on_http_error,
            NotFoundException: _on_http_error,
            RedisError: _on_redis_error,
            OSError: _on_redis_error,
            TimeoutError: _on_redis_error,
            WrongQuery: _on_wrong_query,
            DirectoryUnavailable: _on_directory_unavailable,
            Exception: _on_bug,
        },
    )


def _error(request: Request[Any, Any, Any], status: int, detail: str, headers: dict[str, str] | None = None) -> Response[bytes]:
    """An error as a page, or as the part of a page that htmx asked for."""
    again = None
    if request.method == "GET" and status in _PASSING:
        again = local_path(f"{request.url.path}?{request.url.query}".rstrip("?"))
    shown: dict[str, Any] = {"title": _TITLES.get(status, "Something went wrong"), "detail": detail, "again": again}
    if is_fragment(request):
        return html(request, render("_error.html", **shown), status=status, headers=headers)
    frame = chrome(request) if "signed_in" in request.scope else {"workspace": None}
    return page(request, "error.html", status=status, headers=headers, **frame, **shown)


def _on_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    error = limited(request, error)
    match error:
        case NotFoundException():
            detail = "There is no page at this address. It may be misspelt, or out of date."
        case MethodNotAllowedException():
            detail = "This address belongs to a form and shows nothing by itself. Go back to the page with the form."
        case HTTPException(status_code=429):
            wait_s = (error.headers or {}).get("Retry-After", "1")
            detail = f"Too many requests have come from this address. Try again in {wait_s} s."
        case _:
            detail = sentence_of(request, error)
    return _error(request, error.status_code, detail, dict(error.headers or {}))


def _on_no_route(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """Respond to a path, or a method of a path, that no route has: a person gets a page, a program what the API says."""
    is_person = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith(_API)
    return _on_http_error(request, error) if is_person else on_http_error(request, error)


NO_PAGE: Final[dict[Any, Any]] = {NotFoundException: _on_no_route, MethodNotAllowedException: _on_no_route}
"""The application's handlers for paths and methods that no route has."""


def _on_redis_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    structlog.get_logger().warning("redis did not answer", error=str(error), kind=type(error).__name__)
    return _error(request, 503, f"Redis did not answer ({type(error).__name__}). Try again in a moment.")


def _on_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    structlog.get_logger().error("request failed", error=str(error), exc_info=error)
    return _error(request, 500, f"The gateway's log has the details under the request id {request_id()}.")


def _on_wrong_query(request: Request[Any, Any, Any], error: WrongQuery) -> Response[bytes]:
    return _error(request, 400, str(error))


def _on_directory_unavailable(request: Request[Any, Any, Any], error: DirectoryUnavailable) -> Response[bytes]:
    return _error(request, 503, _NO_DIRECTORY if isinstance(error, NoDirectory) else str(error))
