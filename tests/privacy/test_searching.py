"""The search of every key, after an erasure."""

from typing import Any

import pytest
from redis.asyncio import Redis

from kinfold_services.privacy.searching import Searcher, search_keys
from tests.support.erased_people import publish

SEEN = {"type": "VisitorSeen", "visitorId": "v-1"}


async def test_search_of_a_log_that_grows_as_quickly_as_it_is_read_ends(
    redis: Redis, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(redis, workspace, {"type": "VisitorIdentified", "externalId": "ada-1815"}, SEEN)
    read, reads = redis.xrange, 0

    async def grow_and_read(*args: Any, **options: Any) -> Any:
        nonlocal reads
        reads += 1
        assert reads < 10
        await publish(redis, workspace, SEEN)
        return await read(*args, **options)

    monkeypatch.setattr(redis, "xrange", grow_and_read)
    assert await search_keys(redis, workspace, Searcher(["ada-1815"]), ()) == {"events": 1}
