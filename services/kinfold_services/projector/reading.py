"""Reading the log through FastStream, in pages, by a position of our own (contract section 8).

No consumer group reads here. A group hands each entry to one of its consumers, so a second projector would take entries away
from the first, and neither could see the gap; an entry that was handed out and not folded never comes again by itself. A plain
read from a position has no such states: what was not committed is simply read again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

import structlog
from faststream import BaseMiddleware
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.message import BatchStreamMessage, RedisBatchStreamMessage
from faststream.redis.subscriber.usecases import StreamBatchSubscriber
from redis.exceptions import TimeoutError as RedisTimeoutError

from kinfold_schemas.keys import key
from kinfold_services.connections import SERVER_ERRORS, Client, RawEntry, drop_idle_connections, is_passing
from kinfold_services.log.streams import as_entries

POLL_MS: Final = 1000
"""How long one read waits for entries. Nobody waits longer for it: an entry that comes ends the wait."""
ANSWER_S: Final = 3.0
"""How long the server may take for an answer, a read that waits included. So long a connection that died goes unnoticed."""

BEGINNING: Final = "0-0"
_RETRY_S: Final = 0.25

Fail = Callable[[str, BaseException], None]
"""Takes the key of a log, and why it cannot be read on."""


def subscribe(
    broker: RedisBroker,
    workspace: str,
    *,
    after: str,
    page_entries: int,
    handle: Callable[[Sequence[RawEntry]], Awaitable[None]],
) -> StreamBatchSubscriber:
    """A subscriber that hands over the log of a workspace behind `after`, up to `page_entries` at a time, in order.

    The next page is read when `handle` returns, which has to keep what it cannot deal with: nothing is read again. The broker
    forgets a subscriber that nobody else holds, so a workspace may be read, left and read again.
    """
    stream = _LogStream(
        key(workspace, "events"),
        batch=True,
        last_id=after or BEGINNING,
        max_records=page_entries,
        polling_interval=POLL_MS,
    )
    subscriber = broker.subscriber(stream=stream, parser=_parse, decoder=_decode, persistent=False)

    async def on_batch(batch: Any) -> None:
        await handle(cast("Sequence[RawEntry]", batch))

    subscriber(on_batch)
    return subscriber


class _LogStream(StreamSub[Literal[True]]):
    """FastStream asks for the prefixed name before every read and makes a deep copy for it; our broker has no prefix."""

    def add_prefix(self, prefix: str) -> Self:
        return self if not prefix else super().add_prefix(prefix)


class PatientReads:
    """Gives a client reads that FastStream can live with: one that fails for now ends with no entries, after a moment.

    FastStream itself waits 5 s after most failed reads, repeats others without a pause, and tells nobody.
    """

    def __init__(self, client: Client, fail: Fail) -> None:
        self._xread: Final[Callable[..., Awaitable[Any]]] = client.xread
        self._client: Final = client
        self._fail: Final = fail
        self._counts: Final[dict[str, int]] = {}
        """By log: how many entries to ask for, where a read took too long."""
        self._log: Final = structlog.get_logger()
        client.set_response_callback("XREAD", cast("Any", as_pages))
        own = cast("Any", client)
        own.xread, own.ping = self.xread, self.ping

    async def ping(self) -> bool:
        """FastStream asks before it reads, and repeats without a pause where this fails. The read itself will tell."""
        return True

    async def xread(self, streams: dict[str, str], *, count: int, block: int) -> Any:
        """As redis-py's, of one stream. A failure that does not pass goes to `fail`, and so does nothing else."""
        (log,) = streams
        asked = self._counts.get(log, count)
        try:
            pages = await self._xread(streams, count=asked, block=block)
        except SERVER_ERRORS as error:
            if not is_passing(error):
                self._fail(log, error)
            else:
                if isinstance(error, RedisTimeoutError):
                    # Too much for the time, perhaps: large entries over a slow line.
                    self._counts[log] = max(1, asked // 2)
                self._log.warning("log not read", log=log, error=str(error), retry_in_s=_RETRY_S)
                await drop_idle_connections(self._client)
            await asyncio.sleep(_RETRY_S)
            return []
        if asked < count:
            self._counts[log] = min(count, asked * 2)
        return pages


class TellFailure(BaseMiddleware):
    """Reports any failure on the way to the handler.

    FastStream logs a failed batch and goes on with the next one. That is right for independent messages, but it would leave a
    hole in an ordered fold. So reading has to stop here.
    """

    def __init__(self, *args: Any, fail: Fail, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fail = fail

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> bool | None:
        if exc_val is not None and not isinstance(exc_val, asyncio.CancelledError):
            self._fail(cast("BatchStreamMessage", self.msg)["channel"], exc_val)
        return await super().__aexit__(exc_type, exc_val, exc_tb)


def as_pages(response: Any, **_kwargs: Any) -> list[list[Any]]:
    """What redis-py makes of XREAD's reply (`set_response_callback`): of each stream one page, under its last entry's id.

    redis-py and FastStream take entries one at a time, each through a few functions, and take longer than the fold to decode
    one. FastStream only has to carry them: to it a page is one message.
    """
    is_resp3 = isinstance(response, dict)
    streams: Any = cast("Any", response).items() if is_resp3 else response or ()
    return [[name, [(entries[-1][0], as_entries(entries))]] for name, entries in streams if entries]


async def _parse(message: BatchStreamMessage, original: Callable[[Any], Awaitable[RedisBatchStreamMessage]]) -> Any:
    # FastStream's own parser decodes, dumps and decodes again, and one entry that is not UTF-8 fails the whole batch. It is
    # given an empty one to build the message around, and the pages are put in untouched.
    parsed = await original({**message, "data": []})
    parsed.raw_message = message
    return parsed


async def _decode(message: RedisBatchStreamMessage) -> list[RawEntry]:
    (page,) = cast("list[list[RawEntry]]", message.raw_message["data"])
    return page
