"""The table at the top of `projector/commit.py`, row by row: the reply to EXEC, and the result for the batch."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.projector.commit import CommitFailed
from kinfold_services.state.position import LostPlace, Replaced
from tests.support.committing import Committing
from tests.support.snapshots import keys_like
from tests.support.waiting import wait_until

WAITS_S: Final = 120.0


def identified(number: int, **fields: Any) -> dict[str, Any]:
    """An identification of a visitor."""
    person = {"externalId": f"u-{number}", "email": f"u{number}@example.org", "visitorId": f"v-{number}"}
    return {"type": "VisitorIdentified", **person, **fields}


@pytest.fixture
async def committing(redis: Redis, workspace: str) -> AsyncIterator[Committing]:
    """Own the workspace, with one batch committed, so that the connection is armed for the next."""
    await redis.config_resetstat()
    committing = Committing(redis, redis, workspace)
    await committing.own()
    await committing.commit(identified(1))
    yield committing
    await committing.committer.close()


async def test_executed_batch_is_committed(committing: Committing) -> None:
    """State, feed, rejects and position. The log still has the entry of the previous position."""
    await committing.commit(identified(2), b"{", identified(1, name="Ada"))
    await committing.assert_stored()
    assert committing.committer.committed == committing.expected.position
    assert committing.committer.left_entry is not None
    assert b"u-1" in committing.committer.left_entry[b"event"]


async def test_nothing_to_finish_without_a_batch(committing: Committing) -> None:
    """`finish` returns that."""
    assert await committing.committer.finish() is False


async def test_batch_for_another_generation_is_replaced(committing: Committing) -> None:
    """A replay swapped in a new state after the transaction was armed: nothing is written."""
    before = await everything(committing)
    batch = await committing.fold(identified(2))
    await committing.redis.hset(key(committing.workspace, "position"), "generation", "another")
    with pytest.raises(Replaced, match="another"):
        await committing.send(batch)
    assert await everything(committing) == before


@pytest.mark.parametrize("field", ["owner", "stream_id"])
async def test_batch_that_lost_its_place_is_not_written(committing: Committing, field: str) -> None:
    """Another projector took the workspace, or the position is another entry."""
    before = await everything(committing)
    batch = await committing.fold(identified(2))
    await committing.redis.hset(key(committing.workspace, "position"), field, "9-9")
    with pytest.raises(LostPlace):
        await committing.send(batch)
    assert await everything(committing) == before


async def test_batch_waits_while_the_workspace_is_held(committing: Committing) -> None:
    """The hold began after the transaction was armed: EXEC replies nil, and the position does not change."""
    batch = await committing.fold(identified(2))
    before = await everything(committing)
    hold = key(committing.workspace, "hold")
    await committing.redis.set(hold, "a replay")
    sending = asyncio.create_task(committing.send(batch))
    await wait_until(lambda: asks_again(committing.redis), WAITS_S)
    assert not sending.done()
    assert await everything(committing) == before
    await committing.redis.delete(hold)
    await asyncio.wait_for(sending, WAITS_S)
    await committing.assert_stored()


async def test_held_batch_is_replaced_after_a_replay(committing: Committing) -> None:
    """The swap is one step: the new generation is there when the hold ends."""
    batch = await committing.fold(identified(2))
    await committing.redis.set(key(committing.workspace, "hold"), "a replay")
    sending = asyncio.create_task(committing.send(batch))
    await wait_until(lambda: asks_again(committing.redis), WAITS_S)
    async with committing.redis.pipeline(transaction=True) as swap:
        swap.hset(key(committing.workspace, "position"), "generation", "another")
        swap.delete(key(committing.workspace, "hold"))
        await swap.execute()
    with pytest.raises(Replaced):
        await asyncio.wait_for(sending, WAITS_S)


async def test_batch_with_an_unchanged_position_is_sent_again(committing: Committing) -> None:
    """A client wrote the same value again: EXEC replies nil once, and succeeds the next time."""
    batch = await committing.fold(identified(2))
    position = key(committing.workspace, "position")
    await committing.redis.hset(position, "generation", "")
    await committing.send(batch)
    assert await calls(committing.redis, "exec") >= 3
    await committing.assert_stored()


async def test_batch_without_an_armed_transaction_arms_one(committing: Committing) -> None:
    """The connection was closed in between. A server may do this with one that was idle for hours."""
    batch = await committing.fold(identified(2))
    await committing.redis.client_kill_filter(_type="normal", skipme=True)
    await committing.send(batch)
    await committing.assert_stored()


async def test_error_inside_the_transaction_is_a_failed_commit(committing: Committing) -> None:
    """Redis does not roll back. The message names the command and the key."""
    batch = await committing.fold(identified(2))
    emails = key(committing.workspace, "emails")
    await committing.redis.delete(emails)
    await committing.redis.set(emails, "text")
    with pytest.raises(CommitFailed, match=rf"HSET {emails} failed .*WRONGTYPE".replace("{", r"\{").replace("}", r"\}")):
        await committing.send(batch)


async def test_missing_group_is_not_a_failure(committing: Committing) -> None:
    """The group only shows the lag."""
    await committing.redis.xgroup_destroy(key(committing.workspace, "events"), "kinfold")
    await committing.commit(identified(2))
    await committing.assert_stored()


async def everything(committing: Committing) -> dict[bytes, bytes | None]:
    """Every key of the workspace except the log, the lease, and the test's own changes to the position."""
    left_out = {key(committing.workspace, name).encode() for name in ("events", "owner", "position", "hold")}
    names = await keys_like(committing.redis, f"kinfold:{{{committing.workspace}}}:*")
    return {name: await committing.redis.dump(name) for name in names if name not in left_out}


async def calls(redis: Redis, command: str) -> int:
    """How often the server has executed a command since the statistics were reset."""
    stats: dict[str, Any] = await redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def asks_again(redis: Redis) -> bool:
    """Whether a committer has checked twice if a hold has ended."""
    return await calls(redis, "unwatch") >= 2
