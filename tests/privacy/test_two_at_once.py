"""Erasures and replays at once, and on a cluster (contract section 10)."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis

from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_services.connections import connect
from kinfold_services.privacy import eraser as eraser_module
from kinfold_services.privacy.eraser import Eraser
from kinfold_services.privacy.records import Receipt
from kinfold_services.privacy.rewriting import Rewriting
from kinfold_services.replay.replay import Replay
from kinfold_services.settings import Settings
from kinfold_services.state.position import Replaced
from kinfold_services.state.queries import Identifier
from tests.support.engines import cluster
from tests.support.erased_people import ADA, ADAS_TEXTS, adas_events, publish
from tests.support.erasures import erase, keys_with
from tests.support.event_log import append, history
from tests.support.projecting import fold_log
from tests.support.proxy import Proxy
from tests.support.replaying import leftovers, quietly, verify
from tests.support.waiting import wait_until

BEN = Identifier(external_id="ben")


async def test_two_erasures_at_once_both_happen(redis: Redis, redis_url: str, workspace: str) -> None:
    await append(redis, workspace, history()[:300])
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    async with connect(redis_url) as one, connect(redis_url) as other:
        receipts = await asyncio.gather(erase(one, workspace, ADA), erase(other, workspace, BEN), erase(redis, workspace, ADA))

    assert [each.state for each in receipts] == ["done"] * 3
    assert sorted(each.people for each in receipts) in ([0, 1, 1], [1, 1, 1])
    assert await keys_with(redis, workspace, [*ADAS_TEXTS, "kiosk"]) == {}
    assert await verify(redis, workspace) == []
    assert await leftovers(redis, workspace) == []


async def test_lock_of_an_erasure_outlasts_a_moment_without_redis(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise another erasure would begin beside it."""
    monkeypatch.setattr(eraser_module, "_LOCK_AGAIN_S", 0.05)
    nearly_all = eraser_module._LOCK_MS - 500
    lock = key(workspace, "erasing")

    async def remains(holds: Callable[[int], bool]) -> bool:
        return holds(int(await redis.pttl(lock)))

    with Proxy(redis_url) as proxy:
        async with connect(proxy.url) as client, Eraser(client, Settings(workspace=workspace)).alone():
            proxy.refuse()
            await wait_until(partial(remains, lambda ms: ms < nearly_all))
            proxy.accept()
            await wait_until(partial(remains, lambda ms: ms > nearly_all))


async def test_erasure_that_lost_its_lock_writes_nothing_more(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process was stopped until the lock had expired, and another one has erased meanwhile."""
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    monkeypatch.setattr(eraser_module, "_LOCK_AGAIN_S", 1000.0)
    before_hold, stopped, receipts = Rewriting._before_hold, list[Rewriting](), list[Receipt]()

    async def stop_before_hold(rewriting: Rewriting) -> None:
        if not stopped:
            stopped.append(rewriting)
            await redis.delete(key(workspace, "erasing"))
            async with connect(redis_url) as other:
                receipts.extend(await Eraser(other, Settings(workspace=workspace)).finish_pending())
            with pytest.raises(Replaced):
                await rewriting._copy_log_page()
            with pytest.raises(Replaced):
                await rewriting._copy_feed_page()
        await before_hold(rewriting)

    monkeypatch.setattr(Rewriting, "_before_hold", stop_before_hold)
    eraser = Eraser(redis, Settings(workspace=workspace))
    await eraser.request([ADA])

    assert await eraser.finish_pending() == []

    assert [each.state for each in receipts] == ["done"]
    assert await keys_with(redis, workspace, ADAS_TEXTS) == {}
    assert await leftovers(redis, workspace) == []


async def test_erasure_ends_without_an_error_if_redis_is_away_when_it_unlocks(redis_url: str, workspace: str) -> None:
    """The lock expires. An error would say that the erasure is not done."""
    with Proxy(redis_url) as proxy:
        async with connect(proxy.url) as client, Eraser(client, Settings(workspace=workspace)).alone():
            proxy.refuse()


async def test_replay_that_began_before_an_erasure_replaces_nothing(redis: Redis, redis_url: str, workspace: str) -> None:
    """It has folded the log as it was."""
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    async with connect(redis_url) as other:
        replay = Replay(other, Settings(workspace=workspace), IdentifierRules())
        await replay.build(quietly)

        await erase(redis, workspace, ADA)

        with pytest.raises(Replaced):
            await replay.compare()
        await replay.close()
    assert await keys_with(redis, workspace, ADAS_TEXTS) == {}
    assert await verify(redis, workspace) == []


async def test_erasure_begins_again_after_a_replay_that_began_meanwhile(redis: Redis, redis_url: str, workspace: str) -> None:
    await append(redis, workspace, history()[:3000])
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    replays = 0

    async def disturb(other: Redis) -> None:
        nonlocal replays
        replay = Replay(other, Settings(workspace=workspace), IdentifierRules())
        await replay.build(quietly)  # claims the staging area
        replays += 1
        await replay.close()

    async with connect(redis_url) as other:
        erasing = asyncio.create_task(erase(redis, workspace, ADA))
        for _ in range(3):
            await disturb(other)
        receipt = await erasing

    assert replays == 3
    assert receipt.people == 1
    assert await keys_with(redis, workspace, ADAS_TEXTS) == {}
    assert await leftovers(redis, workspace) == []


async def test_person_is_erased_on_a_cluster(tmp_path: Path, workspace: str) -> None:
    async with cluster(tmp_path) as url:
        client = connect(url)
        await append(client, workspace, history()[:300])
        await publish(client, workspace, *adas_events())
        await fold_log(client, url, workspace)
        before = await client.hgetall(key(workspace, "contacts"))

        receipt = await erase(client, workspace, ADA)

        assert receipt.state == "done"
        assert await keys_with(client, workspace, ADAS_TEXTS) == {}
        after = await client.hgetall(key(workspace, "contacts"))
        gone = {each.encode() for each in receipt.contact_ids}
        assert {each: value for each, value in after.items() if each not in gone} == {
            each: value for each, value in before.items() if each not in gone
        }
        assert await verify(client, workspace) == []
        await client.aclose()


async def test_erasure_that_was_recorded_is_finished_by_the_next_start(redis: Redis, redis_url: str, workspace: str) -> None:
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    recorded = await Eraser(redis, Settings(workspace=workspace)).request([ADA])

    (receipt,) = await Eraser(redis, Settings(workspace=workspace)).finish_pending()

    assert (receipt.erasure, receipt.state, receipt.people) == (recorded.erasure, "done", 1)
    assert await keys_with(redis, workspace, ADAS_TEXTS) == {}
    assert await Eraser(redis, Settings(workspace=workspace)).finish_pending() == []
