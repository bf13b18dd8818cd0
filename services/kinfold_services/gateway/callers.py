"""Guards: they identify the caller of a route by its key (`Authorization: Bearer KEY`), and check what the key may do.

401: the key is missing, unknown or revoked. 403: the key may not do this. 429: too many requests. A request belongs to the
workspace of its key. With `Kinfold-Workspace: NAME`, a key of another workspace gets 403.
"""

import base64
import binascii
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from litestar.handlers.base import BaseRouteHandler

from kinfold_schemas.rejections import found
from kinfold_services.access.keys import Caller, Kind
from kinfold_services.gateway.preflights import LOOPBACK_HOSTS, wrong_origin
from kinfold_services.gateway.problems import Connection, Problem
from kinfold_services.gateway.workspaces import MAX_BROWSER_EVENTS, shared

_ASK: Final = {"WWW-Authenticate": "Bearer"}
_NEXT: Final = "`kinfold keys list` shows which keys there are, and `kinfold keys create` creates one"
_NO_KEY: Final = f"key: expected a key in the header `Authorization: Bearer KEY`, got nothing; {_NEXT}"
_WRONG_KEY: Final = f"key: expected a key of this gateway that is not revoked, got another value; {_NEXT}"
WRITE_KEY: Final = "writeKey"
"""Where beacons put the key, since they cannot set headers: kinfold.js and RudderStack in the query, Segment in the body."""

READING: Final[frozenset[Kind]] = frozenset({"secret", "read"})
"""The kinds of key that see every contact."""

_WORKSPACE_HEADER: Final = "kinfold-workspace"


class Bounds(NamedTuple):
    """The most that a request may hold. `body_bytes` counts the body as sent, and again decompressed."""

    body_bytes: int
    events: int


_SECRET: Final = Bounds(1024 * 1024, 25_000)  # as many of the shortest possible events as fit into the body
_BROWSER: Final = Bounds(64 * 1024, MAX_BROWSER_EVENTS)
MAX_BODY_BYTES: Final = _SECRET.body_bytes


def bounds_of(caller: Caller) -> Bounds:
    """What a caller's requests may hold."""
    return _SECRET if caller.kind == "secret" else _BROWSER


async def reading_key(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard of queries: accepts secret keys and read keys."""
    _only_reading(await identify(connection, _bearer(connection)))


async def secret_key(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard of corrections and erasures: accepts secret keys."""
    caller = await identify(connection, _bearer(connection))
    if caller.kind != "secret":
        raise Problem(403, f"key: expected a secret key, got a {caller.kind} one")


async def any_key(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard: accepts every key. The route decides what each kind may do."""
    await identify(connection, _bearer(connection))


async def any_key_or_write_key(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard of events: accepts every key, and a publishable key also in the query. `author_of` rejects read keys.

    Without an Authorization header, a browser asks for no preflight, and can send events while the page ends. So the origin is
    checked here: a page that cannot read the answer would send its events again and again.
    """
    bearer = _bearer(connection)
    if not bearer:
        _only_allowed_origins(connection)
    caller = await identify(connection, bearer or connection.query_params.get(WRITE_KEY, ""))
    if not bearer and caller.kind in READING:  # URLs are logged on the way
        raise Problem(403, f"{WRITE_KEY}: expected a publishable key in the query, got a {caller.kind} one")


async def reading_key_or_token(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard of the feed: as `reading_key`, also in the query (RFC 6750, 2.3), since an EventSource cannot set headers."""
    _only_reading(await identify(connection, _bearer(connection) or connection.query_params.get("access_token", "")))


def charge_events(connection: Connection, count: int) -> None:
    """Charge a request for its events, before they are looked at. Raises Problem: 413 for too many in one request, 429."""
    caller = caller_of(connection)
    most = bounds_of(caller).events
    if count > most:
        raise Problem(413, f"body: expected at most {most} events in a request with a {caller.kind} key, got {count}")
    if caller.kind != "secret":
        shared(connection).event_limit.take(f"{caller.workspace}/{caller.key_id}", address_of(connection), count)


def address_of(connection: Connection) -> str:
    """The address of the client."""
    return connection.client.host if connection.client else ""


def caller_of(connection: Connection) -> Caller:
    """The caller that a guard has identified."""
    return cast("Caller", cast("dict[str, Any]", connection.scope)["caller"])


def presented_key(connection: Connection) -> str:
    """The key that the caller sent."""
    return cast("str", cast("dict[str, Any]", connection.scope)["key"])


async def keyless(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard of routes that need no key but work: they are limited by address."""
    shared(connection).limits["unknown"].take(connection.scope["path"], address_of(connection))


async def identify(connection: Connection, presented: str) -> Caller:
    """The caller with this key. Raises Problem: 401 for an unknown key, 403 for another workspace, 429 above the rate limit.

    The address pays for a key that is not known yet before the key is hashed or looked up, and gets it back if the key is
    valid. So keys that are in use work on during a flood from their address.
    """
    gateway = shared(connection)
    address = address_of(connection)
    strangers = gateway.limits["unknown"]
    is_known = gateway.keys.has_seen(presented)
    if not is_known:
        strangers.take("", address)
    caller = await gateway.keys.recognise(presented) if presented else None
    if caller is None:
        raise Problem(401, _WRONG_KEY if presented else _NO_KEY, headers=_ASK)
    if not is_known:
        strangers.give_back("", address)
    if caller.kind == "development":
        _only_for_development(connection, address)
        gateway.warn_of_development_key(caller.workspace)
    gateway.limits[caller.kind].take(f"{caller.workspace}/{caller.key_id}", address)
    meant = connection.headers.get(_WORKSPACE_HEADER)
    if meant is not None and meant != caller.workspace:
        raise Problem(403, f"Kinfold-Workspace: expected the key's workspace, {caller.workspace!r}, got {found(meant)}")
    cast("dict[str, Any]", connection.scope).update(caller=caller, key=presented)
    return caller


def presented_write_key(connection: Connection) -> str:
    """The key as the user of Basic authentication (Segment), a bearer token or `?writeKey=`. Empty if there is none."""
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


def _only_allowed_origins(connection: Connection) -> None:
    origin, cors = connection.headers.get("origin"), shared(connection).cors
    if origin is None or connection.headers.get("sec-fetch-site") == "same-origin":
        return
    if cors is None or not cors.is_origin_allowed(origin):
        shared(connection).limits["unknown"].take("", address_of(connection))
        raise Problem(403, wrong_origin(origin))


def _only_for_development(connection: Connection, address: str) -> None:
    """A development key works on this machine, and on pages of the origins that the settings name. Raises Problem (403)."""
    origin = connection.headers.get("origin")
    if origin is not None and origin in shared(connection).settings.gateway_origins:
        return
    is_local = {address, address if origin is None else _host_of(origin)} <= LOOPBACK_HOSTS
    if not is_local or "x-forwarded-for" in connection.headers:  # a proxy on this machine stands for anybody
        expected = "a program or page on the gateway's machine, or a page of an origin that KINFOLD_GATEWAY_ORIGINS names"
        raise Problem(403, f"key: expected {expected} with a development key, got {origin or address!r}")


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).hostname
    except ValueError:  # no URL
        return None


def _only_reading(caller: Caller) -> None:
    if caller.kind not in READING:
        raise Problem(403, f"key: expected a secret or read key, got a {caller.kind} one")
