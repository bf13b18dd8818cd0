"""What every page has: its template, the security headers, and the files that browsers load."""

import gzip
import hashlib
from importlib.resources import files
from typing import Annotated, Any, Final, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Request, Response, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath, QueryParameter

import kinfold_services.gateway.screen
from kinfold_services.gateway.screen import words
from kinfold_services.gateway.screen.words import FILTERS

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""No inline script, no inline style, and nothing from other sites except images over TLS."""

SECURE: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""The headers of every answer of the screen."""

_STATIC: Final = {
    "kinfold.css": "text/css",
    "screen.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "vendor/htmx.min.js": "text/javascript",
    "vendor/sse.min.js": "text/javascript",
}
_COMPRESSED_FROM: Final = 1024
_LEVEL: Final = 6
_FOR_A_YEAR: Final = "public, max-age=31536000, immutable"


class _File(NamedTuple):
    """A file that browsers load, with a compressed copy that is made once."""

    data: bytes
    compressed: bytes
    version: str
    media_type: str


def _load(name: str, media_type: str) -> _File:
    data = files(kinfold_services.gateway.screen).joinpath("static").joinpath(*name.split("/")).read_bytes()
    return _File(data, gzip.compress(data, 9, mtime=0), hashlib.sha256(data).hexdigest()[:12], media_type)


_FILES: Final = {name: _load(name, media_type) for name, media_type in _STATIC.items()}


def asset(name: str) -> str:
    """The URL of a static file in exactly this version."""
    return f"/static/{name}?v={_FILES[name].version}"


_templates: Final = Environment(
    loader=PackageLoader("kinfold_services.gateway.screen"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_templates.filters.update(FILTERS)
PLACES: Final = (
    ("People", "/people", "people", "p"),
    ("Conflicts", "/conflicts", "alert", "c"),
    ("Rejects", "/rejects", "reject", "r"),
    ("Live", "/live", "live", "l"),
    ("Health", "/health", "health", "h"),
)
"""The main pages: the name, the path, the symbol, and the key that leads there after `g`."""

_functions: dict[str, Any] = {"asset": asset, "avatar": words.avatar, "places": PLACES}
_templates.globals.update(_functions)


def render(template: str, **values: Any) -> str:
    """Fill in a template. Every value is escaped."""
    return _templates.get_template(template).render(values)


def page(
    request: Request[Any, Any, Any],
    template: str,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
    **values: Any,
) -> Response[bytes]:
    """Respond with a page that no cache keeps."""
    return html(request, render(template, **values), status=status, headers=headers)


def html(
    request: Request[Any, Any, Any], text: str, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response[bytes]:
    """Respond with HTML, compressed if the browser can read that."""
    given = {**SECURE, "Cache-Control": "no-store", "Vary": "Accept-Encoding, HX-Request", **(headers or {})}
    body = text.encode()
    if len(body) >= _COMPRESSED_FROM and accepts_gzip(request):
        body = gzip.compress(body, _LEVEL)
        given["Content-Encoding"] = "gzip"
    return Response(body, status_code=status, headers=given, media_type="text/html")


def redirect(path: str, headers: dict[str, str] | None = None) -> Response[bytes]:
    """Respond with a redirection to a path of the screen."""
    given = {**SECURE, "Cache-Control": "no-store", "Location": path, **(headers or {})}
    return Response(b"", status_code=303, headers=given, media_type="text/plain")


def is_fragment(request: Any) -> bool:
    """Whether htmx asks for a part of a page. It restores a page from history as a whole."""
    return request.headers.get("hx-request") == "true" and "hx-history-restore-request" not in request.headers


def accepts_gzip(request: Any) -> bool:
    """Whether the browser can read gzip."""
    return "gzip" in request.headers.get("accept-encoding", "")


@get("/static/{name:path}", opt={"open": "/static"}, sync_to_thread=False)
def static_file(
    request: Request[Any, Any, Any],
    name: FromPath[str],
    version: Annotated[str | None, QueryParameter(name="v", max_length=64)] = None,
) -> Response[bytes]:
    """A file that pages load. The URL has its version, so browsers keep it for a year."""
    file = _FILES.get(name.lstrip("/"))
    if file is None:
        raise NotFoundException
    tag = f'W/"{file.version}"'  # weak: the same for compressed and plain bytes
    headers = {**SECURE, "Vary": "Accept-Encoding", "Cache-Control": _FOR_A_YEAR if version == file.version else "no-cache"}
    headers["ETag"] = tag
    if tag in request.headers.get("if-none-match", ""):
        return Response(b"", status_code=304, headers=headers)
    data = file.data
    if accepts_gzip(request):
        data = file.compressed
        headers["Content-Encoding"] = "gzip"
    return Response(data, headers=headers, media_type=file.media_type)
