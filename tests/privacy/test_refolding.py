"""An erasure folds the log once: from that fold, and from the entries around the person, comes the state without them."""

import json
from typing import Any

from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.privacy.eraser import Eraser
from kinfold_services.privacy.person import FoldedLog
from kinfold_services.privacy.planning import Plan
from kinfold_services.privacy.refolding import refolded
from kinfold_services.replay.rebuild import PARTS, Rebuild
from kinfold_services.settings import Settings
from tests.support.erased_people import ADA, adas_events, publish
from tests.support.event_log import append, history
from tests.support.projecting import fold_log


async def _published(client: Redis, url: str, workspace: str) -> None:
    """Other people's events, and Ada's: some twice, some rejected, and one that the log excludes."""
    await append(client, workspace, history()[:300])
    again = {"id": "e-again", "type": "VisitorIdentified", "externalId": "ada", "name": "Ada"}
    await publish(client, workspace, *adas_events(), again, again)
    log = key(workspace, "events")
    for bad in ({"type": "VisitorIdentified", "visitorId": "ada-1815"}, {"type": "VisitorSeen", "visitorId": 5}):
        await client.xadd(log, {"event": json.dumps(bad)})
    left_out: Any = await client.xadd(log, {"event": json.dumps({"type": "VisitorSeen", "visitorId": "nobody"})})
    await append(client, workspace, history()[300:400], start=300)
    await client.xadd(log, {"event": json.dumps({"type": "EventsExcluded", "entries": [left_out.decode()]})})
    await fold_log(client, url, workspace)


async def _planned(client: Redis, settings: Settings) -> tuple[FoldedLog, Plan]:
    eraser = Eraser(client, settings)
    log, people = await eraser.find([ADA])
    return log, await eraser.preview(log, people)


def _stored(rebuild: Rebuild) -> dict[str, Any]:
    parts: dict[str, Any] = {
        part: dict(zip(ids, rebuild.stored(part, ids), strict=True)) for part in PARTS if (ids := rebuild.ids(part))
    }
    rejects = sorted(rebuild.rejects, key=lambda each: each.entry)
    return {**parts, "position": rebuild.position, "excluded": rebuild.excluded, "rejects": rejects}


async def test_state_of_a_rewritten_log_is_made_without_folding_it_again(redis: Redis, redis_url: str, workspace: str) -> None:
    await _published(redis, redis_url, workspace)
    settings = Settings(workspace=workspace)
    log, plan = await _planned(redis, settings)
    folded, made = (Rebuild(redis, settings, log.rules, rewritten=plan.redacted) for _ in range(2))
    await folded.begin()
    await folded.build(log.upto)
    await made.begin()

    ahead = await refolded(redis, workspace, log, plan.redacted)

    assert ahead is not None
    assert await made.go_on_from(ahead)
    assert _stored(made) == _stored(folded)
    assert len(folded.rejects) == 1


async def test_whole_log_is_folded_again_if_it_lost_entries_meanwhile(redis: Redis, redis_url: str, workspace: str) -> None:
    """The state of the first fold has entries that the log does not have any more."""
    await _published(redis, redis_url, workspace)
    settings = Settings(workspace=workspace)
    log, plan = await _planned(redis, settings)
    await redis.xtrim(key(workspace, "events"), maxlen=300, approximate=False)
    rebuild = Rebuild(redis, settings, log.rules, rewritten=plan.redacted)
    await rebuild.begin()

    ahead = await refolded(redis, workspace, log, plan.redacted)

    assert ahead is None or not await rebuild.go_on_from(ahead)
