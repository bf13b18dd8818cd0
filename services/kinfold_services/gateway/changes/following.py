"""What one follower of the feed gets: a snapshot if it wants one, then missed changes, then new ones, in order and once.

There is no gap between missed and new changes. Missed changes are read from Redis page by page, as fast as the follower reads,
until the hub's ring has all the rest. Then the follower gets that rest and joins the hub's followers, without an await between.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Final, NamedTuple, cast

import structlog
from redis.exceptions import RedisError

from kinfold_schemas.positions import position_key
from kinfold_services.gateway.changes.hub import FeedHub, Filter, Follower
from kinfold_services.gateway.changes.messages import PARTIAL_SNAPSHOT, PING, Message, reconnect, reset, snapshot_end, starts_at
from kinfold_services.state.snapshot import FeedOverran

PING_EVERY_S: Final = 15.0

_CHUNK: Final = 64
"""Messages in one write. Bounds the memory that an unread socket holds."""
RECONNECT_MS: Final = (500, 3000)
"""Range of the delay before a client reconnects, so that not all of them reconnect at once."""

_GONE: Final = "the feed no longer has all entries after the requested one"
_INCOMPLETE: Final = "the snapshot was not read completely"

IsAllowed = Callable[[], Awaitable[bool]]


class Subscription(NamedTuple):
    """What a follower wants. It resumes after the entry `after`; None means a snapshot, or changes from now on."""

    after: str | None
    snapshot: bool
    contacts: frozenset[str]
    types: frozenset[str]


class _Lost(Exception):
    """The feed no longer has the entries that the follower needs next."""


async def follow(hub: FeedHub, subscription: Subscription, is_allowed: IsAllowed) -> AsyncGenerator[list[Message]]:
    """Yield the messages for one follower, several at a time. Call `hub.start()` first.

    Ends when the follower leaves, is too slow or is no longer allowed, or when the gateway stops. Every 15 s it yields a
    comment and calls `is_allowed` again.
    """
    follower = Follower(Filter(set(subscription.contacts), subscription.types))
    ping_at = time.monotonic() + PING_EVERY_S
    try:
        async for messages in _messages(hub, subscription, follower):
            if messages:
                yield messages
            if time.monotonic() >= ping_at:
                ping_at = time.monotonic() + PING_EVERY_S
                yield [PING]
                if not await is_allowed():
                    return
        if follower.ended == "closing":
            yield [reconnect(random.randint(*RECONNECT_MS))]  # noqa: S311  not a secret
    except (RedisError, OSError, FeedOverran) as error:
        # The response has begun, so it cannot become an error any more. The client gets one when it reconnects.
        structlog.get_logger().warning("stream ended", error=str(error))
    finally:
        hub.leave(follower)


async def _messages(hub: FeedHub, subscription: Subscription, follower: Follower) -> AsyncGenerator[list[Message]]:
    after = subscription.after
    lost = _INCOMPLETE if after == PARTIAL_SNAPSHOT else ""
    while True:
        if lost:
            yield [reset(lost)]
            if not subscription.snapshot:
                return
            after = None
        if after is None and subscription.snapshot:
            yield [starts_at(PARTIAL_SNAPSHOT)]
            snapshot = await hub.snapshot()
            await hub.add_survivors(follower)  # after the snapshot, which includes the merges so far
            for messages in _chunks([each for each in snapshot.contacts if _is_wanted(each, follower)]):
                yield messages
            after = snapshot.position
            del snapshot  # all contacts, which this stream would hold for as long as it lasts
            yield [snapshot_end(after)]
        else:
            if after is None:
                after = hub.last
                yield [starts_at(after)]
            await hub.add_survivors(follower)
        try:
            async for messages in _changes_behind(hub, follower, after):
                yield messages
        except _Lost:
            lost = _GONE
            follower.ended = ""
        else:
            return


async def _changes_behind(hub: FeedHub, follower: Follower, after: str) -> AsyncGenerator[list[Message]]:
    async for messages in _missed(hub, follower, after):
        yield messages
    messages = []  # do not hold the last ones: somebody in them may be erased
    while True:
        if follower.pending:
            yield follower.take(_CHUNK)
        elif follower.ended == "reset":
            raise _Lost
        elif follower.ended:
            return
        else:
            follower.wake.clear()
            try:
                async with asyncio.timeout(PING_EVERY_S):
                    await follower.wake.wait()
            except TimeoutError:
                yield []


async def _missed(hub: FeedHub, follower: Follower, after: str) -> AsyncGenerator[list[Message]]:
    """Yield the changes that the follower missed. At the end it has joined the hub's followers."""
    if position_key(after) > position_key(hub.last) and await hub.page_after(after) is None:
        raise _Lost
    while True:
        await hub.start()  # it may have stopped while the follower read missed changes
        if hub.join(follower, after):
            return
        page = await hub.page_after(after)
        if page is None:
            raise _Lost
        after = cast("str", page[-1].id) if page else hub.floor
        wanted = page if follower.filter is None else list(filter(follower.filter.wants, page))
        for messages in _chunks(wanted):
            yield messages


def _chunks(messages: list[Message]) -> Iterator[list[Message]]:
    return (messages[first : first + _CHUNK] for first in range(0, len(messages), _CHUNK))


def _is_wanted(contact: Message, follower: Follower) -> bool:
    return follower.filter is None or not follower.filter.contacts or contact.contact_id in follower.filter.contacts
