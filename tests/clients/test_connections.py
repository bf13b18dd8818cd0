"""Every part of the client over every kind of connection to Redis (contract section 8)."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest

import kinfold
from tests.support.engines import MASTER, cluster, fail_over, sentinel, tls_server
from tests.support.projecting import projecting
from tests.support.waiting import wait_until

WORKSPACE: Final = "acme"


@asynccontextmanager
async def behind_sentinel(directory: Path) -> AsyncGenerator[str]:
    """Yield only the URL."""
    async with sentinel(directory) as (url, _):
        yield url


@asynccontextmanager
async def cluster_over_tls(directory: Path) -> AsyncGenerator[str]:
    """A cluster that accepts only TLS."""
    async with cluster(directory, tls=True) as url:
        yield url


async def assert_everything_works(url: str) -> None:
    """Producers, lookups, the feed and live contacts, blocking and with asyncio."""
    async with projecting(url, WORKSPACE):
        await asyncio.to_thread(blocking, url)
        await asynchronous(url)


def blocking(url: str) -> None:
    """Send events, and read the result in every way."""
    with kinfold.Producer(url, workspace=WORKSPACE) as visitors, kinfold.Contacts(url, workspace=WORKSPACE) as contacts:
        visitors.identify("v-1", external_id="u-1", email="Ada@example.org", metadata={"plan": "pro"})
        position = visitors.flush()
        ada = contacts.by_visitor("v-1", after=position)
        assert ada is not None
        assert ada == contacts.by_external_id("u-1") == contacts.by_email("ada@example.org") == contacts.get(ada.id)
        with kinfold.Feed(url, workspace=WORKSPACE).follow(since="0") as changes:
            assert next(changes).contact_id == ada.id
        with kinfold.Feed(url, workspace=WORKSPACE).contacts() as live:
            assert dict(live) == {ada.id: ada}
        for number in range(1000):
            visitors.set_metadata("v-1", {"n": number})
        last = visitors.flush()
        assert visitors.counters.sent == 1001
        found = contacts.get(ada.id, after=last)
        assert found is not None
        assert found.metadata == {"plan": "pro", "n": 999}


async def asynchronous(url: str) -> None:
    """The same with asyncio."""
    async with (
        kinfold.AsyncProducer(url, workspace=WORKSPACE) as visitors,
        kinfold.AsyncContacts(url, workspace=WORKSPACE) as contacts,
    ):
        await visitors.identify("v-2", external_id="u-2")
        bob = await contacts.by_visitor("v-2", after=await visitors.flush())
        assert bob is not None
        async with kinfold.Feed(url, workspace=WORKSPACE).follow(since="0") as changes:
            told = [await anext(changes) for _ in range(2)]
        assert [change.version for change in told] == [1, 2]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(tls_server, id="tls"),
        pytest.param(cluster, id="cluster"),
        pytest.param(cluster_over_tls, id="cluster-tls"),
        pytest.param(behind_sentinel, id="sentinel"),
    ],
)
async def test_every_part_of_the_client_works(tmp_path: Path, kind: Callable[[Path], AbstractAsyncContextManager[str]]):
    """`rediss://`, `redis+cluster://`, `rediss+cluster://` and `redis+sentinel://`."""
    async with kind(tmp_path) as url:
        await assert_everything_works(url)


@pytest.mark.slow
async def test_client_survives_a_failover_behind_sentinel(tmp_path: Path):
    """The producer and the feed continue with the new primary, and no event is duplicated."""
    async with (
        sentinel(tmp_path) as (url, watcher),
        projecting(url, WORKSPACE),
        kinfold.AsyncProducer(url, workspace=WORKSPACE, first_retry_s=0.05, last_retry_s=0.2) as visitors,
        kinfold.AsyncContacts(url, workspace=WORKSPACE, wait_s=30) as contacts,
        kinfold.Feed(url, workspace=WORKSPACE).follow(since="0") as changes,
    ):
        await visitors.set_metadata(external_id="u-1", metadata={"n": 0})
        assert (await anext(changes)).version == 1
        assert await contacts.by_external_id("u-1", after=await visitors.flush())
        await fail_over(watcher)

        async def is_demoted() -> bool:
            # Until then the old primary accepts events, and loses them.
            replicas = await cast("Any", watcher).execute_command("SENTINEL", "REPLICAS", MASTER)
            return "'master-link-status': 'ok'" in str(replicas)

        await wait_until(is_demoted)
        for number in range(1, 100):
            await visitors.set_metadata(external_id="u-1", metadata={"n": number})
        position = await visitors.flush(timeout_s=60)
        assert [(await anext(changes)).version for _ in range(99)] == list(range(2, 101))

        async def answered() -> kinfold.Contact | None:
            try:
                return await contacts.by_external_id("u-1", after=position)
            except kinfold.Unreachable:  # lookups do not retry: the caller does
                return None

        found = await wait_until(answered)
        assert found is not None
        assert found.metadata == {"n": 99}
