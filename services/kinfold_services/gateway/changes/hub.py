"""Reads a workspace's feed once for all its followers.

The hub keeps the latest changes in a ring. A follower that reconnects soon, or joins while others follow, costs Redis nothing.
Each follower has a bounded buffer. One that does not read is cut off, without an effect on the others.
"""

import asyncio
import time
from collections import deque
from contextvars import Context
from itertools import takewhile
from typing import Final, Literal, NamedTuple, cast

from redis.exceptions import ResponseError

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import SERVER_ERRORS, Client
from kinfold_services.gateway.changes.messages import ERASED, Message
from kinfold_services.gateway.changes.snapshot import Snapshot, take_snapshot
from kinfold_services.gateway.failures import report_failure
from kinfold_services.gateway.metrics import Metrics
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.state.queries import StateQueries

_RING: Final = 4096
_RING_BYTES: Final = 16 * 1024**2
_BUFFER_BYTES: Final = 8 * 1024**2
"""How many bytes may wait for one follower before another page is added. A change has up to 80 KiB."""
_PAGE: Final = 500
_LEAST_PAGE: Final = 16
_PAGE_BYTES: Final = 2 * 1024**2
"""About how many bytes a page has: after a larger one, the next has fewer entries."""
_BLOCK_MS: Final = 2000
_SILENCE_S: Final = 8.0
_IDLE_S: Final = 30.0
_FIRST_RETRY_S: Final = 0.05
_LAST_RETRY_S: Final = 1.0
_SNAPSHOT_S: Final = 5.0
"""How long a snapshot is reused for other followers, who then get the changes since."""

_MANY: Final = 50
_PAUSE_EACH_S: Final = 0.00006
"""With many followers the hub waits a little and sends several changes at once: one write per change would be too slow."""

Ended = Literal["", "slow", "closing", "reset"]


class Filter(NamedTuple):
    """Which changes a follower wants: an empty set means all."""

    contacts: set[str]
    types: frozenset[str]

    def wants(self, message: Message) -> bool:
        """Whether the follower wants this change. After a merge, a follower of the merged contact follows the survivor."""
        if self.contacts:
            if message.merged_contact_id in self.contacts:
                self.contacts.add(message.contact_id)
            elif message.contact_id not in self.contacts:
                return False
        return not self.types or message.type in self.types


class Follower:
    """One reader of the feed and its buffer."""

    __slots__ = ("after", "ended", "filter", "pending", "pending_bytes", "wake")

    def __init__(self, wanted: Filter) -> None:
        self.filter = wanted if wanted.contacts or wanted.types else None
        self.pending: deque[Message] = deque()
        self.pending_bytes = 0
        self.wake = asyncio.Event()
        self.ended: Ended = ""
        self.after: tuple[int, int] | None = None
        """The entry after which it wants changes, while the hub has not read that far."""

    def take(self, count: int) -> list[Message]:
        """Take the next messages out of the buffer, up to a maximum."""
        taken = [self.pending.popleft() for _ in range(min(count, len(self.pending)))]
        self.pending_bytes -= _bytes_of(taken)
        return taken

    def end(self, why: Ended) -> None:
        """End the follower's stream. The first reason counts."""
        self.ended = self.ended or why
        self.wake.set()


def _bytes_of(messages: list[Message]) -> int:
    return sum([message.size for message in messages])


class FeedHub:
    """The feed of one workspace in this process."""

    def __init__(self, client: Client, workspace: str, buffer_entries: int, metrics: Metrics) -> None:
        self.last = ""
        """The id of the last entry that was read."""
        self._client: Final = client
        self._workspace: Final = workspace
        self._feed: Final = key(workspace, "changes")
        self._buffer_entries: Final = buffer_entries
        self._metrics: Final = metrics
        self._followers: Final[set[Follower]] = set()
        self._ring: Final[deque[Message]] = deque()
        self._ring_bytes = 0
        self._page_entries = _PAGE
        self._floor: tuple[int, int] = (0, 0)
        """The ring has all entries after this one, up to `last`."""
        self._reader: asyncio.Task[None] | None = None
        self._starting: Final = asyncio.Lock()
        self._snapshot: tuple[float, Snapshot] | None = None
        self._closing = False

    async def start(self) -> None:
        """Start to read the feed, unless the hub already does. Raises RedisError if Redis does not answer.

        A follower that joins before its next await misses nothing: the hub stops only after `_IDLE_S` without followers.
        """
        if self._is_reading():  # do not wait for a snapshot, which holds the same lock
            return
        async with self._starting:
            if not self._is_reading():
                self._begin_at(await self.newest())
                empty = Context()  # the reader's log lines do not belong to the request that started it
                self._reader = asyncio.create_task(self._read(), name=f"feed of {self._workspace}", context=empty)

    async def newest(self) -> str:
        """The id of the feed's last entry, or `0-0` if the feed is empty."""
        try:
            info = cast("dict[str, bytes]", await self._client.xinfo_stream(self._feed))
        except ResponseError:
            return "0-0"
        return info["last-generated-id"].decode()

    @property
    def is_closing(self) -> bool:
        """Whether the gateway stops, so that streams have to end."""
        return self._closing

    @property
    def followers(self) -> int:
        """How many readers follow the feed at this gateway."""
        return len(self._followers)

    @property
    def floor(self) -> str:
        """The id after which the ring has every entry."""
        return f"{self._floor[0]}-{self._floor[1]}"

    async def add_survivors(self, follower: Follower) -> None:
        """Let a follower of contacts follow the survivors of past merges. The feed reports later merges."""
        if follower.filter is not None:
            queries = StateQueries(self._client, self._workspace)
            for contact_id in list(follower.filter.contacts):
                if (living := await queries.contact(contact_id)) is not None:
                    follower.filter.contacts.add(living.id)

    def join(self, follower: Follower, after: str) -> bool:
        """Add a follower, and buffer what it missed since `after`. Returns False if that is too much: read pages first."""
        position = position_key(after)
        if position <= position_key(self.last) and not self._has(position):
            return False
        missed = self._remembered(position)
        if len(missed) > self._buffer_entries // 2 or _bytes_of(missed) > _BUFFER_BYTES // 2:
            return False
        follower.after = position if position > position_key(self.last) else None
        self._followers.add(follower)
        self._metrics.subscribers.labels(self._workspace).set(len(self._followers))
        self._offer(follower, missed)
        if self._closing:
            follower.end("closing")
        return True

    def leave(self, follower: Follower) -> None:
        """Remove a follower."""
        self._followers.discard(follower)
        self._metrics.subscribers.labels(self._workspace).set(len(self._followers))

    async def page_after(self, after: str) -> list[Message] | None:
        """The next entries after `after`, from the ring or from Redis. An empty page means that the ring has all the rest.

        Returns None if the feed no longer has all of them, or never had the entry `after`.
        """
        if self._has(position_key(after)):
            return self._remembered(position_key(after))[: self._page_entries]
        return await self._stored_after(after)

    async def _stored_after(self, after: str) -> list[Message] | None:
        pipeline = self._client.pipeline(transaction=True)
        entries = self._page_entries
        pipeline.xrange(self._feed, min=after, count=entries + 1)
        pipeline.xinfo_stream(self._feed)
        page, info = await pipeline.execute(raise_on_error=False)
        position = position_key(after)
        if isinstance(info, ResponseError):  # no feed yet
            return [] if position == (0, 0) else None
        for reply in (page, info):
            if isinstance(reply, Exception):
                raise reply
        if position == position_key(info["last-generated-id"].decode()):
            return []
        messages = [Message.change(entry.decode(), fields) for entry, fields in page]
        self._choose_page(messages)
        if position == (0, 0):
            return messages[:entries] if info["entries-added"] == info["length"] else None
        # The entry itself must exist: a server that lost its newest entries may already have others in their place.
        return messages[1:] if messages and messages[0].order == position else None

    async def snapshot(self) -> Snapshot:
        """A snapshot that is at most 5 s old, shared by followers that ask at about the same time."""
        async with self._starting:
            if self._snapshot is None or time.monotonic() > self._snapshot[0]:
                self._snapshot = None  # frees its memory before the next one is read
                taken = await take_snapshot(self._client, self._workspace)
                self._snapshot = (time.monotonic() + _SNAPSHOT_S, taken)
            return self._snapshot[1]

    def close(self) -> None:
        """End all streams, because the gateway stops."""
        self._closing = True
        for follower in self._followers:
            follower.end("closing")

    async def stop(self) -> None:
        """Stop reading the feed."""
        if self._reader is not None:
            await end_tasks([self._reader])

    def _is_reading(self) -> bool:
        return self._reader is not None and not self._reader.done()

    def _has(self, position: tuple[int, int]) -> bool:
        """Whether the ring has the entry at a position, or begins right after it.

        A failover can lose an entry between two that the ring has, so the range of ids is not enough.
        """
        return position == next((message.order for message in reversed(self._ring) if message.order <= position), self._floor)

    def _remembered(self, position: tuple[int, int]) -> list[Message]:
        """The ring's entries after an id. Searches from the newest, since most followers are close to the end."""
        missed = list(takewhile(lambda message: message.order > position, reversed(self._ring)))
        return missed[::-1]

    def _begin_at(self, position: str) -> None:
        self._ring.clear()
        self._ring_bytes = 0
        self.last, self._floor = position, position_key(position)

    async def _read(self) -> None:
        delay_s = _FIRST_RETRY_S
        idle_since = time.monotonic()
        must_check = must_reset = False
        while self._followers or time.monotonic() - idle_since < _IDLE_S:
            try:
                if must_reset or (must_check and await self._stored_after(self.last) is None):
                    await self._lose()
                must_check = must_reset = False
                self._distribute(await self._next_entries())
                delay_s = _FIRST_RETRY_S
            except Exception as error:  # noqa: BLE001  the followers would wait for a task that has ended
                report_failure("feed cannot be read", error, workspace=self._workspace, retry_in_s=delay_s)
                must_check = True
                must_reset = must_reset or not isinstance(error, SERVER_ERRORS)  # some may have been told, and others not
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _LAST_RETRY_S)
            count = len(self._followers)
            if count:
                idle_since = time.monotonic()
            if count > _MANY:
                await asyncio.sleep(count * _PAUSE_EACH_S)
        self._snapshot = None
        self._begin_at(self.last)  # an erasure that comes now is not seen here, so nothing of anybody stays in memory

    async def _next_entries(self) -> list[Message]:
        async with asyncio.timeout(_SILENCE_S):
            reply = await self._client.xread({self._feed: self.last}, count=self._page_entries, block=_BLOCK_MS)
        streams = cast("list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]", reply or [])
        messages = [Message.change(entry.decode(), fields) for _, entries in streams for entry, fields in entries]
        self._choose_page(messages)
        return messages

    def _choose_page(self, messages: list[Message]) -> None:
        """How many entries the next page has, after this one: as many of the same size as have `_PAGE_BYTES`."""
        if messages:
            average = _bytes_of(messages) // len(messages)
            self._page_entries = min(_PAGE, max(_LEAST_PAGE, _PAGE_BYTES // max(1, average)))

    async def _lose(self) -> None:
        """Reset all followers: an outage has lost entries, or they cannot be passed on."""
        self._begin_at(await self.newest())
        for follower in list(self._followers):
            self.leave(follower)
            follower.end("reset")

    def _distribute(self, messages: list[Message]) -> None:
        if not messages:
            return
        self._forget_erased(messages)
        self._ring.extend(messages)
        self._ring_bytes += _bytes_of(messages)
        self.last = cast("str", messages[-1].id)
        while len(self._ring) > _RING or self._ring_bytes > _RING_BYTES:
            oldest = self._ring.popleft()
            self._floor = oldest.order
            self._ring_bytes -= oldest.size
        self._metrics.changes.labels(self._workspace).inc(len(messages))
        for follower in list(self._followers):
            self._offer(follower, messages)

    def _forget_erased(self, messages: list[Message]) -> None:
        """Take erased contacts out of memory (contract section 10), before `messages` tell of them.

        The ring is emptied, because changes of other contacts may show the person as well. Redis has all of it, redacted.
        """
        erased = {message.contact_id: message for message in messages if message.type == ERASED}
        if not erased:
            return
        self._snapshot = None
        self._begin_at(self.last)
        for follower in self._followers:
            waiting = follower.pending
            for index, message in enumerate(waiting):
                if message.contact_id in erased:
                    waiting[index] = message.erased(cast("bytes", erased[message.contact_id].data))
                elif message.held_by in erased:
                    waiting[index] = message.without_conflict()

    def _offer(self, follower: Follower, messages: list[Message]) -> None:
        if (after := follower.after) is not None:
            messages = [message for message in messages if message.order > after]
            if messages:
                follower.after = None
        if follower.filter is not None:
            messages = list(filter(follower.filter.wants, messages))
        if not messages:
            return
        is_full = follower.pending_bytes > _BUFFER_BYTES  # before these: one page may have more, and all followers share it
        follower.pending.extend(messages)
        follower.pending_bytes += _bytes_of(messages)
        if is_full or len(follower.pending) > self._buffer_entries:
            follower.pending.clear()
            follower.pending_bytes = 0
            self.leave(follower)
            self._metrics.cut_off.labels(self._workspace).inc()
            follower.end("slow")
        follower.wake.set()
