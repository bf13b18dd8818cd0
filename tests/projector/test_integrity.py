"""A log that does not belong to its state, a state that has lost keys, and entries that were trimmed too early.

The projector detects each of them, reports it, and repairs what the log can repair (contract section 8).
"""

from collections.abc import Awaitable
from typing import Any, Final, cast

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from kinfold_schemas.changes import ContactErased, ContactGone, ContactUpdated
from kinfold_schemas.keys import PrivateName, PublicName, key
from kinfold_services.state.queries import StateQueries
from kinfold_services.state.reader import StateReader
from kinfold_services.state.status import Status
from tests.support.event_log import append, entry_id, history
from tests.support.projecting import fold_log, projecting, stored_position, wait_until_folded
from tests.support.replaying import changes_since, kinfold, verify
from tests.support.waiting import wait_until

MEND_S: Final = 120.0


def identify(number: int) -> dict[str, Any]:
    """Somebody new."""
    return {
        "type": "VisitorIdentified",
        "visitorId": f"v-{number}",
        "externalId": f"u-{number}",
        "email": f"u{number}@example.org",
    }


PEOPLE: Final = [identify(number) for number in range(20)]


async def status_of(client: Redis, workspace: str) -> Status:
    """The output of `kinfold status`."""
    return await StateQueries(client, workspace).status()


async def assert_is_mended(client: Redis, workspace: str) -> None:
    """Assert that the state equals a fold of the log, and that a reader of the feed has the same contacts."""
    assert await verify(client, workspace) == []
    applied: dict[str, object] = {}
    for change in await changes_since(client, workspace, 0):
        if isinstance(change, ContactGone | ContactErased):
            applied.pop(change.contact_id, None)
        else:
            applied[change.contact_id] = change.contact.external_id
    stored = {each.id: each.external_id async for each in StateQueries(client, workspace).contacts()}
    assert applied == stored
    assert (await status_of(client, workspace)).lag == 0


async def rebuilt(client: Redis, workspace: str, times: int = 1) -> None:
    """Wait until the projector has rebuilt the state."""

    async def is_rebuilt() -> bool:
        return (await status_of(client, workspace)).rebuilds == times

    await wait_until(is_rebuilt, MEND_S)


async def older_copy(client: Redis, workspace: str) -> bytes:
    """A copy of the current log."""
    return cast("bytes", await client.dump(key(workspace, "events")))


async def bring_back(client: Redis, workspace: str, copy: bytes) -> None:
    """Replace the log with an older copy. The state stays."""
    await client.restore(key(workspace, "events"), 0, copy, replace=True)


async def test_state_ahead_of_its_log_is_rebuilt_at_the_start(redis: Redis, redis_url: str, workspace: str) -> None:
    """With an older copy of the log, contacts that came from the lost end are gone, and later entries are folded."""
    await append(redis, workspace, PEOPLE[:5])
    copy = await older_copy(redis, workspace)
    await append(redis, workspace, PEOPLE[5:8], start=5)
    await fold_log(redis, redis_url, workspace)
    length = await redis.xlen(key(workspace, "changes"))
    await bring_back(redis, workspace, copy)
    # ids at or below the position: they would never be read
    await append(redis, workspace, PEOPLE[10:12], start=5)

    with capture_logs() as logs:
        async with projecting(redis_url, workspace):
            await rebuilt(redis, workspace)
            await wait_until_folded(redis, workspace, entry_id(6))
            last = await append(redis, workspace, PEOPLE[12:13], start=7)
            await wait_until_folded(redis, workspace, last)

    told = await changes_since(redis, workspace, length)
    # the id of a contact comes from its entry, so the first two are now other people
    assert [type(each) for each in told if each.cause == "replay"] == [ContactUpdated, ContactUpdated, ContactGone]
    assert "the state is ahead of the log" in str((await status_of(redis, workspace)).rebuild_reason)
    assert [each for each in logs if each["event"] == "state is rebuilt from the log" and each["log_level"] == "error"]
    await assert_is_mended(redis, workspace)


async def test_log_that_loses_its_end_is_noticed(redis: Redis, redis_url: str, workspace: str) -> None:
    """Although new entries were folded into the old state before the projector checked."""
    await append(redis, workspace, PEOPLE[:5])
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, entry_id(4))
        copy = await older_copy(redis, workspace)
        await append(redis, workspace, PEOPLE[5:8], start=5)
        await wait_until_folded(redis, workspace, entry_id(7))
        await wait_for_a_look(redis)
        await bring_back(redis, workspace, copy)
        last = await append(redis, workspace, PEOPLE[10:12], start=10)
        await rebuilt(redis, workspace)
        await wait_until_folded(redis, workspace, last)

    await assert_is_mended(redis, workspace)


async def wait_for_a_look(client: Redis) -> None:
    """Wait until the projector has checked its log twice, so that it has seen the last position there."""

    async def looks() -> int:
        stats = cast("dict[str, dict[str, int]]", await client.info("commandstats"))
        return stats.get("cmdstat_xrange", {}).get("calls", 0)

    target = await looks() + 2

    async def has_looked() -> bool:
        return await looks() >= target

    await wait_until(has_looked, MEND_S)


async def test_other_entry_with_the_same_id_is_another_log(redis: Redis, redis_url: str, workspace: str) -> None:
    """As after a failover that lost the end of the log, when another producer got the same id."""
    await append(redis, workspace, PEOPLE[:5])
    copy = await older_copy(redis, workspace)
    await append(redis, workspace, PEOPLE[5:6], start=5)
    await fold_log(redis, redis_url, workspace)
    await bring_back(redis, workspace, copy)
    await append(redis, workspace, PEOPLE[7:8], start=5)

    async with projecting(redis_url, workspace):
        await rebuilt(redis, workspace)

    assert "the log is another one" in str((await status_of(redis, workspace)).rebuild_reason)
    await assert_is_mended(redis, workspace)


@pytest.mark.parametrize("how", ["trimmed", "trimmed to nothing", "deleted", "a repeated name"])
async def test_ordinary_events_of_a_log_do_not_cause_a_rebuild(redis: Redis, redis_url: str, workspace: str, how: str) -> None:
    """Trimming folded entries, deleting an entry, and an entry with a repeated field name, which also has a digest."""
    await append(redis, workspace, PEOPLE[:5])
    if how == "a repeated name":
        event = b'{"type":"VisitorSeen","visitorId":"v-1"}'
        command = ["XADD", key(workspace, "events"), entry_id(5), "event", event, "event", event]
        await cast("Any", redis).execute_command(*command)
    await fold_log(redis, redis_url, workspace)
    log = key(workspace, "events")
    if how == "trimmed":
        await redis.xtrim(log, maxlen=1, approximate=False)
    elif how == "trimmed to nothing":
        await redis.xtrim(log, maxlen=0, approximate=False)
    elif how == "deleted":
        await redis.xdel(log, entry_id(4))

    last = await append(redis, workspace, PEOPLE[6:7], start=6)
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, last)

    status = await status_of(redis, workspace)
    assert (status.rebuilds, status.damage, status.entries_lost, status.lag) == (0, None, 0, 0)


@pytest.mark.parametrize(
    "name", ["contacts", "visitors", "external-ids", "emails", "members", "contact-stamps", "created", "position"]
)
async def test_evicted_key_is_noticed_before_anything_is_derived_from_it(
    redis: Redis, redis_url: str, workspace: str, name: PublicName | PrivateName
) -> None:
    """Without it, the next identification would create a second contact with the same external id."""
    await append(redis, workspace, PEOPLE[:5])
    await fold_log(redis, redis_url, workspace)
    await redis.delete(key(workspace, name))
    last = await append(redis, workspace, PEOPLE[:2], start=5)

    async with projecting(redis_url, workspace):
        await rebuilt(redis, workspace)
        await wait_until_folded(redis, workspace, last)

    assert "evicted" in str((await status_of(redis, workspace)).rebuild_reason)
    await assert_is_mended(redis, workspace)
    assert await contacts_named(redis, workspace, "u-0") == 1


async def contacts_named(client: Redis, workspace: str, external_id: str) -> int:
    """The number of living contacts with an external id."""
    return len([each async for each in StateQueries(client, workspace).contacts() if each.external_id == external_id])


async def test_keys_that_are_evicted_while_a_projector_runs_are_noticed(redis: Redis, redis_url: str, workspace: str) -> None:
    """It checks from time to time while it serves."""
    await append(redis, workspace, PEOPLE[:5])
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, entry_id(4))
        await redis.delete(key(workspace, "contacts"), key(workspace, "external-ids"))
        await rebuilt(redis, workspace)
        last = await append(redis, workspace, PEOPLE[:1], start=5)
        await wait_until_folded(redis, workspace, last)

    await assert_is_mended(redis, workspace)


@pytest.mark.parametrize("batch_entries", [7, 1000])
async def test_counts_of_a_state_are_those_of_its_keys(
    redis: Redis, redis_url: str, workspace: str, batch_entries: int
) -> None:
    """For a real history with any batches and any cache. A wrong count would cause a needless rebuild."""
    await append(redis, workspace, history()[:6000])
    await fold_log(redis, redis_url, workspace, batch_entries=batch_entries, cache_bytes=0 if batch_entries == 7 else 200_000)

    counts = (await StateReader(redis, workspace).position()).counts
    found = [
        await redis.hlen(key(workspace, name))
        for name in cast("list[PublicName]", ["contacts", "visitors", "external-ids", "emails"])
    ]
    assert [counts.contacts, counts.visitors, counts.external_ids, counts.emails] == found
    assert await redis.zcard(key(workspace, "created")) == counts.contacts - counts.merged
    assert counts.linked == 1


async def test_state_that_only_a_person_may_replace_is_not_served(redis: Redis, redis_url: str, workspace: str) -> None:
    """Half of the log is gone, and keys are missing: a rebuild would lose contacts. The other workspaces are served."""
    await append(redis, workspace, PEOPLE[:10])
    await fold_log(redis, redis_url, workspace)
    await redis.xtrim(key(workspace, "events"), maxlen=5, approximate=False)
    await redis.delete(key(workspace, "visitors"))
    contacts = await cast("Awaitable[Any]", redis.hgetall(key(workspace, "contacts")))

    async def damage() -> str | None:
        return (await status_of(redis, workspace)).damage

    async with projecting(redis_url, workspace, "zeta"):
        assert "--allow-truncated" in str(await wait_until(damage, MEND_S))
        assert await cast("Awaitable[Any]", redis.hgetall(key(workspace, "contacts"))) == contacts
        await append(redis, "zeta", PEOPLE[:1])
        await wait_until_folded(redis, "zeta", entry_id(0))

        assert (await kinfold(redis_url, workspace, "replay", "--allow-truncated")).status == 0

        last = await append(redis, workspace, PEOPLE[10:11], start=10)
        await wait_until_folded(redis, workspace, last)
        assert await damage() is None


async def test_deleted_log_does_not_delete_the_state(redis: Redis, redis_url: str, workspace: str) -> None:
    """The state is all that is left, so it is kept until a person decides."""
    await append(redis, workspace, PEOPLE[:3])
    await fold_log(redis, redis_url, workspace)
    await redis.delete(key(workspace, "events"))

    async def damage() -> str | None:
        return (await status_of(redis, workspace)).damage

    async with projecting(redis_url, workspace):
        assert "expected the log that the state was made from, got an empty one" in str(await wait_until(damage, MEND_S))

    assert await redis.hlen(key(workspace, "contacts")) == 3


async def test_entries_that_were_trimmed_before_they_were_folded_are_reported(
    redis: Redis, redis_url: str, workspace: str
) -> None:
    """Their number is in the log and in the status, folding continues, and the lag is correct again."""
    await append(redis, workspace, PEOPLE[:2])
    await fold_log(redis, redis_url, workspace)
    await append(redis, workspace, PEOPLE[2:20], start=2)
    await redis.xtrim(key(workspace, "events"), maxlen=8, approximate=False)

    async def is_said() -> bool:
        return (await status_of(redis, workspace)).entries_lost == 10

    with capture_logs() as logs:
        async with projecting(redis_url, workspace):
            await wait_until_folded(redis, workspace, entry_id(19))
            await wait_until(is_said, MEND_S)
            last = await append(redis, workspace, PEOPLE[:1], start=20)
            await wait_until_folded(redis, workspace, last)
            status = await status_of(redis, workspace)

    assert (status.entries_lost, status.lag, status.rebuilds, status.damage) == (10, 0, 0, None)
    assert [each["lost"] for each in logs if each["event"] == "entries lost"] == [10]


async def test_entry_that_was_deleted_before_it_was_folded_is_reported_once(
    redis: Redis, redis_url: str, workspace: str
) -> None:
    """Also across a restart."""
    await append(redis, workspace, PEOPLE[:6])
    await redis.xdel(key(workspace, "events"), entry_id(3))

    async def is_said() -> bool:
        return (await status_of(redis, workspace)).entries_lost == 1

    for _ in range(2):
        async with projecting(redis_url, workspace):
            await wait_until_folded(redis, workspace, entry_id(5))
            await wait_until(is_said, MEND_S)
            await wait_for_a_look(redis)
    assert await is_said()
    assert await stored_position(redis, workspace) == entry_id(5).encode()
