"""What the SDKs of Segment and RudderStack for pages load before they send the first event.

Without an answer, an SDK sends nothing. So the answers depend on nothing that could fail: they are the same for every key, and
whether the key is valid is seen when events arrive.
"""

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.handlers.base import BaseRouteHandler
from litestar.params import FromPath, QueryParameter

from kinfold_services.gateway.callers import WRITE_KEY, address_of
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.parameters import ANY_PARAMETERS
from kinfold_services.gateway.problems import Connection
from kinfold_services.gateway.workspaces import shared

_CACHED: Final = {"Cache-Control": "public, max-age=300"}
_encode: Final = msgspec.json.Encoder().encode


async def limited(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard of routes that need no valid key: they are limited by address. A key in the path makes no limit of its own."""
    shared(connection).limits["unknown"].take("settings", address_of(connection))


@get(
    "/v1/projects/{write_key:str}/settings",
    guards=[limited],
    responses=answers(dict[str, Any], 400, 429),
    security=[],
    tags=["segment"],
    summary="The settings of Segment's SDK for pages",
)
async def segment_settings(request: Request[Any, Any, Any], write_key: FromPath[str]) -> Response[bytes]:
    """Where `@segment/analytics-next` sends its calls, for a page that names the gateway as `cdnURL`."""
    # A proxy may end TLS without a word about it. A page over TLS has reached the gateway over TLS, or its browser would have
    # blocked the request (W3C Mixed Content).
    is_secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https:")
    destination = {
        "apiKey": write_key,
        "apiHost": f"{request.url.netloc}/v1",
        "protocol": "https" if is_secure else "http",
        "addBundledMetadata": False,
    }
    body = {"integrations": {"Segment.io": destination}, "metrics": {"sampleRate": 0}}
    return Response(_encode(body), headers={**_CACHED, "Vary": "Origin"}, media_type="application/json")


@get(
    "/sourceConfig",
    guards=[limited],
    opt={ANY_PARAMETERS: True},  # versions of the SDK, and detectors of advertisement blockers, add more
    responses=answers(dict[str, Any], 400, 429),
    security=[],
    tags=["segment"],
    summary="The settings of RudderStack's SDK for pages",
)
async def rudderstack_settings(
    write_key: Annotated[str, QueryParameter(name=WRITE_KEY, description="The key")] = "",
) -> Response[bytes]:
    """The source of `@rudderstack/analytics-js`, for a page that names the gateway as `configUrl`. It has no destinations."""
    nothing = {"enabled": False}
    source: dict[str, Any] = {
        "id": "kinfold",
        "name": "kinfold",
        "writeKey": write_key,
        "enabled": True,
        "config": {"statsCollection": {"errors": nothing, "metrics": nothing}},
        "destinations": [],
    }
    return Response(_encode({"source": source}), headers=_CACHED, media_type="application/json")
