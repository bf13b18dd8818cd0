"""The exceptions of the client. All derive from `KinfoldError`; an invalid event raises the schemas' `EventError`."""


class KinfoldError(Exception):
    """The base of all errors that are not about the caller's arguments.

    >>> try:
    ...     kinfold.Contacts("redis://localhost:1/0").get("ct_1")
    ... except kinfold.KinfoldError as error:
    ...     print(type(error).__name__)
    Unreachable
    """


class Unreachable(KinfoldError, ConnectionError):
    """Redis or the gateway is unreachable, did not answer in time, or is overloaded: try again later.

    `retry_after_s` is the delay that the gateway asked for, if it did.

    >>> issubclass(kinfold.Unreachable, ConnectionError)
    True
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Refused(KinfoldError):
    """The server refused, and will go on doing so: a wrong password or API key, a Redis key of another type.

    >>> issubclass(kinfold.Refused, kinfold.KinfoldError)
    True
    """


class BufferFull(KinfoldError):
    """The buffer had no room for an event, and the producer was told to raise (`when_full="raise"`).

    >>> visitors = kinfold.Producer("redis://localhost:1/0", buffer_events=1, when_full="raise", exit_timeout_s=0)
    >>> try:
    ...     for _ in range(5000):
    ...         visitors.seen("v-1")
    ... except kinfold.BufferFull as error:
    ...     print(error)
    the buffer is full: 1 event(s) wait, the limits are 1 events (buffer_events) and 16777216 bytes (buffer_bytes)
    >>> visitors.close(timeout_s=0)
    """


class NotSent(KinfoldError, TimeoutError):
    """`flush` ran out of time before the server acknowledged every event. The producer goes on sending them.

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
    """The position `after=` of a lookup was not folded in time. Is a projector running?

    >>> issubclass(kinfold.NotFolded, TimeoutError)
    True
    """


class FeedTruncated(KinfoldError):
    """The feed no longer has the changes right after `position`: continuing would skip some. Start again with a snapshot.

    >>> issubclass(kinfold.FeedTruncated, kinfold.KinfoldError)
    True
    """

    def __init__(self, message: str, position: str) -> None:
        super().__init__(message)
        self.position = position
