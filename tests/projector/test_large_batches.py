"""Batches of many bytes: small events about large contacts, and servers that do not take so much at once (section 8)."""

import asyncio
import json
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from kinfold_projections import fold, state, weights
from kinfold_schemas.contacts import MAX_CONTACT_BYTES
from kinfold_schemas.keys import key
from kinfold_services.connections import connect
from kinfold_services.projector import workspace
from kinfold_services.projector.commit import BATCH_BYTES, TOLD_BYTES, Committer, Transaction
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.server.embedded import EmbeddedServer
from kinfold_services.state.queries import StateQueries
from tests.support.event_log import append
from tests.support.projecting import ProjectorProcess, projecting, wait_until_folded
from tests.support.replaying import replay, verify
from tests.support.snapshots import read_stream

WORKSPACE: Final = "shop"
VALUE: Final = "x" * 8190
FOLDED_S: Final = 120.0
MIB: Final = 1 << 20
EVERY_ENTRY_BYTES: Final = 3 * MIB
"""More than one entry adds to a batch (`projector.commit`)."""


class Server(NamedTuple):
    """A server whose limits a test may change."""

    url: str
    admin: Redis


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """Start it."""
    with EmbeddedServer.start(tmp_path / "server") as server:
        async with Redis.from_url(server.url) as admin:
            yield Server(server.url, admin)


def filling(count: int, name: str = "u-1") -> list[Mapping[str, Any]]:
    """This many keys of 8 KiB, each in its own event."""
    return [{"type": "MetadataSet", "externalId": name, "metadata": {f"k{number:03}": VALUE}} for number in range(count)]


def touching(count: int, name: str = "u-1") -> list[Mapping[str, Any]]:
    """Small events about one contact."""
    return [{"type": "MetadataSet", "externalId": name, "metadata": {"k000": f"{number:03}"}} for number in range(count)]


@contextmanager
def heavy_contacts() -> Generator[None]:
    """Let contacts weigh 4 MiB, as there was no limit in an earlier version."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (fold, state, weights):
            patch.setattr(module, "MAX_CONTACT_BYTES", 4 * MIB)
        yield


@contextmanager
def transactions() -> Generator[list[int]]:
    """Collect the sizes of the transactions that are sent."""
    sizes: list[int] = []
    start = Committer.start

    async def noting(self: Committer, transaction: Transaction) -> None:
        sizes.append(transaction.size)
        await start(self, transaction)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Committer, "start", noting)
        yield sizes


async def feed_bytes(client: Redis) -> int:
    """The memory that the feed takes."""
    return cast("int", await client.memory_usage(key(WORKSPACE, "changes"), samples=0))


@pytest.mark.parametrize("count", [154, 308])
async def test_small_events_do_not_multiply_a_large_contact(redis: Redis, redis_url: str, count: int) -> None:
    """A page fills a contact and touches it again and again: 459 bytes of gzip put 308 MB into Redis, 847 bytes 615 MB.

    The contact has no 2 MB any more, so each event costs at most one copy of 64 KiB, and a batch ends in time.
    """
    last = await append(redis, WORKSPACE, [*filling(256), *touching(count)])
    with transactions() as sizes:
        async with projecting(redis_url, WORKSPACE, batch_entries=1000):
            await wait_until_folded(redis, WORKSPACE, last, FOLDED_S)
    contact = await StateQueries(redis, WORKSPACE).contact_by_external_id("u-1")
    assert contact is not None
    assert contact.metadata["k000"] == f"{count - 1:03}"
    assert len(contact.metadata) == 7
    assert await feed_bytes(redis) < (count + 7) * (MAX_CONTACT_BYTES + 1024)
    assert max(sizes) <= 2 * TOLD_BYTES + EVERY_ENTRY_BYTES
    assert len(sizes) >= count * 57_000 // (TOLD_BYTES + MAX_CONTACT_BYTES)
    rejects = await read_stream(redis, WORKSPACE, "rejects")
    assert {fields[b"reason"] for _, fields in rejects} == {b"too-large"}


async def test_log_of_a_large_contact_does_not_wedge_a_projector_that_starts_again(server: Server, tmp_path: Path) -> None:
    """The state of an earlier version has a contact of 1 MB, and the server takes 12 MB at once.

    A batch was 20 MB. The server closed the connection, and no restart helped.
    """
    admin = server.admin
    last = await append(admin, WORKSPACE, filling(130))
    with heavy_contacts():
        async with projecting(server.url, WORKSPACE):
            await wait_until_folded(admin, WORKSPACE, last, FOLDED_S)
    await admin.config_set("client-query-buffer-limit", 12 * MIB)
    last = await append(admin, WORKSPACE, touching(20), start=130)
    with ProjectorProcess(server.url, WORKSPACE, tmp_path / "log") as projector:
        await wait_until_folded(admin, WORKSPACE, last, FOLDED_S)
        projector.kill()
    changes = await read_stream(admin, WORKSPACE, "changes")
    assert len(changes) == 150
    assert await admin.xlen(key(WORKSPACE, "rejects")) == 0


async def test_batch_of_many_bytes_that_the_feed_does_not_show_is_halved(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Visitors are not on the feed. A batch of several entries has at most `BATCH_BYTES` all the same."""
    monkeypatch.setattr(workspace, "BATCH_BYTES", BATCH_BYTES // 16)
    events = [
        {"type": "VisitorSeen", "visitorId": f"v-{number}", "context": {"url": VALUE, "referrer": VALUE[:7000]}}
        for number in range(400)
    ]
    last = await append(redis, WORKSPACE, events)
    with transactions() as sizes:
        async with projecting(redis_url, WORKSPACE):
            await wait_until_folded(redis, WORKSPACE, last, FOLDED_S)
    assert max(sizes) <= BATCH_BYTES // 16
    assert await redis.hlen(key(WORKSPACE, "visitors")) == 400
    assert await verify(redis, WORKSPACE) == []


async def test_batch_that_is_too_large_for_the_server_is_halved(server: Server) -> None:
    """The server takes 1 MiB at once, the least that it can be told, and a batch has several."""
    events = [event for number in range(40) for event in filling(7, f"u-{number}")]
    last = await append(server.admin, WORKSPACE, events)
    await server.admin.config_set("client-query-buffer-limit", MIB)
    with capture_logs() as logs:
        async with projecting(server.url, WORKSPACE):
            await wait_until_folded(server.admin, WORKSPACE, last, FOLDED_S)
    assert [each for each in logs if each["event"] == "batch was too large"]
    assert await server.admin.xlen(key(WORKSPACE, "changes")) == 280
    assert await server.admin.xlen(key(WORKSPACE, "rejects")) == 0
    async with connect(server.url) as client:
        assert await verify(client, WORKSPACE) == []


@pytest.mark.parametrize("limit", ["proto-max-bulk-len", "client-query-buffer-limit"])
async def test_entry_that_the_server_refuses_is_left_out_here_and_in_a_replay(server: Server, limit: str) -> None:
    """Among others: a contact of 1.2 MB cannot be stored again, and everything behind it is folded."""
    admin = server.admin
    others = [{"type": "VisitorIdentified", "externalId": f"o-{number}", "visitorId": f"v-{number}"} for number in range(60)]
    with heavy_contacts():
        last = await append(admin, WORKSPACE, filling(150))
        async with projecting(server.url, WORKSPACE):
            await wait_until_folded(admin, WORKSPACE, last, FOLDED_S)
        await admin.config_set(limit, MIB)
        events = [*others[:30], *touching(1), *others[30:]]
        last = await append(admin, WORKSPACE, events, start=150)
        excluded_behind = f"{last.partition('-')[0]}-1"
        async with projecting(server.url, WORKSPACE):
            await wait_until_folded(admin, WORKSPACE, excluded_behind, FOLDED_S)
        ((_, fields),) = await read_stream(admin, WORKSPACE, "rejects")
        refused = fields[b"entry"].decode()
        assert fields[b"reason"] == b"refused-by-server"
        assert json.loads(fields[b"event"]) == touching(1)[0]
        assert await admin.hlen(key(WORKSPACE, "external-ids")) == 61
        _, last_fields = (await read_stream(admin, WORKSPACE, "events"))[-1]
        exclusion = json.loads(last_fields[b"event"])
        assert exclusion["type"] == "EventsExcluded"
        assert exclusion["entries"] == [refused]
        await admin.config_set(limit, 512 * MIB)
        async with connect(server.url) as client:
            assert await verify(client, WORKSPACE) == []
            assert await replay(client, WORKSPACE) == []
        ((_, still),) = await read_stream(admin, WORKSPACE, "rejects")
        assert still == fields


async def test_cut_connection_does_not_leave_an_entry_out(server: Server) -> None:
    """A batch of few bytes is sent again until it arrives: no server refuses it for its size."""
    last = await append(server.admin, WORKSPACE, touching(5))
    kills = 0

    async def cut() -> None:
        nonlocal kills
        while True:
            for client in await server.admin.client_list(_type="normal"):
                if "hset" in client["cmd"] or "exec" in client["cmd"]:
                    kills += 1
                    await server.admin.client_kill_filter(_id=client["id"])
            await asyncio.sleep(0)

    async with projecting(server.url, WORKSPACE):
        cutting = asyncio.create_task(cut())
        await wait_until_folded(server.admin, WORKSPACE, last, FOLDED_S)
        await end_tasks([cutting])
    assert await server.admin.xlen(key(WORKSPACE, "rejects")) == 0
    assert await server.admin.xlen(key(WORKSPACE, "events")) == 5
