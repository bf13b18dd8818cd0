"""A connection that ends after any byte of a commit: the batch is stored exactly once, and the committer continues."""

import asyncio
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from tests.support.committing import Committing
from tests.support.cutting import CuttingProxy, Way
from tests.support.lengths import short_or_long
from tests.support.snapshots import keys_like
from tests.support.waiting import wait_until

AT_ONCE: Final = 40
EVERY: Final = short_or_long(11, 1)
"""The long form tests every byte."""
END: Final = 120
"""The last bytes, with EXEC and what follows it. The short form tests each of them, too."""
FIRST: Final = {"type": "VisitorIdentified", "visitorId": "v-1", "email": "a@b"}
SECOND: Final[list[Any]] = [{"type": "VisitorIdentified", "visitorId": "v-2", "externalId": "u", "email": "c@d"}, b"{"]
THIRD: Final = {"type": "MetadataSet", "visitorId": "v-2", "metadata": {"plan": "pro"}}


class Commit:
    """Three commits through a proxy, which may cut the second one."""

    def __init__(self, redis: Redis, url: str, workspace: str) -> None:
        self.redis = redis
        self.url = url
        self.workspace = workspace

    async def run(self, cut: tuple[Way, int] | None = None) -> dict[Way, int]:
        """The number of bytes in each direction of the second commit, including the arming of the next transaction."""
        async with CuttingProxy(self.url) as proxy, Redis.from_url(proxy.url) as client:
            committing = Committing(client, self.redis, self.workspace)
            await committing.own()
            await committing.commit(FIRST)
            proxy.count_anew()
            if cut is not None:
                proxy.cut_after(*cut)
            await committing.commit(*SECOND)
            taken = dict(proxy.passed)
            assert proxy.cuts == (cut is not None)
            await committing.commit(THIRD)
            await committing.assert_stored()
            batches = await self.redis.hget(key(self.workspace, "projector"), "batches")
            assert batches == b"3"
            await committing.committer.close()
            return taken


@pytest.mark.slow
@pytest.mark.parametrize("way", ["request", "answer"])
async def test_commit_that_is_cut_after_any_byte_is_made_once(redis: Redis, redis_url: str, way: Way) -> None:
    """The request and the answer, from before the first byte to before the last one."""
    lengths = await Commit(redis, redis_url, "cut-whole").run()
    length = lengths[way]
    assert length > 300
    offsets = sorted({*range(0, length, EVERY), *range(length - END, length)})
    for first in range(0, len(offsets), AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for offset in offsets[first : first + AT_ONCE]:
                group.create_task(Commit(redis, redis_url, f"cut-{offset:05}").run((way, offset)))
    assert len(await keys_like(redis, "kinfold:*:position")) == len(offsets) + 1


async def test_transaction_that_arrives_after_its_repeat_changes_nothing(redis: Redis, redis_url: str, workspace: str) -> None:
    """The network held its last bytes back, and delivers them when another connection has committed the batch."""
    async with CuttingProxy(redis_url) as proxy, Redis.from_url(proxy.url) as client:
        committing = Committing(client, redis, workspace, answer_s=0.3)
        await committing.own()
        await committing.commit(FIRST)
        batch = await committing.fold(*SECOND)
        proxy.pause_after("request", sum(map(len, batch.commands)))
        await committing.send(batch)
        await committing.commit(THIRD)
        proxy.resume()
        await wait_until(lambda: proxy.open_connections == 1)
        await committing.assert_stored()
        await committing.committer.close()


async def test_large_batch_over_a_slow_connection_is_committed(redis: Redis, redis_url: str, workspace: str) -> None:
    """It takes longer than the timeout of an answer. The committer only checks that bytes keep moving."""
    async with CuttingProxy(redis_url) as proxy, Redis.from_url(proxy.url) as client:
        committing = Committing(client, redis, workspace, answer_s=0.5)
        await committing.own()
        await committing.commit(FIRST)
        large = [{**THIRD, "metadata": {f"k{each}": f"{number:04}" * 250 for each in range(20)}} for number in range(150)]
        batch = await committing.fold(*SECOND, *large)
        before = proxy.connections
        proxy.bytes_per_s = sum(map(len, batch.commands)) / 2
        await asyncio.wait_for(committing.send(batch), 120)
        assert proxy.connections == before
        await committing.assert_stored()
        await committing.committer.close()
