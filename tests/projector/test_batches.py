"""The size of batches does not matter: the stored bytes are the same (contract section 3)."""

from typing import Final

import pytest
from redis.asyncio import Redis

from tests.support.event_log import append, forget_all_but_the_log, history
from tests.support.malformed import MALFORMED
from tests.support.projecting import fold_log
from tests.support.snapshots import take_snapshot

SLICE: Final = 3000
"""For batches of a few entries, each a transaction: the first years of the history, with merges, late events and duplicates."""


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[100, 5000], [1, 7, 100, 5000]], ids=["the whole history", "its first years"])
async def test_batches_of_any_size_store_the_same_bytes(redis: Redis, redis_url: str, workspace: str, sizes: list[int]) -> None:
    """State, feed, rejects, position and counts, including malformed entries and duplicates."""
    events: list[bytes | dict[bytes, bytes]] = list(history())
    if 1 in sizes:
        events = events[:SLICE]
    for place, bad in enumerate(MALFORMED, 1):
        events.insert(place * 40, bad.fields)
    events += events[-1000:]  # after the malformed ones
    await append(redis, workspace, events)
    await fold_log(redis, redis_url, workspace, batch_entries=1000)
    expected = await take_snapshot(redis, workspace)
    assert len(expected.rejects) == len(MALFORMED)

    for size in sizes:
        await forget_all_but_the_log(redis, workspace)
        await fold_log(redis, redis_url, workspace, batch_entries=size)
        (await take_snapshot(redis, workspace)).must_equal(expected)


@pytest.mark.parametrize("cache_bytes", [0, 2_000])
async def test_cache_between_batches_changes_nothing(redis: Redis, redis_url: str, workspace: str, cache_bytes: int) -> None:
    """A projector that discards its cache after each batch and loads the records again folds the same."""
    await append(redis, workspace, history()[:SLICE])
    await fold_log(redis, redis_url, workspace)
    expected = await take_snapshot(redis, workspace)

    await forget_all_but_the_log(redis, workspace)
    await fold_log(redis, redis_url, workspace, batch_entries=10, cache_bytes=cache_bytes)

    (await take_snapshot(redis, workspace)).must_equal(expected)
