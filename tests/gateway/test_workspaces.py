"""What a gateway keeps of a workspace."""

import asyncio
from collections import Counter

import pytest
from redis.asyncio import Redis

from kinfold_services.access.identity_tokens import ensure_identity_secret, identity_secrets
from kinfold_services.connections import Client
from kinfold_services.gateway import workspaces
from kinfold_services.gateway.directory import Directory
from kinfold_services.gateway.metrics import Metrics
from kinfold_services.gateway.workspaces import GatewayWorkspace
from kinfold_services.settings import Settings
from tests.support.gateways import NO_DATA_DIR


async def test_requests_that_come_together_read_rules_and_secrets_once(
    redis: Redis, workspace: str, monkeypatch: pytest.MonkeyPatch
):
    """Where Redis fails, each of them has the error, and the next one asks again."""
    (secret,) = await ensure_identity_secret(redis, workspace)
    settings = Settings(data_dir=NO_DATA_DIR)
    asked = GatewayWorkspace(redis, workspace, settings, Metrics(), Directory(settings))
    calls = Counter[str]()

    async def fails_at_first(client: Client, name: str) -> object:
        calls[name] += 1
        found = await identity_secrets(client, name)
        if calls[name] == 1:
            raise OSError("away")
        return found

    monkeypatch.setattr(workspaces, "identity_secrets", fails_at_first)
    failed = await asyncio.gather(*[asked.secrets() for _ in range(20)], return_exceptions=True)
    assert ({str(each) for each in failed}, calls[workspace]) == ({"away"}, 1)

    found = await asyncio.gather(*[asked.secrets() for _ in range(20)])
    assert found == [{secret.kid: secret.identity_secret}] * 20
    assert calls[workspace] == 2


async def test_request_that_is_cancelled_does_not_cancel_the_others(redis: Redis, workspace: str):
    settings = Settings(data_dir=NO_DATA_DIR)
    asked = GatewayWorkspace(redis, workspace, settings, Metrics(), Directory(settings))
    first, second = asyncio.create_task(asked.rules()), asyncio.create_task(asked.rules())
    await asyncio.sleep(0)
    first.cancel()

    assert (await second).blocked == ()
