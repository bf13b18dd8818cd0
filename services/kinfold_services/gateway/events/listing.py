"""A bounded list of what was rejected or ignored in a request: answers, memory and logs must not grow with what is wrong."""

from collections import defaultdict
from typing import Final, Generic, Protocol, TypeVar

import msgspec

MAX_LISTED: Final = 100
"""How many rejected events, or ignored parts of events and calls, a response lists."""


class Ignored(msgspec.Struct, frozen=True, rename="camel"):
    """An ignored part of an event or a call; the rest counts. `index` counts the request's events or calls from 0.

    `reason`: `unknown-field` of an event. Of a call: `alias`, `group` (the whole call), `time`, `identifier`, `trait`,
    `context`, `unsigned-identity`, `blocked-identity`. `detail` is a sentence.
    """

    index: int
    field: str
    reason: str
    detail: str


class _HasReason(Protocol):
    @property
    def reason(self) -> str: ...


T = TypeVar("T", bound=_HasReason)


class Listed(Generic[T]):
    """Counts all that is added, by reason, and keeps the first `MAX_LISTED`."""

    def __init__(self) -> None:
        self.counts: Final[defaultdict[str, int]] = defaultdict(int)
        self.first: Final[list[T]] = []

    def add(self, one: T) -> None:
        """Count one, and keep it if there is room."""
        self.counts[one.reason] += 1
        if len(self.first) < MAX_LISTED:
            self.first.append(one)

    def __len__(self) -> int:
        """How many there are, the kept ones among them."""
        return sum(self.counts.values())
