"""A replay replaces the state while a batch is being committed: each entry is folded once (contract sections 8 and 9)."""

from collections.abc import Awaitable
from typing import Final, cast

from redis.asyncio import Redis
from structlog.testing import capture_logs

from kinfold_schemas.keys import COMMITTED, key
from kinfold_services.state.queries import StateQueries
from tests.support.event_log import append, entry_id, forget_all_but_the_log, history
from tests.support.projecting import FOLD_S, fold_log, projecting, wait_until_folded
from tests.support.proxy import Proxy
from tests.support.replaying import replay, verify
from tests.support.waiting import wait_until

LATE_S: Final = 2.5
"""The delay of answers, which the projector tolerates: enough for a replay between a commit and its answer."""


async def test_batch_that_was_committed_before_the_replay_is_not_folded_again(
    redis: Redis, redis_url: str, workspace: str
) -> None:
    """Its answer was lost. When it is sent again, the state is a new one, which already contains it."""
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

    status = await StateQueries(redis, workspace).status()
    assert (status.folded + status.no_op + status.stale, status.duplicate, status.lag) == (12, 0, 0)
    assert await verify(redis, workspace) == []


async def test_state_that_is_behind_the_committed_batches_gets_every_entry(
    redis: Redis, redis_url: str, workspace: str
) -> None:
    """A backup of the state is restored while a projector runs: later entries are read again."""
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, await append(redis, workspace, history()[:3]))
        backup = await back_up(redis, workspace)
        await wait_until_folded(redis, workspace, await append(redis, workspace, history()[3:6], start=3))
        await put_back(redis, workspace, backup)
        last = await append(redis, workspace, history()[6:7], start=6)
        await wait_until_folded(redis, workspace, last)

    status = await StateQueries(redis, workspace).status()
    assert (status.folded + status.no_op + status.stale, status.duplicate) == (7, 0)
    assert await verify(redis, workspace) == []


async def test_state_that_is_ahead_of_the_folded_entries_gets_no_entry_twice(
    redis: Redis, redis_url: str, workspace: str
) -> None:
    """A state that already contains the two batches is swapped in while they wait for a hold to end."""
    last = await append(redis, workspace, history()[:6])
    await fold_log(redis, redis_url, workspace)
    backup = await back_up(redis, workspace)
    await forget_all_but_the_log(redis, workspace)
    await redis.set(key(workspace, "hold"), "a replay's")
    with capture_logs() as logs:
        async with projecting(redis_url, workspace, batch_entries=4) as service:
            await wait_until(lambda: workspace in service.workspaces, FOLD_S)
            projector = service.workspaces[workspace]
            await wait_until(lambda: projector.position.stream_id == last, FOLD_S)
            await put_back(redis, workspace, backup)
            await redis.delete(key(workspace, "hold"))
            last = await append(redis, workspace, history()[6:7], start=6)
            await wait_until_folded(redis, workspace, last)

    assert "workspace lost" not in {each["event"] for each in logs}
    status = await StateQueries(redis, workspace).status()
    assert (status.folded + status.no_op + status.stale, status.duplicate) == (7, 0)
    assert await verify(redis, workspace) == []


async def back_up(client: Redis, workspace: str) -> dict[str, bytes | None]:
    """The keys of the state, as DUMP returns them."""
    return {key(workspace, name): await client.dump(key(workspace, name)) for name in COMMITTED}


async def put_back(client: Redis, workspace: str, backup: dict[str, bytes | None]) -> None:
    """Replace the state with a backup. The workspace keeps its owner."""
    owner = await cast("Awaitable[bytes]", client.hget(key(workspace, "position"), "owner"))
    async with client.pipeline(transaction=True) as restore:
        for name, content in backup.items():
            restore.delete(name)
            if content is not None:
                restore.restore(name, 0, content)
        restore.hset(key(workspace, "position"), mapping={"generation": "of the backup", "owner": owner})
        await restore.execute()
