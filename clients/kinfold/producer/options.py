"""The settings of a producer."""

import logging
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Annotated, Any, Literal, TypedDict, cast, get_args

import msgspec
from msgspec import Meta

log = logging.getLogger("kinfold")

WhenFull = Literal["drop", "wait", "raise"]


class Failure(msgspec.Struct, frozen=True):
    """The argument of `on_error`: the error, the number of events, and whether they are lost or will be sent again.

    >>> kinfold.Failure(error=kinfold.Unreachable("no answer"), events=3, lost=False).lost
    False
    """

    error: Exception
    events: int
    lost: bool


OnError = Callable[[Failure], object]


def notify(on_error: OnError | None, failure: Failure) -> None:
    """Call the application's hook, if there is one. An exception in it is logged."""
    if on_error is not None:
        try:
            on_error(failure)
        except Exception:
            log.exception("on_error failed")


class ProducerOptions(TypedDict, total=False):
    """The keyword arguments that `Producer` and `AsyncProducer` share. `Options` documents them.

    >>> options: kinfold.ProducerOptions = {"when_full": "wait", "wait_s": 0.5}
    >>> kinfold.Producer("redis://localhost:6379/0", **options).close()
    """

    buffer_events: int
    buffer_bytes: int
    when_full: WhenFull
    wait_s: float
    batch_events: int
    batch_bytes: int
    batch_age_s: float
    timeout_s: float
    first_retry_s: float
    last_retry_s: float
    exit_timeout_s: float
    suppress_entries: int
    suppress_s: float
    spool: "str | PathLike[str] | None"
    spool_bytes: int
    on_error: OnError | None


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The meaning, bounds and defaults of `ProducerOptions`."""

    buffer_events: Annotated[int, Meta(ge=1)] = 10_000
    """The maximum number of events in the buffer."""
    buffer_bytes: Annotated[int, Meta(ge=1)] = 16 * 1024 * 1024
    """The maximum size of the buffer in bytes. It counts an upper bound of each event's JSON."""
    when_full: WhenFull = "wait"
    """What a call does when the buffer is full: wait for room while the server accepts events, drop its event, or raise
    BufferFull. Dropped events are counted. See `wait_s`."""
    wait_s: Annotated[float, Meta(ge=0)] = 10.0
    """The server counts as accepting events until a batch has waited this long for its acknowledgement. Calls wait for room
    until then. After that, calls drop their events at once until the server acknowledges a batch. So an outage delays a call
    by at most this long, and only if the buffer is full by then. A call inside an event loop never waits (AsyncProducer
    awaits instead), and neither do the middlewares."""
    batch_events: Annotated[int, Meta(ge=1, le=5000)] = 500
    """The maximum number of events in a batch."""
    batch_bytes: Annotated[int, Meta(ge=1, le=900_000)] = 512 * 1024
    """The maximum size of a batch in bytes, unless a single event is larger. The gateway accepts 1 MiB."""
    batch_age_s: Annotated[float, Meta(ge=0)] = 0.2
    """The maximum time that an event waits for its batch to fill."""
    timeout_s: Annotated[float, Meta(gt=0)] = 4.0
    """The maximum time to connect, and to receive a reply, before the background thread tries again."""
    first_retry_s: Annotated[float, Meta(gt=0)] = 0.1
    """The delay after the first failure. Each further failure doubles it, up to `last_retry_s`."""
    last_retry_s: Annotated[float, Meta(gt=0)] = 5.0
    """The longest delay. Each delay is shortened by a random part of up to a half."""
    exit_timeout_s: Annotated[float, Meta(ge=0)] = 2.0
    """At the end of the process the producer sends the rest, until no batch has been acknowledged for this long."""
    suppress_entries: Annotated[int, Meta(ge=0)] = 10_000
    """The number of identifiers for which the producer remembers what it sent, so as not to repeat it. 0 disables this."""
    suppress_s: Annotated[float, Meta(ge=0)] = 300.0
    """How long it remembers. If another writer changes a value, repeating the old value has no effect until then."""
    spool: str | None = None
    """A directory for events that could not be sent. They are sent when the server is back, even after a restart. None: events
    are only in memory. Needs `flock`, which Windows does not have."""
    spool_bytes: Annotated[int, Meta(ge=1)] = 256 * 1024 * 1024
    """The maximum size of this process's part of the spool. When it is full, events wait in the buffer."""


def read_options(given: Mapping[str, Any]) -> Options:
    """Validate settings. Raises TypeError for an unknown name, ValueError for an invalid value."""
    values = dict(given)
    values.pop("on_error", None)
    if values.get("spool") is not None:
        values["spool"] = str(cast("PathLike[str]", values["spool"]))
    for name in values:
        if name not in Options.__struct_fields__:
            expected = ", ".join((*Options.__struct_fields__, "on_error"))
            raise TypeError(f"{name}: unknown setting, expected one of {expected}")
    try:
        return msgspec.convert(values, Options)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        if name == "when_full":  # msgspec does not list the valid values
            what = f"Expected {', '.join(get_args(WhenFull))}"
        raise ValueError(f"{name}: {what[:1].lower()}{what[1:]}, got {values.get(name)!r}") from None
