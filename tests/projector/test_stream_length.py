"""How many entries a stream may have so that it has no more bytes than it should (`StreamLength`)."""

from hypothesis import given
from hypothesis import strategies as st

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
