"""A workspace's log, read and folded in memory, for tests of producers."""

from collections import Counter
from typing import Any, Final, cast

import msgspec
from redis import Redis

from kinfold_projections.entries import read_entries
from kinfold_projections.fold import fold
from kinfold_projections.outcomes import Outcome
from kinfold_projections.state import State
from kinfold_schemas.keys import key


class Log:
    """The current entries of a log, and the result of folding them."""

    def __init__(self, client: Redis, workspace: str) -> None:
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", client.xrange(key(workspace, "events")))
        self.positions: Final = [entry_id.decode() for entry_id, _ in entries]
        self.events: Final[list[dict[str, Any]]] = [msgspec.json.decode(fields[b"event"]) for _, fields in entries]
        self.state: Final = State(workspace)
        self.outcomes: Final[list[Outcome]] = fold(self.state, read_entries(entries))
        self.kinds: Final = Counter(outcome.kind for outcome in self.outcomes)

    @property
    def visitors(self) -> Counter[str]:
        """The number of entries that name each visitor."""
        return Counter(event["visitorId"] for event in self.events)

    @property
    def folded_visitors(self) -> Counter[str]:
        """The same without duplicates, which the fold drops."""
        both = zip(self.events, self.outcomes, strict=True)
        return Counter(event["visitorId"] for event, outcome in both if outcome.kind != "duplicate")
