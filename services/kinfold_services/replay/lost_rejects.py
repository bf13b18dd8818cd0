"""Rejects that no fold finds again: of entries that the log has lost. What stands in `rejects` is all that is left of them."""

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, cast

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.projector.store import Reject, read_reject
from kinfold_services.streams import as_entries, pairs_of

_LOOKED_AT: Final = 1000


class LostRejects:
    """Goes along the living rejects while somebody reads the log: both are in the log's order.

    So it is told by what was read, and not by what is there at some moment: a log may be trimmed while it is read.
    Takes over `client`, as `read_pages` does.
    """

    def __init__(self, client: Client, workspace: str) -> None:
        client.set_response_callback("XRANGE", cast("Any", as_entries))
        self._client: Final = client
        self._rejects: Final = key(workspace, "rejects")
        self._last = "0-0"
        self._ahead: Final[deque[Reject]] = deque()
        """Of entries that nobody has read yet."""

    async def beside(self, page: Sequence[RawEntry], last: str) -> list[Reject]:
        """Those of entries up to and with `last` that are not on `page`, the next of the log."""
        found: list[Reject] = []
        upto, there = position_key(last), {entry_id.decode() for entry_id, _ in page}
        while self._ahead or await self._look_ahead():
            if position_key(self._ahead[0].entry) > upto:
                break
            reject = self._ahead.popleft()
            if reject.entry not in there:
                found.append(reject)
        return found

    async def _look_ahead(self) -> bool:
        while not self._ahead:
            reply = await self._client.xrange(self._rejects, min=f"({self._last}", count=_LOOKED_AT)
            page = cast("list[RawEntry]", reply)
            if not page:
                return False
            self._last = page[-1][0].decode()
            self._ahead.extend(reject for _, fields in page if (reject := read_reject(pairs_of(fields))) is not None)
        return True
