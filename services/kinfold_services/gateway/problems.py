"""Error responses of every route: `{"error": code, "detail": sentence, "requestId": id}`."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast, final

import msgspec
import structlog
from litestar import Response
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
    WebSocketException,
)
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.handlers import HTTPRouteHandler
from litestar.types import Scope
from redis.exceptions import RedisError

from kinfold_schemas.rejections import Rejection, found
from kinfold_services.directory.errors import DirectoryUnavailable, NoDirectory, WrongQuery
from kinfold_services.gateway.expectations import expected_value
from kinfold_services.state.queries import NotFolded

RETRY_AFTER_S: Final = 1
"""`Retry-After` of a 503. Nobody knows when Redis will answer again, so clients retry soon."""

_FIELD: Final = re.compile(r"`\$\.(\w+)|field `(\w+)`")
"""The field in a message of msgspec, whose exceptions have no attributes."""

Connection = ASGIConnection[Any, Any, Any, Any]

_UNCHARGED: Final = frozenset({400, 404, 405})
_IDENTIFIED: Final = frozenset({"caller", "signed_in"})
"""What a guard adds to the scope when it knows who sent the request."""

_CODES: Final = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    409: "conflict",
    410: "erased",
    413: "too-large",
    415: "unsupported-encoding",
    422: "invalid-events",
    429: "rate-limited",
    500: "internal",
    503: "unavailable",
}

NO_DIRECTORY: Final = "no-directory"
"""The code of a 503: until somebody starts a directory, searches fail. Other requests do not."""

NO_SUCH_PATH: Final = "no-such-path"
"""Not `not-found`: a client with a wrong URL must not conclude that a contact does not exist."""


@final
class RejectedEvent(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A rejected event of a request; `index` counts the request's events from 0.

    `detail` is `field`, `expected` and `got` as one sentence. Fields that the type of the event does not have follow, if any.
    """

    index: int
    reason: str
    detail: str
    field: str
    expected: str
    got: str

    @classmethod
    def of(cls, index: int, rejection: Rejection) -> "RejectedEvent":
        """The rejection of the event at `index`."""
        return cls(index, rejection.reason, rejection.detail, rejection.field, rejection.expected, rejection.got)


class Error(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An error. `rejected` lists the rejected events of the request, the first 100 of `rejectedCount`.

    `column` is where a wrong filter is wrong, in characters from 1.

    On Segment's paths, `code` and `message` repeat the status and `detail`, since its SDKs read those.
    """

    error: str
    detail: str
    request_id: str
    appended: int | None = None
    rejected_count: int | None = None
    rejected: list[RejectedEvent] | None = None
    column: int | None = None
    code: int | None = None
    message: str | None = None


class Problem(HTTPException):
    """An error response. `extra` holds further fields of `Error`."""

    def __init__(self, status: int, detail: str, *, headers: dict[str, str] | None = None, **extra: Any) -> None:
        super().__init__(detail=detail, status_code=status, headers=headers)
        self.fields: Final = extra


def wrong_body(body: bytes, error: Exception, expected: str, fields: Mapping[str, str]) -> Problem:
    """A 400 for a body that cannot be decoded: which field is wrong, as "expected X, got Y".

    Args:
        body: the body.
        error: what msgspec raised for it.
        expected: the whole body, in words.
        fields: each field, in words.

    """
    if not body.strip():
        return Problem(400, f"body: expected {expected}, got nothing")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as malformed:
        why = str(malformed).removeprefix("JSON is malformed: ")
        return Problem(400, f"body: expected {expected}, got text that is not JSON ({why})")
    named = _FIELD.search(str(error))
    if not isinstance(value, dict) or named is None:
        return Problem(400, f"body: expected {expected}, got {found(cast('object', value))}")
    members, name = cast("dict[str, object]", value), str(named[1] or named[2])
    if name not in fields:
        return Problem(400, f"body: expected fields among {', '.join(fields)}, got {found(name)}")
    got = found(members[name]) if name in members else "nothing"
    return Problem(400, f"{name}: expected {fields[name]}, got {got}")


def unavailable(detail: str) -> Problem:
    """A 503 with `Retry-After`."""
    return Problem(503, detail, headers={"Retry-After": str(RETRY_AFTER_S)})


def on_http_error(connection: Connection, error: HTTPException) -> Response[Any]:
    """Respond to an exception with a status: a Problem, or one that the framework raised."""
    error = limited(connection, error)
    fields = error.fields if isinstance(error, Problem) else {}
    code = NO_SUCH_PATH if isinstance(error, NotFoundException) else None
    return _answer(
        connection, error.status_code, sentence_of(connection, error), dict(error.headers or {}), error=code, **fields
    )


def limited(connection: Connection, error: HTTPException) -> HTTPException:
    """The error, or a 429 if the address has sent too many requests that failed before a key was looked at.

    No route has such a path or method, or the route does not have such a parameter. So no guard has charged the address.
    """
    if error.status_code not in _UNCHARGED or not _IDENTIFIED.isdisjoint(connection.scope):
        return error
    try:
        connection.app.state.gateway.limits["unknown"].take("", connection.client.host if connection.client else "")
    except Problem as limited:
        return limited
    return error


def on_redis_error(connection: Connection, error: Exception) -> Response[Any]:
    """Respond with 503: Redis is unreachable, loading, full or too slow, which is not the caller's fault."""
    structlog.get_logger().warning("redis did not answer", error=str(error), kind=type(error).__name__)
    detail = f"Redis did not answer ({type(error).__name__}); try again"
    return _answer(connection, 503, detail, {"Retry-After": str(RETRY_AFTER_S)})


def on_not_folded(connection: Connection, error: NotFolded) -> Response[Any]:
    """Respond with 503: the log was not folded up to `?after=` in time."""
    return _answer(connection, 503, f"after: {error}", {"Retry-After": str(RETRY_AFTER_S)})


def on_wrong_query(connection: Connection, error: WrongQuery) -> Response[Any]:
    """Respond with 400: the sentence names the parameter."""
    return _answer(connection, 400, str(error), {})


def on_directory_unavailable(connection: Connection, error: DirectoryUnavailable) -> Response[Any]:
    """Respond with 503: no directory runs, its database does not answer, or a query took too long."""
    code = NO_DIRECTORY if isinstance(error, NoDirectory) else None
    return _answer(connection, 503, str(error), {"Retry-After": str(RETRY_AFTER_S)}, error=code)


def on_bug(connection: Connection, error: Exception) -> Response[Any]:
    """Respond with 500 to an unexpected exception. The log has the traceback and the request id."""
    structlog.get_logger().error("request failed", error=str(error), exc_info=error)
    return _answer(connection, 500, "internal error; the gateway's log has the details under this request id", {})


HANDLERS: Final[dict[Any, Any]] = {
    HTTPException: on_http_error,
    NotFolded: on_not_folded,
    WrongQuery: on_wrong_query,
    DirectoryUnavailable: on_directory_unavailable,
    RedisError: on_redis_error,
    OSError: on_redis_error,  # includes TimeoutError
    Exception: on_bug,
}


class Refusal(NamedTuple):
    """The response that rejects a WebSocket: the same as for an HTTP request."""

    status: int
    headers: dict[str, str]
    body: bytes


async def note_refusal(error: Exception, scope: Scope) -> None:
    """Store a `Refusal` in the scope of a WebSocket, for `access_log`: Litestar calls exception handlers for HTTP only."""
    if scope["type"] == ScopeType.HTTP or isinstance(error, WebSocketException):
        return
    handler = next(HANDLERS[kind] for kind in type(error).__mro__ if kind in HANDLERS)
    answer: Response[bytes] = handler(ASGIConnection(scope), error)
    headers = {**answer.headers, "Content-Type": "application/json"}
    cast("dict[str, Any]", scope)["refusal"] = Refusal(answer.status_code or 500, headers, answer.content)


def request_id() -> str:
    """The id of the current request."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))


def _answer(
    connection: Connection, status: int, detail: str, headers: dict[str, str], error: str | None = None, **fields: Any
) -> Response[Any]:
    if connection.scope.get("segment"):
        fields |= {"code": status, "message": detail}
    body = Error(error or _CODES.get(status, "error"), detail, request_id(), **fields)
    return Response(msgspec.json.encode(body), status_code=status, headers=headers, media_type="application/json")


def sentence_of(connection: Connection, error: HTTPException) -> str:
    """The sentence for `detail`. Exceptions of the framework are reworded as "expected X, got Y"."""
    match error:
        case NotFoundException():
            return f"path: expected a path that /docs lists, got {found(connection.url.path)}"
        case MethodNotAllowedException():
            expected = (error.headers or {}).get("allow", "another")
            return f"method: expected {expected}, got {connection.scope.get('method')}"
        case RequestEntityTooLarge():
            limit = cast("HTTPRouteHandler", connection.route_handler).resolve_request_max_body_size()
            return f"body: expected at most {limit} bytes, got more"
        case ValidationException(extra=[{"key": name}, *_]):
            given = connection.query_params if name in connection.query_params else connection.headers
            expected = expected_value(connection.route_handler, name)
            return f"{name}: expected {expected}, got {found(given.get(name, ''))}"
        case _:
            return error.detail
