"""One browser, gateway, projector and site for the tests of a module; a workspace and a browser profile for each test."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.support.visits import Shop, Stage, staging


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(redis_url: str) -> AsyncIterator[Stage]:
    """Give the stage of a module."""
    async with staging(redis_url) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def shop(stage: Stage, workspace: str) -> AsyncIterator[Shop]:
    """Give a site, with a development key."""
    async with stage.shop(workspace) as opened:
        yield opened
