"""What the client raises, all of it under `KinfoldError`; a bad event is an `EventError` (a ValueError) of the schemas."""


class KinfoldError(Exception):
    """Every error of the client that is not about the caller's own arguments.

    >>> try:
    ...     kinfold.Contacts("redis://localhost:1/0").get("ct_1")
    ... except kinfold.KinfoldError as error:
    ...     print(type(error).__name__)
    Unreachable
    """


class Unreachable(KinfoldError, ConnectionError):
    """Redis or the gateway could not be reached, did not answer in time, or cannot take more just now: try again later.

    `retry_after_s` is what the gateway asked for, where it did.

    >>> issubclass(kinfold.Unreachable, ConnectionError)
    True
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Refused(KinfoldError):
    """The server answered, and what it said will not change by itself: a wrong password or key, a key of another type.

    >>> issubclass(kinfold.Refused, kinfold.KinfoldError)
    True
    """


class BufferFull(KinfoldError):
    """There was no room for an event, and the producer was told to raise (`when_full="raise"`).

    >>> visitors = kinfold.Producer("redis://localhost:1/0", buffer_events=1, when_full="raise", exit_timeout_s=0)
    >>> try:
    ...     for _ in range(5000):
    ...         visitors.seen("v-1")
    ... except kinfold.BufferFull as error:
    ...     print(error)
    buffer: found 1 event waiting, allowed are 1 (buffer_events) and 16777216 bytes (buffer_bytes)
    >>> visitors.close(timeout_s=0)
    """


class NotSent(KinfoldError, TimeoutError):
    """`flush` came to the end of its time before every event was acknowledged. They are still there, and still being sent.

    >>> visitors = kinfold.Producer("redis://localhost:1/0", exit_timeout_s=0)
    >>> visitors.seen("v-1")
    >>> try:
    ...     visitors.flush(timeout_s=0.05)
    ... except kinfold.NotSent as error:
    ...     print(error.events)
    1
    >>> visitors.close(timeout_s=0)
    """

    def __init__(self, message: str, events: int) -> None:
        super().__init__(message)
        self.events = events


class NotFolded(KinfoldError, TimeoutError):
    """A lookup's `after=` position was not folded in time. Does a projector run?

    >>> issubclass(kinfold.NotFolded, TimeoutError)
    True
    """


class FeedTruncated(KinfoldError):
    """The feed no longer keeps what comes right after `position`: changes would be skipped. Start again with a snapshot.

    >>> issubclass(kinfold.FeedTruncated, kinfold.KinfoldError)
    True
    """

    def __init__(self, message: str, position: str) -> None:
        super().__init__(message)
        self.position = position
