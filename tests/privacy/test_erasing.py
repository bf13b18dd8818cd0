"""After an erasure the person is in no key, and everybody else is as before (contract section 10)."""

import json
from typing import cast

import msgspec
from redis.asyncio import Redis
from structlog.testing import capture_logs

from kinfold_schemas.changes import ContactErased
from kinfold_schemas.keys import key
from tests.support.erased_people import ADA, ADAS_TEXTS, adas_events, publish
from tests.support.erasures import erase, keys_with
from tests.support.event_log import append, history
from tests.support.projecting import fold_log, newest_entry, projecting, wait_until_folded
from tests.support.replaying import changes_since, kinfold, leftovers, verify
from tests.support.snapshots import take_snapshot


async def test_person_is_in_no_key_and_everybody_else_is_as_before(redis: Redis, redis_url: str, workspace: str) -> None:
    await append(redis, workspace, history()[:300])
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    assert len(await keys_with(redis, workspace, ADAS_TEXTS)) >= 6
    before = await take_snapshot(redis, workspace)
    ada, ben = [cast("bytes", await redis.hget(key(workspace, "external-ids"), each)) for each in ("ada-1815", "ben")]
    length = await redis.xlen(key(workspace, "events"))
    feed_length = await redis.xlen(key(workspace, "changes"))

    receipt = await erase(redis, workspace, ADA)

    assert await keys_with(redis, workspace, ADAS_TEXTS) == {}
    after = await take_snapshot(redis, workspace)
    assert {each: value for each, value in after.contacts.items() if each != ada} == {
        each: value for each, value in before.contacts.items() if each != ada
    }
    assert json.loads(after.contacts[ada]) == {"id": ada.decode(), "mergedInto": "erased"}
    assert ben in after.contacts
    assert await verify(redis, workspace) == []
    assert await leftovers(redis, workspace) == []
    (told,) = await changes_since(redis, workspace, feed_length)
    assert isinstance(told, ContactErased)
    assert told.contact_id == ada.decode()
    assert await redis.xlen(key(workspace, "events")) == length + 1
    assert receipt.state == "done"
    assert (receipt.people, receipt.contact_ids) == (1, [ada.decode()])
    assert [(check.place, check.found) for check in receipt.checks][:1] == [("every key of the workspace", 0)]
    assert not any(text.encode() in msgspec.json.encode(receipt) for text in ADAS_TEXTS)


async def test_replay_and_the_projector_bring_nobody_back(redis: Redis, redis_url: str, workspace: str) -> None:
    events = [{**event, "id": f"e-{number}"} for number, event in enumerate(adas_events())]
    await publish(redis, workspace, *events)
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, await newest_entry(redis, workspace, "events"))
        await erase(redis, workspace, ADA)
        await publish(redis, workspace, *events)
        await wait_until_folded(redis, workspace, await newest_entry(redis, workspace, "events"))
        assert await redis.hget(key(workspace, "external-ids"), "ada-1815") is None

        await publish(redis, workspace, {"type": "VisitorIdentified", "externalId": "ada-1815"})
        await wait_until_folded(redis, workspace, await newest_entry(redis, workspace, "events"))
        assert await redis.hget(key(workspace, "external-ids"), "ada-1815") is not None

    answer = await kinfold(redis_url, workspace, "replay")
    assert (answer.status, answer.out) == (0, []), answer.said
    assert (await kinfold(redis_url, workspace, "verify")).status == 0


async def test_projector_reads_the_end_of_the_rewritten_log_once(redis: Redis, redis_url: str, workspace: str) -> None:
    """Events wait meanwhile: for a second, where the duplicate window is full."""
    await publish(redis, workspace, *adas_events())
    with capture_logs() as logs:
        async with projecting(redis_url, workspace):
            await wait_until_folded(redis, workspace, await newest_entry(redis, workspace, "events"))
            await erase(redis, workspace, ADA)
            await publish(redis, workspace, {"type": "VisitorIdentified", "externalId": "ben"})
            await wait_until_folded(redis, workspace, await newest_entry(redis, workspace, "events"))

    assert [each["event"] for each in logs].count("workspace opened") == 2
