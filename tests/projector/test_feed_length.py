"""The feed keeps about as many entries as the setting says, and the newest (contract section 6)."""

from typing import Final, cast

from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.state.queries import StateQueries
from tests.support.event_log import append, forget_all_but_the_log, history
from tests.support.projecting import fold_log, projecting, wait_until_folded
from tests.support.snapshots import take_snapshot

FEED_ENTRIES: Final = 1000
FEED_BYTES: Final = 2 << 20
LARGE: Final = 8600
"""Of a change with a large contact, about."""
ABOUT: Final = 200
"""Redis trims whole nodes of a stream, of 100 entries by default. Exact trimming would cost more than it saves."""


async def test_feed_keeps_the_newest_entries(redis: Redis, redis_url: str, workspace: str) -> None:
    """As many as the setting says, and not many more. Trimming the feed does not change the state."""
    await append(redis, workspace, history())
    await fold_log(redis, redis_url, workspace)
    everything = await take_snapshot(redis, workspace)
    await forget_all_but_the_log(redis, workspace)

    await fold_log(redis, redis_url, workspace, feed_entries=FEED_ENTRIES)

    short = await take_snapshot(redis, workspace)
    assert FEED_ENTRIES <= len(short.feed) < FEED_ENTRIES + ABOUT < len(everything.feed)
    assert short.feed == everything.feed[-len(short.feed) :]
    short._replace(feed=everything.feed).must_equal(everything)
    assert (await StateQueries(redis, workspace).status()).entries == len(history())


async def test_log_is_never_trimmed(redis: Redis, redis_url: str, workspace: str) -> None:
    """It is the only source of truth: every event stays, for any length of the feed."""
    await append(redis, workspace, history()[:5000])

    await fold_log(redis, redis_url, workspace, feed_entries=1)

    assert (await StateQueries(redis, workspace).status()).entries == 5000


async def test_feed_keeps_no_more_bytes_than_the_setting_says(redis: Redis, redis_url: str, workspace: str) -> None:
    """Even where another projector has appended some of them."""
    feed, start = key(workspace, "changes"), 0
    for _ in range(3):
        values = [{"k": f"{number}" + "x" * 8000} for number in range(start, start + 300)]
        events = [{"type": "MetadataSet", "externalId": "u-1", "metadata": each} for each in values]
        last, start = await append(redis, workspace, events, start=start), start + len(events)
        async with projecting(redis_url, workspace, feed_bytes=FEED_BYTES):
            await wait_until_folded(redis, workspace, last)
    kept = await redis.xlen(feed)
    assert FEED_BYTES / 2 / LARGE < kept < 1.2 * FEED_BYTES / LARGE
    assert cast("int", await redis.memory_usage(feed, samples=0)) < 2 * FEED_BYTES
