"""The feed keeps about as many entries as the setting says, and the newest (contract section 6)."""

from typing import Final

from redis.asyncio import Redis

from kinfold_services.state.queries import StateQueries
from tests.support.event_log import append, forget_all_but_the_log, history
from tests.support.projecting import fold_log
from tests.support.snapshots import take_snapshot

FEED_ENTRIES: Final = 1000
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
