"""One browser, gateway, projector and directory for the tests of a module; a workspace and a browser profile for each test."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.screen import Agent, Stage, staging


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Give the stage of a module."""
    async with staging(redis_url, tmp_path_factory.mktemp("directory")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def agent(stage: Stage, workspace: str) -> AsyncIterator[Agent]:
    """Give an agent with a workspace."""
    async with stage.agent(workspace) as opened:
        yield opened
