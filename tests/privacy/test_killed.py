"""SIGKILL at any instant of an erasure: it is not begun, or the next start finishes it. The projector is under load meanwhile.

`make torture-erasure` is the long form.
"""

import asyncio
import json
import os
import random
import subprocess
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.privacy.eraser import Eraser
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.settings import Settings
from kinfold_services.state.queries import Identifier
from tests.support.erasures import erase, keys_with
from tests.support.event_log import append, history
from tests.support.lengths import short_or_long
from tests.support.projecting import newest_entry, projecting, variables, wait_until_folded
from tests.support.replaying import command_line, leftovers, verify
from tests.support.waiting import wait_until

KILLS: Final = short_or_long(3, 20)
ENTRIES: Final = short_or_long(1500, 40_000)
SEED: Final = int(os.environ.get("KINFOLD_TEST_SEED", str(random.SystemRandom().randrange(10**6))))


def _name(number: int) -> str:
    """No person's name begins with that of another one."""
    return f"person-{number:03}"


def _person(number: int) -> list[dict[str, Any]]:
    identity = {"externalId": _name(number), "email": f"{_name(number)}@example.org"}
    return [
        {"type": "VisitorSeen", "visitorId": f"laptop-of-{_name(number)}"},
        {"type": "VisitorIdentified", "visitorId": f"laptop-of-{_name(number)}", **identity, "name": f"Person No. {number:03}"},
        {"type": "VisitorIdentified", "visitorId": "kiosk", **identity},
    ]


def _texts(number: int) -> list[str]:
    return [_name(number), f"laptop-of-{_name(number)}", f"Person No. {number:03}"]


@asynccontextmanager
async def _load(client: Redis, workspace: str) -> AsyncGenerator[None]:
    """Events of other people, all the time."""

    async def publish() -> None:
        for number in range(10**9):
            event = {"type": "VisitorIdentified", "visitorId": f"v-load-{number % 50}", "externalId": f"u-load-{number % 50}"}
            await client.xadd(key(workspace, "events"), {"event": json.dumps({**event, "metadata": {"n": number}})})
            await asyncio.sleep(0.005)

    publishing = asyncio.create_task(publish())
    try:
        yield
    finally:
        await end_tasks([publishing])


def _begin(url: str, workspace: str, number: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command_line(url, workspace, "erase", "--external-id", _name(number), "--yes"),
        env=variables({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


async def test_killed_erasure_is_not_begun_or_finished_by_the_next_start(redis: Redis, redis_url: str, workspace: str) -> None:
    """The test prints the seed of the instants."""
    print(f"KINFOLD_TEST_SEED={SEED}")  # noqa: T201  shown where the test fails
    dice = random.Random(SEED)  # noqa: S311  no secret
    await append(redis, workspace, history()[:ENTRIES])
    for number in range(KILLS + 1):
        for event in _person(number):
            await redis.xadd(key(workspace, "events"), {"event": json.dumps(event)})
    not_begun = 0
    async with projecting(redis_url, workspace), _load(redis, workspace):
        await _folded_once(redis, workspace)
        begun = time.monotonic()
        assert await asyncio.to_thread(_begin(redis_url, workspace, KILLS).wait) == 0
        whole_s = time.monotonic() - begun
        for number in range(KILLS):
            process = _begin(redis_url, workspace, number)
            await asyncio.sleep(dice.uniform(whole_s / 4, whole_s))
            process.kill()
            await asyncio.to_thread(process.wait)

            eraser = Eraser(redis, Settings(workspace=workspace))
            await eraser.finish_pending()

            assert {each.state for each in await eraser.records.receipts()} == {"done"}
            if await redis.hexists(key(workspace, "external-ids"), _name(number)):
                not_begun += 1
                await erase(redis, workspace, Identifier(external_id=_name(number)))
            assert await keys_with(redis, workspace, _texts(number)) == {}
    print(f"{not_begun} of {KILLS} were not begun")  # noqa: T201
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, await newest_entry(redis, workspace, "events"))
    assert await verify(redis, workspace) == []
    assert await leftovers(redis, workspace) == []


async def _folded_once(redis: Redis, workspace: str) -> None:
    """Wait until the projector has folded what is there now; more comes all the time."""

    async def has_people() -> bool:
        return bool(await redis.hexists(key(workspace, "external-ids"), _name(KILLS)))

    await wait_until(has_people)
