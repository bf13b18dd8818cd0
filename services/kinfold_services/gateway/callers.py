"""Who asks, and what they may: guards, one for each route (`Authorization: Bearer KEY`).

401 where nobody is recognised, 403 where somebody is and may not, 429 where they ask too often. A request belongs to the
workspace of its key; `Kinfold-Workspace: NAME` makes sure that it is the one that the caller means.
"""

import base64
import binascii
from typing import Any, Final, cast

from litestar.handlers.base import BaseRouteHandler

from kinfold_services.gateway.keys import Caller
from kinfold_services.gateway.problems import Connection, Problem
from kinfold_services.gateway.workspaces import shared

_ASK: Final = {"WWW-Authenticate": "Bearer"}
WRITE_KEY: Final = "writeKey"
"""RudderStack's parameter for beacons, which cannot set headers; Segment's stand in the body under the same name."""

_WORKSPACE_HEADER: Final = "kinfold-workspace"


async def secret_key(connection: Connection, _: BaseRouteHandler) -> None:
    """Guards what secret keys alone may do."""
    _only_secret(await identify(connection, _bearer(connection)))


async def any_key(connection: Connection, _: BaseRouteHandler) -> None:
    """Guards what publishable keys may do as well; the route looks closer."""
    await identify(connection, _bearer(connection))


async def secret_key_or_token(connection: Connection, _: BaseRouteHandler) -> None:
    """Guards the feed: an EventSource cannot set headers, so the key may stand in the query (RFC 6750, 2.3)."""
    _only_secret(await identify(connection, _bearer(connection) or connection.query_params.get("access_token", "")))


def caller_of(connection: Connection) -> Caller:
    """Whom a guard has let in."""
    return cast("Caller", cast("dict[str, Any]", connection.scope)["caller"])


def presented_key(connection: Connection) -> str:
    """The key that they came with."""
    return cast("str", cast("dict[str, Any]", connection.scope)["key"])


async def identify(connection: Connection, presented: str) -> Caller:
    """Whose key it is, once they have not asked too often. Raises Problem."""
    gateway = shared(connection)
    address = connection.client.host if connection.client else ""
    caller = await gateway.keys.recognise(presented) if presented else None
    if caller is None:
        gateway.limits["unknown"].take("", address)
        got = "another value" if presented else "nothing"
        raise Problem(401, f"key: expected a key of `kinfold keys create` that is not revoked, got {got}", headers=_ASK)
    gateway.limits[caller.kind].take(f"{caller.workspace}/{caller.key_id}", address)
    meant = connection.headers.get(_WORKSPACE_HEADER)
    if meant is not None and meant != caller.workspace:
        raise Problem(403, f"Kinfold-Workspace: expected the key's workspace, {caller.workspace!r}, got {meant!r}")
    cast("dict[str, Any]", connection.scope).update(caller=caller, key=presented)
    return caller


def presented_write_key(connection: Connection) -> str:
    """The key in Segment's fashion, the user of Basic authentication or `?writeKey=`, or a bearer's; empty without one."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return _bearer(connection) or connection.query_params.get(WRITE_KEY, "")
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _bearer(connection: Connection) -> str:
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def _only_secret(caller: Caller) -> None:
    if caller.kind != "secret":
        raise Problem(403, "key: expected a secret key, got a publishable one")
