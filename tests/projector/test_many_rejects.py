"""Rejects are bounded by number and by bytes (contract section 7). A replay compares those that are kept."""

from typing import Any

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.projector import workspace as projector_workspace
from kinfold_services.rejects.retry import Rejects
from kinfold_services.state import writes
from tests.support.event_log import append, entry_id
from tests.support.projecting import fold_log
from tests.support.replaying import replay
from tests.support.snapshots import read_stream

KEPT = 200
NODE = 100
"""How many entries a node of a stream has. Redis trims whole nodes."""


def limit_rejects(patch: pytest.MonkeyPatch, *, entries: int = 100_000, size: int = 1 << 28) -> None:
    """Keep this many rejects."""
    for module in (writes, projector_workspace):
        patch.setattr(module, "REJECTS_ENTRIES", entries)
    patch.setattr(projector_workspace, "REJECTS_BYTES", size)


@pytest.mark.parametrize("limit", ["entries", "bytes"])
async def test_latest_rejects_are_kept(
    redis: Redis, redis_url: str, workspace: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a replay too, which finds all of them again and does not differ for that."""
    if limit == "entries":
        limit_rejects(monkeypatch, entries=KEPT)
    else:
        limit_rejects(monkeypatch, size=KEPT * 300)
    bad: list[Any] = [b'{"type":"VisitorLeft"}', {"type": "VisitorSeen", "visitorId": "v-1"}]
    await append(redis, workspace, bad * 600)
    await fold_log(redis, redis_url, workspace)

    rejects = await read_stream(redis, workspace, "rejects")
    assert KEPT / 2 < len(rejects) < KEPT + 2 * NODE
    assert [fields[b"entry"].decode() for _, fields in rejects] == [entry_id(2 * n) for n in range(600 - len(rejects), 600)]
    assert await replay(redis, workspace) == []
    assert await read_stream(redis, workspace, "rejects") == rejects


async def test_large_entry_is_cut(redis: Redis, redis_url: str, workspace: str) -> None:
    """Somebody has appended 2 MB to the log, not through a gateway. A replay finds the same."""
    large = b'{"type":"VisitorSeen","visitorId":"' + b"x" * 2_000_000
    await append(redis, workspace, [large, {b"other": b"y" * 200_000, b"more": b"z"}, large[:100_000]])
    await fold_log(redis, redis_url, workspace)
    first, second, third = [fields for _, fields in await read_stream(redis, workspace, "rejects")]
    assert first[b"event"] == large[:1024]
    assert first[b"reason"] == b"too-large"
    assert b"(the entry has 2,000,040 bytes, of which 1,029 are kept)" in first[b"detail"]
    assert second[b"other"] == b"y" * 1024
    assert second[b"reason"] == b"no-event-field"
    assert third[b"event"] == large[:100_000]
    assert await replay(redis, workspace) == []
    shown = [reject.as_json() async for reject in Rejects(redis, workspace).each()]
    assert len(shown) == 3
    assert await redis.xlen(key(workspace, "rejects")) == 3
