"""Reads a contact's visitors, newest link first, including those of contacts merged into it (`kinfold_projections.members`)."""

import heapq
from collections.abc import AsyncIterator
from typing import Any, Final, cast

from kinfold_projections.members import MERGED, Membership, member
from kinfold_schemas.keys import key
from kinfold_schemas.times import text_ms, to_text
from kinfold_services.connections import Client

_PAGE: Final = 200
_CONTACT_ID_CHARS: Final = 29
_TIME_CHARS: Final = 24
_KIND_AT: Final = _CONTACT_ID_CHARS + _TIME_CHARS


async def newest_members(client: Client, workspace: str, contact_id: str, limit: int) -> list[Membership]:
    """The `limit` visitors of a living contact that were linked most recently."""
    found: list[Membership] = []
    async for membership in iterate_members(client, workspace, contact_id):
        if len(found) == limit:
            break
        found.append(membership)
    return found


async def iterate_members(client: Client, workspace: str, contact_id: str) -> AsyncIterator[Membership]:
    """Every visitor of a living contact, including those of contacts merged into it."""
    async for membership in walk_members(client, key(workspace, "members"), [contact_id]):
        yield membership


async def walk_members(
    client: Client, members: str, opened: list[str], after: Membership | None = None
) -> AsyncIterator[Membership]:
    """Yield the visitors of a contact, newest first, starting after `after`, a visitor that was seen before.

    The walk takes the newest first. A merged contact is sorted by its newest link, and is opened only when its turn comes.
    `opened` holds the contact. Merged contacts are added to it as they are opened, so a later call can continue from it.
    """
    sources = [_rows(client, members, contact_id, after) for contact_id in opened]
    heads: list[tuple[_Descending, int]] = []

    async def push(source: int) -> None:
        row = await anext(sources[source], None)
        if row is not None:
            heapq.heappush(heads, (_Descending(row), source))

    for source in range(len(sources)):
        await push(source)
    while heads:
        row, source = heapq.heappop(heads)
        await push(source)
        since, kind, name = row.row
        if kind == MERGED:
            opened.append(name)
            sources.append(_rows(client, members, name, after))
            await push(len(sources) - 1)
        else:
            yield Membership(text_ms(since), name)


async def _rows(client: Client, members: str, contact_id: str, after: Membership | None) -> AsyncIterator[tuple[str, str, str]]:
    """Yield (since, kind, id) of the members of one contact in the sorted set, newest first."""
    first, last = b"[" + contact_id.encode(), b"[" + contact_id.encode() + b"\xff"
    if after is not None:
        last = b"(" + member(contact_id, to_text(after.since_ms), after.visitor_id).encode()
    while True:
        reply = await client.zrange(members, cast("Any", last), cast("Any", first), desc=True, bylex=True, offset=0, num=_PAGE)
        page = cast("list[bytes]", reply)
        for row in page:
            text = row.decode()
            yield text[_CONTACT_ID_CHARS:_KIND_AT], text[_KIND_AT], text[_KIND_AT + 1 :]
        if len(page) < _PAGE:
            return
        last = b"(" + page[-1]


class _Descending:
    __slots__ = ("row",)

    def __init__(self, row: tuple[str, str, str]) -> None:
        self.row = row

    def __lt__(self, other: "_Descending") -> bool:
        return other.row < self.row
