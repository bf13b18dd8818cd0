"""Fixtures of the client's tests: a server with a real projector."""

import asyncio
import re
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

import kinfold
from kinfold_schemas.keys import WORKSPACES
from kinfold_services.access.keys import create_key
from kinfold_services.server.embedded import EmbeddedServer
from tests.support.directories import DirectoryProcess
from tests.support.engines import free_port
from tests.support.gateways import GatewayProcess
from tests.support.projecting import ProjectorProcess
from tests.support.proxy import Proxy


@pytest.fixture(scope="session")
def folding_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a server with a projector for all workspaces. It is never emptied."""
    directory = tmp_path_factory.mktemp("folding")
    log = directory / "projector.log"
    with EmbeddedServer.start(directory / "data") as server, ProjectorProcess(server.url, None, log) as projector:
        yield server.url
        projector.terminate()


@pytest.fixture(scope="session")
def gateway_url(folding_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a gateway in front of that server, with a directory."""
    directory = tmp_path_factory.mktemp("gateway")
    settings: dict[str, Any] = {"data_dir": directory, "gateway_requests_per_s": 100_000}
    with (
        DirectoryProcess(folding_url, directory / "directory.log", settings),
        GatewayProcess(folding_url, free_port(), directory / "gateway.log", **settings) as gateway,
    ):
        yield gateway.url


@pytest.fixture
def api_key(folding_url: str, workspace: str) -> str:
    """Give a secret key of the test's workspace."""

    async def create() -> str:
        async with AsyncRedis.from_url(folding_url) as redis:
            await redis.sadd(WORKSPACES, workspace)
            return await create_key(redis, workspace, "secret", "test")

    return asyncio.run(create())


@pytest.fixture
def client(folding_url: str) -> Iterator[Redis]:
    """Give a blocking client of the server that `folding_url` names."""
    with Redis.from_url(folding_url) as client:
        yield client


@pytest.fixture
def workspace(request: pytest.FixtureRequest) -> str:
    """Give the name of a workspace that no other test uses, because the server is never emptied."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")
    return f"{name}-{secrets.token_hex(4)}"


@pytest.fixture
def proxy(folding_url: str) -> Iterator[Proxy]:
    """Give a proxy to the server."""
    with Proxy(folding_url) as proxy:
        yield proxy


@pytest.fixture
def visitors(folding_url: str, workspace: str) -> Iterator[kinfold.Producer]:
    """Give a producer."""
    with kinfold.Producer(folding_url, workspace=workspace, batch_age_s=0.0) as visitors:
        yield visitors
