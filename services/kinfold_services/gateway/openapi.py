"""What the OpenAPI document says of what the framework cannot see: bodies that we read ourselves, and errors."""

from dataclasses import dataclass
from typing import Any, Final, cast, get_args

import msgspec
from litestar import Request, Router
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import Components, OpenAPIMediaType, Operation, RequestBody, Schema, SecurityScheme

from kinfold_schemas.events import Event
from kinfold_services.gateway.docs import docs_page
from kinfold_services.gateway.problems import Error

_REF: Final = "#/components/schemas/{name}"


@dataclass
class JsonSchema(Schema):
    """A schema that is there as JSON already."""

    json: Any = None

    def to_schema(self) -> dict[str, Any]:
        """As it is."""
        return cast("dict[str, Any]", self.json)


def _events() -> tuple[dict[str, Any], dict[str, Any]]:
    (event,), components = msgspec.json.schema_components((Event,), ref_template=_REF)
    for name in ("VisitorIdentified",):
        components[name]["properties"] |= {
            "signature": {"type": "string", "description": "For publishable keys: the HMAC of the identifier"},
            "emailSignature": {"type": "string", "description": "For publishable keys: the HMAC of both identifiers"},
        }
    return event, components


_EVENT, _COMPONENTS = _events()


@dataclass
class _EventsOperation(Operation):
    def __post_init__(self) -> None:
        one_or_more = {"anyOf": [_EVENT, {"type": "array", "items": _EVENT}]}
        self.request_body = RequestBody(
            required=True,
            description="One event, an array of events, or one event a line; at most 1 MiB, `Content-Encoding: gzip` allowed.",
            content={
                "application/json": OpenAPIMediaType(schema=JsonSchema(json=one_or_more)),
                "application/x-ndjson": OpenAPIMediaType(schema=JsonSchema(json={"type": "string"})),
            },
        )


@dataclass
class _SegmentOperation(Operation):
    def __post_init__(self) -> None:
        call = {
            "type": "object",
            "properties": {
                "type": {"type": "string"},
                "userId": {"type": ["string", "number", "null"]},
                "anonymousId": {"type": ["string", "number", "null"]},
                "messageId": {"type": ["string", "number", "null"]},
                "timestamp": {"type": ["string", "number", "null"]},
                "originalTimestamp": {"type": ["string", "number", "null"]},
                "sentAt": {"type": ["string", "number", "null"]},
                "traits": {"type": ["object", "null"]},
                "context": {"type": ["object", "null"]},
                "batch": {"type": "array", "items": {"type": "object"}},
            },
        }
        self.request_body = RequestBody(
            required=True,
            description="As Segment's SDKs send it.",
            content={"application/json": OpenAPIMediaType(schema=JsonSchema(json=call))},
        )


EVENTS_OPERATION: Final[type[Operation]] = _EventsOperation
SEGMENT_OPERATION: Final[type[Operation]] = _SegmentOperation

_ANSWERS: Final[list[Any]] = [Error]

_MEANINGS: Final = {
    304: "What you have is still so",
    400: "The request cannot be understood",
    401: "No key, or one that nobody knows (any more)",
    403: "The key may not do this",
    404: "Nobody has this id or identifier",
    405: "Not with this method",
    413: "The body is too large",
    415: "The body is packed in another way than gzip",
    422: "Events are at fault; nothing was appended",
    429: "Too many requests; `Retry-After` says when to ask again",
    503: "Redis does not answer, or the log is not folded as far as `after`; `Retry-After` says when to ask again",
}


def answers(kind: Any, *errors: int, status: int = 200, media_type: str = "application/json") -> dict[int, ResponseSpec]:
    """The answers of a route: what it is for, and the errors it has."""
    _ANSWERS.extend(get_args(kind) or [kind])
    meaning = _MEANINGS.get(status, "Done")
    specs = {status: ResponseSpec(kind, description=meaning, generate_examples=False, media_type=media_type)}
    for error in errors:
        container: Any = None if error == 304 else Error  # noqa: PLR2004
        specs[error] = ResponseSpec(container, description=_MEANINGS[error], generate_examples=False)
    return specs


def _with_our_schemas(openapi_schema: dict[str, Any]) -> dict[str, Any]:
    """With msgspec's own schemas: of events, which the framework does not see, and of answers, of which it says less.

    (To it a number is `oneOf` integer and number, so that 1, which is both, would be neither.)
    """
    _, answered = msgspec.json.schema_components(_ANSWERS, ref_template=_REF)
    components = openapi_schema["components"]
    schemas = {**components.get("schemas", {}), **answered, **_COMPONENTS}
    return {**openapi_schema, "components": {**components, "schemas": schemas}}


class _Json(JsonRenderPlugin):
    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return super().render(request, _with_our_schemas(openapi_schema))


class _Page(OpenAPIRenderPlugin):
    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return docs_page(_with_our_schemas(openapi_schema), str(request.base_url).rstrip("/")).encode()

    def receive_router(self, router: Router) -> None:
        """Takes back the framework's route for what is not there: to it every path of one part is a page, and a POST a 405."""
        router.routes[:] = [route for route in router.routes if "{" not in route.path]


def openapi_config(version: str) -> OpenAPIConfig:
    """`/openapi.json`, and a page to read it on at `/docs`, and where somebody opens the address that `up` prints."""
    bearer = SecurityScheme(type="http", scheme="bearer", description="A key of `kinfold keys create`")
    basic = SecurityScheme(type="http", scheme="basic", description="Segment's fashion: the key is the user")
    return OpenAPIConfig(
        title="kinfold",
        version=version,
        description="Folds what visitors do into who they are.",
        path="/",
        components=Components(security_schemes={"key": bearer, "writeKey": basic}),
        security=[{"key": []}],
        use_handler_docstrings=True,
        render_plugins=[
            _Json(path="/openapi.json", media_type=cast("Any", "application/json")),
            _Page(path=["/docs", "/"]),
        ],
    )
