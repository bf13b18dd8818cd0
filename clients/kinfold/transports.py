"""What the delivery of events asks of a way to the log (`kinfold.redis_log`, `kinfold.gateway`)."""

from typing import NamedTuple, Protocol


class Receipt(NamedTuple):
    """What the server said to a batch: the position of the last event, and which events (by index) it refused, and why."""

    position: str | None
    refused: tuple[tuple[int, str], ...] = ()


class Transport(Protocol):
    """A way to the log."""

    def append(self, number: int, events: list[bytes]) -> Receipt:
        """Appends a batch. The same number again is the same batch again. Raises Unreachable or Refused."""
        ...

    def close(self) -> None:
        """Gives up the connection."""
