"""A log that was cut gives, from its baseline on, the state that the whole log gave (contract section 11)."""

from typing import Final, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from kinfold_projections.state import State
from kinfold_schemas.keys import key
from kinfold_schemas.times import to_text
from kinfold_services.history.past import Past
from kinfold_services.replay.rebuild import Rebuild
from kinfold_services.settings import Settings
from kinfold_services.state.position import Position
from tests.support.lengths import short_or_long
from tests.support.replaying import NO_RULES, append_log, verify
from tests.support.retaining import AGE_MS, cut_upto, fold_in_place
from tests.support.snapshots import read_stream
from tests.support.states import content
from tests.support.strategies import Log, crowded_logs, logs

ANY: Final = settings(
    max_examples=short_or_long(25, 300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Whole(NamedTuple):
    """What a fold makes of a whole log."""

    state: State
    members: set[str]
    position: Position


async def folded(client: Redis, workspace: str, log: Log) -> Whole:
    """Fold the log that is stored, from its beginning or its baseline."""
    rebuild = Rebuild(client, Settings(workspace=workspace), NO_RULES)
    await rebuild.begin()
    await rebuild.build(log[-1][0].decode())
    return Whole(rebuild.state, rebuild.members, rebuild.position)


def must_equal(found: Whole, expected: Whole) -> None:
    """Assert that nothing differs: records, stamps, members, counts and position."""
    assert content(found.state) == content(expected.state)
    assert found.members == expected.members
    assert found.position == expected.position


@ANY
@given(log=st.one_of(logs(max_size=40), crowded_logs()), data=st.data())
async def test_state_from_a_baseline_and_later_events_equals_that_of_the_whole_log(
    redis: Redis, workspace: str, log: Log, data: st.DataObject
):
    """Any log, cut once or twice before its other events come. Duplicates across a cut are dropped as without it."""
    if len(log) < 3:
        return
    await redis.flushdb()
    await append_log(redis, workspace, log)
    expected = await folded(redis, workspace, log)
    first = data.draw(st.integers(1, len(log) - 2), "entries cut first")
    second = data.draw(st.integers(first, len(log) - 1), "entries cut by then")
    await redis.flushdb()

    for begin, end in ((0, first), (first, second), (second, len(log))):
        await append_log(redis, workspace, log[begin:end])
        await fold_in_place(redis, workspace)
        if begin < end < len(log):
            receipt = await cut_upto(redis, workspace, log[end - 1][0])
            assert receipt is not None
            assert receipt.removed.log_entries == end - begin
            assert receipt.removed.visitors == 0

    assert await redis.xlen(key(workspace, "events")) == len(log) - second
    must_equal(await folded(redis, workspace, log), expected)
    assert await verify(redis, workspace) == []
    for at, _ in log[second:]:
        past = Past(redis, Settings(workspace=workspace, snapshot_entries=3), NO_RULES)
        assert (await past.state_at(at.decode())).workspace == workspace


@ANY
@given(log=logs(max_size=40), data=st.data())
async def test_only_old_visitors_that_no_event_identified_go(redis: Redis, workspace: str, log: Log, data: st.DataObject):
    """With their events, before and after the cut. The state keeps everything else, and a replay gives what it keeps."""
    if len(log) < 2:
        return
    await redis.flushdb()
    await append_log(redis, workspace, log)
    await fold_in_place(redis, workspace)
    expected = await folded(redis, workspace, log)
    last = log[data.draw(st.integers(0, len(log) - 1), "the last entry cut")][0]
    seen_before = to_text(int(last.partition(b"-")[0]) + 1 + AGE_MS)

    receipt = await cut_upto(redis, workspace, last, anonymous=0)

    assert receipt is not None
    gone = {
        each for each, visitor in expected.state.visitors.items() if not visitor.links and visitor.last_seen_at < seen_before
    }
    assert receipt.removed.visitors == len(gone)
    for each in gone:
        del expected.state.visitors[each]
        expected.state.visitor_stamps.pop(each, None)
        assert not any(each.encode() in fields[b"event"] for _, fields in await read_stream(redis, workspace, "events"))
    found = await folded(redis, workspace, log)
    assert content(found.state) == content(expected.state)
    assert found.members == expected.members
    assert await verify(redis, workspace) == []
