"""Erase people in this process, and look into every key afterwards."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, cast

from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.privacy.erasing import Eraser
from kinfold_services.privacy.records import Receipt
from kinfold_services.settings import Settings
from kinfold_services.state.queries import Which


async def erase(client: Redis, workspace: str, *whiches: Which, **settings: Any) -> Receipt:
    """Erase people; returns the receipt."""
    eraser = Eraser(client, Settings(workspace=workspace, **settings))
    requested = await eraser.request(whiches, by="a test", reason="asked")
    await eraser.finish_pending()
    receipt = await eraser.records.receipt(requested.erasure)
    assert receipt is not None
    return receipt


async def keys_with(client: Redis, workspace: str, texts: Iterable[str]) -> dict[str, list[str]]:
    """The texts that the DUMP of each key of a workspace holds."""
    wanted = list(texts)
    found: dict[str, list[str]] = {}
    pattern = key(workspace, "events").removesuffix("events") + "*"
    async for name in cast("AsyncIterator[bytes]", cast("Any", client).scan_iter(match=pattern)):
        dump = cast("bytes", await client.dump(name))
        if texts_in := [each for each in wanted if each.encode() in dump]:
            found[name.decode()] = texts_in
    return found
