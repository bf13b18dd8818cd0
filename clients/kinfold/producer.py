"""Producers: what an application says of its visitors, said in one line, checked at once and sent in the background."""

import asyncio
import contextlib
import time
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


class Producer(Calls[None]):
    """Sends events to a workspace's log: straight to Redis, or through a gateway, by the URL.

    `url` is Redis' (`redis://`, `unix://`, `redis+cluster://`, `redis+sentinel://host:port/master/0`, and `rediss` for `redis`
    where that speaks TLS), or a gateway's (`https://`, `http://`), which needs a `key` and knows the workspace by it. The
    settings are those of `ProducerOptions`.

    A call checks its event, and puts it into a buffer: it neither waits for the network nor fails because of it. One
    background thread, started by the first event, sends what is there in batches, again and again until the server has it.
    Only an event that the server, or a proxy before it, refuses for itself is given up: logged, counted as `refused`, and told
    to `on_error`. While everything is refused (a wrong key) everything waits, and the log says why.
    Every method may be called from any thread. After a fork the child has an empty buffer and connections of its own.

    The end of the process sends what waits, for `exit_timeout_s` at most; so does the end of a child of multiprocessing, or of
    Celery's prefork pool. A process that is killed has nothing to say in it: then what waited is lost, for at most
    `batch_age_s` while the server answers. uvicorn ends so by SIGTERM: see `kinfold.asgi`.

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

    def close(self, timeout_s: float = _FLUSH_S) -> None:
        """Sends what waits, for `timeout_s` at most, and ends the background thread.

        What is not sent by then goes to the spool, where there is one, or is counted as lost; it never raises. Events that
        come later are dropped and counted.

        >>> kinfold.Producer("redis://localhost:6379/0").close(timeout_s=1)
        """
        self._delivery.close(timeout_s)

    @property
    def counters(self) -> Counters:
        """What became of the events so far, in this process.

        >>> with kinfold.Producer("redis://localhost:6379/0") as visitors:
        ...     visitors.counters.accepted
        0
        """
        return self._delivery.counters

    @property
    def may_wait(self) -> bool:
        """Whether a call may wait for room in the buffer (`when_full="wait"`).

        >>> kinfold.Producer("redis://localhost:6379/0").may_wait
        False
        """
        return self._delivery.options.when_full == "wait"

    @property
    def exit_timeout_s(self) -> float:
        """How long the end of the process waits for what is not sent yet.

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

    `when_full="wait"` makes a call await room. Sending is the background thread's here, too, so a busy loop does not delay it
    and the end of the loop does not cut it off. One producer may serve several event loops.

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

    async def close(self, timeout_s: float = _FLUSH_S) -> None:
        """As `Producer.close`.

        >>> asyncio.run(kinfold.AsyncProducer("redis://localhost:6379/0").close())
        """
        await asyncio.to_thread(self._delivery.close, timeout_s)

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
        if delivery.options.when_full == "wait":
            loop = asyncio.get_running_loop()
            deadline = time.monotonic() + delivery.options.wait_s
            while not delivery.is_closed and (left := deadline - time.monotonic()) > 0:
                room = asyncio.Event()
                delivery.when_room(_from_thread(loop, room))
                if delivery.offer(draft):  # room was made before it could call back
                    return
                try:
                    await asyncio.wait_for(room.wait(), left)
                except TimeoutError:
                    break
                if delivery.offer(draft):
                    return
        delivery.no_room()


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
