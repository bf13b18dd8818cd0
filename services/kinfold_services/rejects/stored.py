"""Reads the stored rejects along with the log, to decide which of them a rebuilt state keeps and whether its rejects differ.

If the log has lost the entry of a reject, no fold can reject it again: `rejects` has all that is left of this entry.
"""

from collections import deque
from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Any, Final, cast

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.log.streams import STREAM_PAGE_ENTRIES, as_entries, pairs_of
from kinfold_services.rejects.entries import REFUSED_BY_SERVER, Reject, read_reject

REJECTS_FROM: Final = "rejects_from"
"""The field of `retention` with the first log entry whose reject is kept."""


class StoredRejects:
    """Advances through the stored rejects while a caller reads the log. Both are in log order.

    It compares with the entries that were read, not with those that the log has now, because a log may be trimmed meanwhile.
    Changes `client` as `read_pages` does.
    """

    def __init__(self, client: Client, workspace: str, removed: Collection[str] = ()) -> None:
        """`removed`: entries whose rejects go, although the log has lost them (an erasure)."""
        client.set_response_callback("XRANGE", cast("Any", as_entries))
        self.differ = False
        """Whether the rejects merged so far differ from the stored ones."""
        self._client: Final = client
        self._rejects: Final = key(workspace, "rejects")
        self._retention: Final = key(workspace, "retention")
        self._removed: Final = removed
        self._last = "0-0"
        self._first: tuple[int, int] | None = None
        """Rejects of entries before this one were trimmed; `(0, 0)` if none were."""
        self._merged = position_key("")
        """Rejects are merged up to this position. No projector writes another one before it."""
        self._ahead: Final[deque[Reject]] = deque()
        """Rejects of entries that the caller has not read yet."""

    async def merge(
        self, page: Sequence[RawEntry], found: Sequence[Reject], last: str, excluded: Collection[str] = ()
    ) -> list[Reject]:
        """The rejects of entries up to and including `last`.

        They are `found` on the log's next `page`, those of lost entries, and those that the server refused. No fold finds the
        latter, since they are `excluded`. Without the oldest ones, if they were trimmed.
        """
        if self._first is None:
            self._first = await self._first_kept()
        upto, stored = position_key(last), list[Reject]()
        while (reject := await self.next()) is not None and _order(reject) <= upto:
            stored.append(self._ahead.popleft())
        there = {entry_id.decode() for entry_id, _ in page} if stored else set[str]()
        lost = [
            reject
            for reject in stored
            if (reject.entry not in there or (reject.reason == REFUSED_BY_SERVER and reject.entry in excluded))
            and _order(reject) > self._merged
            and reject.entry not in self._removed
        ]
        self._merged = upto
        kept = [reject for reject in found if _order(reject) >= self._first]
        merged = sorted([*kept, *lost], key=_order)
        self.differ |= merged != stored
        return merged

    async def next(self) -> Reject | None:
        """The next stored reject, without removing it; None at the end."""
        while not self._ahead:
            reply = await self._client.xrange(self._rejects, min=f"({self._last}", count=STREAM_PAGE_ENTRIES)
            page = cast("list[RawEntry]", reply)
            if not page:
                return None
            self._last = page[-1][0].decode()
            rejects = [reject for _, fields in page if (reject := read_reject(pairs_of(fields))) is not None]
            self.differ |= len(rejects) < len(page)  # no projector wrote the others
            self._ahead.extend(rejects)
        return self._ahead[0]

    async def take(self) -> Reject | None:
        """The next stored reject; None at the end."""
        return self._ahead.popleft() if await self.next() is not None else None

    async def _first_kept(self) -> tuple[int, int]:
        """The first entry whose rejects are kept: retention runs removed earlier ones, or they were trimmed as too many."""
        reply: Any = await self._client.hget(self._retention, REJECTS_FROM)
        kept_from = position_key((reply or b"").decode())
        if await self._client.exists(self._rejects):
            info: dict[str, Any] = await self._client.xinfo_stream(self._rejects)
            was_trimmed = info["entries-added"] > info["length"] and info["max-deleted-entry-id"] == b"0-0"
            if was_trimmed and (reject := await self.next()) is not None:
                return max(kept_from, _order(reject))
        return kept_from


def _order(reject: Reject) -> tuple[int, int]:
    return position_key(reject.entry)


async def stored_rejects(client: Client, workspace: str) -> AsyncGenerator[Reject]:
    """All rejects that a projector wrote, the oldest first. Changes `client` as `read_pages` does."""
    stored = StoredRejects(client, workspace)
    while (reject := await stored.take()) is not None:
        yield reject
