"""Counts of a producer's events."""

import msgspec


class Counters(msgspec.Struct, frozen=True):
    """The counts of a producer's events in this process.

    `accepted` is the sum of `sent`, `suppressed`, `refused`, `lost`, `buffered` and `spooled`. `dropped` events found no room
    and are not part of `accepted`. `retries` counts the attempts that failed and were repeated.

    >>> with kinfold.Producer("redis://localhost:6379/0", workspace="counters") as visitors:
    ...     visitors.set_metadata("v-1", {"plan": "pro"})
    ...     visitors.set_metadata("v-1", {"plan": "pro"})
    ...     _ = visitors.flush()
    ...     counters = visitors.counters
    >>> counters.accepted, counters.sent, counters.suppressed
    (2, 1, 1)
    """

    accepted: int = 0
    sent: int = 0
    suppressed: int = 0
    refused: int = 0
    lost: int = 0
    dropped: int = 0
    retries: int = 0
    buffered: int = 0
    spooled: int = 0
