"""A snapshot while the feed goes on, and is trimmed."""

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.state import snapshot
from kinfold_services.state.snapshot import FeedOverran, SnapshotReader
from tests.support.event_log import append
from tests.support.projecting import fold_log


async def test_feed_trimmed_after_the_first_page_ends_the_snapshot(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed still has later entries, but not the change of a contact of the first page."""
    monkeypatch.setattr(snapshot, "_PAGE", 1)
    people = [{"type": "VisitorIdentified", "externalId": f"u-{number}"} for number in range(3)]
    await append(redis, workspace, people)
    await fold_log(redis, redis_url, workspace)
    reader = SnapshotReader(redis, workspace)
    pages = reader.pages()
    await anext(pages)
    await append(redis, workspace, [{**each, "name": "Ada"} for each in people], start=3)
    await fold_log(redis, redis_url, workspace)
    await redis.xtrim(key(workspace, "changes"), maxlen=1, approximate=False)
    assert [len(page) async for page in pages] == [1, 1, 0]

    with pytest.raises(FeedOverran):
        [page async for page in reader.corrections()]
