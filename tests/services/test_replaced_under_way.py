"""A replay that replaces the state while a batch is on its way: each entry is folded once (contract sections 8 and 9)."""

from typing import Final

from redis.asyncio import Redis

from kinfold_schemas.keys import COMMITTED, key
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


async def test_a_state_that_is_behind_what_was_committed_gets_every_entry(redis: Redis, redis_url: str, workspace: str) -> None:
    """A backup of the state is put back under a projector: what it had folded since then is read again."""
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, await append(redis, workspace, history()[:3]))
        backup = {key(workspace, name): await redis.dump(key(workspace, name)) for name in COMMITTED}
        await wait_until_folded(redis, workspace, await append(redis, workspace, history()[3:6], start=3))
        async with redis.pipeline(transaction=True) as restore:
            for name, content in backup.items():
                restore.delete(name)
                if content is not None:
                    restore.restore(name, 0, content)
            restore.hset(key(workspace, "position"), "generation", "of the backup")
            await restore.execute()
        last = await append(redis, workspace, history()[6:7], start=6)
        await wait_until_folded(redis, workspace, last)

    status = await Workspace(redis, workspace).status()
    assert (status.folded + status.no_op + status.stale, status.duplicate) == (7, 0)
    assert await verify(redis, workspace) == []
