"""Starting and stopping: nothing is skipped, and nothing is folded twice (contract section 8)."""

import asyncio

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

import kinfold_services.projector.service
from kinfold_schemas.keys import WORKSPACES, key
from kinfold_services.projector.service import ProjectorService
from kinfold_services.settings import Settings
from kinfold_services.state.queries import StateQueries
from tests.support.event_log import append, entry_id
from tests.support.projecting import fold_log, projecting, stored_position, wait_until_folded
from tests.support.snapshots import keys_like, take_snapshot
from tests.support.waiting import wait_until

VISITS = [{"type": "VisitorSeen", "visitorId": f"v-{number}", "id": f"e-{number}"} for number in range(200)]


async def test_events_before_the_first_start_are_folded(redis: Redis, redis_url: str, workspace: str) -> None:
    """Without a stored position, the log is read from its beginning, not from the moment of the start."""
    await append(redis, workspace, VISITS)

    await fold_log(redis, redis_url, workspace)

    assert (await StateQueries(redis, workspace).status()).visitors == len(VISITS)


async def test_events_before_a_foreign_consumer_group_are_folded(redis: Redis, redis_url: str, workspace: str) -> None:
    """A group that was created at `$`, as tools do by default, hides nothing: the stored position counts."""
    await append(redis, workspace, VISITS)
    await redis.xgroup_create(key(workspace, "events"), "kinfold", id="$")

    await fold_log(redis, redis_url, workspace)

    assert (await StateQueries(redis, workspace).status()).visitors == len(VISITS)


async def test_restarted_projector_continues_at_its_position(redis: Redis, redis_url: str, workspace: str) -> None:
    """Events that arrived meanwhile are folded once, and earlier ones are not folded again."""
    await append(redis, workspace, VISITS[:50])
    await fold_log(redis, redis_url, workspace)
    await append(redis, workspace, VISITS[50:], start=50)

    await fold_log(redis, redis_url, workspace)

    status = await StateQueries(redis, workspace).status()
    assert (status.folded, status.duplicate, status.visitors) == (len(VISITS), 0, len(VISITS))


async def test_restarted_projector_remembers_earlier_events(redis: Redis, redis_url: str, workspace: str) -> None:
    """The duplicate window is defined on the log, so a restart within it sees the same duplicates."""
    await append(redis, workspace, VISITS)
    await fold_log(redis, redis_url, workspace)
    await append(redis, workspace, VISITS, start=len(VISITS))

    await fold_log(redis, redis_url, workspace)

    assert (await StateQueries(redis, workspace).status()).duplicate == len(VISITS)


async def test_restarted_projector_finds_the_contact_of_an_event(redis: Redis, redis_url: str, workspace: str) -> None:
    """It loads a contact to which only a visitor's link points, and the living contact behind a tombstone."""
    await append(redis, workspace, [{"type": "VisitorIdentified", "visitorId": "v-1", "email": "ada@example.org"}])
    await fold_log(redis, redis_url, workspace)
    events = [
        {"type": "VisitorIdentified", "externalId": "u-1"},
        {"type": "VisitorIdentified", "externalId": "u-1", "email": "ada@example.org"},
    ]
    await append(redis, workspace, events, start=1)
    await fold_log(redis, redis_url, workspace)
    await append(redis, workspace, [{"type": "MetadataSet", "visitorId": "v-1", "metadata": {"plan": "pro"}}], start=3)

    await fold_log(redis, redis_url, workspace)

    contact = await StateQueries(redis, workspace).contact_by_external_id("u-1")
    assert contact is not None
    assert (contact.email, contact.visitor_ids, contact.metadata) == ("ada@example.org", ["v-1"], {"plan": "pro"})


async def test_workspace_without_a_log_is_served_when_it_gets_one(redis: Redis, redis_url: str, workspace: str) -> None:
    """The first event may come long after the projector."""
    async with projecting(redis_url, workspace) as service:
        await wait_until(lambda: workspace in service.workspaces)
        last = await append(redis, workspace, VISITS)
        await wait_until_folded(redis, workspace, last)


async def test_default_workspace_is_always_served_and_an_invalid_name_never(redis: Redis, redis_url: str) -> None:
    """`kinfold:workspaces` may contain anything; the other workspaces are still served."""
    await redis.sadd(WORKSPACES, "acme", "No Workspace!", b"\xff", "{acme}")
    for workspace in ("default", "acme"):
        await append(redis, workspace, VISITS[:1])

    async with projecting(redis_url) as service:
        for workspace in ("default", "acme"):
            await wait_until_folded(redis, workspace, entry_id(0))
        assert service.workspaces.keys() == {"default", "acme"}


@pytest.mark.parametrize("pattern", ["/(/", "/a{1001}/"])
async def test_invalid_blocked_identifier_only_stops_its_own_workspace(redis: Redis, redis_url: str, pattern: str) -> None:
    """Before the projector starts or while it runs. Once it is corrected, the workspace is served like any other."""
    blocked = key("acme", "blocked-identifiers")
    await redis.sadd(WORKSPACES, "acme")
    await redis.sadd(blocked, pattern, b"\xff")
    for workspace in ("default", "acme"):
        await append(redis, workspace, VISITS[:1])

    async with projecting(redis_url) as service:
        await wait_until_folded(redis, "default", entry_id(0))
        assert service.workspaces.keys() == {"default"}
        await redis.srem(blocked, pattern)
        await wait_until_folded(redis, "acme", entry_id(0))


async def test_invalid_blocked_identifier_added_before_the_first_entry_only_stops_its_own_workspace(
    redis: Redis, redis_url: str
) -> None:
    """The rules are read again at the first entry. The others are served meanwhile, and this one once it is corrected."""
    blocked = key("acme", "blocked-identifiers")
    with capture_logs() as logs:
        async with projecting(redis_url, "default", "acme") as service:
            await wait_until(lambda: service.workspaces.keys() == {"default", "acme"})
            await redis.sadd(blocked, "/(/")
            await append(redis, "acme", VISITS[:1])
            await wait_until(lambda: "workspace not served" in [each["event"] for each in logs])
            await append(redis, "default", VISITS[:1])
            await wait_until_folded(redis, "default", entry_id(0))
            await redis.srem(blocked, "/(/")
            await wait_until_folded(redis, "acme", entry_id(0))


async def test_projector_with_a_list_of_workspaces_serves_no_others(redis: Redis, redis_url: str) -> None:
    """So workspaces can be distributed over projectors."""
    await redis.sadd(WORKSPACES, "acme", "zeta")
    for workspace in ("default", "acme", "zeta"):
        await append(redis, workspace, VISITS[:1])

    async with projecting(redis_url, "acme") as service:
        await wait_until_folded(redis, "acme", entry_id(0))
        assert service.workspaces.keys() == {"acme"}

    assert await stored_position(redis, "default") is None
    assert await stored_position(redis, "zeta") is None


async def test_workspaces_share_nothing(redis: Redis, redis_url: str) -> None:
    """The same people in two workspaces are twice as many contacts, with different contact ids."""
    event = {"type": "VisitorIdentified", "visitorId": "v-1", "externalId": "u-1", "email": "ada@example.org"}
    for workspace in ("acme", "zeta"):
        await append(redis, workspace, [event])
        await fold_log(redis, redis_url, workspace)

    acme, zeta = await take_snapshot(redis, "acme"), await take_snapshot(redis, "zeta")

    assert acme.external_ids.keys() == zeta.external_ids.keys()
    assert acme.contacts.keys().isdisjoint(zeta.contacts)
    assert all(name.startswith((b"kinfold:{acme}:", b"kinfold:{zeta}:")) for name in await keys_like(redis, "*"))


async def test_ordinary_tools_show_the_lag(redis: Redis, redis_url: str, workspace: str) -> None:
    """The consumer group is at the position of the projector, so XINFO GROUPS shows what is still to be folded."""
    await append(redis, workspace, VISITS)
    await fold_log(redis, redis_url, workspace)
    await append(redis, workspace, VISITS[:7], start=len(VISITS))

    groups = await redis.xinfo_groups(key(workspace, "events"))

    assert [(group["name"], group["lag"], group["pending"]) for group in groups] == [(b"kinfold", 7, 0)]
    assert groups[0]["last-delivered-id"] == entry_id(len(VISITS) - 1).encode()


async def test_lag_does_not_come_from_a_group_that_was_not_moved_yet(redis: Redis, redis_url: str, workspace: str) -> None:
    """As after a rebuild, when the projector stopped before it opened the new state."""
    await append(redis, workspace, VISITS[:5])
    await fold_log(redis, redis_url, workspace)
    await redis.xgroup_setid(key(workspace, "events"), "kinfold", "0", entries_read=0)
    await append(redis, workspace, VISITS[5:7], start=5)

    assert (await StateQueries(redis, workspace).status()).lag == 2


async def test_deleted_group_does_not_stop_the_projector(redis: Redis, redis_url: str, workspace: str) -> None:
    """The group only exists for people."""
    await append(redis, workspace, VISITS[:100])
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, entry_id(99))
        await redis.xgroup_destroy(key(workspace, "events"), "kinfold")
        last = await append(redis, workspace, VISITS[100:], start=100)
        await wait_until_folded(redis, workspace, last)

    assert (await StateQueries(redis, workspace).status()).lag == 0


async def test_workspace_has_its_own_blocked_identifiers(redis: Redis, redis_url: str, workspace: str) -> None:
    """Exact values and patterns, from the set in Redis (contract section 2)."""
    await redis.sadd(key(workspace, "blocked-identifiers"), "house-account", r"/kiosk-\d+/")
    names = ["house-account", "kiosk-17", "kiosk-x"]
    await append(redis, workspace, [{"type": "VisitorIdentified", "externalId": name} for name in names])

    await fold_log(redis, redis_url, workspace)

    snapshot = await take_snapshot(redis, workspace)
    assert list(snapshot.external_ids) == [b"kiosk-x"]
    assert [dict(reject)[b"reason"] for reject in snapshot.rejects] == [b"blocked-identifier"] * 2


@pytest.mark.parametrize("steps", [0, 1, 3, 10, 30, 100, 300])
async def test_projector_that_is_stopped_while_it_starts_just_stops(
    redis: Redis, redis_url: str, workspace: str, steps: int
) -> None:
    """Even if the signal comes very early: no error, no traceback."""
    await append(redis, workspace, VISITS)
    service = ProjectorService(Settings(redis_url=redis_url), redis_url)
    running = asyncio.create_task(service.run())
    for _ in range(steps):
        await asyncio.sleep(0)  # lets it run one step

    service.app.exit()

    await running


async def test_projector_that_is_stopped_while_it_asks_the_server_just_stops(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopping closes the connection on which it asks."""
    service = ProjectorService(Settings(redis_url=redis_url), redis_url)
    has_closed = asyncio.Event()
    close = service._client.aclose

    async def closing() -> None:
        await close()
        has_closed.set()

    async def interrupted(_: object) -> str:
        service.app.exit()
        await has_closed.wait()
        raise RedisConnectionError("Connection closed by server.")

    monkeypatch.setattr(service._client, "aclose", closing)
    monkeypatch.setattr(kinfold_services.projector.service, "check_server", interrupted)
    await service.run()

    assert service.failure is None
    assert not service._tasks
