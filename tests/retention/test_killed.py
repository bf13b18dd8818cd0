"""SIGKILL at any instant of a retention run, with load: it has done nothing or all of it, and the next run does the rest."""

import json
import os
import random
import subprocess
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final, cast

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from tests.support.projecting import ProjectorProcess, variables, wait_until_folded
from tests.support.replaying import command_line, kinfold, leftovers, verify
from tests.support.retaining import DAY_MS, HISTORY_DAYS, append_aged, append_history
from tests.support.snapshots import keys_like
from tests.support.waiting import wait_until

KILLS: Final = int(os.environ.get("KINFOLD_TEST_KILLS", "2"))
SEED: Final = int(os.environ.get("KINFOLD_TEST_SEED", str(random.SystemRandom().randrange(10**6))))
ENTRIES: Final = 1000
HISTORY_LASTS_DAYS: Final = 40
HISTORY_MS: Final = HISTORY_LASTS_DAYS * DAY_MS
ANONYMOUS: Final = 200
"""How many visitors nobody identified."""
STAGED_S: Final = 900


@asynccontextmanager
async def retention_run(url: str, workspace: str, *options: str) -> AsyncGenerator["subprocess.Popen[bytes]"]:
    """Start a `kinfold retention run`, and kill it at the end."""
    with subprocess.Popen(  # noqa: ASYNC220  it returns at once
        command_line(url, workspace, "retention", "run", *options),
        env=variables({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def baseline_of(client: Redis, workspace: str) -> str | None:
    """The position of the baseline. Asserts that the log begins behind it, and that it has a receipt."""
    baseline = await cast("Awaitable[bytes | None]", client.hget(key(workspace, "baseline"), "position"))
    info = await client.xinfo_stream(key(workspace, "events"))
    receipts = await client.llen(key(workspace, "retention-receipts"))
    if baseline is None:
        assert (info["entries-added"] - info["length"], receipts) == (0, 0), "a log was trimmed without a baseline"
        return None
    assert not await client.xrange(key(workspace, "events"), max=baseline), "what a baseline stands for is gone"
    about = json.loads(await cast("Awaitable[bytes]", client.hget(key(workspace, "baseline"), "about")))
    assert about["counts"]["folded"] > 0
    last = json.loads((await cast("Awaitable[list[bytes]]", client.lrange(key(workspace, "retention-receipts"), -1, -1)))[0])
    assert last["logCutAt"] == about["position"] == baseline.decode()
    return str(about["position"])


@pytest.mark.slow
async def test_run_killed_at_any_instant_has_done_nothing_or_all_of_it(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
):
    """Beside a projector with load. KINFOLD_TEST_KILLS sets how often; the test prints the seed of the instants."""
    print(f"KINFOLD_TEST_SEED={SEED}")  # noqa: T201  shown where the test fails
    dice = random.Random(SEED)  # noqa: S311  no secret
    anonymous = [{"type": "VisitorSeen", "visitorId": f"v-anonymous-{number}"} for number in range(ANONYMOUS)]
    await append_aged(redis, workspace, *((HISTORY_DAYS + 1, each) for each in anonymous))
    await append_history(redis, workspace, HISTORY_DAYS, ENTRIES, every_ms=HISTORY_MS // ENTRIES)
    with ProjectorProcess(redis_url, workspace, tmp_path / "log") as projector:
        (last,) = await append_aged(redis, workspace, (0, anonymous[0]))
        await wait_until_folded(redis, workspace, last)
        await kinfold(redis_url, workspace, "retention", "set", "--events", f"{24 * HISTORY_DAYS}h", "--anonymous", "90d")
        (dry,) = (await kinfold(redis_url, workspace, "retention", "run", "--dry-run")).out
        assert dry["removed"]["visitors"] >= ANONYMOUS - 1
        started = time.monotonic()
        async with retention_run(redis_url, workspace, "--dry-run") as process:
            await wait_until(lambda: process.poll() is not None)
        whole_s = time.monotonic() - started

        cuts = [await baseline_of(redis, workspace)]
        for number in range(KILLS):
            hours = 24 * HISTORY_DAYS - (number + 1) * 24 * HISTORY_LASTS_DAYS // (KILLS + 1)  # each run has some more to cut
            await kinfold(redis_url, workspace, "retention", "set", "--events", f"{hours}h")
            async with retention_run(redis_url, workspace) as process:
                instant = time.monotonic() + dice.uniform(0.5 * whole_s, 3 * whole_s)
                while time.monotonic() < instant and process.poll() is None:
                    (last,) = await append_aged(redis, workspace, (0, {"type": "VisitorSeen", "visitorId": f"v-load-{number}"}))
            cuts.append(await baseline_of(redis, workspace))
            assert await verify(redis, workspace) == []
        done = sum(one != other for one, other in pairwise(cuts))
        print(f"{done} of {KILLS} were cut before they were killed")  # noqa: T201

        await kinfold(redis_url, workspace, "retention", "run")
        assert await baseline_of(redis, workspace)
        (last,) = await append_aged(
            redis, workspace, (0, {"type": "VisitorIdentified", "visitorId": "v-end", "externalId": "u-end"})
        )
        await wait_until_folded(redis, workspace, last)
        assert projector.process.poll() is None, projector.log.read_text()
    assert await verify(redis, workspace) == []
    assert (await kinfold(redis_url, workspace, "replay")).out == []
    assert await leftovers(redis, workspace) == []
    for staged in await keys_like(redis, f"kinfold:{{{workspace}}}:retention:*"):
        assert 0 < await redis.ttl(staged) <= STAGED_S, "what a killed run has prepared expires"


@pytest.mark.parametrize("written", ["retention:*:pieces", "replay:events"])
async def test_run_killed_while_it_prepares_a_baseline_has_done_nothing(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path, written: str
):
    """As soon as the first piece of a baseline, or of the rewritten log, is there. The next run does it."""
    await append_history(redis, workspace, HISTORY_DAYS, ENTRIES)
    await append_aged(redis, workspace, (HISTORY_DAYS - 1, {"type": "VisitorSeen", "visitorId": "v-anonymous"}))
    with ProjectorProcess(redis_url, workspace, tmp_path / "log"):
        (last,) = await append_aged(redis, workspace, (0, {"type": "VisitorSeen", "visitorId": "v-1"}))
        await wait_until_folded(redis, workspace, last)
        await kinfold(redis_url, workspace, "retention", "set", "--events", "400d", "--anonymous", "90d")
        before = await redis.xlen(key(workspace, "events"))
        async with retention_run(redis_url, workspace) as process:

            async def is_written() -> bool:
                staged = await keys_like(redis, f"kinfold:{{{workspace}}}:{written}")
                return bool(staged) or process.poll() is not None

            await wait_until(is_written, 60, interval_s=0.001)
            process.kill()
            process.wait()

        if not await baseline_of(redis, workspace):
            assert await redis.xlen(key(workspace, "events")) == before
            assert await verify(redis, workspace) == []
        await kinfold(redis_url, workspace, "retention", "run")
        assert await baseline_of(redis, workspace)
        assert await redis.xlen(key(workspace, "events")) == 1
    assert await verify(redis, workspace) == []
