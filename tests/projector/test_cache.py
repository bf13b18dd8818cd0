"""The cache of a projector changes nothing: it stores the same as one state over the whole log."""

import asyncio
import json
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from kinfold_projections import members
from kinfold_projections.batches import RawEntry
from kinfold_services.connections import connect
from kinfold_services.projector.lease import Lease
from kinfold_services.projector.workspace import WorkspaceProjector
from kinfold_services.settings import Settings
from tests.support.committing import Expected
from tests.support.lengths import short_or_long
from tests.support.strategies import Log, crowded_logs, log_of, logs

WORKSPACE = "cache"
RANDOM = settings(
    max_examples=short_or_long(30, 200), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


async def fold(redis: Redis, url: str, log: Log, sizes: list[int], cache_bytes: int) -> None:
    """Fold a log in batches of these sizes, repeated, like a projector, and compare what is stored."""
    await redis.flushdb()
    expected = Expected(WORKSPACE)
    async with connect(url) as client:
        lease = Lease(client, WORKSPACE, asyncio.Event())
        await lease.take()
        projector = WorkspaceProjector(client, Settings(workspace=WORKSPACE, cache_bytes=cache_bytes), lease)
        await projector.open()
        for batch in cut(log, sizes):
            for entry_id, fields in batch:
                await redis.xadd(f"kinfold:{{{WORKSPACE}}}:events", cast("Any", fields), id=entry_id)
            await projector._advance(batch)
            expected.fold(batch)
        await projector._advance(())
        await projector._committer.close()
    await expected.assert_stored(redis)


def cut(log: Log, sizes: list[int]) -> list[list[RawEntry]]:
    """The log in batches of these sizes, repeated."""
    batches: list[list[RawEntry]] = []
    first = 0
    while first < len(log):
        size = sizes[len(batches) % len(sizes)]
        batches.append([*log[first : first + size]])
        first += size
    return batches


some_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=6)
some_bytes = st.sampled_from([0, 0, 700, 2000, 1 << 20])


@RANDOM
@given(log=logs(max_size=40).filter(bool), sizes=some_sizes, cache_bytes=some_bytes)
async def test_any_history_in_any_batches_is_stored_alike(
    redis: Redis, redis_url: str, log: Log, sizes: list[int], cache_bytes: int
) -> None:
    """State, feed, rejects, position and counts; with an empty cache, one of a few records, and one of everything."""
    await fold(redis, redis_url, log, sizes, cache_bytes)


@RANDOM
@given(log=crowded_logs(), sizes=some_sizes, cache_bytes=some_bytes)
async def test_contacts_with_more_visitors_than_they_list_are_stored_alike(
    redis: Redis, redis_url: str, log: Log, sizes: list[int], cache_bytes: int
) -> None:
    """The next visitors are loaded when one leaves the list."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members, "LISTED_VISITORS", 3)
        await fold(redis, redis_url, log, sizes, cache_bytes)


async def test_address_that_the_batch_before_freed_is_free(redis: Redis, redis_url: str) -> None:
    """That batch is not sent yet when the next one is loaded, so the server's value of the address is out of date."""
    events: list[dict[str, Any]] = [
        {"type": "VisitorIdentified", "externalId": "u-1", "email": "old@example.org"},
        {"type": "VisitorIdentified", "externalId": "u-2", "email": "other@example.org"},
        {"type": "VisitorIdentified", "externalId": "u-1", "email": "new@example.org"},
        {"type": "VisitorIdentified", "email": "old@example.org", "visitorId": "v-1"},
    ]
    log = log_of([json.dumps(event).encode() for event in events], [1000] * len(events))
    await fold(redis, redis_url, log, [1], 600)
