"""The OpenAPI document: the bodies that our routes read themselves, errors, and schemas from msgspec."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast, get_args

import msgspec
from litestar import Request, Router
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import Components, OpenAPIMediaType, Operation, RequestBody, Schema, SecurityScheme
from litestar.types import ControllerRouterHandler

from kinfold_schemas.events import ProducedEvent
from kinfold_services.gateway.callers import keyless
from kinfold_services.gateway.docs import docs_page
from kinfold_services.gateway.problems import Error

_REF: Final = "#/components/schemas/{name}"


@dataclass
class JsonSchema(Schema):
    """A schema given as JSON."""

    json: Any = None

    def to_schema(self) -> dict[str, Any]:
        """The JSON, unchanged."""
        return cast("dict[str, Any]", self.json)


@cache
def _event_schemas() -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of an event, and the schemas that it refers to by name."""
    (event,), components = msgspec.json.schema_components((ProducedEvent,), ref_template=_REF)
    components["VisitorIdentified"]["properties"] |= {
        "token": {"type": "string", "description": "For publishable keys: a JWT that proves the identity. Not kept in the log"},
    }
    return event, components


@dataclass
class EventsOperation(Operation):
    """`POST /v1/events`, with its body."""

    def __post_init__(self) -> None:
        event, _ = _event_schemas()
        one_or_more = {"anyOf": [event, {"type": "array", "items": event}]}
        self.request_body = RequestBody(
            required=True,
            description="One event, an array of events, or one event per line. At most 1 MiB; with a publishable key at most "
            "64 KiB and 100 events. May be gzipped.",
            content={
                "application/json": OpenAPIMediaType(schema=JsonSchema(json=one_or_more)),
                "application/x-ndjson": OpenAPIMediaType(schema=JsonSchema(json={"type": "string"})),
            },
        )


@dataclass
class CorrectionOperation(Operation):
    """`POST /v1/corrections`, with its body."""

    def __post_init__(self) -> None:
        properties: dict[str, Any] = dict(_event_schemas()[1]["IdentityCorrected"]["properties"])
        for name in ("type", "source"):
            del properties[name]
        properties["ifVersion"] = {"type": "integer", "description": "Only if the contact still has this version"}
        self.request_body = _json_body("A correction (contract section 5).", properties, ["contactId", "by"])


@dataclass
class UndoOperation(Operation):
    """A route that takes entries of the log back, with its body."""

    def __post_init__(self) -> None:
        properties = {"by": {"type": "string", "minLength": 1, "maxLength": 255}, "reason": {"type": ["string", "null"]}}
        self.request_body = _json_body("Who takes it back, and why.", properties, ["by"])


def _json_body(description: str, properties: dict[str, Any], required: list[str]) -> RequestBody:
    schema = JsonSchema(json={"type": "object", "properties": properties, "required": required})
    return RequestBody(required=True, description=description, content={"application/json": OpenAPIMediaType(schema=schema)})


@dataclass
class SegmentOperation(Operation):
    """A route of Segment's tracking API, with its body."""

    def __post_init__(self) -> None:
        ids_and_times = ("userId", "anonymousId", "messageId", "timestamp", "originalTimestamp", "sentAt")
        call = {
            "type": "object",
            "properties": {
                "type": {"type": "string"},
                **{name: {"type": ["string", "number", "null"]} for name in ids_and_times},
                "traits": {"type": ["object", "null"]},
                "context": {"type": ["object", "null"]},
                "batch": {"type": "array", "items": {"type": "object"}},
            },
        }
        self.request_body = RequestBody(
            required=True,
            description="A call or a batch of calls, as Segment's SDKs send it.",
            content={"application/json": OpenAPIMediaType(schema=JsonSchema(json=call))},
        )


_MEANINGS: Final = {
    304: "Not changed",
    400: "The request is malformed",
    401: "The key is missing, unknown or revoked",
    403: "The key may not do this",
    404: "No contact or visitor has this id or identifier",
    409: "The contact has changed, another contact has the identifier, or a replay is in the way; nothing was appended",
    410: "The person was erased",
    405: "The path does not support this method",
    413: "The body is too large",
    415: "The body has a `Content-Encoding` other than gzip",
    422: "At least one event is invalid; nothing was appended",
    429: "Too many requests; `Retry-After` says when to try again",
    503: "Redis or the directory did not answer, or `after` is not reached yet; `Retry-After` says when to try again",
}


def answers(kind: Any, *errors: int, status: int = 200, media_type: str = "application/json") -> dict[int, ResponseSpec]:
    """The responses of a route, by status: `kind` with `status`, and the errors."""
    specs = {
        status: ResponseSpec(kind, description=_MEANINGS.get(status, "Success"), generate_examples=False, media_type=media_type)
    }
    for error in errors:
        container: Any = None if error == 304 else Error  # noqa: PLR2004
        specs[error] = ResponseSpec(container, description=_MEANINGS[error], generate_examples=False)
    return specs


class _Schemas:
    """msgspec's schemas of events and responses.

    The framework does not see events. It describes a number in a response as `oneOf` integer and number, so 1 matches neither.
    """

    def __init__(self, routes: Iterable[ControllerRouterHandler]) -> None:
        handlers = [route for route in routes if isinstance(route, HTTPRouteHandler)]
        kinds: list[Any] = [spec.data_container for handler in handlers for spec in (handler.responses or {}).values()]
        types: list[Any] = [each for kind in kinds if kind is not None for each in get_args(kind) or (kind,)]
        _, responses = msgspec.json.schema_components(types, ref_template=_REF)
        self._schemas: Final = {**responses, **_event_schemas()[1]}

    def added_to(self, document: dict[str, Any]) -> dict[str, Any]:
        """A document with these schemas, which replace the framework's."""
        components = document["components"]
        schemas = {**components.get("schemas", {}), **self._schemas}
        return {**document, "components": {**components, "schemas": schemas}}


class _Json(JsonRenderPlugin):
    def __init__(self, schemas: _Schemas) -> None:
        super().__init__(path="/openapi.json", media_type=cast("Any", "application/json"))
        self._schemas: Final = schemas

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return super().render(request, self._schemas.added_to(openapi_schema))


class _Page(OpenAPIRenderPlugin):
    def __init__(self, schemas: _Schemas) -> None:
        super().__init__(path="/docs")
        self._schemas: Final = schemas

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return docs_page(self._schemas.added_to(openapi_schema), str(request.base_url).rstrip("/")).encode()

    def receive_router(self, router: Router) -> None:
        """Remove the framework's catch-all page and its page at `/`, which is the screen's.

        With the catch-all page, an unknown path is a 405 for POST, not a 404.
        """
        router.routes[:] = [route for route in router.routes if "{" not in route.path and route.path != "/"]


def openapi_config(version: str, routes: Iterable[ControllerRouterHandler]) -> OpenAPIConfig:
    """`/openapi.json`, and the same as a page at `/docs`."""
    schemas = _Schemas(routes)
    bearer = SecurityScheme(type="http", scheme="bearer", description="A key from `kinfold keys create`")
    basic = SecurityScheme(type="http", scheme="basic", description="As in Segment's SDKs: the key is the user name")
    return OpenAPIConfig(
        title="kinfold",
        version=version,
        description="Turns events into contacts: one for each person, with all their devices.",
        components=Components(security_schemes={"key": bearer, "writeKey": basic}),
        security=[{"key": []}],
        use_handler_docstrings=True,
        openapi_router=Router(path="/", route_handlers=[], guards=[keyless], include_in_schema=False),
        render_plugins=[_Json(schemas), _Page(schemas)],
    )
