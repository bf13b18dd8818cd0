"""Read the log through FastStream, in pages, from a position that we keep ourselves (contract section 8).

No consumer group reads here. A group hands each entry to only one of its consumers, so a second projector would take entries
away from the first, and neither could see the gap. An entry that was handed out but not folded would never be handed out again.
A plain read from a position has no such states: what was not committed is read again.
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
from kinfold_services.connections import Client, RawEntry, drop_idle_connections, is_passing
from kinfold_services.log.streams import as_entries

POLL_MS: Final = 1000
"""How long one read waits for entries. It adds no latency: an entry that arrives ends the wait."""
ANSWER_S: Final = 3.0
"""How long the server may take to answer, including a read that waits. A dead connection is noticed after this time."""

BEGINNING: Final = "0-0"
_RETRY_S: Final = 0.25

Fail = Callable[[str, BaseException], None]
"""Called with the key of a log and the error that makes it unreadable."""


def subscribe(
    broker: RedisBroker,
    workspace: str,
    *,
    after: str,
    page_entries: int,
    handle: Callable[[Sequence[RawEntry]], Awaitable[None]],
) -> StreamBatchSubscriber:
    """Return a subscriber that passes on the log of a workspace after `after`, up to `page_entries` at a time, in order.

    The next page is read when `handle` returns. Nothing is read twice, so `handle` has to keep what it cannot process yet. The
    broker forgets a subscriber that is not referenced elsewhere, so a workspace may be read, left and read again.
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
    """A stream without a prefix. FastStream would make a deep copy of it before every read, only to add the prefix."""

    def add_prefix(self, prefix: str) -> Self:
        return self if not prefix else super().add_prefix(prefix)


class PatientReads:
    """Replaces a client's reads with ones that fit FastStream: a read that fails temporarily returns no entries, after a pause.

    FastStream itself waits 5 s after most failed reads, repeats others without a pause, and reports none of them.
    """

    def __init__(self, client: Client, fail: Fail) -> None:
        self._xread: Final[Callable[..., Awaitable[Any]]] = client.xread
        self._client: Final = client
        self._fail: Final = fail
        self._counts: Final[dict[str, int]] = {}
        """By log: how many entries to ask for after a read timed out."""
        self._failing: Final = set[str]()
        """The logs whose last read failed."""
        self._log: Final = structlog.get_logger()
        client.set_response_callback("XREAD", cast("Any", as_pages))
        own = cast("Any", client)
        own.xread, own.ping = self.xread, self.ping

    async def ping(self) -> bool:
        """Return True. FastStream pings before each read, and repeats a failed ping without a pause. The read itself fails."""
        return True

    async def xread(self, streams: dict[str, str], *, count: int, block: int) -> Any:
        """Read one stream, as redis-py's `xread` does. Passes a permanent failure to `fail`, and retries a temporary one."""
        (log,) = streams
        asked = self._counts.get(log, count)
        try:
            pages = await self._xread(streams, count=asked, block=block)
        except Exception as error:  # noqa: BLE001  FastStream would tell nobody of it
            if not is_passing(error):
                self._fail(log, error)
            else:
                self._failing.add(log)
                if isinstance(error, RedisTimeoutError):
                    # The page may be too large for the time limit, for example large entries over a slow line.
                    self._counts[log] = max(1, asked // 2)
                self._log.warning("log not read", log=log, error=str(error), retry_in_s=_RETRY_S, seldom=True)
                await drop_idle_connections(self._client)
            await asyncio.sleep(_RETRY_S)
            return []
        if log in self._failing:
            self._failing.discard(log)
            self._log.info("log is read again", log=log, seldom=True)
        if asked < count:
            self._counts[log] = min(count, asked * 2)
        return pages


class TellFailure(BaseMiddleware):
    """Reports any failure on the way to the handler.

    FastStream logs a failed batch and continues with the next one. That is right for independent messages, but it would leave a
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
    """Parse the reply to XREAD (`set_response_callback`): one page for each stream, under the id of its last entry.

    redis-py and FastStream handle entries one at a time, each through several functions, which takes longer than decoding them
    for the fold. FastStream only has to carry them: to it, a page is one message.
    """
    is_resp3 = isinstance(response, dict)
    streams: Any = cast("Any", response).items() if is_resp3 else response or ()
    return [[name, [(entries[-1][0], as_entries(entries))]] for name, entries in streams if entries]


async def _parse(message: BatchStreamMessage, original: Callable[[Any], Awaitable[RedisBatchStreamMessage]]) -> Any:
    # FastStream's own parser decodes, encodes and decodes again, and one entry that is not UTF-8 fails the whole batch. So it
    # gets an empty message, and the pages are put in untouched.
    parsed = await original({**message, "data": []})
    parsed.raw_message = message
    return parsed


async def _decode(message: RedisBatchStreamMessage) -> list[RawEntry]:
    (page,) = cast("list[list[RawEntry]]", message.raw_message["data"])
    return page
