"""A gateway and a projector on an empty database, for one test."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tests.support.gateways import Gateway, serving
from tests.support.projecting import projecting


@pytest.fixture
async def gateway(redis: Redis, redis_url: str) -> AsyncIterator[Gateway]:
    """Give a gateway for the workspace `default`, with a projector behind it."""
    async with projecting(redis_url), serving(redis_url, redis) as running:
        yield running


@pytest.fixture
async def unfolded(redis: Redis, redis_url: str) -> AsyncIterator[Gateway]:
    """Give a gateway without a projector: what is appended stays in the log."""
    async with serving(redis_url, redis) as running:
        yield running
