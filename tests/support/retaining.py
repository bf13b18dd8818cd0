"""Retention runs in this process, at a time that the test chooses."""

from typing import Any, Final

from redis.asyncio import Redis

from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.positions import position_key
from kinfold_services.replay.replay import Replay
from kinfold_services.retention.limits import Limits
from kinfold_services.retention.run import Receipt, RetentionRun
from kinfold_services.settings import Settings
from tests.support.replaying import NO_RULES, quietly

AGE_MS: Final = 1000


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
