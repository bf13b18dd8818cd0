"""The settings of a producer: what they mean, and what they may be."""

import logging
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Annotated, Any, Literal, TypedDict, cast, get_args

import msgspec
from msgspec import Meta

log = logging.getLogger("kinfold")

WhenFull = Literal["drop", "wait", "raise"]


class Failure(msgspec.Struct, frozen=True):
    """What `on_error` is told: what happened, to how many events, and whether they are lost or will be tried again.

    >>> kinfold.Failure(error=kinfold.Unreachable("no answer"), events=3, lost=False).lost
    False
    """

    error: Exception
    events: int
    lost: bool


OnError = Callable[[Failure], object]


def tell(on_error: OnError | None, failure: Failure) -> None:
    """Calls the application's hook, if there is one; what that raises is logged."""
    if on_error is not None:
        try:
            on_error(failure)
        except Exception:
            log.exception("on_error failed")


class ProducerOptions(TypedDict, total=False):
    """The keyword arguments that `Producer` and `AsyncProducer` share. `Options` has their meaning, bounds and defaults.

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
    """The same, with defaults."""

    buffer_events: Annotated[int, Meta(ge=1)] = 10_000
    """How many events may wait to be sent."""
    buffer_bytes: Annotated[int, Meta(ge=1)] = 16 * 1024 * 1024
    """How many bytes of them, about (an upper bound of their JSON)."""
    when_full: WhenFull = "wait"
    """What a call does when the buffer is full: wait for room while the server takes events, drop its event, or raise
    BufferFull. A dropped event is counted. `wait_s` says when a server takes events."""
    wait_s: Annotated[float, Meta(ge=0)] = 10.0
    """A server takes events while no batch waits longer than this for its acknowledgement. A call waits for room as long as
    that is so; afterwards calls drop their events at once, until the server acknowledges a batch again. So an outage delays a
    call by this at most, and only where the buffer is full by then. A call inside an event loop never waits (AsyncProducer
    awaits instead), nor do the middlewares."""
    batch_events: Annotated[int, Meta(ge=1, le=5000)] = 500
    """How many events go out together, at most."""
    batch_bytes: Annotated[int, Meta(ge=1, le=900_000)] = 512 * 1024
    """How many bytes of them, unless one event alone has more. The gateway takes 1 MiB."""
    batch_age_s: Annotated[float, Meta(ge=0)] = 0.2
    """How long an event waits for others to go out with, at most."""
    timeout_s: Annotated[float, Meta(gt=0)] = 4.0
    """How long the server may take to be reached, and to answer, before the background thread tries again."""
    first_retry_s: Annotated[float, Meta(gt=0)] = 0.1
    """How long after a failure it is tried again; then twice as long, and so on …"""
    last_retry_s: Annotated[float, Meta(gt=0)] = 5.0
    """… up to this; each time a random part of up to a half is left out."""
    exit_timeout_s: Annotated[float, Meta(ge=0)] = 2.0
    """The end of the process sends what is left, and gives up when no batch was acknowledged for this long."""
    suppress_entries: Annotated[int, Meta(ge=0)] = 10_000
    """Of how many identifiers it is remembered what was sent about them, so that it is not sent again; 0: of none."""
    suppress_s: Annotated[float, Meta(ge=0)] = 300.0
    """For how long. A value that another writer has changed meanwhile is not changed back before this is over."""
    spool: str | None = None
    """A directory for what could not be sent: it goes out when the server is back, after a restart too. None: memory alone.
    Needs `flock`, which Windows has not."""
    spool_bytes: Annotated[int, Meta(ge=1)] = 256 * 1024 * 1024
    """How many bytes of this process may lie there; then events wait in the buffer."""


def read_options(given: Mapping[str, Any]) -> Options:
    """Checks what was given. Raises TypeError for a name that is none, ValueError for a value that is not allowed."""
    values = dict(given)
    values.pop("on_error", None)
    if values.get("spool") is not None:
        values["spool"] = str(cast("PathLike[str]", values["spool"]))
    for name in values:
        if name not in Options.__struct_fields__:
            allowed = ", ".join((*Options.__struct_fields__, "on_error"))
            raise TypeError(f"{name}: found a setting of that name, allowed are {allowed}")
    try:
        return msgspec.convert(values, Options)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        if name == "when_full":  # msgspec does not say what the others are
            what = f"allowed are {', '.join(get_args(WhenFull))}"
        raise ValueError(f"{name}: found {values.get(name)!r}; {what[:1].lower()}{what[1:]}") from None
