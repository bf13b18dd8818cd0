"""`Producer` and `AsyncProducer`."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final, Self, Unpack

from kinfold.calls import Calls
from kinfold.calls.drafts import Draft
from kinfold.producer.counters import Counters
from kinfold.producer.delivery import Delivery
from kinfold.producer.options import ProducerOptions, read_options
from kinfold.producer.spool import check_spool
from kinfold.transport.urls import gateway_key, is_http
from kinfold_schemas.keys import DEFAULT_WORKSPACE, check_workspace

_FLUSH_S: Final = 10.0
_SILENCE_S: Final = 10.0
"""How long `close` waits for a server that acknowledges nothing."""


class Producer(Calls[None]):
    """Sends events to a workspace's log, directly to Redis or through a gateway, depending on the URL.

    `url` is a Redis URL (`redis://`, `unix://`, `redis+cluster://`, `redis+sentinel://host:port/master/0`; with TLS `rediss` in
    place of `redis`) or a gateway's URL (`https://`, `http://`). A gateway needs a `key`, which determines the workspace. See
    `ProducerOptions` for the settings.

    A call checks its event and puts it into a buffer. It does not wait for the network, and does not fail because of it. A
    background thread, which the first event starts, sends batches and repeats them until the server has them. When the buffer
    is full, a call waits for room, but only while the server accepts events (`when_full`, `wait_s`). So a bulk load runs as
    fast as the server does, and an outage delays a call at most once, by `wait_s`. After that, calls drop their events until
    the server answers again; this is logged and counted as `dropped`. A call in an event loop never waits.

    An event is given up only if the server, or a proxy before it, refuses this very event: it is logged, counted as `refused`,
    and reported to `on_error`. If everything is refused (a wrong key), all events wait, and the log says why.
    Every method is thread-safe. After a fork the child has an empty buffer and its own connections.

    At the end of the process the producer sends the rest, and gives up when the server has acknowledged nothing for
    `exit_timeout_s`. The same holds for children of multiprocessing and of Celery's prefork pool. `multiprocessing.Pool` ends
    its children with SIGTERM, so there the events of a task are sent before the pool gets its result. Any other process that is
    killed loses what it has not sent: the events of the last `batch_age_s` while the server answers. uvicorn ends by SIGTERM:
    see `kinfold.asgi`. If events were lost, the log says how many of how many, at level error.

    Metadata and identifications that say nothing new are not sent (`suppress_entries`, `suppress_s`; see
    `kinfold.producer.suppression`). "New" means different from what this producer sent last. If another writer has changed a
    value, sending the old value again has no effect until `suppress_s` has passed.

    Raises ValueError or TypeError for an invalid setting, URL or workspace. The methods raise `EventError` (a ValueError) for
    an event that would be rejected.

    >>> visitors = kinfold.Producer("redis://localhost:6379/0", workspace="acme")
    >>> visitors.seen("v-1", url="/pricing")
    >>> visitors.identify("v-1", external_id="u-1", email="ada@example.org", metadata={"plan": "pro"})
    >>> visitors.set_metadata("v-1", {"mrr": 99})
    >>> position = visitors.flush()
    >>> visitors.counters.sent
    3
    >>> contacts = kinfold.Contacts("redis://localhost:6379/0", workspace="acme")
    >>> sorted(contacts.by_visitor("v-1", after=position).metadata.items())
    [('mrr', 99), ('plan', 'pro')]
    >>> contacts.close()
    >>> visitors.close()
    """

    def __init__(
        self, url: str, *, workspace: str = DEFAULT_WORKSPACE, key: str | None = None, **options: Unpack[ProducerOptions]
    ) -> None:
        self._delivery: Final = make_delivery(url, workspace, key, options)
        super().__init__(self._delivery.buffer.put)

    def flush(self, timeout_s: float = _FLUSH_S) -> str | None:
        """Wait until all earlier events are in the log. Returns the position of the last appended event.

        Returns None if this process has sent nothing. Raises NotSent after `timeout_s`.

        >>> with kinfold.Producer("redis://localhost:6379/0", workspace="acme") as visitors:
        ...     visitors.seen("v-1")
        ...     visitors.flush(timeout_s=5).count("-")
        1
        """
        return self._delivery.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Send the rest and end the background thread.

        This takes at most `timeout_s`. With None it takes as long as the server accepts events, and until the server has
        acknowledged nothing for 10 s. Events that are not sent by then go to the spool, if there is one, or are lost: then the
        log says at level error how many of how many (`Counters.lost` and `Counters.dropped`). It never raises. Later events are
        dropped and counted.

        >>> kinfold.Producer("redis://localhost:6379/0").close(timeout_s=1)
        """
        _close(self._delivery, timeout_s)

    @property
    def counters(self) -> Counters:
        """The counts of this process's events.

        >>> with kinfold.Producer("redis://localhost:6379/0") as visitors:
        ...     visitors.counters.accepted
        0
        """
        return self._delivery.counters

    @property
    def never_waiting(self) -> Calls[None]:
        """The same calls, but with a full buffer they drop their event, or raise, at once. The middlewares use them.

        >>> with kinfold.Producer("redis://localhost:6379/0", workspace="acme") as visitors:
        ...     visitors.never_waiting.seen("v-1")
        """
        return Calls(self._delivery.put_at_once)

    @property
    def exit_timeout_s(self) -> float:
        """How long the end of the process waits for a server that acknowledges nothing.

        >>> kinfold.Producer("redis://localhost:6379/0", exit_timeout_s=5).exit_timeout_s
        5.0
        """
        return self._delivery.options.exit_timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncProducer(Calls[Coroutine[Any, Any, None]]):
    """A `Producer` for asyncio: the same names and settings, to be awaited. No call blocks the event loop.

    With a full buffer a call awaits room, as a call of `Producer` waits for it. A background thread sends here, too, so a busy
    loop does not delay it and the end of the loop does not stop it. One producer may serve several event loops.

    >>> async def three_lines():
    ...     async with kinfold.AsyncProducer("redis://localhost:6379/0", workspace="acme-async") as visitors:
    ...         await visitors.seen("v-1", url="/pricing")
    ...         await visitors.identify("v-1", external_id="u-1")
    ...         return await visitors.flush()
    >>> asyncio.run(three_lines()).count("-")
    1
    """

    def __init__(
        self, url: str, *, workspace: str = DEFAULT_WORKSPACE, key: str | None = None, **options: Unpack[ProducerOptions]
    ) -> None:
        self._delivery: Final = make_delivery(url, workspace, key, options)
        super().__init__(self._put_draft)

    async def flush(self, timeout_s: float = _FLUSH_S) -> str | None:
        """As `Producer.flush`.

        >>> async def done(visitors):
        ...     return await visitors.flush(timeout_s=5)
        """
        return await asyncio.to_thread(self._delivery.flush, timeout_s)

    async def close(self, timeout_s: float | None = None) -> None:
        """As `Producer.close`.

        >>> asyncio.run(kinfold.AsyncProducer("redis://localhost:6379/0").close())
        """
        await asyncio.to_thread(_close, self._delivery, timeout_s)

    @property
    def counters(self) -> Counters:
        """As `Producer.counters`.

        >>> kinfold.AsyncProducer("redis://localhost:6379/0").counters.accepted
        0
        """
        return self._delivery.counters

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _put_draft(self, draft: Draft) -> None:
        delivery, buffer = self._delivery, self._delivery.buffer
        if buffer.offer(draft):
            return
        if delivery.may_wait:
            loop = asyncio.get_running_loop()
            while not buffer.closed and (left_s := delivery.patience_s()) > 0:
                room = asyncio.Event()
                delivery.when_room(_set_in_loop(loop, room))
                if buffer.offer(draft):  # there may have been room before the callback was registered
                    return
                with contextlib.suppress(TimeoutError):  # the server may have accepted something else: look again
                    await asyncio.wait_for(room.wait(), left_s)
                if buffer.offer(draft):
                    return
        delivery.drop()


def _close(delivery: Delivery, timeout_s: float | None) -> None:
    if timeout_s is None:
        delivery.close(max_silence_s=_SILENCE_S)
    else:
        delivery.close(timeout_s)


def make_delivery(url: str, workspace: str, key: str | None, given: ProducerOptions) -> Delivery:
    """The delivery of a producer. Raises ValueError, TypeError, or OSError for the spool."""
    options = read_options(given)
    check_workspace(workspace)
    if options.spool is not None:
        check_spool(options.spool)
    # Imported here and not by the background thread: at the end of the interpreter nothing can be imported any more.
    if not is_http(url):
        from kinfold.producer.redis_log import RedisLog  # noqa: PLC0415  only for Redis

        return Delivery(lambda: RedisLog(url, workspace, options.timeout_s), options, given.get("on_error"))
    api_key = gateway_key(key, "an API key", workspace)
    from kinfold.producer.gateway_log import GatewayLog  # noqa: PLC0415  only for a gateway

    return Delivery(lambda: GatewayLog(url, api_key, options.timeout_s), options, given.get("on_error"))


def _set_in_loop(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> Callable[[], None]:
    def callback() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(event.set)

    return callback
