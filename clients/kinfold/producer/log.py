"""What a producer needs from a log: `RedisLog` and `GatewayLog` provide it."""

from typing import NamedTuple, Protocol


class Receipt(NamedTuple):
    """The result of a batch: the position of its last event, and the index and the reason of each event that was refused."""

    position: str | None
    refused: tuple[tuple[int, str], ...] = ()


class Log(Protocol):
    """A log that takes batches. One thread uses it."""

    def append(self, number: int, events: list[bytes]) -> Receipt:
        """Append a batch. A batch that is sent again has the same number. Raises Unreachable or Refused."""
        ...

    def close(self) -> None:
        """Close the connection."""
