"""What the gateway knows about the client of a request: its address, and whether it is still there.

Only the proxies that KINFOLD_GATEWAY_TRUSTED_PROXIES names may say who their client is (`X-Forwarded-For`) and whether it uses
TLS (`X-Forwarded-Proto`). Anybody else could claim any address, and so get around every limit of an address.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from kinfold_services.gateway.problems import Problem

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_FOR: Final = b"x-forwarded-for"
_PROTO: Final = b"x-forwarded-proto"
_SCHEMES: Final = {"http": {b"http": "http", b"https": "https"}, "websocket": {b"http": "ws", b"https": "wss"}}
_MOST_HOPS: Final = 16


def with_known_clients(app: ASGIApp, proxies: Iterable[Network]) -> ASGIApp:
    """Wrap the application. Its scopes have the client's address, and a client that leaves in mid-body is a Problem (400)."""
    trusted = tuple(proxies)

    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await app(scope, receive, send)
            return
        if trusted:
            scope = cast("Scope", {**scope, **_forwarded(cast("Any", scope), trusted)})
        await app(scope, _complete(receive) if scope["type"] == ScopeType.HTTP else receive, send)

    return known


def _forwarded(scope: Any, trusted: tuple[Network, ...]) -> dict[str, Any]:
    """The parts of the scope that a trusted proxy has said. Empty if the peer is not one."""
    peer = _address(scope["client"][0].encode()) if scope.get("client") else None
    if peer is None or not _is_in(peer, trusted):
        return {}
    said: dict[str, Any] = {"client": (str(_client_behind(peer, scope["headers"], trusted)), 0)}
    protocols = [value.strip().lower() for name, value in scope["headers"] if name == _PROTO]
    if protocols and (scheme := _SCHEMES[scope["type"]].get(protocols[-1])) is not None:
        said["scheme"] = scheme
    return said


def _client_behind(peer: Address, headers: Iterable[tuple[bytes, bytes]], trusted: tuple[Network, ...]) -> Address:
    """The last address before our own proxies. Each proxy appends its client, so the first entries are the client's own claim.

    Something else than an address ends the search: what stands before it cannot be from our proxies.
    """
    client = peer
    for text in _hops(headers):
        address = _address(text)
        if address is None:
            break
        client = address
        if not _is_in(address, trusted):
            break
    return client


def _hops(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """The entries of all X-Forwarded-For headers, the last one first."""
    joined = b",".join(value for name, value in headers if name == _FOR)
    return reversed([each.strip() for each in joined.rsplit(b",", _MOST_HOPS)[-_MOST_HOPS:]]) if joined else iter(())


def _address(text: bytes) -> Address | None:
    try:
        address = ipaddress.ip_address(text.decode("ascii").partition("%")[0])
    except ValueError:  # includes UnicodeDecodeError
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)


def _complete(receive: Receive) -> Receive:
    """Raise Problem if the client leaves before its body is complete. Afterwards, leaving is not an error."""
    is_complete = False

    async def received() -> Message:
        nonlocal is_complete
        message: Any = await receive()
        if message["type"] == "http.request":
            is_complete = not message.get("more_body", False)
        elif not is_complete:
            raise Problem(400, "body: expected all of it, got a part: the client closed the connection")
        return cast("Message", message)

    return cast("Receive", received)
