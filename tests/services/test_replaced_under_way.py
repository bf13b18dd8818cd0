"""A replay that replaces the state while a batch is on its way: each entry is folded once (contract sections 8 and 9)."""

from typing import Final

from redis.asyncio import Redis

from kinfold_services.queries import Workspace
from tests.support.event_log import append, entry_id, history
from tests.support.projecting import projecting, wait_until_folded
from tests.support.proxy import Proxy
from tests.support.replaying import replay, verify

LATE_S: Final = 2.5
"""So late come answers, which is soon enough for the projector: time for a replay between a commit and its answer."""


async def test_a_batch_that_was_committed_before_the_replay_is_not_folded_again(
    redis: Redis, redis_url: str, workspace: str
) -> None:
    """Its answer was lost; when it is sent again, another state is there, which holds it already."""
    await append(redis, workspace, history()[:10])
    with Proxy(redis_url) as proxy:
        async with projecting(proxy.url, workspace):
            await wait_until_folded(redis, workspace, entry_id(9))
            proxy.delay_s = LATE_S
            last = await append(redis, workspace, history()[10:11], start=10)
            await wait_until_folded(redis, workspace, last)
            await replay(redis, workspace)
            proxy.delay_s = 0.0
            proxy.cut()
            last = await append(redis, workspace, history()[11:12], start=11)
            await wait_until_folded(redis, workspace, last)

    status = await Workspace(redis, workspace).status()
    assert (status.folded + status.no_op + status.stale, status.duplicate, status.lag) == (12, 0, 0)
    assert await verify(redis, workspace) == []
