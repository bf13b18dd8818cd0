"""All merged contacts of a workspace, and the links of all visitors.

Changes go on during a scan. Each page is as new as its reading.
"""

from collections.abc import AsyncGenerator, Awaitable, Iterable
from importlib.resources import files
from typing import Final, cast

import msgspec

import kinfold_services.state
from kinfold_schemas.contacts import Link, merged_into
from kinfold_schemas.keys import key
from kinfold_services.connections import Client

_AT_ONCE: Final = 1000
_TOMBSTONES: Final = files(kinfold_services.state).joinpath("tombstones.lua").read_text()


class _Linked(msgspec.Struct, gc=False):
    links: list[Link] = []


_decode_linked: Final = msgspec.json.Decoder(_Linked).decode


async def scan_tombstones(client: Client, workspace: str) -> AsyncGenerator[dict[str, str]]:
    """Yield merged contacts, each with the contact that it was merged into; erased ones with ERASED. Raises RedisError."""
    script = client.register_script(_TOMBSTONES)
    cursor = b"0"
    while True:
        cursor, *found = await script(keys=[key(workspace, "contacts")], args=[cursor, _AT_ONCE])
        pairs = zip(found[::2], found[1::2], strict=True)
        merged = ((contact_id.decode(), merged_into(data)) for contact_id, data in pairs)
        yield {contact_id: into for contact_id, into in merged if into is not None}
        if cursor == b"0":
            return


async def scan_links(client: Client, workspace: str) -> AsyncGenerator[dict[str, list[Link]]]:
    """Yield visitors with their links; some may come twice. Raises RedisError."""
    cursor = 0
    while True:
        cursor, found = await client.hscan(key(workspace, "visitors"), cursor, count=_AT_ONCE)
        stored = cast("dict[bytes, bytes]", found)
        yield {visitor_id.decode(): links for visitor_id, data in stored.items() if (links := _decode_linked(data).links)}
        if cursor == 0:
            return


async def links_of(client: Client, workspace: str, visitor_ids: Iterable[str]) -> dict[str, list[Link]]:
    """The links of some visitors; none for a visitor that does not exist. Raises RedisError."""
    return {
        visitor_id: [] if data is None else _decode_linked(data).links
        async for visitor_id, data in _stored(client, workspace, visitor_ids)
    }


async def absent_visitors(client: Client, workspace: str, visitor_ids: Iterable[str]) -> list[str]:
    """Those of the visitors that do not exist. Raises RedisError."""
    return [visitor_id async for visitor_id, data in _stored(client, workspace, visitor_ids) if data is None]


async def _stored(client: Client, workspace: str, visitor_ids: Iterable[str]) -> AsyncGenerator[tuple[str, bytes | None]]:
    ordered = sorted(visitor_ids)
    for first in range(0, len(ordered), _AT_ONCE):
        some = ordered[first : first + _AT_ONCE]
        reply = await cast("Awaitable[list[bytes | None]]", client.hmget(key(workspace, "visitors"), some))
        for pair in zip(some, reply, strict=True):
            yield pair
