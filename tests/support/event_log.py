"""Logs for the projector, with fixed entry ids, so that two runs can be compared byte for byte."""

import gzip
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

from redis.asyncio import Redis

from kinfold_schemas.keys import key
from tests.support.snapshots import keys_like

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
HISTORY: Final = EXAMPLES / "swift-history.ndjson.gz"
HISTORY_ENTRIES: Final = 34_473
HISTORY_CONTACTS: Final = 473
HISTORY_VISITORS: Final = 574

LOG_START_MS: Final = 1_800_000_000_000
"""2027-01-15, after all events in the history, so their times are kept."""
_PIPELINED: Final = 2000


@cache
def history() -> tuple[bytes, ...]:
    """The events of the example history, as JSON."""
    with gzip.open(HISTORY) as file:
        return tuple(line.strip() for line in file)


def entry_id(number: int) -> str:
    """The id of entry `number` of a log, counted from 0."""
    return f"{LOG_START_MS + number}-0"


async def append(
    client: Redis, workspace: str, events: Iterable[bytes | Mapping[str, Any] | dict[bytes, bytes]], *, start: int = 0
) -> str:
    """Append events (as JSON or mappings) or raw fields, with ids from `start` on; returns the last id."""
    log = key(workspace, "events")
    pipeline, number = client.pipeline(transaction=False), start
    for number, event in enumerate(events, start):
        pipeline.xadd(log, cast("Any", _fields(event)), id=entry_id(number))
        if number % _PIPELINED == 0:
            await pipeline.execute()
    await pipeline.execute()
    return entry_id(number)


def _fields(event: bytes | Mapping[str, Any] | dict[bytes, bytes]) -> dict[bytes, bytes]:
    if isinstance(event, bytes):
        return {b"event": event}
    if "type" in event:
        return {b"event": json.dumps(event).encode()}
    return cast("dict[bytes, bytes]", event)


async def forget_all_but_the_log(client: Redis, workspace: str) -> None:
    """Delete everything of the workspace except the log, as if no projector had ever run."""
    log = key(workspace, "events").encode()
    for name in await keys_like(client, key(workspace, "events").replace("events", "*")):
        if name != log:
            await client.delete(name)
    await client.xgroup_destroy(log, "kinfold")
