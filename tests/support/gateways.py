"""A running gateway: in this process with a real server and a real socket, or as `kinfold gateway`."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal, Self, cast

import httpx
import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.access.identity_tokens import ensure_identity_secret
from kinfold_services.access.keys import create_key
from kinfold_services.connections import connect
from kinfold_services.gateway import rate_limits
from kinfold_services.gateway.server import GatewayServer
from kinfold_services.gateway.workspaces import ANSWER_S
from kinfold_services.settings import Settings
from tests.support.prefork import start_service
from tests.support.projecting import variables
from tests.support.waiting import wait_until, wait_until_sync

PATIENCE_S: Final = 120.0

Json = Any

NO_DATA_DIR: Final = Path(__file__) / "none"
"""A data dir that cannot exist, so that no directory is found that another test made."""


class Gateway:
    """A gateway with a workspace's keys, and an HTTP client for each key."""

    def __init__(self, url: str, redis: Redis, workspace: str, secret: str, publishable: str) -> None:
        self.url = url
        self.redis = redis
        self.workspace = workspace
        self.secret = secret
        self.publishable = publishable
        self.client = self.client_of(secret)
        self.browser = self.client_of(publishable)

    def client_of(self, key: str | None, **options: Any) -> httpx.AsyncClient:
        """An HTTP client that sends a key."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=PATIENCE_S, **options)

    async def post(self, *events: Mapping[str, Any] | bytes, **params: Any) -> httpx.Response:
        """Post events with the secret key, as an array, or bytes unchanged."""
        if len(events) == 1 and isinstance(events[0], bytes):
            return await self.client.post("/v1/events", content=events[0], params=params)
        return await self.client.post("/v1/events", json=list(events), params=params)

    async def put(self, *events: Mapping[str, Any]) -> str:
        """Append events; returns the position of the last."""
        answer = await self.post(*events)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["position"])

    async def get(self, path: str, **params: Any) -> Json:
        """Get a path with the secret key; returns the JSON of a 200 response."""
        answer = await self.client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def entries(self, name: Literal["events", "changes"]) -> list[tuple[str, Json]]:
        """The entries of the log or the feed: their ids and JSON."""
        found = await stream_of(self.redis, self.workspace, name)
        return [(entry, json.loads(data)) for entry, data in found]

    async def identity_secret(self) -> str:
        """The secret with which the workspace's backend signs identity tokens."""
        return (await ensure_identity_secret(self.redis, self.workspace))[0].identity_secret

    async def aclose(self) -> None:
        """Close the clients."""
        await self.client.aclose()
        await self.browser.aclose()


async def stream_of(redis: Redis, workspace: str, name: Literal["events", "changes"]) -> list[tuple[str, bytes]]:
    """The id and the only field of each entry."""
    found = cast("list[tuple[bytes, dict[bytes, bytes]]]", await redis.xrange(key(workspace, name)) or [])
    return [(entry.decode(), next(iter(fields.values()))) for entry, fields in found]


@asynccontextmanager
async def serving(url: str, redis: Redis, workspace: str = "default", **options: Any) -> AsyncGenerator[Gateway]:
    """Run a gateway in the test's event loop, on a free port."""
    usual: dict[str, Any] = {
        "data_dir": NO_DATA_DIR,
        "gateway_port": 0,
        "gateway_browser_requests_per_s": 10_000,
        "gateway_requests_per_s": 100_000,
    }
    settings = Settings(redis_url=url, **{**usual, **options})
    server = GatewayServer(settings, connect(url, ANSWER_S))
    running = asyncio.create_task(server.run_until_stopped())
    secret = await create_key(redis, workspace, "secret", "test")
    publishable = await create_key(redis, workspace, "publishable", "test")
    gateway = Gateway(server.url, redis, workspace, secret, publishable)
    try:
        await wait_until(lambda: server.started or running.done())
        yield gateway
    finally:
        await gateway.aclose()
        server.stop()
        await running


def stop_refills(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock of rate limits in this process. Otherwise a limit refills between two requests on a slow machine."""
    now = time.monotonic()
    monkeypatch.setattr(rate_limits, "time", SimpleNamespace(monotonic=lambda: now))


async def logged_requests(logs: Sequence[MutableMapping[str, Any]], count: int) -> list[MutableMapping[str, Any]]:
    """Wait for the lines of `count` requests in `logs`. A gateway logs a request after its response."""

    def lines() -> list[MutableMapping[str, Any]]:
        return [each for each in logs if each["event"] == "request"]

    await wait_until(lambda: len(lines()) >= count)
    return lines()


class GatewayProcess:
    """A `kinfold gateway` process that can be killed."""

    def __init__(self, redis_url: str, port: int, log: Path, max_files: int | None = None, **settings: Any) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        arguments = ["gateway", "--redis-url", redis_url, "--port", str(port)]
        self.process = start_service(arguments, variables(settings), log, max_files)

    def __enter__(self) -> Self:
        """Wait until it answers."""
        try:
            wait_until_sync(self._answers, PATIENCE_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=10):  # noqa: S310  our own gateway
                return True
        except (OSError, urllib.error.URLError):
            return False
