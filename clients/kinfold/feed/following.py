"""`Feed` and `Follow`: the feed as an iterator, blocking or asynchronous."""

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Final, Self

from kinfold.feed.live import LiveContacts
from kinfold.feed.positions import FunctionPosition, PositionFunctions, PositionStore
from kinfold.feed.reader import Idle, Item, Reader, Received, SnapshotStarts, Source
from kinfold.transport.urls import gateway_key, is_http
from kinfold_schemas.changes import Change
from kinfold_schemas.keys import DEFAULT_WORKSPACE, check_workspace
from kinfold_schemas.positions import position_key

_SAVE_EVERY: Final = 500
_QUEUE_ITEMS: Final = 200
_CHECK_LOOP_S: Final = 0.5


class Feed:
    """The changes of a workspace's contacts. `url`, `workspace` and `key` are those of `Producer`; the key is a secret one.

    `position` stores the position of the reader: `FilePosition(path)`, or a pair of functions `(load, save)`. With it, a reader
    that starts again continues where it was.

    >>> visitors = kinfold.Producer("redis://localhost:6379/0", workspace="feed")
    >>> visitors.identify("v-1", external_id="u-1", name="Ada")
    >>> visitors.close()
    >>> for change in kinfold.Feed("redis://localhost:6379/0", workspace="feed").follow(since="0"):
    ...     print(type(change).__name__, change.contact.name)
    ...     if change.contact.visitor_ids == ["v-1"] and type(change).__name__ == "VisitorLinked":
    ...         break
    ContactCreated Ada
    VisitorLinked Ada
    """

    def __init__(
        self,
        url: str,
        *,
        workspace: str = DEFAULT_WORKSPACE,
        key: str | None = None,
        position: PositionStore | PositionFunctions | None = None,
        timeout_s: float = 4.0,
    ) -> None:
        check_workspace(workspace)
        self._url: Final = url
        self._workspace: Final = workspace
        self._key: Final = gateway_key(key, "a secret API key", workspace) if is_http(url) else ""
        self._timeout_s: Final = timeout_s
        given: object = position
        if isinstance(given, (str, os.PathLike)):
            raise TypeError(f"position: expected FilePosition({given!r}) or a pair (load, save), got {given!r}")
        self._store: Final = FunctionPosition(position) if isinstance(position, tuple) else position

    def follow(
        self, *, since: str | None = None, snapshot: bool = False, on_reset: Callable[[], object] | None = None
    ) -> "Follow":
        """Return an endless iterator over the changes, for `for` or `async for`.

        It starts after the stored position, if there is one; otherwise after `since`, a position in the feed (`"0"` is the very
        beginning); otherwise with a snapshot, if `snapshot` is set; otherwise now. After a disconnect it continues after the
        last change. Each change comes once, unless the reader itself ended before its position was saved.

        A snapshot is every contact as a ContactCreated with the cause "snapshot", followed by the changes from exactly there.

        Raises FeedTruncated if the feed no longer keeps the changes right after the position, or has no entry at the position
        (a failover, or a server restored from an older copy, removed it). With `snapshot` it starts again with a snapshot
        instead, and calls `on_reset` first: discard what you have. Raises Refused for a wrong password or key.

        >>> feed = kinfold.Feed("redis://localhost:6379/0", workspace="follow")
        >>> with feed.follow(snapshot=True) as changes, kinfold.Producer("redis://localhost:6379/0", workspace="follow") as p:
        ...     p.identify(email="ada@example.org")
        ...     next(changes).contact.email
        'ada@example.org'
        """
        start = self._store.load() if self._store is not None else None
        start = start or since
        if start is not None:
            position_key(start)
        return Follow(Reader(self._source(), start, snapshot=snapshot), self._store, on_reset, start)

    def contacts(self, timeout_s: float = 10.0) -> LiveContacts:
        """Return a mapping of all contacts by id, kept current in the background, once it is complete.

        Raises TimeoutError if that takes longer than `timeout_s`, and the same errors as `follow`.

        >>> with kinfold.Feed("redis://localhost:6379/0", workspace="feed").contacts() as contacts:
        ...     contacts.by_external_id("u-1").name
        'Ada'
        """
        live = LiveContacts(lambda: Reader(self._source(), None, snapshot=True))
        live.wait_until_whole(timeout_s)
        return live

    def _source(self) -> Source:
        if is_http(self._url):
            from kinfold.feed.gateway_source import GatewaySource  # noqa: PLC0415  only for a gateway

            return GatewaySource(self._url, self._key, self._timeout_s)
        from kinfold.feed.redis_source import RedisSource  # noqa: PLC0415  only for Redis

        return RedisSource(self._url, self._workspace, self._timeout_s)


class Follow(Iterator[Change], AsyncIterator[Change]):
    """The result of `Feed.follow`: an iterator of changes and a context manager, each blocking or asynchronous.

    >>> async def first():
    ...     async with kinfold.Feed("redis://localhost:6379/0", workspace="feed").follow(since="0") as changes:
    ...         async for change in changes:
    ...             return change.version
    >>> asyncio.run(first())
    1
    """

    def __init__(
        self, reader: Reader, store: PositionStore | None, on_reset: Callable[[], object] | None, start: str | None
    ) -> None:
        self._reader: Final = reader
        self._store: Final = store
        self._on_reset: Final = on_reset
        self._items: Generator[Item, None, None] | None = None
        self._pump: _Pump | None = None
        self._unsaved = 0
        self._pending: str | None = None
        self._position = start

    @property
    def position(self) -> str | None:
        """The position of the last change that was handled: the application asked for the next one. None before that.

        >>> kinfold.Feed("redis://localhost:6379/0").follow(since="0").position
        '0'
        """
        return self._position

    def __next__(self) -> Change:
        self._settle()
        if self._items is None:
            self._items = self._reader.items()
        for item in self._items:
            if (change := self._take(item)) is not None:
                return change
        raise StopIteration

    async def __anext__(self) -> Change:
        self._settle()
        if self._pump is None:
            self._pump = _Pump(self._reader)
        while True:
            item = await self._pump.next()
            if item is None:
                raise StopAsyncIteration
            if (change := self._take(item)) is not None:
                return change

    def close(self) -> None:
        """End the iteration and save the position. The last change comes again, unless the next one was asked for.

        Any thread, and a signal handler, may call this. A thread that waits for a change then stops within half a second.

        >>> kinfold.Feed("redis://localhost:6379/0").follow().close()
        """
        self._reader.stop()
        self._save()
        if self._items is not None:
            with contextlib.suppress(ValueError):  # another thread waits in it, and will notice the end
                self._items.close()
        if self._pump is not None:
            self._pump.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._reader.stop()

    def _take(self, item: Item) -> Change | None:
        if isinstance(item, Received):
            self._pending = item.position
            return item.change
        if isinstance(item, SnapshotStarts):
            if self._on_reset is not None:
                self._on_reset()
        elif isinstance(item, Idle):
            self._save()
        else:
            self._position = item.position
            self._unsaved += 1
        return None

    def _settle(self) -> None:
        """Advance the position: an application that asks for the next change has handled the last one."""
        if self._pending is not None:
            self._position, self._pending = self._pending, None
            self._unsaved += 1
            if self._unsaved >= _SAVE_EVERY:
                self._save()

    def _save(self) -> None:
        if self._store is not None and self._unsaved and self._position is not None:
            self._store.save(self._position)
        self._unsaved = 0


class _Pump:
    """Reads in a thread, and passes the items to an event loop through a bounded queue."""

    def __init__(self, reader: Reader) -> None:
        self._reader: Final = reader
        self._loop: Final = asyncio.get_running_loop()
        self._arrived: Final = asyncio.Event()
        self._items: Final[deque[Item]] = deque()
        self._room: Final = threading.Semaphore(_QUEUE_ITEMS)
        self._is_over = False
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="kinfold-feed", daemon=True).start()

    async def next(self) -> Item | None:
        """Return the next item; None at the end. Raises the reader's errors."""
        while not self._items:
            if self._is_over:
                if self._error is not None:
                    raise self._error
                return None
            self._arrived.clear()
            if not self._items and not self._is_over:
                await self._arrived.wait()
        self._room.release()
        return self._items.popleft()

    def stop(self) -> None:
        """End the thread, soon."""
        self._reader.stop()
        self._is_over = True
        self._room.release()

    def _run(self) -> None:
        try:
            for item in self._reader.items():
                while not self._room.acquire(timeout=_CHECK_LOOP_S):
                    if self._loop.is_closed():
                        return
                if self._is_over:
                    break  # and wake the task that waits
                self._items.append(item)
                self._wake()
        except BaseException as error:  # noqa: BLE001  `next` raises it
            self._error = error
        self._is_over = True
        self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the loop is closed
            self._reader.stop()
