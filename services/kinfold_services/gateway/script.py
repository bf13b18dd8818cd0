"""`GET /kinfold.js` and `/kinfold-live.js`: the scripts that follow visitors in their browsers."""

from typing import Annotated, Any, Final

from litestar import Request, Response, get
from litestar.params import HeaderParameter, QueryParameter

from kinfold_services.gateway.callers import keyless
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.web import SCRIPTS

_OF_THIS_VERSION: Final = "public, max-age=31536000, immutable"
_OF_ANY: Final = "public, max-age=300"
"""Pages get a new version of the script five minutes after the gateway has it."""


@get(
    list(SCRIPTS),
    guards=[keyless],
    responses=answers(str, 304, 400, 429, media_type="text/javascript"),
    media_type="text/javascript",
    security=[],
    tags=["operations"],
    summary="The script for pages",
)
async def kinfold_js(
    request: Request[Any, Any, Any],
    version: Annotated[
        str | None, QueryParameter(name="v", description="The version, to be cached for a year", max_length=64)
    ] = None,
    if_none_match: Annotated[str | None, HeaderParameter(name="If-None-Match")] = None,
) -> Response[bytes]:
    """The script of this gateway, even if another version is asked for. Every page may load it.

    `/kinfold-live.js` has the visitor's live contact, too.
    """
    script = SCRIPTS[request.url.path]
    headers = {
        "ETag": f'"{script.version}"',
        "Cache-Control": _OF_THIS_VERSION if version == script.version else _OF_ANY,
        "Access-Control-Allow-Origin": "*",  # `integrity` needs it
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
    }
    is_known = if_none_match is not None and f'"{script.version}"' in if_none_match
    return Response(
        b"" if is_known else script.content,
        status_code=304 if is_known else 200,
        headers=headers,
        media_type="text/javascript",
    )
