"""Reading a stream with every byte as it is."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, NamedTuple, cast

from kinfold_services.connections import Client

PAGE_ENTRIES: Final = 1000


class StreamEntry(NamedTuple):
    """An entry as Redis has it: its id, and names and values in turn. A name may come twice."""

    id: bytes
    fields: Sequence[bytes]


async def read_stream(client: Client, stream: str, upto: str) -> AsyncIterator[list[StreamEntry]]:
    """A stream from its beginning, up to and with the entry `upto` (`+`: to its end), in pages.

    Takes over `client`: its XRANGE answers as Redis does from now on. redis-py makes a dictionary of an entry's fields, and so
    drops a name that comes twice.
    """
    client.set_response_callback("XRANGE", cast("Any", _untouched))
    first = "-"
    while True:
        reply = await client.xrange(stream, min=first, max=upto, count=PAGE_ENTRIES)
        page = [StreamEntry(entry_id, fields) for entry_id, fields in cast("list[tuple[bytes, list[bytes]]]", reply)]
        if page:
            yield page
        if len(page) < PAGE_ENTRIES:
            return
        first = f"({page[-1].id.decode()}"


def _untouched(response: Any, **_: Any) -> Any:
    return response
