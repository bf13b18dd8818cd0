"""A key of the workspace with the wrong type of value (contract section 8): the error names it, and nothing is written to it.

A command on it fails inside the transaction, which Redis does not roll back.
"""

from collections.abc import Awaitable
from typing import Any, Final, cast

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from kinfold_schemas.keys import COMMITTED, PrivateName, PublicName, key
from kinfold_services.state.queries import StateQueries
from tests.support.committing import Committing
from tests.support.cutting import CuttingProxy
from tests.support.event_log import append
from tests.support.projecting import projecting, stored_position, wait_until_folded
from tests.support.replaying import verify
from tests.support.snapshots import keys_like
from tests.support.waiting import wait_until

NOTICED_S: Final = 120.0
TOUCHED: Final[list[PublicName | PrivateName]] = [
    *COMMITTED,
    *("events", "changes", "rejects", "projector", "owner", "hold", "excluded", "blocked-identifiers"),
]


def identified(number: int) -> dict[str, Any]:
    """An identification of a visitor."""
    return {"type": "VisitorIdentified", "externalId": f"u-{number}", "email": f"u{number}@b", "visitorId": f"v-{number}"}


async def damage(redis: Redis, workspace: str) -> str:
    """Wait until the workspace is not served; returns the reason."""

    async def why() -> str:
        if await redis.type(key(workspace, "projector")) != b"hash":
            return ""
        found = await cast("Awaitable[bytes | None]", redis.hget(key(workspace, "projector"), "damage"))
        return found.decode() if found is not None else ""

    return await wait_until(why, NOTICED_S)


@pytest.mark.parametrize("name", TOUCHED)
async def test_wrong_type_is_named_and_nothing_is_written(redis: Redis, redis_url: str, name: PublicName | PrivateName) -> None:
    """Before the workspace is opened. Another workspace is served meanwhile."""
    wrong = key("wrong", name)
    if name != "events":
        await append(redis, "wrong", [identified(1)])
    await redis.rpush(wrong, "an item")
    before = {each: await redis.dump(each) for each in await keys_like(redis, "kinfold:{wrong}:*")}
    last = await append(redis, "right", [identified(1)])
    sentence = f"{wrong}: expected a "

    with capture_logs() as logs:
        async with projecting(redis_url, "wrong", "right"):
            await wait_until(lambda: [each for each in logs if each["event"] == "workspace not served"], NOTICED_S)
            await wait_until_folded(redis, "right", last)
            if name != "projector":
                assert (await damage(redis, "wrong")).startswith(sentence)

    (told, *_) = [each for each in logs if each["event"] == "workspace not served"]
    assert told["error"].startswith(sentence)
    assert "got a list" in told["error"]
    after = {each: await redis.dump(each) for each in await keys_like(redis, "kinfold:{wrong}:*")}
    if name != "projector":
        after.pop(key("wrong", "projector").encode())
    assert after == before


async def test_damaged_position_stops_its_workspace_alone(redis: Redis, redis_url: str) -> None:
    """Another workspace is served meanwhile, and this one again when its position is repaired."""
    await redis.hset(key("wrong", "position"), "folded", "many")
    async with projecting(redis_url, "wrong", "right"):
        assert "got `str`" in await damage(redis, "wrong")
        await wait_until_folded(redis, "right", await append(redis, "right", [identified(1)]))
        await redis.hset(key("wrong", "position"), mapping={"folded": 0, "generation": "repaired"})
        await wait_until_folded(redis, "wrong", await append(redis, "wrong", [identified(1)]))


async def test_type_that_changes_between_two_commits_stops_the_workspace(redis: Redis, redis_url: str) -> None:
    """The message names the command and the key, and other workspaces continue."""
    last = await append(redis, "wrong", [identified(1)])
    emails = key("wrong", "emails")
    async with projecting(redis_url, "wrong", "right"):
        await wait_until_folded(redis, "wrong", last)
        await redis.delete(emails)
        await redis.rpush(emails, "an item")
        await append(redis, "wrong", [identified(2)], start=1)
        told = await damage(redis, "wrong")
        await wait_until_folded(redis, "right", await append(redis, "right", [identified(1)]))
    assert f"HSET {emails} failed" in told or told.startswith(f"{emails}: expected a hash")


async def test_half_written_state_is_rebuilt_when_the_key_is_repaired(redis: Redis, redis_url: str, workspace: str) -> None:
    """The key is deleted, but no count shows that its fields are missing."""
    anonymous = [{"type": "MetadataSet", "visitorId": f"v-{each}", "metadata": {"plan": "pro"}} for each in range(3)]
    stamps = key(workspace, "visitor-stamps")
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, await append(redis, workspace, anonymous[:2]))
        await redis.delete(stamps)
        await redis.rpush(stamps, "an item")
        last = await append(redis, workspace, anonymous[2:], start=2)
        await damage(redis, workspace)
        await redis.delete(stamps)

        async def is_rebuilt() -> bool:
            return (await StateQueries(redis, workspace).status()).rebuilds == 1

        await wait_until(is_rebuilt, NOTICED_S)
        await wait_until_folded(redis, workspace, last)
    assert await redis.hlen(stamps) == 3
    assert await verify(redis, workspace) == []


async def test_lost_reply_hides_no_error(redis: Redis, redis_url: str, workspace: str) -> None:
    """The position moved, so the batch seems to be committed, but one of its commands failed."""
    async with CuttingProxy(redis_url) as proxy, Redis.from_url(proxy.url) as client:
        committing = Committing(client, redis, workspace)
        await committing.own()
        await committing.commit(identified(1))
        emails = key(workspace, "emails")
        await redis.delete(emails)
        await redis.rpush(emails, "an item")
        proxy.cut_after("answer", 0)
        with pytest.raises(RuntimeError, match=r"emails.*: expected a hash, got a list"):
            await committing.commit(identified(2))
        await committing.committer.close()
    assert await stored_position(redis, workspace) == committing.expected.position.stream_id.encode()


async def test_error_counts_although_the_next_transaction_cannot_be_armed(redis: Redis, workspace: str) -> None:
    """The error is in the array of EXEC, and the key of the log also has another type."""
    committing = Committing(redis, redis, workspace)
    await committing.own()
    await committing.commit(identified(1))
    batch = await committing.fold(identified(2))
    for name in ("emails", "events"):
        await redis.delete(key(workspace, name))
        await redis.rpush(key(workspace, name), "an item")
    with pytest.raises(RuntimeError, match="failed within a commit"):
        await committing.send(batch)
    await committing.committer.close()
