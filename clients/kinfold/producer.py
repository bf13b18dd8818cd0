"""Producers: what an application says of its visitors, said in one line, checked at once and sent in the background."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self, Unpack

from kinfold.calls import Calls
from kinfold.connections import gateway_key, is_http
from kinfold.counters import Counters
from kinfold.delivery import Delivery
from kinfold.drafts import Draft
from kinfold.options import ProducerOptions, read_options
from kinfold.spool import check_spool
from kinfold_schemas.keys import DEFAULT_WORKSPACE, check_workspace

_FLUSH_S: Final = 10.0
_SILENCE_S: Final = 10.0
"""How long `close` waits for a server that acknowledges nothing."""


class Producer(Calls[None]):
    """Sends events to a workspace's log: straight to Redis, or through a gateway, by the URL.

    `url` is Redis' (`redis://`, `unix://`, `redis+cluster://`, `redis+sentinel://host:port/master/0`, and `rediss` for `redis`
    where that speaks TLS), or a gateway's (`https://`, `http://`), which needs a `key` and knows the workspace by it. The
    settings are those of `ProducerOptions`.

    A call checks its event and puts it into a buffer. It does not wait for the network, nor fail because of it: one background
    thread, started by the first event, sends what is there in batches, again and again until the server has it. When the
    buffer is full a call waits for room, but only while the server takes events (`when_full`, `wait_s`): a bulk load runs as
    fast as the server does, and an outage delays a call by `wait_s` at most, once. After that calls drop their events, which
    is logged and counted as `dropped`, until the server answers again. A call in an event loop never waits.

    Only an event that the server, or a proxy before it, refuses for itself is given up: logged, counted as `refused`, and told
    to `on_error`. While everything is refused (a wrong key) everything waits, and the log says why.
    Every method may be called from any thread. After a fork the child has an empty buffer and connections of its own.

    The end of the process sends what is left, and gives up when the server acknowledged nothing for `exit_timeout_s`; so does
    the end of a child of multiprocessing, or of Celery's prefork pool. A child of `multiprocessing.Pool` also sends what a task
    said before the task's result is known, because the pool ends its children with SIGTERM. Any other process that is killed
    loses what is not sent yet: what was said in the last `batch_age_s` while the server answers. uvicorn ends so by SIGTERM:
    see `kinfold.asgi`. When events were lost the log says how many of how many, at level error.

    Metadata and identifications that say nothing new are not sent (`suppress_entries`, `suppress_s`; `kinfold.suppression` has
    the rules). "New" is what differs from what this producer itself sent last: where another writer has changed a value in
    between, saying the old one again does not change it back until `suppress_s` is over.

    Raises ValueError or TypeError for a setting, a URL or a workspace that is not allowed. The methods raise `EventError`
    (a ValueError) for an event that would be rejected.

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
        super().__init__(self._delivery.put)

    def flush(self, timeout_s: float = _FLUSH_S) -> str | None:
        """Waits until everything said before is in the log, and returns the position of the last event appended.

        The position is None where this process has sent nothing. Raises NotSent when `timeout_s` is over before.

        >>> with kinfold.Producer("redis://localhost:6379/0", workspace="acme") as visitors:
        ...     visitors.seen("v-1")
        ...     visitors.flush(timeout_s=5).count("-")
        1
        """
        return self._delivery.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Sends what is left and ends the background thread.

        It takes `timeout_s` at most; with None as long as the server takes events, and until it has acknowledged nothing for
        10 s. What is not sent by then goes to the spool, if there is one, or is lost: the log says at level error how many of
        how many events were lost (`Counters.lost` and `Counters.dropped`). It never raises. Later events are dropped and
        counted.

        >>> kinfold.Producer("redis://localhost:6379/0").close(timeout_s=1)
        """
        _close(self._delivery, timeout_s)

    @property
    def counters(self) -> Counters:
        """What became of the events so far, in this process.

        >>> with kinfold.Producer("redis://localhost:6379/0") as visitors:
        ...     visitors.counters.accepted
        0
        """
        return self._delivery.counters

    @property
    def never_waiting(self) -> Calls[None]:
        """The same calls without waiting: with a full buffer they drop, or raise, at once. The middlewares use them.

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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncProducer(Calls[Coroutine[Any, Any, None]]):
    """The same for asyncio: the same names and settings, to be awaited. No call ever blocks the event loop.

    With a full buffer a call awaits room, as `Producer` waits for it. Sending is the background thread's here, too, so a busy
    loop does not delay it and the end of the loop does not cut it off. One producer may serve several event loops.

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
        super().__init__(self._offer)

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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _offer(self, draft: Draft) -> None:
        delivery = self._delivery
        if delivery.offer(draft):
            return
        if delivery.may_wait:
            loop = asyncio.get_running_loop()
            while not delivery.is_closed and (left := delivery.patience_s()) > 0:
                room = asyncio.Event()
                delivery.when_room(_from_thread(loop, room))
                if delivery.offer(draft):  # room was made before it could call back
                    return
                with contextlib.suppress(TimeoutError):  # then the server may have taken something else
                    await asyncio.wait_for(room.wait(), left)
                if delivery.offer(draft):
                    return
        delivery.no_room()


def _close(delivery: Delivery, timeout_s: float | None) -> None:
    if timeout_s is None:
        delivery.close(patience_s=_SILENCE_S)
    else:
        delivery.close(timeout_s)


def make_delivery(url: str, workspace: str, key: str | None, given: ProducerOptions) -> Delivery:
    """What a producer stands on. Raises ValueError, TypeError or OSError (the spool) for what is not allowed."""
    options = read_options(given)
    check_workspace(workspace)
    if options.spool is not None:
        check_spool(options.spool)
    # Loaded now and not by the background thread: that may be first needed when the interpreter ends, which loads no more.
    if not is_http(url):
        from kinfold.redis_log import RedisLog  # noqa: PLC0415  whoever uses a gateway needs none of it

        return Delivery(lambda: RedisLog(url, workspace, options.timeout_s), options, given.get("on_error"))
    api_key = gateway_key(key, "an API key")
    from kinfold.gateway import GatewayLog  # noqa: PLC0415  and the other way round

    return Delivery(lambda: GatewayLog(url, api_key, options.timeout_s), options, given.get("on_error"))


def _from_thread(loop: asyncio.AbstractEventLoop, room: asyncio.Event) -> Callable[[], None]:
    def callback() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, perhaps in this very moment
            loop.call_soon_threadsafe(room.set)

    return callback
