"""SIGKILL at any instant of a replay: the live state is the old one or completely the new one; the next run cleans up."""

import os
import random
import subprocess
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final, cast

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import PrivateName, PublicName, key
from tests.support.event_log import append, history
from tests.support.lengths import short_or_long
from tests.support.projecting import fold_log, projecting, variables, wait_until_folded
from tests.support.replaying import command_line, differ_unseen, kinfold, leftovers, living_snapshot, verify
from tests.support.snapshots import Snapshot
from tests.support.waiting import wait_until

KILLS: Final = short_or_long(6, 20)
SEED: Final = int(os.environ.get("KINFOLD_TEST_SEED", str(random.SystemRandom().randrange(10**6))))
ENTRIES: Final = 8000
HOLD_S: Final = 5.0


@asynccontextmanager
async def replaying(client: Redis, url: str, workspace: str) -> AsyncGenerator["subprocess.Popen[bytes]"]:
    """Start a `kinfold replay`, and kill it at the end."""
    before = await generation(client, workspace)
    with subprocess.Popen(  # noqa: ASYNC220  it returns at once
        command_line(url, workspace, "replay"),
        env=variables({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:

        async def has_begun() -> bool:
            return await generation(client, workspace) not in {None, before} or process.poll() is not None

        try:
            await wait_until(has_begun)
            yield process
        finally:
            process.kill()


async def generation(client: Redis, workspace: str) -> bytes | None:
    """The generation in the staging area."""
    return await cast("Awaitable[bytes | None]", client.hget(key(workspace, "position", "replay"), "generation"))


def must_be_wholly_swapped(found: Snapshot, expected: Snapshot) -> None:
    """Assert that every byte is equal, except for the generation."""
    assert found.position != expected.position
    position = {name: value for name, value in found.position.items() if name != b"generation"}
    known = {name: value for name, value in expected.position.items() if name != b"generation"}
    found._replace(position=position).must_equal(expected._replace(position=known))


@pytest.mark.slow
async def test_replay_killed_at_any_instant_leaves_the_old_state_or_the_new_one(redis: Redis, redis_url: str, workspace: str):
    """State and feed, byte for byte. The test prints the seed of the instants."""
    print(f"KINFOLD_TEST_SEED={SEED}")  # noqa: T201  shown where the test fails
    dice = random.Random(SEED)  # noqa: S311  no secret
    await append(redis, workspace, history()[:ENTRIES])
    await fold_log(redis, redis_url, workspace)
    healthy = await living_snapshot(redis, workspace)
    await differ_unseen(redis, workspace)
    async with replaying(redis, redis_url, workspace) as process:
        begun = time.monotonic()
        await wait_until(lambda: process.poll() is not None)
        assert process.returncode == 0
        whole_s = time.monotonic() - begun
    must_be_wholly_swapped(await living_snapshot(redis, workspace), healthy)

    untouched = 0
    for _ in range(KILLS):
        await differ_unseen(redis, workspace)
        before = await living_snapshot(redis, workspace)
        async with replaying(redis, redis_url, workspace) as process:
            instant = time.monotonic() + dice.uniform(0, whole_s)
            while time.monotonic() < instant:
                pass  # kill at this instant, which no event marks
            process.kill()
            process.wait()
        after = await living_snapshot(redis, workspace)
        if after.position == before.position:
            after.must_equal(before)
            untouched += 1
        else:
            must_be_wholly_swapped(after, healthy)
    print(f"{untouched} of {KILLS} killed before the swap")  # noqa: T201
    assert untouched >= KILLS // 4, "the kills must hit the replay while it works"

    answer = await kinfold(redis_url, workspace, "replay")
    assert (answer.status, answer.out) == (0, [])
    assert await leftovers(redis, workspace) == []
    async with projecting(redis_url, workspace):
        last = await append(redis, workspace, history()[:10], start=ENTRIES)
        await wait_until_folded(redis, workspace, last)
    assert await verify(redis, workspace) == []


@pytest.mark.parametrize("written", ["visitors", "contacts", "members", "created", "position"])
async def test_replay_killed_while_it_writes_leaves_the_old_state_or_the_new_one(
    redis: Redis, redis_url: str, workspace: str, written: PublicName | PrivateName
):
    """As soon as a part of the state, or the claim on the staging area, exists beside the live state."""
    await append(redis, workspace, history()[:ENTRIES])
    await fold_log(redis, redis_url, workspace)
    healthy = await living_snapshot(redis, workspace)
    await differ_unseen(redis, workspace)
    before = await living_snapshot(redis, workspace)
    await redis.config_set("notify-keyspace-events", "Khz")
    async with redis.pubsub() as events:
        await events.psubscribe(f"__keyspace@*__:{key(workspace, written, 'replay')}")
        async with replaying(redis, redis_url, workspace) as process:
            async for message in cast("AsyncIterator[dict[str, object]]", events.listen()):
                if message["type"] == "pmessage":
                    break
            process.kill()
            process.wait()
    await redis.config_set("notify-keyspace-events", "")

    after = await living_snapshot(redis, workspace)

    if after.position == before.position:
        after.must_equal(before)
        assert await leftovers(redis, workspace), "it was killed while it wrote"
    else:
        must_be_wholly_swapped(after, healthy)
    answer = await kinfold(redis_url, workspace, "replay")
    assert (answer.status, answer.out) == (0, [])
    must_be_wholly_swapped(await living_snapshot(redis, workspace), healthy)
    assert await leftovers(redis, workspace) == []


@pytest.mark.slow
async def test_hold_of_a_killed_replay_expires(redis: Redis, redis_url: str, workspace: str):
    """The replay is killed while the projector waits for it. The projector then continues."""
    await redis.config_set("notify-keyspace-events", "K$")
    await append(redis, workspace, history()[:500])
    await fold_log(redis, redis_url, workspace)
    hold = key(workspace, "hold")

    async def kill_while_holding() -> bool:
        await differ_unseen(redis, workspace)  # again, where the replay before was done before it was killed
        async with redis.pubsub() as events:
            await events.psubscribe(f"__keyspace@*__:{hold}")
            async with replaying(redis, redis_url, workspace) as process:
                async for message in cast("AsyncIterator[dict[str, object]]", events.listen()):
                    if message["type"] == "pmessage":
                        break
                process.kill()
                process.wait()
        return await redis.exists(hold) == 1

    await wait_until(kill_while_holding)
    await redis.config_set("notify-keyspace-events", "")
    before = await living_snapshot(redis, workspace)

    async with projecting(redis_url, workspace):
        last = await append(redis, workspace, [{"type": "VisitorSeen", "visitorId": "v-new"}], start=500)
        assert await redis.pttl(hold) <= HOLD_S * 1000
        await wait_until_folded(redis, workspace, last)

    assert await redis.exists(hold) == 0
    after = await living_snapshot(redis, workspace)
    assert after.contacts == before.contacts
    answer = await kinfold(redis_url, workspace, "replay")
    assert (answer.status, answer.out) == (0, [])
    assert await leftovers(redis, workspace) == []
    assert await verify(redis, workspace) == []
