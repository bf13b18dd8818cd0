"""`kinfold replay` of a workspace in use: no reader, dashboard or projector notices it."""

import asyncio
import json
from collections.abc import Awaitable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import PublicName, key
from kinfold_services.replay.rebuild import Progress
from kinfold_services.replay.replay import Replay
from kinfold_services.settings import Settings
from tests.support.costs import costing
from tests.support.event_log import HISTORY_ENTRIES, LOG_START_MS, append, entry_id, history
from tests.support.lengths import short_or_long
from tests.support.projecting import ProjectorProcess, fold_log, projecting, stored_position, wait_until_folded
from tests.support.replaying import (
    NO_RULES,
    changes_since,
    differ_unseen,
    kinfold,
    leftovers,
    polling,
    quietly,
    replay,
    verify,
)
from tests.support.snapshots import read_stream, take_snapshot
from tests.support.waiting import wait_until

TIMES: Final = short_or_long(2, 10)
"""How many copies of the history the log has. A replay takes about a second for each."""
POLLED: Final = 10
LOAD_ENTRIES: Final = 20
"""Events that are appended repeatedly while the replay runs."""


@cache
def decoded_history() -> tuple[dict[str, Any], ...]:
    """The events of the history."""
    return tuple(map(msgspec.json.decode, history()))


def repeated(times: int) -> Iterator[bytes]:
    """This many copies of the history, each with other people and other devices."""
    for turn in range(times):
        for event in decoded_history():
            marked = {field: f"{turn}.{event[field]}" for field in ("id", "visitorId", "externalId", "email") if field in event}
            yield msgspec.json.encode(event | marked)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_replay_under_a_steady_load_has_no_visible_effect(redis: Redis, redis_url: str, workspace: str, tmp_path: Path):
    """The feed has only the changes of the load, no read misses a contact, and the state is equal afterwards."""
    with ProjectorProcess(redis_url, workspace, tmp_path / "log", feed_entries=10_000_000) as projector:
        await wait_until_folded(redis, workspace, await append_many(redis, workspace, repeated(TIMES)), 300)
        told = await redis.xlen(key(workspace, "changes"))
        await differ_unseen(redis, workspace)
        names: tuple[PublicName, ...] = ("contacts", "visitors", "external-ids", "emails")
        ids: dict[PublicName, Sequence[bytes]] = {name: await some_of(redis, workspace, name) for name in names}
        stop = asyncio.Event()
        loading = asyncio.create_task(load(redis, workspace, HISTORY_ENTRIES * TIMES, stop))
        async with polling(redis, workspace, ids) as polls:
            answer = await kinfold(redis_url, workspace, "replay")
            swapped_at = await stored_position(redis, workspace)
            await wait_until(lambda: has_moved(redis, workspace, swapped_at))  # the projector continues with the new state
        stop.set()
        last, causes = await loading
        await wait_until_folded(redis, workspace, last)
        assert projector.process.poll() is None, projector.log.read_text()

        print(f"{TIMES}x: {polls[0].polls} polls, the slowest {polls[0].slowest_s * 1000:.0f} ms; {answer.said}")  # noqa: T201
        assert (answer.status, answer.out) == (0, []), answer.said
        assert polls[0].missed == []
        assert polls[0].polls > 1
        assert {change.cause for change in await changes_since(redis, workspace, told)} <= causes, "only the load makes changes"
        assert await stored_generation(redis, workspace), "it was replaced"
        verified = await kinfold(redis_url, workspace, "verify")
        assert (verified.status, verified.out) == (0, []), verified.said
        assert verified.said.count("equal at") == 1
        assert await leftovers(redis, workspace) == []


APPEND: Final = """
for number, event in ipairs(cmsgpack.unpack(ARGV[1])) do
  redis.call('XADD', KEYS[1], (ARGV[2] + number) .. '-0', 'event', event)
end
"""


async def append_many(client: Redis, workspace: str, events: Iterator[bytes]) -> str:
    """Like `append`, in a tenth of the time."""
    number = 0
    while some := [event.decode() for event in islice(events, 5000)]:
        packed, before = msgspec.msgpack.encode(some), str(LOG_START_MS + number - 1)
        await cast("Any", client.eval(APPEND, 1, key(workspace, "events"), cast("str", packed), before))
        number += len(some)
    return entry_id(number - 1)


async def load(client: Redis, workspace: str, start: int, stop: asyncio.Event) -> tuple[str, set[str]]:
    """Append events of existing people, as fast as they are folded, until `stop`. Returns the last id, and all ids."""
    visitors = sorted({f"0.{event['visitorId']}" for event in decoded_history() if "visitorId" in event})
    number, causes = start, set[str]()
    while not stop.is_set():
        events = [
            {"type": "MetadataSet", "visitorId": visitors[each % len(visitors)], "metadata": {"load": each}}
            for each in range(number, number + LOAD_ENTRIES)
        ]
        last = await append(client, workspace, events, start=number)
        number += LOAD_ENTRIES
        causes.update(map(entry_id, range(number - LOAD_ENTRIES, number)))
        await wait_until_folded(client, workspace, last)
    return entry_id(number - 1), causes


async def some_of(client: Redis, workspace: str, name: PublicName) -> Sequence[bytes]:
    """Some fields of a table, from all parts of it."""
    fields = sorted(await cast("Awaitable[list[bytes]]", client.hkeys(key(workspace, name))))
    return fields[:: max(1, len(fields) // POLLED)]


async def stored_generation(client: Redis, workspace: str) -> bytes | None:
    """The generation of the stored state."""
    return await cast("Awaitable[bytes | None]", client.hget(key(workspace, "position"), "generation"))


async def has_moved(client: Redis, workspace: str, position: bytes | None) -> bool:
    """Whether the projector has advanced."""
    return await stored_position(client, workspace) != position


async def test_event_id_from_before_the_swap_is_still_a_duplicate(redis: Redis, redis_url: str, workspace: str):
    """The projector keeps its window of duplicates and its counts in the new generation."""
    first = {"type": "VisitorIdentified", "id": "e-1", "externalId": "u-1", "name": "Ada"}
    async with projecting(redis_url, workspace):
        last = await append(redis, workspace, [first, *history()[:2000]])
        await wait_until_folded(redis, workspace, last)
        counts = (await take_snapshot(redis, workspace)).position
        await differ_unseen(redis, workspace)

        assert await replay(redis, workspace) == []

        replayed = (await take_snapshot(redis, workspace)).position
        assert replayed.pop(b"generation")
        assert replayed == counts
        renamed = {**first, "id": "e-2", "name": "Eve"}
        last = await append(redis, workspace, [renamed, first, {"type": "VisitorSeen", "visitorId": "v"}], start=2001)
        await wait_until_folded(redis, workspace, last)

    after = (await take_snapshot(redis, workspace)).position
    assert int(after[b"duplicate"]) == int(counts[b"duplicate"]) + 1
    assert await verify(redis, workspace) == []
    names = [json.loads(fields[b"change"])["contact"]["name"] for _, fields in await read_stream(redis, workspace, "changes")]
    assert names[-1] == "Eve", "e-1 is not folded again"


async def test_cached_records_of_the_old_state_do_not_stop_the_projector(redis: Redis, redis_url: str, workspace: str):
    """It cached an external id but not its contact, which the replay has replaced with another one."""
    first: dict[str, Any] = {"type": "VisitorIdentified", "externalId": "u-1", "name": "Ada"}
    others = [{"type": "VisitorIdentified", "email": f"{number}@example.org"} for number in range(12)]
    async with projecting(redis_url, workspace, cache_bytes=1):
        last = await append(redis, workspace, [first, {**first, "name": "Eve"}, *others])
        await wait_until_folded(redis, workspace, last)
        last = await append(redis, workspace, others[:1], start=20)
        await wait_until_folded(redis, workspace, last)
        last = await append(redis, workspace, [{"type": "EventsExcluded", "entries": [entry_id(0)]}], start=21)
        await wait_until_folded(redis, workspace, last)
        assert await replay(redis, workspace)

        again = {"type": "MetadataSet", "externalId": "u-1", "metadata": {"plan": "pro"}}
        last = await append(redis, workspace, [again], start=22)
        await wait_until_folded(redis, workspace, last)

    contacts = [json.loads(each) for each in (await take_snapshot(redis, workspace)).contacts.values()]
    assert [each["metadata"] for each in contacts if each["externalId"] == "u-1"] == [{"plan": "pro"}]
    assert await verify(redis, workspace) == []


@pytest.mark.parametrize("piece_bytes", [1, 2000, 1 << 20])
async def test_state_that_is_written_in_pieces_of_any_size_has_the_same_bytes(
    redis: Redis, redis_url: str, workspace: str, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
):
    """The server answers other clients between two pieces."""
    monkeypatch.setattr("kinfold_services.replay.staging._CHUNK_BYTES", piece_bytes)
    monkeypatch.setattr("kinfold_services.replay.rebuild._TAKEN_ENTRIES", 500)
    last = await append(redis, workspace, history()[:6000])
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, last)
    expected = await take_snapshot(redis, workspace)

    await differ_unseen(redis, workspace)

    assert await replay(redis, workspace) == []

    found = await take_snapshot(redis, workspace)
    assert found.position.pop(b"generation")
    found.must_equal(expected)
    assert await leftovers(redis, workspace) == []


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_projector_waits_only_for_entries_that_were_folded_during_the_replay(
    redis: Redis, redis_url: str, workspace: str, *, is_replaced: bool
):
    """All entries at the start of a replay are rebuilt and compared before the projector is held back."""
    last = await append(redis, workspace, history()[:6000])
    await fold_log(redis, redis_url, workspace)
    if is_replaced:
        await differ_unseen(redis, workspace)
    job = Replay(redis, Settings(workspace=workspace), NO_RULES)

    await job.build(quietly)
    assert job.rebuild.position.stream_id == last
    await job.compare()
    assert await redis.exists(key(workspace, "hold")) == 0

    async with costing(redis) as cost:
        assert await job.replace(allow_lost=False) == []
    await job.close()
    assert (await stored_generation(redis, workspace) is not None) == is_replaced
    assert cost.commands.get("xrange", 0) <= 2, cost
    assert cost.bytes_out < 100_000, cost


async def test_entries_that_are_folded_during_the_comparison_are_rebuilt_before_the_hold(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
):
    """Even many of them: comparing many contacts takes a while, and the projector may be catching up."""
    job = Replay(redis, Settings(workspace=workspace), NO_RULES)
    await append(redis, workspace, history()[:1000])
    await fold_log(redis, redis_url, workspace)
    await job.build(quietly)
    await job.compare()
    await append(redis, workspace, history()[1000:12000], start=1000)
    await fold_log(redis, redis_url, workspace)
    await differ_unseen(redis, workspace)
    job._is_other = True  # it was compared before
    advance, held = job.rebuild.advance, list[int]()

    async def watched(upto: str, _: Progress = quietly) -> None:
        before, is_held = job.rebuild.position.counts.entries, await redis.exists(key(workspace, "hold"))
        await advance(upto)
        held.append(is_held * (job.rebuild.position.counts.entries - before))

    monkeypatch.setattr(job.rebuild, "advance", watched)

    assert await job.replace(allow_lost=False) == []

    assert job.rebuild.position.counts.entries == 12000
    assert len(held) > 1
    assert sum(held) == 0
    assert await stored_generation(redis, workspace), "it was replaced"
    assert await verify(redis, workspace) == []


async def test_workspace_that_was_never_folded_is_replayed_up_to_its_position(redis: Redis, redis_url: str, workspace: str):
    """There is nothing to replay. The projector then starts at the beginning of the log."""
    last = await append(redis, workspace, history()[:100])
    assert await replay(redis, workspace) == []
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, last)
    assert await verify(redis, workspace) == []


async def test_rebuild_does_not_move_the_position_of_the_consumer_group(redis: Redis, redis_url: str, workspace: str):
    """The consumer group shows the projector's lag while another state is being built."""
    await append(redis, workspace, history()[:6000])
    await fold_log(redis, redis_url, workspace)
    before = await redis.xinfo_groups(key(workspace, "events"))

    await differ_unseen(redis, workspace)
    assert await replay(redis, workspace) == []

    assert await stored_generation(redis, workspace), "it was replaced"
    assert await redis.xinfo_groups(key(workspace, "events")) == before
