"""`GET /kinfold.js`: the script that follows visitors in their browsers."""

from typing import Annotated, Final

from litestar import Response, get
from litestar.params import HeaderParameter, QueryParameter

from kinfold_services.gateway.callers import keyless
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.web import PATH, SCRIPT, VERSION

_OF_THIS_VERSION: Final = "public, max-age=31536000, immutable"
_OF_ANY: Final = "public, max-age=300"
"""Pages get a new version of the script five minutes after the gateway has it."""


@get(
    PATH,
    guards=[keyless],
    responses=answers(str, 304, 400, 429, media_type="text/javascript"),
    media_type="text/javascript",
    security=[],
    tags=["operations"],
    summary="The script for pages",
)
async def kinfold_js(
    version: Annotated[
        str | None, QueryParameter(name="v", description="The version, to be cached for a year", max_length=64)
    ] = None,
    if_none_match: Annotated[str | None, HeaderParameter(name="If-None-Match")] = None,
) -> Response[bytes]:
    """The script of this gateway, also if another version is asked for. Every page may load it."""
    headers = {
        "ETag": f'"{VERSION}"',
        "Cache-Control": _OF_THIS_VERSION if version == VERSION else _OF_ANY,
        "Access-Control-Allow-Origin": "*",  # `integrity` needs it
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
    }
    is_known = if_none_match is not None and f'"{VERSION}"' in if_none_match
    return Response(
        b"" if is_known else SCRIPT,
        status_code=304 if is_known else 200,
        headers=headers,
        media_type="text/javascript",
    )
