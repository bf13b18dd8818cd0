"""How many entries a stream may have so that it has no more bytes than it should (`StreamLength`)."""

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from kinfold_services.projector.stream_length import StreamLength

MOST_ENTRIES = 1000
MOST_BYTES = 100_000
ENTRY_BYTES = 64
"""Counted for each entry besides its values."""

BATCHES = st.lists(st.tuples(st.integers(0, 150), st.integers(0, 2000)), max_size=80)
"""Batches of entries, each with their number and the bytes of one."""


@given(BATCHES)
def test_newest_entries_that_are_kept_have_no_more_bytes(batches: list[tuple[int, int]]) -> None:
    """The stream is trimmed to what `add` returns. A batch that is larger by itself is kept."""
    length, stream, largest = StreamLength(MOST_ENTRIES, MOST_BYTES), list[int](), 0
    for count, size in batches:
        largest = max(largest, count * (size + ENTRY_BYTES))
        most = length.add(count, count * size)
        stream = [*stream, *[size + ENTRY_BYTES] * count][-most:]
        assert 0 < most <= MOST_ENTRIES
        assert sum(stream) <= max(MOST_BYTES, largest)


@given(BATCHES)
def test_no_more_is_trimmed_than_necessary(batches: list[tuple[int, int]]) -> None:
    """As long as all that was appended fits, all of it stays."""
    length, total, entries = StreamLength(MOST_ENTRIES, MOST_BYTES), 0, 0
    for count, size in batches:
        total, entries = total + count * (size + ENTRY_BYTES), entries + count
        if total > MOST_BYTES or entries > MOST_ENTRIES:
            return
        assert length.add(count, count * size) == MOST_ENTRIES


class DeletesMeanwhile(Redis):
    """Deletes a stream as soon as it was asked for something other than entries."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        ask = cast("Any", super()).execute_command
        answer = await ask(*args, **options)
        if args[0] in {"EXISTS", "XINFO STREAM"}:
            await ask("DEL", args[1])
        return answer


async def test_stream_that_is_deleted_while_it_is_measured_is_empty(redis: Redis, redis_url: str) -> None:
    await redis.xadd("stream", {"event": "x"})
    length = StreamLength(1, MOST_BYTES)
    async with DeletesMeanwhile.from_url(redis_url) as client:
        for _ in range(2):  # the second time, it is missing
            await length.measure(client, "stream")

    assert length.add(1, 1) == 1
