"""Logs with old entries, and retention runs in this process, at a time that the test chooses."""

import json
import time
from typing import Any, Final

from redis.asyncio import Redis

from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.replay.replay import Replay
from kinfold_services.retention.limits import Limits
from kinfold_services.retention.run import Receipt, RetentionRun
from kinfold_services.settings import Settings
from tests.support.event_log import history
from tests.support.replaying import NO_RULES, quietly

AGE_MS: Final = 1000
DAY_MS: Final = 86_400_000
HISTORY_DAYS: Final = 500
"""An age at which everything is too old for the limits of these tests."""


async def cut_upto(client: Redis, workspace: str, last: str | bytes, *, dry: bool = False, **ages: int) -> Receipt | None:
    """Run retention at the time when the entry `last`, and all before it, are past AGE_MS. `ages` are other limits in ms."""
    limits = Limits(**{"events": AGE_MS, **ages})
    now_ms = position_key(last.decode() if isinstance(last, bytes) else last)[0] + 1 + AGE_MS
    return await RetentionRun(client, Settings(workspace=workspace), "kinfold retention run", now_ms).run(limits, dry=dry)


async def fold_in_place(client: Redis, workspace: str, rules: IdentifierRules = NO_RULES, **settings: Any) -> None:
    """Store the state that the whole log gives, without a projector."""
    job = Replay(client, Settings(workspace=workspace, **settings), rules, whole_log=True)
    try:
        await job.build(quietly)
        await job.compare()
        await job.replace(allow_lost=True)
    finally:
        await job.close()


def ago(days: float) -> int:
    """The time this many days ago, in ms."""
    return time.time_ns() // 1_000_000 - round(days * DAY_MS)


async def append_aged(client: Redis, workspace: str, *aged: tuple[float, dict[str, Any] | bytes]) -> list[str]:
    """Append events that are this many days old; returns their entries."""
    entries: list[str] = []
    for days, event in aged:
        data = event if isinstance(event, bytes) else json.dumps(event).encode()
        entry: Any = await client.xadd(key(workspace, "events"), {"event": data}, id=f"{ago(days)}-*")
        entries.append(entry.decode())
    return entries


async def append_history(client: Redis, workspace: str, days: float, count: int = 2000, *, every_ms: int = 1) -> None:
    """Append some of the example history, at a fixed interval in milliseconds, from a number of days ago on."""
    start = ago(days)
    pipeline = client.pipeline(transaction=False)
    for number, event in enumerate(history()[:count]):
        pipeline.xadd(key(workspace, "events"), {"event": event}, id=f"{start + number * every_ms}-0")
    await pipeline.execute()
