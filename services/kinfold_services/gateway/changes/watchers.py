"""Watchers: pages that show the contact of one visitor, and are woken by the changes that concern it.

All watchers of a workspace share one follower of the feed. It looks up the watchers of each change, so a change costs the same
with one watcher and with thousands. A woken watcher reads the contact again. So no change has to be kept for it, and any number
of changes may be one answer.
"""

import asyncio
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Final

from kinfold_services.gateway.changes.hub import FeedHub, Filter, Follower
from kinfold_services.gateway.changes.messages import Message
from kinfold_services.gateway.failures import report_failure
from kinfold_services.runtime.tasks import end_tasks

_RETRY_S: Final = 1.0
READERS: Final = 8
"""How many watchers of a workspace read at once. Otherwise one change would open a connection to Redis for each of thousands,
and delay everybody else until all of them have read."""
_PAUSE_EACH_S: Final = 0.002
_EVERYTHING: Final = Filter(set(), frozenset())


class Watcher:
    """One page. Read the contact of its visitor whenever `wake` is set; stop when `is_over`, because the gateway stops."""

    __slots__ = ("contact_id", "is_over", "visitor_id", "wake")

    def __init__(self, visitor_id: str) -> None:
        self.visitor_id: Final = visitor_id
        self.contact_id: str | None = None
        self.wake = asyncio.Event()
        self.is_over = False


class Watchers:
    """The watchers of one workspace."""

    def __init__(self, hub: FeedHub) -> None:
        self._hub: Final = hub
        self._by_visitor: Final[defaultdict[str, set[Watcher]]] = defaultdict(set)
        self._by_contact: Final[defaultdict[str, set[Watcher]]] = defaultdict(set)
        self._waking: asyncio.Task[None] | None = None
        self._ending: Final[set[asyncio.Task[None]]] = set()
        self._is_over = False
        self.reading: Final = asyncio.Semaphore(READERS)
        """Hold it while you read for a watcher."""

    @contextmanager
    def watching(self, visitor_id: str) -> Generator[Watcher]:
        """Give a watcher of a visitor. It is woken at once, and when the feed is followed, so it misses nothing."""
        watcher = Watcher(visitor_id)
        watcher.is_over = self._is_over
        self._by_visitor[visitor_id].add(watcher)
        watcher.wake.set()
        if self._waking is None:
            empty = Context()  # the task's log lines do not belong to the request that started it
            self._waking = asyncio.create_task(self._wake_until_unwatched(), name="watchers", context=empty)
        try:
            yield watcher
        finally:
            self.concern(watcher, None)
            _remove(self._by_visitor, visitor_id, watcher)
            if not self._by_visitor:
                ending = asyncio.create_task(end_tasks([self._waking]), context=Context())
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)
                self._waking = None

    def concern(self, watcher: Watcher, contact_id: str | None) -> None:
        """Wake a watcher at each change of this contact from now on. If it is another one than before, also once now.

        What the watcher has read of the contact may be older than the first change that wakes it.
        """
        if watcher.contact_id == contact_id:
            return
        if watcher.contact_id is not None:
            _remove(self._by_contact, watcher.contact_id, watcher)
        watcher.contact_id = contact_id
        if contact_id is not None:
            self._by_contact[contact_id].add(watcher)
        watcher.wake.set()

    def pause_s(self, watcher: Watcher) -> float:
        """The least time between two reads for a watcher: all watchers of its contact share 500 reads a second."""
        return len(self._by_contact.get(watcher.contact_id or "", ())) * _PAUSE_EACH_S

    async def _wake_until_unwatched(self) -> None:
        while not self._is_over:
            follower = Follower(_EVERYTHING)
            try:
                await self._hub.start()
                self._hub.join(follower, self._hub.last)  # it missed nothing, so this cannot fail
                self._wake(*self._by_visitor.values())  # for the changes before
                await self._follow(follower)
            except Exception as error:  # noqa: BLE001  the watchers would wait for a task that has ended
                report_failure("feed cannot be followed", error, retry_in_s=_RETRY_S)
                await asyncio.sleep(_RETRY_S)
            finally:
                self._hub.leave(follower)

    async def _follow(self, follower: Follower) -> None:
        """Wake the watchers of each change. Ends with the follower: the hub may have lost changes."""
        while not follower.ended:
            follower.wake.clear()
            while follower.pending:
                self._wake(*self._concerned_by(follower.pending.popleft()))
            await follower.wake.wait()

    def _concerned_by(self, change: Message) -> Iterator[set[Watcher]]:
        for contact_id in (change.contact_id, change.merged_contact_id):
            if contact_id is not None and contact_id in self._by_contact:
                yield self._by_contact[contact_id]
        if change.visitor_id is not None and change.visitor_id in self._by_visitor:
            yield self._by_visitor[change.visitor_id]

    def _wake(self, *concerned: set[Watcher]) -> None:
        for watchers in concerned:
            for watcher in watchers:
                watcher.wake.set()

    def end(self) -> None:
        """End all watchers, because the gateway stops."""
        self._is_over = True
        for watchers in self._by_visitor.values():
            for watcher in watchers:
                watcher.is_over = True
                watcher.wake.set()


def _remove(index: defaultdict[str, set[Watcher]], name: str, watcher: Watcher) -> None:
    index[name].discard(watcher)
    if not index[name]:
        del index[name]
