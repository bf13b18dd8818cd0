"""Reads a stream byte for byte, including repeated field names."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from redis.exceptions import ResponseError

from kinfold_services.connections import Client, RawEntry

STREAM_PAGE_ENTRIES: Final = 1000


class StreamEntry(NamedTuple):
    """An entry as Redis returns it: its id, then names and values in turn. A name may occur twice."""

    id: bytes
    fields: Sequence[bytes]


class RepeatedNames(dict[bytes, bytes]):
    """The fields of an entry with a repeated name. The mapping has the last value of each name; `pairs` has all of them."""

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        super().__init__(pairs)
        self.pairs: Final = pairs


def as_entries(reply: Any, **_: Any) -> list[RawEntry]:
    """Convert the reply to XRANGE (for `set_response_callback`) to the entries that the fold takes, keeping repeated names."""
    return [
        (entry_id, {fields[0]: fields[1]} if len(fields) == 2 else _as_mapping(fields))  # noqa: PLR2004  the usual case
        for entry_id, fields in reply
    ]


def _as_mapping(fields: list[bytes]) -> Mapping[bytes, bytes]:
    pairs = list(zip(fields[::2], fields[1::2], strict=True))
    by_name = dict(pairs)
    return by_name if len(by_name) == len(pairs) else RepeatedNames(pairs)


def pairs_of(fields: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The fields of an entry as they were appended, to copy it whole to `rejects` (contract section 7)."""
    return fields.pairs if isinstance(fields, RepeatedNames) else list(fields.items())


def is_missing(reply: object) -> bool:
    """Whether a reply to XINFO, or the error that it raises, says that the stream does not exist."""
    return isinstance(reply, ResponseError) and "no such key" in str(reply)


async def read_stream(client: Client, stream: str, upto: str) -> AsyncIterator[list[StreamEntry]]:
    """Read a stream in pages from its beginning up to and including the entry `upto` (`+`: to its end).

    Changes `client`: from now on, its XRANGE returns the raw reply. redis-py converts the fields of an entry to a dictionary,
    which drops a repeated name.
    """
    client.set_response_callback("XRANGE", cast("Any", untouched))
    first = "-"
    while True:
        reply = await client.xrange(stream, min=first, max=upto, count=STREAM_PAGE_ENTRIES)
        page = [StreamEntry(entry_id, fields) for entry_id, fields in cast("list[tuple[bytes, list[bytes]]]", reply)]
        if page:
            yield page
        if len(page) < STREAM_PAGE_ENTRIES:
            return
        first = f"({page[-1].id.decode()}"


def untouched(response: Any, **_: Any) -> Any:
    """Return a reply unchanged (for `set_response_callback`)."""
    return response
