"""Pages of the rejects, newest first, for people who look through them. What one page reads is bounded."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, cast

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.log.streams import untouched
from kinfold_services.rejects.retry import DamagedReject, RejectedEntry

LOOKS_AT: Final = 2000
"""How many rejects a page looks at, those of other reasons included."""
LOOKS_AT_BYTES: Final = 16 * 1024 * 1024
"""A page also stops when it has read this much."""

_AT_ONCE: Final = 50


class Found(NamedTuple):
    """A reject, and the id of its entry in the stream of rejects."""

    id: str
    reject: RejectedEntry


class RejectPage(NamedTuple):
    """A page. `next_id` is the id to continue before; None on the last page. A page may be short, and others follow."""

    found: list[Found]
    next_id: str | None


class Reasons(NamedTuple):
    """How many rejects have each reason, the most frequent first, among the newest `looked_at`."""

    counts: list[tuple[str, int]]
    looked_at: int
    is_complete: bool
    """Whether these are all rejects."""


class RejectReader:
    """Reads the rejects of one workspace. Changes `client`: from now on, XRANGE and XREVRANGE return raw replies."""

    def __init__(self, client: Client, workspace: str) -> None:
        self._client: Final = client
        self._workspace: Final = workspace
        for command in ("XRANGE", "XREVRANGE"):
            client.set_response_callback(command, cast("Any", untouched))

    async def page(self, before: str | None, reason: str | None, limit: int, *, settled: bool) -> RejectPage:
        """The newest rejects before an id that are not settled, or with `settled` all. Raises ValueError for a wrong id."""
        found: list[Found] = []
        last = before
        looked_at = looked_at_bytes = 0
        async for chunk in self._chunks(before):
            for each in chunk:
                last, looked_at, looked_at_bytes = each.id, looked_at + 1, looked_at_bytes + _size(each.reject)
                if (settled or each.reject.settled is None) and reason in {None, each.reject.reason}:
                    found.append(each)
                if len(found) == limit:
                    return RejectPage(found, last)
            if looked_at >= LOOKS_AT or looked_at_bytes >= LOOKS_AT_BYTES:
                return RejectPage(found, last)
        return RejectPage(found, None)

    async def reasons(self, *, settled: bool) -> Reasons:
        """Count the newest rejects by reason."""
        counts: Counter[str] = Counter()
        looked_at = looked_at_bytes = 0
        is_complete = True
        async for chunk in self._chunks(None):
            counts.update(each.reject.reason for each in chunk if settled or each.reject.settled is None)
            looked_at += len(chunk)
            looked_at_bytes += sum(_size(each.reject) for each in chunk)
            if looked_at >= LOOKS_AT or looked_at_bytes >= LOOKS_AT_BYTES:
                is_complete = False
                break
        return Reasons(counts.most_common(), looked_at, is_complete)

    async def one(self, reject_id: str) -> Found | None:
        """The reject with this id; None if there is none. Raises ValueError for a wrong id."""
        position_key(reject_id)
        name = key(self._workspace, "rejects")
        stored = cast("list[tuple[bytes, list[bytes]]]", await self._client.xrange(name, min=reject_id, max=reject_id))
        chunk = await self._read(stored)
        return chunk[0] if chunk else None

    async def _chunks(self, before: str | None) -> AsyncIterator[list[Found]]:
        if before is not None:
            position_key(before)
        name, upper = key(self._workspace, "rejects"), "+" if before is None else f"({before}"
        while True:
            reply = await self._client.xrevrange(name, max=upper, count=_AT_ONCE)
            stored = cast("list[tuple[bytes, list[bytes]]]", reply)
            if not stored:
                return
            upper = f"({stored[-1][0].decode()}"
            yield await self._read(stored)

    async def _read(self, stored: Sequence[tuple[bytes, list[bytes]]]) -> list[Found]:
        """The rejects, each with the mark that it is settled. An entry that no projector wrote is left out."""
        read: list[tuple[bytes, list[bytes], RejectedEntry]] = []
        for reject_id, flat in stored:
            with suppress(DamagedReject):
                read.append((reject_id, flat, RejectedEntry.of(reject_id, flat, {})))
        if not read:
            return []
        entries = [reject.entry for _, _, reject in read]
        marks: Any = await self._client.hmget(key(self._workspace, "settled-rejects"), entries)
        settled = {entry: by.decode() for entry, by in zip(entries, marks, strict=True) if by is not None}
        return [Found(reject_id.decode(), RejectedEntry.of(reject_id, flat, settled)) for reject_id, flat, _ in read]


def _size(reject: RejectedEntry) -> int:
    return sum(len(name) + len(value) for name, value in reject.fields)
