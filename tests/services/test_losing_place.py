"""Two projectors on one workspace: the log is folded once, and whoever lost its place stops (contract section 8)."""

import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.projector.store import LostPlace
from tests.support.event_log import HISTORY_ENTRIES, append, entry_id, history
from tests.support.projecting import ProjectorProcess, fold_log, projecting, stored_position, wait_until_folded
from tests.support.snapshots import Snapshot, take_snapshot
from tests.support.waiting import wait_until

CHUNK = 350


async def undisturbed(client: Redis, url: str, workspace: str, events: Sequence[bytes]) -> Snapshot:
    """What one projector alone makes of these events."""
    await append(client, workspace, events)
    await fold_log(client, url, workspace)
    snapshot = await take_snapshot(client, workspace)
    await client.flushdb()
    return snapshot


async def test_a_projector_whose_position_was_moved_commits_nothing_and_stops(
    redis: Redis, redis_url: str, workspace: str
) -> None:
    """Somebody else stands somewhere else now: what it has read and folded is nobody's business."""
    await append(redis, workspace, history()[:10])
    await fold_log(redis, redis_url, workspace)
    lost = fold_behind_a_moved_position(redis, redis_url, workspace)

    with pytest.raises(LostPlace, match=workspace):
        await lost

    snapshot = await take_snapshot(redis, workspace)
    assert snapshot.position[b"stream_id"] == entry_id(3).encode()
    assert snapshot.visitors.keys() == {json.loads(event)["visitorId"].encode() for event in history()[:10]}


async def fold_behind_a_moved_position(client: Redis, url: str, workspace: str) -> None:
    """Goes on with a log of ten entries; meanwhile somebody else stands at the fourth, and another visitor comes."""
    async with projecting(url, workspace) as service:
        await wait_until(lambda: workspace in service.workspaces)
        await client.hset(key(workspace, "position"), "stream_id", entry_id(3))
        await append(client, workspace, [{"type": "VisitorSeen", "visitorId": "v-late"}], start=10)
        await wait_until(lambda: False)  # the projector ends it


@pytest.mark.slow
async def test_of_two_projectors_the_one_that_lost_its_place_stops_with_status_1(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
) -> None:
    """The other goes on alone, and what is stored is what one alone would have stored."""
    expected = await undisturbed(redis, redis_url, workspace, history())

    with (
        ProjectorProcess(redis_url, workspace, tmp_path / "one.log", batch_entries=100) as one,
        ProjectorProcess(redis_url, workspace, tmp_path / "two.log", batch_entries=70) as two,
    ):
        await wait_until(lambda: all("workspace opened" in each.log.read_text() for each in (one, two)), 30)
        last = ""
        for first in range(0, len(history()), CHUNK):
            last = await append(redis, workspace, history()[first : first + CHUNK], start=first)
        await wait_until(lambda: one.process.poll() is not None or two.process.poll() is not None, 30)
        loser, winner = (one, two) if one.process.poll() is not None else (two, one)
        await wait_until_folded(redis, workspace, last)

        assert loser.process.returncode == 1
        assert f"workspace {workspace}: LOSTPLACE found " in loser.log.read_text()
        assert "another projector went on from there, and this one stops" in loser.log.read_text()
        assert winner.terminate() == 0

    (await take_snapshot(redis, workspace)).must_equal(expected)


async def test_a_projector_that_is_stopped_under_load_stops_at_once(redis: Redis, redis_url: str, workspace: str) -> None:
    """What it has read and not folded is read again by the next one: nobody waits for it."""
    await append(redis, workspace, history())
    async with projecting(redis_url, workspace, batch_entries=10):
        await wait_until(lambda: stored_position(redis, workspace))
        started = time.monotonic()

    assert time.monotonic() - started < 5.0  # FastStream itself would wait 15 s for a handler that waits
    assert await stored_position(redis, workspace) != entry_id(HISTORY_ENTRIES - 1).encode()


@pytest.mark.slow
async def test_a_projector_that_was_paused_while_another_took_over_stops(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
) -> None:
    """SIGSTOP, as a laptop's lid or a hypervisor does it: it wakes in the middle of something that is no longer its own."""
    events = history()[:3000]
    expected = await undisturbed(redis, redis_url, workspace, events)

    with ProjectorProcess(redis_url, workspace, tmp_path / "paused.log", batch_entries=50) as paused:
        await append(redis, workspace, events[:100])
        await wait_until_folded(redis, workspace, entry_id(99))
        paused.process.send_signal(signal.SIGSTOP)
        last = await append(redis, workspace, events[100:], start=100)
        async with projecting(redis_url, workspace):
            await wait_until_folded(redis, workspace, last)
            paused.process.send_signal(signal.SIGCONT)
            assert await wait_until(lambda: paused.process.poll() is not None, 30)

        assert paused.process.returncode == 1
    (await take_snapshot(redis, workspace)).must_equal(expected)


@pytest.mark.slow
async def test_of_two_projectors_that_want_to_write_the_same_one_stops(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
) -> None:
    """That a batch is stored already is no reason to go on: somebody else has stored it."""
    events = history()[:200]
    expected = await undisturbed(redis, redis_url, workspace, events)

    with (
        ProjectorProcess(redis_url, workspace, tmp_path / "one.log") as one,
        ProjectorProcess(redis_url, workspace, tmp_path / "two.log") as two,
    ):
        await wait_until(lambda: all("workspace opened" in each.log.read_text() for each in (one, two)), 30)
        await append(redis, workspace, events[:1])
        await wait_until(lambda: one.process.poll() is not None or two.process.poll() is not None, 30)
        loser = one if one.process.poll() is not None else two
        await wait_until_folded(redis, workspace, await append(redis, workspace, events[1:], start=1))
        assert loser.process.returncode == 1

    (await take_snapshot(redis, workspace)).must_equal(expected)
