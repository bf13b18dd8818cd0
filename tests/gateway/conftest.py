"""A gateway, a projector and a directory on an empty database, for one test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from kinfold_services.settings import Settings
from tests.support.directories import following
from tests.support.gateways import Gateway, serving
from tests.support.projecting import projecting


@pytest.fixture
async def gateway(redis: Redis, redis_url: str) -> AsyncIterator[Gateway]:
    """Give a gateway for the workspace `default`, with a projector behind it."""
    async with projecting(redis_url), serving(redis_url, redis) as running:
        yield running


@pytest.fixture
async def searched(redis: Redis, redis_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    """Give a gateway with a projector and a directory behind it."""
    settings = Settings(data_dir=tmp_path)
    async with projecting(redis_url), following(settings, redis_url), serving(redis_url, redis, data_dir=tmp_path) as running:
        yield running


@pytest.fixture
async def unfolded(redis: Redis, redis_url: str) -> AsyncIterator[Gateway]:
    """Give a gateway without a projector: what is appended stays in the log."""
    async with serving(redis_url, redis) as running:
        yield running
