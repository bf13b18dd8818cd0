"""Erase people in this process, and look into every key afterwards."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, cast

from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.privacy.eraser import Eraser
from kinfold_services.privacy.records import Receipt
from kinfold_services.settings import Settings
from kinfold_services.state.baseline import piece_texts
from kinfold_services.state.queries import Identifier


async def erase(client: Redis, workspace: str, *identifiers: Identifier, **settings: Any) -> Receipt:
    """Erase people; returns the receipt."""
    eraser = Eraser(client, Settings(workspace=workspace, **settings))
    requested = await eraser.request(identifiers, by="a test", reason="asked")
    await eraser.finish_pending()
    receipt = await eraser.records.receipt(requested.erasure)
    assert receipt is not None
    return receipt


async def keys_with(client: Redis, workspace: str, texts: Iterable[str]) -> dict[str, list[str]]:
    """The texts that each key of a workspace holds, as a value that a client reads, or in its DUMP.

    A DUMP also has the bytes of deleted entries of a stream. The server compresses some of its strings.
    """
    wanted = list(texts)
    found: dict[str, list[str]] = {}
    pattern = key(workspace, "events").removesuffix("events") + "*"
    async for name in cast("AsyncIterator[bytes]", cast("Any", client).scan_iter(match=pattern)):
        dumped = await client.dump(name)
        if dumped is None:  # a lock or a lease that has expired since the scan, or a key that a projector has deleted
            continue
        held = dumped + await _values_of(client, name)
        if texts_in := [each for each in wanted if each.encode() in held or each.encode() in name]:
            found[name.decode()] = texts_in
    return found


async def _values_of(client: Any, name: bytes) -> bytes:
    """What a client reads of a key; the pieces of a baseline decompressed."""
    kind = (await client.type(name)).decode()
    items: list[bytes] = []
    if kind == "string":
        items = [await client.get(name) or b""]
    elif kind == "hash":
        items = [item for pair in (await client.hgetall(name)).items() for item in pair]
    elif kind == "list":
        items = [text for piece in await client.lrange(name, 0, -1) for text in (piece, *piece_texts(piece))]
    elif kind == "set":
        items = list(await client.smembers(name))
    elif kind == "zset":
        items = await client.zrange(name, 0, -1)
    elif kind == "stream":
        items = [item for flat in await _entries_of(client, name) for item in flat]
    return b"\n".join(items)


async def _entries_of(client: Any, name: bytes) -> list[list[bytes]]:
    """Names and values of a stream's entries, even if the test's client reads XRANGE in another form."""
    script = "local all = {} for _, e in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do all[#all + 1] = e[2] end return all"
    return cast("list[list[bytes]]", await client.eval(script, 1, name))
