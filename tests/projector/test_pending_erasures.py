"""The projector finishes pending erasures in a process of its own (contract section 10)."""

import asyncio
import os
import subprocess

from redis.asyncio import Redis

from kinfold_services.privacy.eraser import Eraser
from kinfold_services.projector.pending_erasures import _erase
from kinfold_services.settings import Settings
from tests.support.erased_people import ADA, adas_events, publish
from tests.support.projecting import fold_log
from tests.support.waiting import wait_until


async def test_process_that_erases_lets_others_go_first(redis: Redis, redis_url: str, workspace: str) -> None:
    """Live events must not wait for it where there are few processors."""
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    eraser = Eraser(redis, Settings(workspace=workspace))
    requested = await eraser.request([ADA])

    erasing = asyncio.create_task(_erase(Settings(workspace=workspace), redis_url))

    nicer = min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
    await wait_until(lambda: nicer in _children_niceness())
    assert await erasing == 0
    receipt = await eraser.records.receipt(requested.erasure)
    assert receipt is not None
    assert receipt.state == "done"


def _children_niceness() -> set[int]:
    listed = subprocess.run(["ps", "-A", "-o", "ppid=,ni="], check=True, capture_output=True, text=True).stdout
    pairs = [line.split() for line in listed.splitlines()]
    return {int(nice) for parent, nice in pairs if int(parent) == os.getpid() and nice.lstrip("-").isdigit()}
