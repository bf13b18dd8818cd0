"""One follower's way along the feed: a snapshot if asked for, then what was missed, then what comes, in order and once.

There is never a gap. What is missed is read from Redis page by page, as fast as the follower reads, until the hub's ring has
all the rest; then, in one step without a wait in between, the follower gets that rest and stands on the hub's list.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Final, NamedTuple, cast

import structlog
from redis.exceptions import RedisError

from kinfold_schemas.positions import position_key
from kinfold_services.gateway.hub import FeedHub, Filter, Follower
from kinfold_services.gateway.messages import HALF_A_SNAPSHOT, PING, Message, begins_at, come_back, reset, snapshot_end
from kinfold_services.gateway.snapshot import FeedOverran

PING_EVERY_S: Final = 15.0

_AT_ONCE: Final = 64
"""Messages in one write: it bounds what a socket that nobody reads can hold back."""
_COME_BACK_MS: Final = (500, 3000)
"""Between these, so that not everybody comes back at once."""

_NO_LONGER_KEPT: Final = "entries behind the one that was asked for are no longer kept"
_HALF: Final = "the snapshot was not read to its end"

IsAllowed = Callable[[], Awaitable[bool]]


class Wish(NamedTuple):
    """What a follower asks for. `after`: the entry behind which it goes on; None: a snapshot, or what comes from now on."""

    after: str | None
    snapshot: bool
    contacts: frozenset[str]
    types: frozenset[str]


class _Lost(Exception):
    """There is a gap between the follower and what is kept."""


async def follow(hub: FeedHub, wish: Wish, is_allowed: IsAllowed) -> AsyncGenerator[list[Message]]:
    """The messages for one follower, some at a time, until it leaves, is too slow, may not any more, or the gateway stops.

    `hub.start()` comes first. A comment comes every 15 s, and then `is_allowed` is asked again.
    """
    follower = Follower(Filter(set(wish.contacts), wish.types))
    ping_at = time.monotonic() + PING_EVERY_S
    try:
        async for messages in _messages(hub, wish, follower):
            if messages:
                yield messages
            if time.monotonic() >= ping_at:
                ping_at = time.monotonic() + PING_EVERY_S
                yield [PING]
                if not await is_allowed():
                    return
        if follower.ended == "closing":
            yield [come_back(random.randint(*_COME_BACK_MS))]  # noqa: S311  nobody gains by guessing it
    except (RedisError, OSError, FeedOverran) as error:
        # The answer has begun, so its end has to say it: whoever comes back is told more.
        structlog.get_logger().warning("stream ended", error=str(error))
    finally:
        hub.leave(follower)


async def _messages(hub: FeedHub, wish: Wish, follower: Follower) -> AsyncGenerator[list[Message]]:
    after = wish.after
    lost = _HALF if after == HALF_A_SNAPSHOT else ""
    while True:
        if lost:
            yield [reset(lost)]
            if not wish.snapshot:
                return
            after = None
        if after is None and wish.snapshot:
            yield [begins_at(HALF_A_SNAPSHOT)]
            snapshot = await hub.snapshot()
            await hub.add_survivors(follower)  # not before: the snapshot has those of merges until now
            for messages in _some_at_a_time([each for each in snapshot.contacts if _is_wanted(each, follower)]):
                yield messages
            after = snapshot.position
            yield [snapshot_end(after)]
        else:
            if after is None:
                after = hub.last
                yield [begins_at(after)]
            await hub.add_survivors(follower)
        try:
            async for messages in _changes_behind(hub, follower, after):
                yield messages
        except _Lost:
            lost = _NO_LONGER_KEPT
            follower.ended = ""
        else:
            return


async def _changes_behind(hub: FeedHub, follower: Follower, after: str) -> AsyncGenerator[list[Message]]:
    async for messages in _missed(hub, follower, after):
        yield messages
    while True:
        if follower.pending:
            yield [follower.pending.popleft() for _ in range(min(_AT_ONCE, len(follower.pending)))]
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
    """What the follower has missed; at its end it stands on the hub's list."""
    if position_key(after) > position_key(hub.last) and await hub.page_behind(after) is None:
        raise _Lost
    while True:
        await hub.start()  # the way here may have been so long that it stopped reading
        if hub.join(follower, after):
            return
        page = await hub.page_behind(after)
        if page is None:
            raise _Lost
        after = cast("str", page[-1].id) if page else hub.floor
        wanted = page if follower.filter is None else list(filter(follower.filter.wants, page))
        for messages in _some_at_a_time(wanted):
            yield messages


def _some_at_a_time(messages: list[Message]) -> Iterator[list[Message]]:
    return (messages[first : first + _AT_ONCE] for first in range(0, len(messages), _AT_ONCE))


def _is_wanted(contact: Message, follower: Follower) -> bool:
    return follower.filter is None or not follower.filter.contacts or contact.contact_id in follower.filter.contacts
