"""The change feed: what becomes of contacts, change by change, for ever, without a gap (contract section 6)."""

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from types import TracebackType
from typing import Final, Self

from kinfold.connections import gateway_key, is_http
from kinfold.live import LiveContacts
from kinfold.positions import PairPosition, Position, PositionPair
from kinfold.reading import Item, Pause, Reader, SnapshotBegins, Source, Told
from kinfold_schemas.changes import Change
from kinfold_schemas.keys import DEFAULT_WORKSPACE, check_workspace
from kinfold_schemas.positions import position_key

_SAVE_EVERY: Final = 500
_HANDED_OVER: Final = 200
_LOOK_AGAIN_S: Final = 0.5


class Feed:
    """The changes of a workspace's contacts: `url`, `workspace` and `key` as for `Producer`, the key a secret one.

    `position` is a place to remember how far the reader has come: `FilePosition(path)`, or a pair of functions
    `(load, save)`. With it a reader that starts again goes on where it was.

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
        position: Position | PositionPair | None = None,
        timeout_s: float = 4.0,
    ) -> None:
        check_workspace(workspace)
        self._url: Final = url
        self._workspace: Final = workspace
        self._key: Final = gateway_key(key, "a secret API key") if is_http(url) else ""
        self._timeout_s: Final = timeout_s
        given: object = position
        if isinstance(given, (str, os.PathLike)):
            raise TypeError(f"position: found {given!r}, allowed are FilePosition({given!r}) and a pair (load, save)")
        self._position: Final = PairPosition(position) if isinstance(position, tuple) else position

    def follow(
        self, *, since: str | None = None, snapshot: bool = False, on_reset: Callable[[], object] | None = None
    ) -> "Follow":
        """Every change from somewhere on, for ever: to be iterated with `for`, or with `async for`.

        Starts behind the remembered position, if there is one; else behind `since`, a position in the feed (`"0"`: the oldest
        that there ever was); else with a snapshot, if asked for; else now. After a disconnect of any kind it goes on behind
        the last change. Each change comes once, unless the reader itself ended before its position was saved.

        A `snapshot` is every contact as a ContactCreated, `cause` "snapshot", and then the changes from exactly there.

        Raises FeedTruncated where the changes right behind the position are no longer kept, or where the position is no entry
        of this feed (a failover, or a server restored from an older copy, took it away); with `snapshot`, it starts again
        with one instead, and calls `on_reset` first: forget what you hold. Raises Refused for a wrong password or key.

        >>> feed = kinfold.Feed("redis://localhost:6379/0", workspace="follow")
        >>> with feed.follow(snapshot=True) as changes, kinfold.Producer("redis://localhost:6379/0", workspace="follow") as p:
        ...     p.identify(email="ada@example.org")
        ...     next(changes).contact.email
        'ada@example.org'
        """
        start = self._position.load() if self._position is not None else None
        start = start or since
        if start is not None:
            position_key(start)
        return Follow(Reader(self._source(), start, snapshot=snapshot), self._position, on_reset, start)

    def contacts(self, timeout_s: float = 10.0) -> LiveContacts:
        """Every contact, in a mapping by id that is kept current in the background. Returns when it is whole.

        Raises TimeoutError where that takes longer than `timeout_s`, and what `follow` raises.

        >>> with kinfold.Feed("redis://localhost:6379/0", workspace="feed").contacts() as contacts:
        ...     contacts.by_external_id("u-1").name
        'Ada'
        """
        live = LiveContacts(lambda: Reader(self._source(), None, snapshot=True))
        live.wait_until_whole(timeout_s)
        return live

    def _source(self) -> Source:
        if is_http(self._url):
            from kinfold.sse_feed import GatewayFeed  # noqa: PLC0415  whoever uses Redis needs none of it

            return GatewayFeed(self._url, self._key, self._timeout_s)
        from kinfold.redis_feed import RedisFeed  # noqa: PLC0415  and the other way round

        return RedisFeed(self._url, self._workspace, self._timeout_s)


class Follow(Iterator[Change], AsyncIterator[Change]):
    """What `Feed.follow` returns: an iterator of changes, blocking or asynchronous, and a context manager of either kind.

    >>> async def first():
    ...     async with kinfold.Feed("redis://localhost:6379/0", workspace="feed").follow(since="0") as changes:
    ...         async for change in changes:
    ...             return change.version
    >>> asyncio.run(first())
    1
    """

    def __init__(
        self, reader: Reader, position: Position | None, on_reset: Callable[[], object] | None, start: str | None
    ) -> None:
        self._reader: Final = reader
        self._store: Final = position
        self._on_reset: Final = on_reset
        self._items: Generator[Item, None, None] | None = None
        self._pump: _Pump | None = None
        self._unsaved = 0
        self._pending: str | None = None
        self._position = start

    @property
    def position(self) -> str | None:
        """The position of the last change whose successor was asked for; None before.

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
        """Ends the iteration and saves the position. A change that was returned last and not followed by another comes again.

        From any thread, and in a signal handler, too: whoever waits for a change then finds the end, within half a second.

        >>> kinfold.Feed("redis://localhost:6379/0").follow().close()
        """
        self._reader.stop()
        self._save()
        if self._items is not None:
            with contextlib.suppress(ValueError):  # somebody is waiting in it, and will find the end
                self._items.close()
        if self._pump is not None:
            self._pump.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._reader.stop()

    def _take(self, item: Item) -> Change | None:
        if isinstance(item, Told):
            self._pending = item.position
            return item.change
        if isinstance(item, SnapshotBegins):
            if self._on_reset is not None:
                self._on_reset()
        elif isinstance(item, Pause):
            self._save()
        else:
            self._position = item.position
            self._unsaved += 1
        return None

    def _settle(self) -> None:
        """The change returned last has been dealt with, or its successor would not be asked for."""
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
    """Reads in a thread of its own and hands over to an event loop, no faster than that takes it."""

    def __init__(self, reader: Reader) -> None:
        self._reader: Final = reader
        self._loop: Final = asyncio.get_running_loop()
        self._arrived: Final = asyncio.Event()
        self._items: Final[deque[Item]] = deque()
        self._room: Final = threading.Semaphore(_HANDED_OVER)
        self._is_over = False
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="kinfold-feed", daemon=True).start()

    async def next(self) -> Item | None:
        """The next item; None at the end. Raises what the reader raised."""
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
        """Ends the thread, soon."""
        self._reader.stop()
        self._is_over = True
        self._room.release()

    def _run(self) -> None:
        try:
            for item in self._reader.items():
                while not self._room.acquire(timeout=_LOOK_AGAIN_S):
                    if self._loop.is_closed():
                        return
                if self._is_over:
                    break  # and wake who waits for the end
                self._items.append(item)
                self._wake()
        except BaseException as error:  # noqa: BLE001  it is raised where the changes are awaited
            self._error = error
        self._is_over = True
        self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the loop is closed
            self._reader.stop()
