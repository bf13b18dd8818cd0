"""Reads and validates events from NDJSON, and appends them to the log (contract section 9, `kinfold publish`)."""

from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import IO, Final, NamedTuple, cast

from kinfold_schemas.codec import why_rejected
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.rejections import Rejection
from kinfold_services.connections import Client
from kinfold_services.transfer.files import bounded_lines

_PIPELINED: Final = 1000


class Line(NamedTuple):
    """One line of NDJSON: its number (from 1), its bytes, and the reason for which it would be rejected."""

    number: int
    data: bytes
    rejection: Rejection | None


MAX_LINE_BYTES: Final = 1 << 20
"""An event has at most 64 KiB. White space around it does not count, but is read."""

_TOO_LONG: Final = Rejection("too-large", "line", f"at most {MAX_LINE_BYTES} bytes", "more")


def read_lines(file: IO[bytes], rules: IdentifierRules) -> Iterator[Line]:
    """The lines that are not blank, validated by the projector's rules. Skips a byte order mark at the beginning."""
    for number, line in enumerate(bounded_lines(file, MAX_LINE_BYTES), start=1):
        if line is None:
            yield Line(number, b"", _TOO_LONG)
            continue
        data = (line.removeprefix(BOM_UTF8) if number == 1 else line).strip()
        if data:
            yield Line(number, data, why_rejected(data, rules))


async def append(client: Client, workspace: str, events: Iterable[bytes]) -> AsyncIterator[tuple[int, str]]:
    """Append events in order, many in one round trip; yield after each their number and the position of the last one.

    Never sends an event twice. If Redis stops answering, all events that were yielded are in the log; of those in the last
    round trip none, some or all are.
    """
    log = key(workspace, "events")
    remaining = iter(events)
    while page := list(islice(remaining, _PIPELINED)):
        pipeline = client.pipeline(transaction=False)
        for data in page:
            pipeline.xadd(log, {"event": data})
        positions = cast("list[bytes]", await pipeline.execute())
        yield len(page), positions[-1].decode()
