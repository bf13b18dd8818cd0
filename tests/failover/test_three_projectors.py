"""Three projectors serve the same three workspaces: one is the owner of each, the others stand by (contract section 8)."""

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final, cast

import pytest
from redis.asyncio import Redis

from kinfold_projections.entries import read_entries
from kinfold_projections.fold import fold
from kinfold_projections.state import State
from kinfold_schemas.changes import encode_change
from kinfold_schemas.keys import key
from tests.support.feed_reader import contacts_of
from tests.support.fleet import Fleet
from tests.support.lengths import short_or_long
from tests.support.projecting import stored_position, wait_until_folded
from tests.support.replaying import kinfold
from tests.support.snapshots import RawEntry
from tests.support.under_load import FOLDS_AGAIN_S, SLACK, Speaker, differing, stored_contacts
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

WORKSPACES: Final = ("books", "shoes", "tea")
DURATION_S: Final = float(os.environ.get("KINFOLD_FAILOVER_S", short_or_long("8", "15")))
BETWEEN_S: Final = (0.2, 2.0)
"""How long everything is calm between two disturbances, at least and at most."""
PER_S: Final = 50
"""Events that each workspace gets."""
START_S: Final = 60.0


async def oldest_unfolded_s(redis: Redis, workspace: str) -> float:
    """How long the oldest entry that is not folded has been in the log, in seconds by the server's clock; 0 for none."""
    position = await stored_position(redis, workspace)
    behind = b"-" if position is None else b"(" + position
    first = cast("list[RawEntry]", await redis.xrange(key(workspace, "events"), behind, count=1))
    if not first:
        return 0.0
    seconds, microseconds = await redis.time()
    return seconds + microseconds / 1_000_000 - int(first[0][0].split(b"-")[0]) / 1000


class Watch:
    """Looks all the time at how old the oldest unfolded entry of each workspace is, and that no projector ends by itself."""

    def __init__(self, redis: Redis, fleet: Fleet) -> None:
        self.done: Final[list[str]] = []
        """What was done to the projectors, and when: shown where it was too much for them."""
        self._redis: Final = redis
        self._fleet: Final = fleet
        self._started: Final = time.monotonic()

    def note(self, what: str) -> None:
        """Remember a disturbance."""
        self.done.append(f"{time.monotonic() - self._started:.1f} s {what}")

    async def look(self) -> float:
        """Return the greatest age in seconds; asserts that it is within the bound."""
        self._fleet.must_live()
        ages = {each: await oldest_unfolded_s(self._redis, each) for each in WORKSPACES}
        worst = max(ages.values())
        assert worst < FOLDS_AGAIN_S * SLACK, f"seconds unfolded: {ages}; at {self._now()}, after {self.done[-8:]}"
        return worst

    async def until_calm(self) -> None:
        """Wait until all that is in the log is nearly as new as can be."""
        await wait_until(self._is_calm, FOLDS_AGAIN_S * SLACK * 2, 0.05)

    async def _is_calm(self) -> bool:
        return await self.look() < 1.0

    def _now(self) -> str:
        return f"{time.monotonic() - self._started:.1f} s"


async def test_projectors_that_are_killed_hung_and_started_at_random(
    redis: Redis, redis_url: str, tmp_path: Path, round_number: int
) -> None:
    """None ends because of another; no entry waits for more than 5 s; every change is on the feed once."""
    dice = random.Random(round_number)  # noqa: S311  the same disturbances again
    talking = True

    async def talk() -> None:
        speakers = [Speaker("one", redis_url, each) for each in WORKSPACES]
        try:
            while talking:
                for speaker in speakers:
                    speaker.say()
                await asyncio.sleep(1 / PER_S)
        finally:
            await asyncio.gather(*[asyncio.to_thread(speaker.producer.close) for speaker in speakers])

    with Fleet(redis_url, WORKSPACES, tmp_path, size=3) as fleet:
        await wait_until(lambda: all(each.is_ready for each in fleet.members), START_S, 0.05)
        speech = asyncio.create_task(talk())
        try:
            await disturb_at_random(Watch(redis, fleet), fleet, dice)
        finally:
            talking = False
            await speech

        for workspace in WORKSPACES:
            log = cast("list[RawEntry]", await redis.xrange(key(workspace, "events")))
            await wait_until_folded(redis, workspace, log[-1][0])
            await everything_was_folded_once(redis, workspace, log)
        for each in fleet.members:
            if each.is_running:
                each.go_on()
        # Before it is ready, a projector has no handler for SIGTERM.
        await wait_until(lambda: all(each.is_ready for each in fleet.members if each.is_running), START_S, 0.05)
        for each in fleet.members:
            await asyncio.to_thread(each.stop)
    for workspace in WORKSPACES:
        verified = await kinfold(redis_url, workspace, "verify")
        assert verified.status == 0, verified.said


async def disturb_at_random(watch: Watch, fleet: Fleet, dice: random.Random) -> None:
    """Kill, hang, stop, wake and start projectors, one at a time, and look at the workspaces all the time."""
    ends_at = time.monotonic() + DURATION_S
    while time.monotonic() < ends_at:
        calm_until = time.monotonic() + dice.uniform(*BETWEEN_S)
        while time.monotonic() < calm_until:
            await watch.look()
            await asyncio.sleep(0.05)
        await watch.until_calm()  # else two disturbances might count as one that lasts twice as long
        watch.note(await asyncio.to_thread(fleet.disturb, dice))
        await watch.until_calm()
    assert len(watch.done) > 2


async def everything_was_folded_once(redis: Redis, workspace: str, log: list[RawEntry]) -> None:
    """The feed has exactly the changes that one fold of the log makes, in its order, and the contacts are those of it."""
    state = State(workspace)
    changes = [encode_change(change) for outcome in fold(state, read_entries(log)) for change in outcome.changes]
    told = [fields[b"change"] for _, fields in cast("list[RawEntry]", await redis.xrange(key(workspace, "changes")))]
    twice = [change for change, times in Counter(told).items() if times > 1]
    assert not twice, f"{workspace}: {len(twice)} changes are on the feed twice, first {twice[:2]}"
    assert told == changes, f"{workspace}: {len(told)} changes are on the feed, expected {len(changes)}"
    assert not (difference := differing(await stored_contacts(redis, workspace), contacts_of(state))), difference


@pytest.mark.parametrize("ends", ["killed", "hung"])
async def test_a_standby_takes_over_from_an_owner_that_ends(redis: Redis, redis_url: str, tmp_path: Path, ends: str) -> None:
    """One after the other, until a single one is left: the workspace is folded within 5 s each time."""
    with Fleet(redis_url, WORKSPACES[:1], tmp_path, size=3) as fleet:
        await wait_until(lambda: all(each.is_ready for each in fleet.members), START_S, 0.05)
        for number, member in enumerate(fleet.members):
            await fold_one(redis, fleet, f"{number}-before")
            member.kill() if ends == "killed" else member.hang()
            if any(each.is_ready for each in fleet.members):
                await fold_one(redis, fleet, f"{number}-after")

        for member in fleet.members if ends == "hung" else []:
            member.go_on()
        if ends == "hung":  # all of them wake up at once, and each may think that it is the owner
            for number in range(20):
                await fold_one(redis, fleet, f"{number}-awake")
    log = cast("list[RawEntry]", await redis.xrange(key(WORKSPACES[0], "events")))
    await everything_was_folded_once(redis, WORKSPACES[0], log)


async def fold_one(redis: Redis, fleet: Fleet, visitor: str) -> None:
    """Append an event, and assert that it is folded in time, and that nobody ends."""
    event = f'{{"type":"VisitorIdentified","visitorId":"v-{visitor}","externalId":"u-{visitor}"}}'
    entry = cast("Any", await redis.xadd(key(WORKSPACES[0], "events"), {"event": event}))
    await wait_until_folded(redis, WORKSPACES[0], entry, FOLDS_AGAIN_S * SLACK)
    fleet.must_live()
