"""The stored rejects, read beside the log: what of them a rebuilt state keeps, and whether it has others.

No fold finds a reject again whose entry the log has lost. What stands in `rejects` is all that is left of such an entry.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, cast

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.log.streams import as_entries, pairs_of
from kinfold_services.rejects.entries import Reject, read_reject

_PAGE: Final = 1000


class StoredRejects:
    """Goes along the stored rejects while a caller reads the log: both are in the log's order.

    It judges by what was read, and not by what the log holds at some moment: a log may be trimmed while it is read.
    Takes over `client`, as `read_pages` does.
    """

    def __init__(self, client: Client, workspace: str) -> None:
        client.set_response_callback("XRANGE", cast("Any", as_entries))
        self.differ = False
        """Whether the rejects merged so far are not the stored ones."""
        self._client: Final = client
        self._rejects: Final = key(workspace, "rejects")
        self._last = "0-0"
        self._merged = position_key("")
        """Rejects are merged up to this position. No projector writes another one before it."""
        self._ahead: Final[deque[Reject]] = deque()
        """Of entries that were not read yet."""

    async def merge(self, page: Sequence[RawEntry], found: Sequence[Reject], last: str) -> list[Reject]:
        """The rejects of the entries up to and with `last`: those found on `page`, the next of the log, and of lost entries."""
        upto, stored = position_key(last), list[Reject]()
        while (reject := await self.next()) is not None and _order(reject) <= upto:
            stored.append(self._ahead.popleft())
        there = {entry_id.decode() for entry_id, _ in page} if stored else set[str]()
        lost = [reject for reject in stored if reject.entry not in there and _order(reject) > self._merged]
        self._merged = upto
        merged = sorted([*found, *lost], key=_order)
        self.differ |= merged != stored
        return merged

    async def next(self) -> Reject | None:
        """The next one; None where there is no other."""
        while not self._ahead:
            page = cast("list[RawEntry]", await self._client.xrange(self._rejects, min=f"({self._last}", count=_PAGE))
            if not page:
                return None
            self._last = page[-1][0].decode()
            rejects = [reject for _, fields in page if (reject := read_reject(pairs_of(fields))) is not None]
            self.differ |= len(rejects) < len(page)  # others are not a projector's
            self._ahead.extend(rejects)
        return self._ahead[0]


def _order(reject: Reject) -> tuple[int, int]:
    return position_key(reject.entry)
