"""Reading a stream with every byte as it is."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from kinfold_services.connections import Client, RawEntry

PAGE_ENTRIES: Final = 1000


class StreamEntry(NamedTuple):
    """An entry as Redis has it: its id, and names and values in turn. A name may come twice."""

    id: bytes
    fields: Sequence[bytes]


class RepeatedNames(dict[bytes, bytes]):
    """The fields of an entry that has a name twice: the last of each is read, and `pairs` are all of them."""

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        super().__init__(pairs)
        self.pairs: Final = pairs


def as_entries(reply: Any, **_: Any) -> list[RawEntry]:
    """Entries as the fold takes them; as a client's response callback (XRANGE), so that a name that comes twice is told."""
    return [
        (entry_id, {fields[0]: fields[1]} if len(fields) == 2 else _as_mapping(fields))  # noqa: PLR2004  as nearly all have
        for entry_id, fields in reply
    ]


def _as_mapping(fields: list[bytes]) -> Mapping[bytes, bytes]:
    pairs = list(zip(fields[::2], fields[1::2], strict=True))
    by_name = dict(pairs)
    return by_name if len(by_name) == len(pairs) else RepeatedNames(pairs)


def pairs_of(fields: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """An entry's fields as they were appended: what is copied to `rejects` is copied whole (contract section 7)."""
    return fields.pairs if isinstance(fields, RepeatedNames) else list(fields.items())


async def read_stream(client: Client, stream: str, upto: str) -> AsyncIterator[list[StreamEntry]]:
    """A stream from its beginning, up to and with the entry `upto` (`+`: to its end), in pages.

    Takes over `client`: its XRANGE answers as Redis does from now on. redis-py makes a dictionary of an entry's fields, and so
    drops a name that comes twice.
    """
    client.set_response_callback("XRANGE", cast("Any", untouched))
    first = "-"
    while True:
        reply = await client.xrange(stream, min=first, max=upto, count=PAGE_ENTRIES)
        page = [StreamEntry(entry_id, fields) for entry_id, fields in cast("list[tuple[bytes, list[bytes]]]", reply)]
        if page:
            yield page
        if len(page) < PAGE_ENTRIES:
            return
        first = f"({page[-1].id.decode()}"


def untouched(response: Any, **_: Any) -> Any:
    """What redis-py makes of a reply (`set_response_callback`): nothing."""
    return response
