"""A transaction on a cluster: redis-py queues its commands in a separate thread and event loop."""

from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from kinfold_services.connections import connect
from tests.support.engines import cluster
from tests.support.waiting import wait_until


async def test_transaction_on_a_cluster_with_lost_connections(tmp_path: Path) -> None:
    """The client has to look up the nodes again at that moment. It can, and its node list stays valid."""
    async with cluster(tmp_path) as url:
        client = connect(url)
        await client.set("counter", 0)
        async with Redis.from_url(url.replace("redis+cluster", "redis")) as node:
            await node.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(RedisConnectionError):
            await client.get("counter")

        async def is_done() -> bool:
            try:
                pipeline = client.pipeline(transaction=True)
                pipeline.incr("counter")
                await pipeline.execute()
            except RedisConnectionError:
                return False
            return True

        await wait_until(is_done)
        assert await client.get("counter") == b"1"
        await client.aclose()
