"""If log and state agree, nothing is written: `verify` never writes, and `replay` writes nothing to the state."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError

from kinfold_schemas.keys import COMMITTED, STATE, PrivateName, PublicName, key
from kinfold_services.log.exclusions import excludes
from kinfold_services.replay.rebuild import Rebuild
from kinfold_services.settings import Settings
from kinfold_services.state.position import position_fields
from tests.support.costs import costing
from tests.support.event_log import append, entry_id, history
from tests.support.lengths import short_or_long
from tests.support.malformed import MALFORMED
from tests.support.nodes import ask
from tests.support.projecting import fold_log, newest_entry, projecting, wait_until_folded
from tests.support.replaying import (
    NO_RULES,
    append_log,
    kinfold,
    leftovers,
    living_snapshot,
    replay,
    verify,
)
from tests.support.snapshots import keys_like
from tests.support.strategies import Log, crowded_logs, logs
from tests.support.topologies import replicated
from tests.support.waiting import wait_until

ENTRIES: Final = 3000
WRITES: Final = frozenset(
    {"append", "copy", "del", "expire", "hdel", "hincrby", "hset", "hsetnx", "pexpire", "publish", "rename", "restore", "rpush"}
    | {"sadd", "set", "setex", "setnx", "srem", "unlink", "xadd", "xdel", "xgroup|setid", "xsetid", "xtrim", "zadd", "zrem"}
)
"""Every command with which kinfold writes, and some others."""


async def contents(client: Redis) -> dict[bytes, bytes | None]:
    """Every key of the server with its serialised value."""
    return {name: await client.dump(name) for name in await keys_like(client, "*")}


async def fold_a_history(client: Redis, url: str, workspace: str) -> None:
    """Fold events of every kind, including malformed entries."""
    events: list[bytes | dict[bytes, bytes]] = [*history()[:ENTRIES], *(bad.fields for bad in MALFORMED)]
    await append(client, workspace, events)
    await fold_log(client, url, workspace)


@pytest.mark.parametrize("state", ["equal", "other"])
async def test_verification_writes_nothing(redis: Redis, redis_url: str, workspace: str, state: str):
    """Not even outside of the state, with any result."""
    await fold_a_history(redis, redis_url, workspace)
    if state == "other":
        await redis.hset(key(workspace, "emails"), "nobody@example.org", "ct_nobody")
    before = await contents(redis)

    async with costing(redis) as cost:
        found = await verify(redis, workspace)

    assert [each.id for each in found] == (["nobody@example.org"] if state == "other" else [])
    assert not WRITES & cost.commands.keys(), cost
    assert await contents(redis) == before


async def test_verification_runs_against_a_replica(tmp_path: Path, workspace: str):
    """The command checks the server and its user first. The replica rejects every write."""
    async with replicated(tmp_path) as (primary, replica), primary.client() as client:
        urls = [f"redis://127.0.0.1:{node.port}" for node in (primary, replica)]
        await append(client, workspace, history()[:500])
        await fold_log(client, urls[0], workspace)
        async with replica.client() as other:
            await wait_until(lambda: _has(other, workspace, entry_id(499)))
            with pytest.raises(ReadOnlyError):
                await ask(other, "SET", "a", "b")

        answer = await kinfold(urls[1], workspace, "verify")

        assert (answer.status, answer.out) == (0, []), answer.said
        assert f"equal at {entry_id(499)}: 500 entries folded" in answer.said


async def _has(client: Redis, workspace: str, position: str) -> bool:
    stored = await cast("Awaitable[bytes | None]", client.hget(key(workspace, "position"), "stream_id"))
    return stored == position.encode()


async def test_replay_of_an_equal_state_does_not_write_to_it(redis: Redis, redis_url: str, workspace: str):
    """No key of the state is touched, the feed gets nothing, and the projector is not held back."""
    await fold_a_history(redis, redis_url, workspace)
    names: list[PublicName | PrivateName] = [*STATE, "changes", "hold"]

    async with redis.pipeline(transaction=True) as pipeline:
        await pipeline.watch(*(key(workspace, name) for name in names))
        async with costing(redis) as cost:
            assert await replay(redis, workspace) == []
        cast("Any", pipeline).multi()
        pipeline.echo("untouched")
        assert await pipeline.execute() == [b"untouched"], "nothing that was watched has changed"

    assert not {"hset", "xadd", "zadd", "rename", "set"} & (cost.commands.keys() - {"hset"}), cost
    assert cost.commands["hset"] == 1, "it claims the staging area"
    assert await leftovers(redis, workspace) == []


async def test_replay_of_an_equal_state_writes_nothing_while_the_projector_folds(redis: Redis, redis_url: str, workspace: str):
    """Newer entries on one side are not a difference."""
    await append(redis, workspace, history()[:1000])
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, entry_id(999))

        async def load() -> None:
            for first in range(1000, 5000, 50):
                last = await append(redis, workspace, [*history()[first : first + 49], b"{"], start=first)
                await wait_until_folded(redis, workspace, last)

        loading = asyncio.create_task(load())
        replays = 0
        async with Redis.from_url(redis_url) as client:
            while not loading.done():
                assert await replay(client, workspace) == []
                replays += 1
        await loading

    assert replays > 1
    assert b"generation" not in (await living_snapshot(redis, workspace)).position
    assert await verify(redis, workspace) == []


async def add_something(client: Any, where: str) -> None:
    """Add something to a key of the state that no fold wrote."""
    match await client.type(where):
        case b"hash" if where.endswith(":position"):
            await client.hincrby(where, "folded", 1)
        case b"hash":
            await client.hset(where, "nobody", b"\x90")
        case b"zset":
            await client.zadd(where, {"nobody": 0})
        case b"stream":
            await client.xadd(where, {"event": "x", "entry": entry_id(1), "reason": "invalid", "detail": "x"})
        case _:
            assert where.endswith(":excluded")
            await client.sadd(where, entry_id(1))


async def remove_something(client: Any, where: str) -> None:
    """Remove something from a key of the state. `excluded` is empty, so this adds to it once more."""
    match await client.type(where):
        case b"hash":
            await client.hdel(where, "digest" if where.endswith(":position") else (await client.hkeys(where))[0])
        case b"zset":
            await client.zpopmax(where)
        case b"stream":
            await client.xdel(where, (await client.xrange(where, count=1))[0][0])
        case _:
            await add_something(client, where)


@pytest.mark.parametrize("name", [*STATE])
async def test_every_part_of_the_state_is_repaired(
    redis: Redis, redis_url: str, workspace: str, name: PublicName | PrivateName
):
    """Including private data. Surplus and missing entries are both found."""
    await fold_a_history(redis, redis_url, workspace)
    healthy = await living_snapshot(redis, workspace)
    where = key(workspace, name)

    for damage in (add_something, remove_something):
        await damage(redis, where)

        await replay(redis, workspace)

        after = await living_snapshot(redis, workspace)
        assert after.position.pop(b"generation"), "it was replaced"
        after._replace(feed=healthy.feed).must_equal(healthy)
    assert await replay(redis, workspace) == []


_any_log = st.one_of(logs(max_size=40), crowded_logs())


@settings(max_examples=short_or_long(8, 20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_any_log, st.integers(1, 7), st.integers(1, 7), st.integers(0, 40))
async def test_rebuild_in_memory_equals_what_projectors_store(  # noqa: PLR0917  fixtures
    redis: Redis, redis_url: str, workspace: str, log: Log, first: int, second: int, cut: int
):
    """Byte for byte, in every key: two projectors with different batches, and the second one caches nothing."""
    log = [entry for entry in log if excludes(entry[1]) is None]  # only a replay leaves out the entries that these name
    await redis.flushdb()
    for part, options in ((log[:cut], {"batch_entries": first}), (log[cut:], {"batch_entries": second, "cache_bytes": 0})):
        await append_log(redis, workspace, part)
        if part:
            await fold_log(redis, redis_url, workspace, **options)
    rebuild = Rebuild(redis, Settings(workspace=workspace), NO_RULES)
    if not log:
        return
    await rebuild.begin()
    await rebuild.advance((await newest_entry(redis, workspace, "events")).decode())

    for name in COMMITTED:
        if name == "position":
            stored = await hash_of(redis, workspace, name)
            stored.pop(b"owner")
            assert stored == {each.encode(): str(value).encode() for each, value in position_fields(rebuild.position).items()}
            continue
        kind = cast("Any", name)
        ids = [*rebuild.ids(kind)]
        ours = dict(zip(map(str.encode, ids), rebuild.stored(kind, ids), strict=True))
        if name in {"members", "created"}:
            members = await redis.zrange(key(workspace, name), 0, -1, withscores=True)
            assert ours == {each: b"%g" % score for each, score in cast("list[tuple[bytes, float]]", members)}
        else:
            assert ours == await hash_of(redis, workspace, name), name
    assert not rebuild.stored_rejects.differ
    assert await rebuild.stored_rejects.next() is None


async def hash_of(client: Redis, workspace: str, name: PublicName | PrivateName) -> dict[bytes, bytes]:
    """A hash of the state."""
    return await cast("Awaitable[dict[bytes, bytes]]", client.hgetall(key(workspace, name)))
