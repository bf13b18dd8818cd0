"""Work beside the fold (erasures, retention) that fails is reported and done again, and the projector stops without it."""

import asyncio
import sys

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

import kinfold_services.projector.pending_erasures
import kinfold_services.projector.serving
from kinfold_schemas.keys import key
from kinfold_services.privacy.eraser import Eraser
from kinfold_services.retention.job import RetentionJob
from kinfold_services.settings import Settings
from kinfold_services.state.queries import Identifier
from tests.support.event_log import append
from tests.support.projecting import projecting, wait_until_folded
from tests.support.waiting import wait_until

ADA = {"type": "VisitorIdentified", "visitorId": "v-1", "externalId": "ada"}


async def test_erasure_is_tried_again_and_survives_the_state_that_it_replaces(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process cannot start at first, as without memory. Later the projector opens the workspace again, and it goes on."""
    ended: list[object] = []
    erase = kinfold_services.projector.pending_erasures._erase

    async def noting(settings: Settings, url: str) -> int:
        try:
            ended.append(await erase(settings, url))
        except BaseException as error:
            ended.append(type(error))
            raise
        return 0

    monkeypatch.setattr(kinfold_services.projector.pending_erasures, "_erase", noting)
    monkeypatch.setattr(kinfold_services.projector.serving, "TRY_AGAIN_S", 0.1)
    last = await append(redis, workspace, [ADA])
    with capture_logs() as logs:
        async with projecting(redis_url, workspace):
            await wait_until_folded(redis, workspace, last)
            with monkeypatch.context() as away:
                away.setattr(sys, "executable", "/nowhere/python")
                await Eraser(redis, Settings(workspace=workspace)).request([Identifier(external_id="ada")])
                await wait_until(lambda: [each for each in logs if each["event"] == "work beside the fold failed"])
            await wait_until(lambda: set(ended) - {FileNotFoundError})
            assert (set(ended), await redis.exists(key(workspace, "erasures-pending"))) == ({FileNotFoundError, 0}, 0)


async def test_projector_stops_while_work_beside_the_fold_takes_long_to_end(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FastStream waits for the handler, and the handler for room for its page. The workspace has to be closed all the same."""
    is_at_it, may_end = asyncio.Event(), asyncio.Event()

    async def slow(_: object) -> None:
        try:
            is_at_it.set()
            await asyncio.Event().wait()
        finally:
            await may_end.wait()

    monkeypatch.setattr(RetentionJob, "run", slow)
    async with projecting(redis_url, workspace) as service:
        await is_at_it.wait()
        await append(redis, workspace, [ADA] * 20_000)
        service.app.exit()
        await wait_until(lambda: not service.workspaces)
        may_end.set()
