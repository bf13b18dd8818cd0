"""`--at` shows the state of a fold from the beginning up to that position, with or without snapshots."""

import json
import random
from collections.abc import Awaitable
from typing import Final, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from redis.asyncio import Redis

from kinfold_projections.entries import read_entry
from kinfold_projections.fold import fold
from kinfold_projections.state import State
from kinfold_schemas.keys import key, snapshot_key
from kinfold_schemas.times import to_text
from kinfold_services.history.moments import parse_moment
from kinfold_services.history.past import KEPT_SNAPSHOTS, Past
from kinfold_services.settings import Settings
from tests.support.costs import costing
from tests.support.event_log import LOG_START_MS, append, entry_id, history
from tests.support.lengths import short_or_long
from tests.support.projecting import fold_log
from tests.support.replaying import NO_RULES, append_log, kinfold
from tests.support.snapshots import keys_like, take_snapshot
from tests.support.states import content
from tests.support.strategies import Log, logs

ENTRIES: Final = 6000
POSITIONS: Final = short_or_long(30, 100)
EVERY: Final = 2000
DICE: Final = random.Random(20261122)  # noqa: S311  no secret


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-11-22", 1_795_305_600_000),
        ("2026-11-22T08:00:00Z", 1_795_334_400_000),
        ("2026-11-22t09:00:00+01:00", 1_795_334_400_000),
        ("1795334400000", 1_795_334_400_000),
    ],
)
def test_moment_is_a_date_a_time_or_a_position(text: str, ms: int):
    """A date means its first instant in UTC, as in filters."""
    assert parse_moment(text) == f"{ms}-{2**64 - 1}"


@pytest.mark.parametrize("text", ["2026-02-30", "1969-12-31", "2026-11-22T08:00:00", "30d", ""])
def test_text_that_is_not_a_moment_is_refused(text: str):
    with pytest.raises(ValueError, match="expected a time with an offset"):
        parse_moment(text)


def looking(client: Redis, workspace: str, every: int) -> Past:
    """A reader of past states that keeps a snapshot after this many entries."""
    return Past(client, Settings(workspace=workspace, snapshot_entries=every), NO_RULES)


class FromNothing:
    """A log of events with consecutive ids, folded step by step from its beginning."""

    def __init__(self, workspace: str, events: list[bytes]) -> None:
        self.state = State(workspace)
        self._events = events
        self._folded = 0

    def upto(self, number: int) -> State:
        """The state after the entry with this number."""
        numbers = range(self._folded, number + 1)
        fold(self.state, [read_entry(entry_id(each).encode(), {b"event": self._events[each]}) for each in numbers])
        self._folded = number + 1
        return self.state


@pytest.mark.parametrize("every", [0, EVERY])
async def test_state_at_random_positions_equals_a_fold_up_to_there(redis: Redis, workspace: str, every: int):
    """With any snapshots, and without."""
    events = list(history()[:ENTRIES])
    await append(redis, workspace, events)
    past, expected = looking(redis, workspace, every), FromNothing(workspace, events)
    numbers = sorted(DICE.sample(range(ENTRIES), POSITIONS))
    await past.state_at(entry_id(ENTRIES - 1))  # leaves snapshots on the way

    assert await redis.hlen(key(workspace, "snapshots")) == (ENTRIES // EVERY if every else 0)
    for number in numbers:
        assert content(await past.state_at(entry_id(number))) == content(expected.upto(number)), number


async def test_snapshot_knows_the_ids_of_later_duplicates(redis: Redis, workspace: str):
    """The window begins before the snapshot."""
    first = {"type": "VisitorIdentified", "id": "e-1", "externalId": "u-1", "name": "Ada"}
    await append(redis, workspace, [first, {**first, "id": "e-2", "name": "Eve"}, *history()[: EVERY - 2]])
    await looking(redis, workspace, EVERY).state_at(entry_id(EVERY))
    assert await redis.hlen(key(workspace, "snapshots")) == 1
    await append(redis, workspace, [first], start=EVERY)

    state = await looking(redis, workspace, EVERY).state_at(entry_id(EVERY))

    contact = state.by_external_id("u-1")
    assert contact is not None
    assert contact.name == "Eve"


async def test_reading_is_limited_by_the_snapshots(redis: Redis, workspace: str):
    """The newest snapshot before the position and the entries since, not the log from its beginning."""
    await append(redis, workspace, history()[:ENTRIES])
    await looking(redis, workspace, EVERY).state_at(entry_id(ENTRIES - 1))
    late = entry_id(ENTRIES - 2)

    async with costing(redis) as without:
        await looking(redis, workspace, 0).state_at(late)
    async with costing(redis) as using:
        await looking(redis, workspace, EVERY).state_at(late)

    pages = without.commands["xrange"]
    assert pages >= ENTRIES // EVERY
    assert using.commands["xrange"] <= 2, using  # at most two pages


async def test_number_of_snapshots_is_limited(redis: Redis, workspace: str):
    """The oldest are deleted completely."""
    times = KEPT_SNAPSHOTS + 4
    short = history()[:EVERY]
    for turn in range(times):
        await append(redis, workspace, short, start=turn * EVERY)
    await looking(redis, workspace, EVERY).state_at(entry_id(times * EVERY - 1))

    kept = await snapshots_of(redis, workspace)
    assert sorted(kept) == [entry_id(turn * EVERY - 1) for turn in range(5, times + 1)]
    lists = await keys_like(redis, f"*{workspace}*:snapshot:*")
    assert sorted(each.decode() for each in lists) == [snapshot_key(workspace, each) for each in sorted(kept)]


@pytest.mark.parametrize("damage", ["digest", "not json", "a piece lost", "all pieces lost", "a piece broken", "other pieces"])
async def test_invalid_snapshot_is_not_used(redis: Redis, workspace: str, damage: str):
    """Another version of the fold made it, or it is incomplete. The result is the same, from an earlier one."""
    events = list(history()[: EVERY * 2 + 100])
    await append(redis, workspace, events)
    at = entry_id(EVERY * 2 + 50)
    expected = content(await looking(redis, workspace, EVERY).state_at(at))
    position = entry_id(EVERY * 2 - 1)
    table, pieces = key(workspace, "snapshots"), snapshot_key(workspace, position)
    about = (await snapshots_of(redis, workspace))[position]
    # Its content is changed as well, so that using it would show.
    label, *rest = await cast("Awaitable[list[bytes]]", redis.lrange(pieces, 0, -1))
    await redis.delete(pieces)
    other = await cast("Awaitable[list[bytes]]", redis.lrange(snapshot_key(workspace, entry_id(EVERY - 1)), 0, -1))
    match damage:
        case "digest":
            changed = msgspec.json.encode(about | {"digest": "0" * 64})
            await redis.hset(table, position, changed)
            await redis.rpush(pieces, changed, *other[1:])
        case "not json":
            await redis.hset(table, position, "?")
            await redis.rpush(pieces, label, *other[1:])
        case "a piece lost":
            await redis.rpush(pieces, label, *rest[1:])
        case "a piece broken":
            await redis.rpush(pieces, label, rest[0][:-9] + b"?" * 9, *rest[1:])
        case "other pieces":
            await redis.rpush(pieces, *other)
        case _:
            pass

    assert content(await looking(redis, workspace, EVERY).state_at(at)) == expected


async def test_snapshot_before_a_loss_of_the_log_is_not_used(redis: Redis, workspace: str):
    """It would contain more than the log, but it is only a cache."""
    await append(redis, workspace, history()[: EVERY + 100])
    at = entry_id(EVERY + 50)
    whole = content(await looking(redis, workspace, EVERY).state_at(at))
    await redis.xtrim(key(workspace, "events"), minid=entry_id(500), approximate=False)

    found = content(await looking(redis, workspace, EVERY).state_at(at))

    assert found == content(await looking(redis, workspace, 0).state_at(at))
    assert found != whole


@pytest.mark.parametrize("begun", ["anew", "as it was"])
async def test_snapshot_of_another_log_is_not_used(redis: Redis, workspace: str, begun: str):
    """The log was deleted and started again, or half of it was restored and other events followed."""
    events = list(history()[: EVERY + 100])
    await append(redis, workspace, events)
    at = entry_id(EVERY + 50)
    old = content(await looking(redis, workspace, EVERY).state_at(at))
    assert await redis.hlen(key(workspace, "snapshots")) == 1
    await redis.delete(key(workspace, "events"))
    if begun == "anew":
        await append(redis, workspace, events[100:], start=100)
    else:
        await append(redis, workspace, events[: EVERY // 2])
        await append(redis, workspace, events[:50], start=EVERY)

    found = content(await looking(redis, workspace, EVERY).state_at(at))

    assert found == content(await looking(redis, workspace, 0).state_at(at))
    assert found != old


async def test_exclusion_does_not_end_the_use_of_snapshots(redis: Redis, workspace: str):
    """Snapshots before it serve positions before it. Later positions get snapshots that respect it."""
    events = list(history()[: EVERY * 4])
    excluded = [entry_id(number) for number in range(0, EVERY, 7)]
    events[EVERY * 2 + 10] = msgspec.json.encode({"type": "EventsExcluded", "entries": excluded})
    await append(redis, workspace, events)
    last = entry_id(EVERY * 4 - 1)
    before, behind = entry_id(EVERY * 2 + 9), entry_id(EVERY * 2 + 10)
    without = {at: content(await looking(redis, workspace, 0).state_at(at)) for at in (before, behind, last)}
    assert without[before] != without[behind]

    for at in (before, last, behind, before, last):
        assert content(await looking(redis, workspace, EVERY).state_at(at)) == without[at]
    async with costing(redis) as cost:
        await looking(redis, workspace, EVERY).state_at(last)

    assert cost.commands.get("xrange", 0) <= 2, cost


async def test_excluded_entry_is_not_in_the_duplicate_window(redis: Redis, workspace: str):
    """Even if the fold begins at a snapshot: the next event with that id is not a duplicate."""
    event = {"type": "VisitorIdentified", "id": "e-1", "externalId": "u-1", "name": "Ada"}
    exclusion = {"type": "EventsExcluded", "entries": [entry_id(0)]}
    await append(redis, workspace, [event, exclusion, *history()[: EVERY - 2], {**event, "name": "Eve"}])
    for every in (0, EVERY, EVERY):
        contact = (await looking(redis, workspace, every).state_at(entry_id(EVERY))).by_external_id("u-1")
        assert contact is not None
        assert contact.name == "Eve"


@settings(max_examples=short_or_long(10, 25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=logs(max_size=40))
async def test_state_at_every_position_of_any_log_equals_a_fold_up_to_there(redis: Redis, workspace: str, log: Log):
    """Including malformed entries and exclusions."""
    await redis.flushdb()
    await append_log(redis, workspace, log)
    for number, (at, _) in enumerate(log):
        if number % 5 == 0:
            state = State(workspace)
            fold(state, [read_entry(*each) for each in log[: number + 1]])
            assert content(await looking(redis, workspace, 3).state_at(at.decode())) == content(state)


async def test_commands_show_the_past_state(redis: Redis, redis_url: str, workspace: str):
    """`show --at` and `contacts --at`, by position and by time. The current state does not change."""
    await append(
        redis,
        workspace,
        [
            {"type": "VisitorIdentified", "visitorId": "v-1", "externalId": "u-1", "name": "Ada"},
            {"type": "VisitorIdentified", "visitorId": "v-2", "email": "ben@example.org", "name": "Ben"},
            {"type": "VisitorIdentified", "externalId": "u-1", "email": "ben@example.org", "name": "Ada L."},
        ],
    )
    await fold_log(redis, redis_url, workspace)
    present = await take_snapshot(redis, workspace)

    for at in (entry_id(1), to_text(LOG_START_MS + 1)):
        answer = await kinfold(redis_url, workspace, "contacts", "--at", at)
        assert [(contact["name"], contact["visitorCount"]) for contact in answer.out] == [("Ada", 1), ("Ben", 1)]
        shown = await kinfold(redis_url, workspace, "show", "--email", "BEN@example.org", "--at", at)
        assert shown.out == answer.out[1:]
    assert (await kinfold(redis_url, workspace, "show", "--email", "ben@example.org", "--at", entry_id(0))).status == 1
    merged = await kinfold(redis_url, workspace, "show", "--visitor", "v-2", "--at", entry_id(2))
    assert merged.out == (await kinfold(redis_url, workspace, "show", "--external-id", "u-1")).out
    (await take_snapshot(redis, workspace))._replace(others=present.others).must_equal(present)


async def snapshots_of(client: Redis, workspace: str) -> dict[str, dict[str, object]]:
    """The description of each stored snapshot."""
    found = await cast("Awaitable[dict[bytes, bytes]]", client.hgetall(key(workspace, "snapshots")))
    return {position.decode(): json.loads(about) for position, about in found.items()}
