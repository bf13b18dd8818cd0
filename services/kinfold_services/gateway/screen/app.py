"""The routes of the screen, and how errors look there."""

from typing import Any, Final

import structlog
from litestar import Request, Response, Router
from litestar.exceptions import HTTPException
from litestar.types import ControllerRouterHandler
from redis.exceptions import RedisError

from kinfold_services.directory.errors import DirectoryUnavailable, NoDirectory, WrongQuery
from kinfold_services.gateway.problems import request_id, sentence_of
from kinfold_services.gateway.screen.as_of import as_of
from kinfold_services.gateway.screen.conflicts import conflict, conflicts, live_conflicts
from kinfold_services.gateway.screen.corrections import confirm, correct, correction, merge, preview, take, undo, unmerge
from kinfold_services.gateway.screen.erasing import confirm_erasure, erase, erasure_page
from kinfold_services.gateway.screen.events import events, live_events, one_event
from kinfold_services.gateway.screen.health import health
from kinfold_services.gateway.screen.live import live_people, live_person
from kinfold_services.gateway.screen.pages import html, is_fragment, page, render, static_file
from kinfold_services.gateway.screen.people import chrome, home, newest, people, people_csv, values
from kinfold_services.gateway.screen.person import person, why
from kinfold_services.gateway.screen.rejects import reject, rejects, retry
from kinfold_services.gateway.screen.sessions import NotSignedIn, sign_in, sign_in_page, sign_out, signed_in, to_sign_in

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
    410: "Erased",
    429: "Too many requests",
    503: "Not available right now",
}
_NO_DIRECTORY: Final = (
    "Search and lists come from the directory, and none is running for this workspace yet. `kinfold directory` starts one; it "
    "builds itself from the change feed."
)


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
    shown: dict[str, Any] = {"title": _TITLES.get(status, "Something went wrong"), "detail": detail}
    if is_fragment(request):
        return html(request, render("_error.html", **shown), status=status, headers=headers)
    frame = chrome(request) if "signed_in" in request.scope else {"workspace": None}
    return page(request, "error.html", status=status, headers=headers, **frame, **shown)


def _on_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    return _error(request, error.status_code, sentence_of(request, error), dict(error.headers or {}))


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
