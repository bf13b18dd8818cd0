"""One browser, gateway, projector and directory for these tests; a workspace and a browser profile for each test."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.screen import Agent, Stage, staging


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def stage(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Give the stage."""
    async with staging(redis_url, tmp_path_factory.mktemp("directory")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="package")
async def agent(stage: Stage, workspace: str) -> AsyncIterator[Agent]:
    """Give an agent with a workspace."""
    async with stage.agent(workspace) as opened:
        yield opened
