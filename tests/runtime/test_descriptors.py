"""How many files and connections a process may open."""

import resource
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from kinfold_services.directory.service import DirectoryService
from kinfold_services.settings import Settings
from tests.support.projecting import projecting
from tests.support.waiting import wait_until

USUAL = 1024
"""The soft limit of most systems."""


@asynccontextmanager
async def a_projector(url: str, settings: Settings) -> AsyncGenerator[None]:
    """A projector that serves a workspace."""
    async with projecting(url, settings.workspace) as service:
        await wait_until(lambda: bool(service.workspaces))
        yield


@asynccontextmanager
async def a_directory(url: str, settings: Settings) -> AsyncGenerator[None]:
    """A directory that stops as soon as it has started."""
    service = DirectoryService(settings, url)
    service.stop()
    await service.follow_until_stopped()
    yield


@pytest.mark.usefixtures("redis")
@pytest.mark.parametrize("running", [a_projector, a_directory])
async def test_service_may_open_as_many_files_as_the_system_allows(
    running: Callable[[str, Settings], AbstractAsyncContextManager[None]],
    redis_url: str,
    workspace: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A projector has three connections for each workspace."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    settings = Settings(workspace=workspace, serve=frozenset({workspace}), data_dir=tmp_path_factory.mktemp("data"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (USUAL, limits[1]))
    try:
        async with running(redis_url, settings):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > USUAL
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
