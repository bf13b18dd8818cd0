"""Retention beside what else goes on: a projector, a replay, another run, an export; and a rebuild and an import afterwards."""

import asyncio
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final, cast

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.log.baseline import LogCut
from kinfold_services.log.pages import log_extent
from kinfold_services.privacy.rewriting import Rewriting
from kinfold_services.replay.replay import Replay
from kinfold_services.retention.baselines import BaselineMaker
from kinfold_services.settings import Settings
from kinfold_services.transfer.exporting import export_log
from tests.support.event_log import append, entry_id, history
from tests.support.projecting import fold_log, projecting, wait_until_folded
from tests.support.replaying import NO_RULES, kinfold, leftovers, living_snapshot, quietly, replay, verify
from tests.support.retaining import cut_upto
from tests.support.waiting import wait_until

ENTRIES: Final = 3000
CUT: Final = entry_id(ENTRIES // 2 - 1)
ANONYMOUS: Final = {"type": "VisitorSeen", "visitorId": "v-anonymous"}


async def log_with_an_anonymous_visitor(client: Redis, workspace: str) -> None:
    """Append the example history; its first entry is the only one of a visitor."""
    await append(client, workspace, [ANONYMOUS, *history()[: ENTRIES - 1]])


async def test_visitor_leaves_a_running_projector_and_comes_back_as_a_new_one(redis: Redis, redis_url: str, workspace: str):
    """The projector holds the visitor in memory; it notices that the state is another one, and goes on."""
    await log_with_an_anonymous_visitor(redis, workspace)
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, entry_id(ENTRIES - 1))
        receipt = await cut_upto(redis, workspace, CUT, anonymous=0)
        assert receipt is not None
        assert receipt.removed.visitors >= 1
        assert not await redis.hexists(key(workspace, "visitors"), "v-anonymous")
        last = await append(redis, workspace, [*history()[ENTRIES : ENTRIES + 500], ANONYMOUS], start=ENTRIES)
        await wait_until_folded(redis, workspace, last)

    (visitor,) = (await kinfold(redis_url, workspace, "show", "--visitor", "v-anonymous")).out
    assert visitor["firstSeenAt"] == visitor["lastSeenAt"]
    (status,) = (await kinfold(redis_url, workspace, "status")).out
    assert (status["rebuilds"], status["entriesLost"], status["damage"]) == (0, 0, None)
    assert status["visitors"] == await redis.hlen(key(workspace, "visitors"))
    assert await verify(redis, workspace) == []
    assert await replay(redis, workspace) == []


async def test_visitor_that_comes_back_meanwhile_is_a_new_one(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
):
    """Its old events go, and the new one stays."""
    await log_with_an_anonymous_visitor(redis, workspace)
    copy_all, returns = Rewriting._copy_all, [ANONYMOUS]

    async def comes_back(self: Rewriting) -> None:
        if returns:
            last = await append(redis, workspace, [returns.pop()], start=ENTRIES)
            await wait_until_folded(redis, workspace, last)
        await copy_all(self)

    monkeypatch.setattr(Rewriting, "_copy_all", comes_back)
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, entry_id(ENTRIES - 1))
        assert await cut_upto(redis, workspace, CUT, anonymous=0) is not None
    assert returns == []
    stored = await cast("Awaitable[bytes]", redis.hget(key(workspace, "visitors"), "v-anonymous"))
    assert json.loads(stored)["firstSeenAt"] == json.loads(stored)["lastSeenAt"]
    assert await verify(redis, workspace) == []
    assert await replay(redis, workspace) == []


async def test_state_is_rebuilt_from_the_baseline(redis: Redis, redis_url: str, workspace: str):
    """Where keys of the state were lost, or all of them: by the projector itself, to the last byte."""
    await log_with_an_anonymous_visitor(redis, workspace)
    await fold_log(redis, redis_url, workspace)
    await cut_upto(redis, workspace, CUT, anonymous=0)
    await fold_log(redis, redis_url, workspace)
    before = await living_snapshot(redis, workspace)
    for lost in (["contacts"], ["position", "contacts", "visitors", "external-ids", "emails", "members", "created"]):
        await redis.delete(*(key(workspace, each) for each in lost))  # type: ignore[arg-type]
        async with projecting(redis_url, workspace):

            async def is_rebuilt() -> bool:
                stamps = key(workspace, "contacts")
                return await redis.hlen(stamps) == len(before.contacts)

            await wait_until(is_rebuilt)
        after = await living_snapshot(redis, workspace)
        position = {**after.position, **{each: before.position[each] for each in (b"generation", b"log")}}
        after._replace(feed=before.feed, position=position).must_equal(before)


async def test_replay_that_began_before_the_cut_begins_again(redis: Redis, redis_url: str, workspace: str):
    """It was made from entries that are gone; it ends with the state that the baseline and the rest make."""
    await log_with_an_anonymous_visitor(redis, workspace)
    await fold_log(redis, redis_url, workspace)
    job, wrong = Replay(redis, Settings(workspace=workspace), NO_RULES), ("u-wrong", "ct_wrong")
    await cast("Any", redis).hset(key(workspace, "external-ids"), *wrong)
    try:
        await job.build(quietly)
        await job.compare()
        await cast("Any", redis).hdel(key(workspace, "external-ids"), "u-wrong")  # else nothing is cut
        assert await cut_upto(redis, workspace, CUT) is not None
        await cast("Any", redis).hset(key(workspace, "external-ids"), *wrong)
        await job.replace(allow_lost=False)
    finally:
        await job.close()

    assert job.rebuild.beginnings == 2
    assert not await redis.hexists(key(workspace, "external-ids"), "u-wrong")
    assert await verify(redis, workspace) == []
    assert await leftovers(redis, workspace) == []


async def test_two_runs_at_once_cut_once(redis: Redis, redis_url: str, workspace: str):
    """The second finds that the log begins elsewhere, and that nothing is due any more."""
    await log_with_an_anonymous_visitor(redis, workspace)
    await fold_log(redis, redis_url, workspace)

    answers = await asyncio.gather(*(cut_upto(redis, workspace, CUT, anonymous=0) for _ in range(3)))

    assert sum(receipt is not None for receipt in answers) == 1
    assert await redis.llen(key(workspace, "retention-receipts")) == 1
    assert await redis.xlen(key(workspace, "events")) == ENTRIES // 2
    assert await verify(redis, workspace) == []


async def test_receipt_of_an_interrupted_run_is_left_by_the_next(redis: Redis, redis_url: str, workspace: str):
    """Killed after the visitors went and before the log was cut: what went is in a receipt."""
    await log_with_an_anonymous_visitor(redis, workspace)
    await fold_log(redis, redis_url, workspace)

    async def die(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaselineMaker, "prepare", die)
        with pytest.raises(asyncio.CancelledError):
            await cut_upto(redis, workspace, CUT, anonymous=0)
    assert await redis.xlen(key(workspace, "events")) == ENTRIES
    assert await cut_upto(redis, workspace, CUT, anonymous=0) is not None
    left = [json.loads(each) for each in await cast("Any", redis).lrange(key(workspace, "retention-receipts"), 0, -1)]
    assert [(each["wasInterrupted"], each["removed"]["visitors"] > 0, each["logCutAt"]) for each in left] == [
        (True, True, None),
        (False, False, CUT),
    ]
    assert await verify(redis, workspace) == []


async def test_export_begins_at_the_baseline_and_an_import_restores_an_equal_state(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
):
    """Contacts, visitors, counts and position, byte for byte. Only the same workspace takes it, because of the contact ids."""
    await log_with_an_anonymous_visitor(redis, workspace)
    await fold_log(redis, redis_url, workspace)
    await cut_upto(redis, workspace, CUT, anonymous=0)
    await fold_log(redis, redis_url, workspace)
    before, file = await living_snapshot(redis, workspace), tmp_path / "log.ndjson.gz"
    assert (await kinfold(redis_url, workspace, "export", file)).status == 0
    renamed = await kinfold(redis_url, "other", "import", file, "--rename")
    assert renamed.status == 1
    assert "begins at a baseline" in renamed.said
    await redis.flushdb()

    assert (await kinfold(redis_url, workspace, "import", file)).status == 0
    again = await kinfold(redis_url, workspace, "import", file)
    assert again.status == 0
    assert again.out[0]["appended"] == 0
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, entry_id(ENTRIES - 1))
        last = await append(redis, workspace, history()[:10], start=ENTRIES)
        await wait_until_folded(redis, workspace, last)
    (status,) = (await kinfold(redis_url, workspace, "status")).out
    assert (status["lag"], status["entriesLost"]) == (0, 0)
    assert await verify(redis, workspace) == []
    shown = (await kinfold(redis_url, workspace, "contacts", "--at", entry_id(ENTRIES - 1))).out
    assert [contact["id"] for contact in shown] == sorted(
        each.decode() for each, data in before.contacts.items() if b"mergedInto" not in data[:90]
    )
    visitors = await cast("Awaitable[list[bytes]]", redis.hkeys(key(workspace, "visitors")))
    assert set(visitors) == before.visitors.keys()


async def test_export_that_a_cut_overtakes_leaves_no_file(redis: Redis, redis_url: str, workspace: str, tmp_path: Path):
    """It would lack entries between two of its pages."""
    await log_with_an_anonymous_visitor(redis, workspace)
    await fold_log(redis, redis_url, workspace)
    extent = await log_extent(redis, workspace)
    await cut_upto(redis, workspace, CUT)
    with (tmp_path / "log").open("wb") as file, pytest.raises(LogCut, match="was cut while it was exported"):
        await export_log(redis, workspace, extent, file, quietly)
