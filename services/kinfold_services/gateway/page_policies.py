"""Headers that tell browsers what an answer may do: no answer is a page that runs scripts, or that another site frames.

A route that has a policy of its own keeps it (the screen).
"""

from collections.abc import Awaitable
from typing import Any, Final, cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from kinfold_services.gateway.docs import STYLE_HASH

_POLICY: Final = b"content-security-policy"
_TYPE_OPTIONS: Final = b"x-content-type-options"
_NOTHING: Final = b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_DOCS: Final = b"%b; style-src 'sha256-%b'; img-src data:" % (_NOTHING, STYLE_HASH.encode())


def with_page_policies(app: ASGIApp) -> ASGIApp:
    """Wrap the application. Every HTTP answer gets the headers that it does not have."""

    def secured(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != ScopeType.HTTP:
            return app(scope, receive, send)
        policy = _DOCS if scope["path"].rstrip("/") == "/docs" else _NOTHING

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                names = {name.lower() for name, _ in headers}
                if _POLICY not in names:
                    headers.append((_POLICY, policy))
                if _TYPE_OPTIONS not in names:
                    headers.append((_TYPE_OPTIONS, b"nosniff"))
                message = cast("Any", {**message, "headers": headers})
            await send(message)

        return app(scope, receive, send_secured)

    return secured
