"""The gateway's buffers of changes are bounded by bytes: large contacts must not fill its memory."""

from typing import Any, cast

from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.connections import connect
from kinfold_services.gateway.changes import hub as hub_module
from kinfold_services.gateway.changes.hub import FeedHub, Filter, Follower
from kinfold_services.gateway.metrics import Metrics
from tests.support.waiting import wait_until

LARGE = 60_000
MIB = 1 << 20


async def append_changes(redis: Redis, workspace: str, count: int) -> str:
    """Append changes of large contacts to the feed; returns the last id."""
    last: Any = b""
    for number in range(count):
        data = b'{"type":"ContactUpdated","contactId":"ct_%d","x":"%b"}' % (number, b"x" * LARGE)
        last = await redis.xadd(key(workspace, "changes"), {"change": data})
    return cast("bytes", last).decode()


async def test_reader_that_does_not_read_is_cut_off_for_the_bytes(redis: Redis, redis_url: str, workspace: str) -> None:
    """Long before it has 5,000 changes. One that reads gets all of them, and the hub keeps 16 MiB."""
    async with connect(redis_url) as client:
        hub = FeedHub(client, workspace, 5_000, Metrics())
        await hub.start()
        idle, reading = Follower(Filter(set(), frozenset())), Follower(Filter(set(), frozenset()))
        assert hub.join(idle, hub.last)
        assert hub.join(reading, hub.last)
        read = 0
        for _ in range(20):
            last = await append_changes(redis, workspace, 20)

            async def arrived(last: str = last) -> bool:
                return hub.last == last

            await wait_until(arrived)
            assert idle.pending_bytes < hub_module._BUFFER_BYTES + 3 * MIB
            read += len(reading.take(1000))
        assert idle.ended == "slow"
        assert not idle.pending
        assert reading.ended == ""
        assert read == 400
        assert reading.pending_bytes == 0
        assert 12 * MIB < sum(message.size for message in hub._ring) <= 16 * MIB
        await hub.stop()


async def test_reader_that_is_behind_gets_large_changes_in_small_pages(redis: Redis, redis_url: str, workspace: str) -> None:
    """Nothing is lost between the pages, and between them and what the hub remembers."""
    first = await append_changes(redis, workspace, 1)
    await append_changes(redis, workspace, 300)
    async with connect(redis_url) as client:
        hub = FeedHub(client, workspace, 5_000, Metrics())
        await hub.start()
        await append_changes(redis, workspace, 100)

        async def has_read() -> bool:
            return hub.last == await hub.newest()

        await wait_until(has_read)
        follower, after, found = Follower(Filter(set(), frozenset())), first, list[str]()
        sizes: list[int] = []
        while not hub.join(follower, after):
            page = await hub.page_after(after)
            assert page
            found += [message.contact_id for message in page]
            sizes.append(len(page))
            after = page[-1].id or ""
        found += [message.contact_id for message in follower.take(1000)]
        assert found == [f"ct_{number}" for number in (*range(300), *range(100))]
        assert max(sizes[1:]) * LARGE <= 3 * MIB
        await hub.stop()
