"""SIGKILL at any instant: a killed projector leaves what an undisturbed one would have left, byte for byte."""

import os
import random
import time
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from redis.asyncio import Redis

from kinfold_schemas.positions import position_key
from tests.support.event_log import HISTORY_ENTRIES, append, entry_id, forget_all_but_the_log, history
from tests.support.lengths import short_or_long
from tests.support.projecting import ProjectorProcess, fold_log, stored_position, wait_until_folded
from tests.support.snapshots import take_snapshot
from tests.support.waiting import wait_until

KILLS: Final = short_or_long(6, 20)
SEED: Final = int(os.environ.get("KINFOLD_TEST_SEED", str(random.SystemRandom().randrange(10**6))))
BATCH_ENTRIES: Final = 100
"""Small, so that there are several hundred commits."""
MOST_OF_A_BATCH_S: Final = 0.01
NOT_TO_BE_REACHED: Final = HISTORY_ENTRIES * 3 // 4
"""The last kill comes no later, because a projector that has finished would not be killed during the fold."""


@pytest.mark.slow
async def test_projector_killed_at_any_instant_stores_what_an_undisturbed_one_does(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
) -> None:
    """Contacts, visitors, identifiers, members, position, rejects and feed. The test prints the seed of the instants."""
    print(f"KINFOLD_TEST_SEED={SEED}")  # noqa: T201  shown where the test fails
    dice = random.Random(SEED)  # noqa: S311  no secret
    last = await append(redis, workspace, history())
    await fold_log(redis, redis_url, workspace)
    undisturbed = await take_snapshot(redis, workspace)
    await forget_all_but_the_log(redis, workspace)

    targets = sorted(dice.randrange(NOT_TO_BE_REACHED) for _ in range(KILLS))
    for target in targets:
        with ProjectorProcess(redis_url, workspace, tmp_path / "log", batch_entries=BATCH_ENTRIES) as projector:
            await wait_until(partial(has_come_to, redis, workspace, entry_id(target)))
            instant = time.monotonic() + dice.uniform(0, MOST_OF_A_BATCH_S)
            while time.monotonic() < instant:
                pass  # kill at this instant, which no event marks
            assert projector.process.poll() is None, projector.log.read_text()
            projector.kill()
        assert await stored_position(redis, workspace) != last.encode(), "it was done before it was killed"

    with ProjectorProcess(redis_url, workspace, tmp_path / "log", batch_entries=BATCH_ENTRIES) as projector:
        await wait_until_folded(redis, workspace, last)
        assert projector.terminate() == 0

    (await take_snapshot(redis, workspace)).must_equal(undisturbed)


async def has_come_to(client: Redis, workspace: str, target: str) -> bool:
    """Whether the entry is folded."""
    position = await stored_position(client, workspace)
    return position is not None and position_key(position.decode()) >= position_key(target)
