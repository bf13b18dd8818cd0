"""Two replays of one workspace at once: the later one takes over, and the earlier one reports it."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from kinfold_projections.entries import EVENT_FIELD
from kinfold_schemas.changes import ContactCreated, ContactUpdated
from kinfold_schemas.codec import encode_event
from kinfold_schemas.events import EventsExcluded
from kinfold_schemas.keys import key
from kinfold_services.replay.replay import Replay
from kinfold_services.settings import Settings
from kinfold_services.state.position import Position, Replaced
from tests.support.event_log import append, entry_id, history
from tests.support.projecting import fold_log, projecting, wait_until_folded
from tests.support.replaying import (
    NO_RULES,
    Answer,
    changes_since,
    differ_unseen,
    kinfold,
    leftovers,
    living_snapshot,
    quietly,
    replay,
    verify,
)
from tests.support.waiting import wait_until

ENTRIES = 8000


def job_of(client: Redis, workspace: str) -> Replay:
    """A replay that the test runs step by step."""
    return Replay(client, Settings(workspace=workspace), NO_RULES)


async def test_earlier_replay_ends_with_a_sentence(redis: Redis, redis_url: str, workspace: str):
    """With exit status 1 and no effect, or both finish in time. No traceback, no wrong result, and no keys left over."""
    await append(redis, workspace, history()[:ENTRIES])
    await fold_log(redis, redis_url, workspace)
    before = await living_snapshot(redis, workspace)
    await differ_unseen(redis, workspace)

    async def is_at_work() -> bool:
        return await redis.exists(key(workspace, "position", "replay")) == 1

    async with asyncio.TaskGroup() as group:
        earlier = group.create_task(kinfold(redis_url, workspace, "replay"))
        await wait_until(is_at_work)
        later = group.create_task(kinfold(redis_url, workspace, "replay"))

    answers: list[Answer] = [earlier.result(), later.result()]
    assert later.result().status == 0, later.result().said
    for answer in answers:
        assert answer.status == 0 or "another kinfold replay has taken over; this one replaced nothing" in answer.said
        assert answer.status in {0, 1}
        assert answer.out == []
    after = await living_snapshot(redis, workspace)
    assert after.position.pop(b"generation"), "it was replaced"
    after.must_equal(before)
    assert await leftovers(redis, workspace) == []


async def test_two_verifications_do_not_disturb_each_other(redis: Redis, redis_url: str, workspace: str):
    """Nor a running replay: a verification writes nothing, and each gets its result."""
    await append(redis, workspace, history()[:ENTRIES])
    await fold_log(redis, redis_url, workspace)

    answers = await asyncio.gather(*(kinfold(redis_url, workspace, each) for each in ("verify", "replay", "verify")))

    assert [(answer.status, answer.out) for answer in answers] == [(0, [])] * 3, answers
    assert await leftovers(redis, workspace) == []


@pytest.mark.parametrize("differs", [False, True])
@pytest.mark.parametrize("built", ["before it has begun", "after the comparison"])
async def test_replay_that_was_taken_over_replaces_nothing(
    redis: Redis, redis_url: str, workspace: str, built: str, *, differs: bool
):
    """At any step the staging area belongs to the other replay, and the swap is refused."""
    await append(redis, workspace, history()[:500])
    await fold_log(redis, redis_url, workspace)
    if differs:
        await differ_unseen(redis, workspace)
    earlier, later = job_of(redis, workspace), job_of(redis, workspace)
    await earlier.build(quietly)
    if built == "after the comparison":
        await earlier.compare()
    await later.build(quietly)
    before = await living_snapshot(redis, workspace)

    with pytest.raises(Replaced, match=workspace):
        await earlier.compare()
    with pytest.raises(Replaced, match=workspace):
        await earlier.replace(allow_lost=False)
    await earlier.close()

    (await living_snapshot(redis, workspace)).must_equal(before)
    await later.compare()
    assert await later.replace(allow_lost=False) == []
    await later.close()
    assert await leftovers(redis, workspace) == []


@pytest.mark.parametrize("step", ["_write", "_write_last", "_put_in_place"])
async def test_replay_that_is_taken_over_while_it_writes_replaces_nothing(
    redis: Redis, redis_url: str, workspace: str, step: str, monkeypatch: pytest.MonkeyPatch
):
    """Nothing that it wrote is part of what the later one writes."""
    await append(redis, workspace, history()[:500])
    await fold_log(redis, redis_url, workspace)
    expected = await living_snapshot(redis, workspace)
    await differ_unseen(redis, workspace)
    before = await living_snapshot(redis, workspace)
    earlier, later = job_of(redis, workspace), job_of(redis, workspace)
    await earlier.build(quietly)
    await earlier.compare()
    take_step = getattr(earlier, step)

    async def be_taken_over(*arguments: Any) -> Any:
        await later.build(quietly)
        return await take_step(*arguments)

    monkeypatch.setattr(earlier, step, be_taken_over)
    with pytest.raises(Replaced, match=workspace):
        await earlier.replace(allow_lost=False)
    await earlier.close()

    (await living_snapshot(redis, workspace)).must_equal(before)
    await later.compare()
    assert await later.replace(allow_lost=False) == []
    await later.close()
    after = await living_snapshot(redis, workspace)
    assert after.position.pop(b"generation"), "it was replaced"
    after.must_equal(expected)
    assert await leftovers(redis, workspace) == []


async def test_differences_of_another_replay_are_not_emitted(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
):
    """Both have compared; the earlier one writes its differences last. The feed gets those of the state that is swapped in."""
    await append(redis, workspace, [{"type": "VisitorIdentified", "externalId": "u-1", "name": "Ada"}])
    await fold_log(redis, redis_url, workspace)
    ((contact_id, data),) = (await living_snapshot(redis, workspace)).contacts.items()
    length = await redis.xlen(key(workspace, "changes"))
    earlier, later = job_of(redis, workspace), job_of(redis, workspace)
    await earlier.build(quietly)
    await earlier.compare()
    await redis.hset(key(workspace, "contacts"), contact_id, data.replace(b"Ada", b"Eve"))
    await later.build(quietly)
    await later.compare()
    put_in_place = later._put_in_place

    async def be_disturbed_and_put_in_place() -> bool:
        with pytest.raises(Replaced, match=workspace):
            await earlier._write_last(await earlier._stored.position())
        return await put_in_place()

    monkeypatch.setattr(later, "_put_in_place", be_disturbed_and_put_in_place)

    assert len(await later.replace(allow_lost=False)) == 1

    (change,) = await changes_since(redis, workspace, length)
    assert isinstance(change, ContactUpdated)
    assert change.changed == ["name"]


async def test_exclusion_that_arrives_during_a_replay_takes_full_effect(redis: Redis, redis_url: str, workspace: str):
    """It excludes entries that were folded and compared. Everything is compared again, and the feed gets ContactGone."""
    people = [{"type": "VisitorIdentified", "externalId": f"u-{number}"} for number in range(3)]
    async with projecting(redis_url, workspace):
        last = await append(redis, workspace, people)
        await wait_until_folded(redis, workspace, last)
        length = await redis.xlen(key(workspace, "changes"))
        job = job_of(redis, workspace)
        await job.build(quietly)
        assert await job.compare() == []
        event = EventsExcluded(entries=[entry_id(1)], reason="a test")
        last = await append(redis, workspace, [{EVENT_FIELD: encode_event(event)}], start=3)
        await wait_until_folded(redis, workspace, last)

        changes = await job.replace(allow_lost=False)

        assert [type(change).__name__ for change in changes] == ["ContactGone"]
        assert await changes_since(redis, workspace, length) == changes
        last = await append(redis, workspace, people, start=4)
        await wait_until_folded(redis, workspace, last)
    assert await verify(redis, workspace) == []
    assert await replay(redis, workspace) == []


async def test_feed_that_was_trimmed_during_a_replay_hides_nothing(redis: Redis, redis_url: str, workspace: str):
    """The changes of the live fold can no longer be read there, so everything is compared again."""
    await append(redis, workspace, history()[:300])
    await fold_log(redis, redis_url, workspace)
    job = job_of(redis, workspace)
    await job.build(quietly)
    assert await job.compare() == []
    contact_id, data = next(iter((await living_snapshot(redis, workspace)).contacts.items()))
    await redis.hset(key(workspace, "contacts"), contact_id, data.replace(b'"version":', b'"version":9'))
    await redis.xadd(key(workspace, "changes"), {"change": b"{}"})
    await redis.xtrim(key(workspace, "changes"), maxlen=0, approximate=False)

    changes = await job.replace(allow_lost=False)

    assert [change.contact_id for change in changes] == [contact_id.decode()]
    assert await verify(redis, workspace) == []


async def test_contact_that_only_the_live_fold_merges_is_emitted(redis: Redis, redis_url: str, workspace: str):
    """An address that was moved by hand makes the projector merge two contacts. The rebuilt state does not merge them."""
    people = [{"type": "VisitorIdentified", "externalId": "u-1"}, {"type": "VisitorIdentified", "email": "ben@example.org"}]
    await append(redis, workspace, people)
    await fold_log(redis, redis_url, workspace)
    ben = (await living_snapshot(redis, workspace)).emails[b"ben@example.org"]
    await redis.hset(key(workspace, "emails"), "ada@example.org", ben)
    job = job_of(redis, workspace)
    await job.build(quietly)
    assert await job.compare() == []
    await append(redis, workspace, [{"type": "VisitorIdentified", "externalId": "u-1", "email": "ada@example.org"}], start=2)
    await fold_log(redis, redis_url, workspace)
    assert b"mergedInto" in (await living_snapshot(redis, workspace)).contacts[ben]

    changes = await job.replace(allow_lost=False)

    assert (ben.decode(), ContactCreated) in {(change.contact_id, type(change)) for change in changes}
    assert await verify(redis, workspace) == []


async def test_projector_is_held_back_as_long_as_a_replay_needs(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
):
    """The hold expires after a while, because the replay may have been killed. A live replay extends it."""
    monkeypatch.setattr("kinfold_services.replay.replay._HOLD_AGAIN_S", 0.05)
    await append(redis, workspace, history()[:300])
    await fold_log(redis, redis_url, workspace)
    await differ_unseen(redis, workspace)
    job = job_of(redis, workspace)
    await job.build(quietly)
    await job.compare()
    write_last, hold = job._write_last, key(workspace, "hold")

    async def write_slowly(living: Position) -> None:
        left_ms = await redis.pttl(hold)

        async def is_extended() -> bool:
            nonlocal left_ms
            before, left_ms = left_ms, await redis.pttl(hold)
            return left_ms > before

        await wait_until(is_extended)
        await wait_until(is_extended)
        await write_last(living)

    monkeypatch.setattr(job, "_write_last", write_slowly)

    assert await job.replace(allow_lost=False) == []
