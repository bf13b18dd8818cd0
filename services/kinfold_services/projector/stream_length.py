"""How long a stream may be that is bounded by entries and by bytes.

Redis trims a stream by entries. So we count the bytes of what we append, and know how many of the newest entries have no more
bytes than the stream may keep. What is there already is estimated from its first and its last entries.
"""

from collections import deque
from typing import Any, Final, cast

from redis.exceptions import ResponseError

from kinfold_services.connections import Client, RawEntry
from kinfold_services.log.streams import is_missing

_PARTS: Final = 256
"""The length is known to within one part in this many."""
_SAMPLED: Final = 20
_ENTRY_BYTES: Final = 64
"""About how many bytes an entry takes in Redis besides its values."""


class StreamLength:
    """The length of one stream, `entries` and `size` bytes at most."""

    def __init__(self, entries: int, size: int) -> None:
        self._most_entries: Final = entries
        self._most_bytes: Final = size
        self._parts: Final[deque[list[int]]] = deque()
        """Entries and bytes of successive parts of the stream, the oldest first."""
        self._entries = self._bytes = 0

    async def measure(self, client: Client, key: str) -> None:
        """Begin with the stream as it is stored."""
        self._parts.clear()
        self._entries = self._bytes = 0
        try:
            length: int = (await client.xinfo_stream(key))["length"]
        except ResponseError as error:
            if is_missing(error):
                return
            raise
        sample: list[RawEntry] = [
            *cast("Any", await client.xrange(key, count=_SAMPLED)),
            *cast("Any", await client.xrevrange(key, count=_SAMPLED)),
        ]
        if not (length and sample):  # or it was deleted meanwhile
            return
        average = sum(_size(fields) for _, fields in sample) / len(sample)
        for part in range(_PARTS):
            entries = length * (part + 1) // _PARTS - length * part // _PARTS
            self.add(entries, round(entries * average))

    def add(self, entries: int, size: int) -> int:
        """Take note of entries that are appended, `size` bytes of values. Returns how many entries the stream may have."""
        if not entries:
            return self._most_entries
        size += entries * _ENTRY_BYTES
        self._entries += entries
        self._bytes += size
        parts = self._parts
        if parts and parts[-1][1] + size <= self._most_bytes // _PARTS and parts[-1][0] < max(1, self._most_entries // _PARTS):
            parts[-1][0] += entries
            parts[-1][1] += size
        else:
            parts.append([entries, size])
        while self._entries - parts[0][0] >= self._most_entries:  # Redis trims those
            self._forget_oldest()
        if self._bytes <= self._most_bytes:
            return self._most_entries
        while self._bytes > self._most_bytes and len(parts) > 1:
            self._forget_oldest()
        return min(self._most_entries, self._entries)

    def _forget_oldest(self) -> None:
        entries, size = self._parts.popleft()
        self._entries -= entries
        self._bytes -= size


def _size(fields: Any) -> int:
    return sum(len(name) + len(value) for name, value in dict(fields).items()) + _ENTRY_BYTES
