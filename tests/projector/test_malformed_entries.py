"""A thousand malformed entries between good ones: folding continues, and nothing is lost (section 7)."""

from collections import Counter
from collections.abc import Awaitable, Sequence
from itertools import chain
from typing import Any, Final, cast, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_schemas.rejections import Reason
from kinfold_services.state.queries import StateQueries
from tests.support.event_log import append, entry_id, forget_all_but_the_log
from tests.support.lengths import short_or_long
from tests.support.malformed import KINDS, Malformed, malformed
from tests.support.projecting import fold_log, projecting, wait_until_folded
from tests.support.snapshots import RawEntry, read_stream, take_snapshot

COUNT: Final = 1000


def visit(number: int) -> dict[str, Any]:
    return {"type": "VisitorSeen", "visitorId": f"good-{number}"}


@pytest.mark.parametrize("batch_entries", [1000, 7])
async def test_thousand_malformed_entries_do_not_stop_good_ones(
    redis: Redis, redis_url: str, workspace: str, batch_entries: int
) -> None:
    """Each is in the rejects, in order, with its reason and its bytes. Every good entry is folded."""
    bad = [malformed(number) for number in range(COUNT)]
    await append(redis, workspace, chain.from_iterable((visit(n), each.fields) for n, each in enumerate(bad)))

    await fold_log(redis, redis_url, workspace, batch_entries=batch_entries)

    rejects = await read_stream(redis, workspace, "rejects")
    assert_rejected(rejects, bad, first=1, step=2)
    snapshot = await take_snapshot(redis, workspace)
    assert snapshot.visitors.keys() == {f"good-{number}".encode() for number in range(COUNT)}
    status = await StateQueries(redis, workspace).status()
    assert (status.folded, status.rejected, status.lag) == (COUNT, COUNT, 0)


def test_every_reason_occurs() -> None:
    """All codes of the contract are covered, but one that needs a contact with the identifier of a correction."""
    expected = set(get_args(Reason)) - {"held-by-another"}
    assert Counter(malformed(number).reason for number in range(KINDS)).keys() == expected


async def test_rejected_entry_has_a_sentence_with_the_reason(redis: Redis, redis_url: str, workspace: str) -> None:
    """It names the field, what was expected and what it got."""
    await append(redis, workspace, [{"type": "VisitorSeen", "visitorId": "v-1", "context": {"page": ["/"]}}])

    await fold_log(redis, redis_url, workspace)

    ((_, fields),) = await read_stream(redis, workspace, "rejects")
    assert fields[b"entry"].decode() == entry_id(0)
    assert fields[b"reason"] == b"invalid"
    assert fields[b"detail"].startswith(b"context.page: expected ")
    assert b", got " in fields[b"detail"]


async def test_entry_with_very_many_fields_is_kept_in_parts(redis: Redis, redis_url: str, workspace: str) -> None:
    """One script cannot write them all at once, so the parts follow each other, with the same `entry`."""
    fields = {b"field-%d" % number: b"%d" % number for number in range(8_000)}
    await append(redis, workspace, [fields, visit(1)])

    await fold_log(redis, redis_url, workspace)

    parts = [part for _, part in await read_stream(redis, workspace, "rejects")]
    assert {part[b"entry"].decode() for part in parts} == {entry_id(0)}
    assert {part[b"reason"] for part in parts} == {b"no-event-field"}
    assert [pair for part in parts for pair in part.items() if pair[0] not in OURS] == list(fields.items())
    assert (await StateQueries(redis, workspace).status()).rejected == 1


async def test_entry_with_a_repeated_field_name_is_kept_whole(redis: Redis, redis_url: str, workspace: str) -> None:
    """The last value of the name counts, and `rejects` has all of them."""
    flat = [b"event", b"first", b"x", b"1", b"event", b"second"]
    add = "return redis.call('XADD', KEYS[1], unpack(ARGV))"  # redis-py takes and returns dictionaries
    await cast("Awaitable[bytes]", redis.eval(add, 1, key(workspace, "events"), entry_id(0), *flat))
    await append(redis, workspace, [visit(1)], start=1)

    await fold_log(redis, redis_url, workspace)

    read = "return redis.call('XRANGE', KEYS[1], '-', '+')"
    ((_, shown),) = await cast("Awaitable[list[Any]]", redis.eval(read, 1, key(workspace, "rejects")))
    assert shown[: len(flat)] == flat


@settings(
    max_examples=short_or_long(10, 30),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(entries=st.lists(st.dictionaries(st.sampled_from([b"event", b"x"]) | st.binary(), st.binary(), min_size=1), min_size=1))
async def test_random_bytes_do_not_stop_the_projector(
    redis: Redis, redis_url: str, workspace: str, entries: list[dict[bytes, bytes]]
) -> None:
    """Hypothesis finds other cases than those above. Rejects contain the bytes unchanged."""
    await redis.flushdb()
    last = await append(redis, workspace, [*entries, visit(1)])
    async with projecting(redis_url, workspace):
        await wait_until_folded(redis, workspace, last)

    rejects = await read_stream(redis, workspace, "rejects")
    rejected = {fields[b"entry"].decode(): fields for _, fields in rejects}
    for number, fields in enumerate(entries):
        shown = rejected[entry_id(number)]  # random bytes are not an event
        assert {name: shown[name] for name in fields if name not in OURS} == {
            name: value for name, value in fields.items() if name not in OURS
        }
    await forget_all_but_the_log(redis, workspace)


OURS: Final = (b"entry", b"reason", b"detail")


def assert_rejected(rejects: Sequence[RawEntry], bad: Sequence[Malformed], *, first: int, step: int) -> None:
    """Assert the reasons and the bytes. If a field has the name of an added one, a mapping has the added one."""
    assert len(rejects) == len(bad)
    for number, ((_, shown), expected) in enumerate(zip(rejects, bad, strict=True)):
        assert shown[b"entry"].decode() == entry_id(first + step * number)
        assert shown[b"reason"].decode() == expected.reason, shown
        assert shown[b"detail"]
        kept = {name: value for name, value in shown.items() if name not in OURS}
        assert kept == {name: value for name, value in expected.fields.items() if name not in OURS}
