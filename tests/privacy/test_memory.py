"""An erased person leaves the gateway's memory: the changes that it keeps, and the rows that it made of them."""

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager
from types import FunctionType, ModuleType
from typing import Final, cast

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.connections import connect
from kinfold_services.gateway.changes import hub as hub_module
from kinfold_services.gateway.changes.following import Subscription, follow
from kinfold_services.gateway.changes.hub import FeedHub
from kinfold_services.gateway.changes.messages import Message
from kinfold_services.gateway.directory import Directory
from kinfold_services.gateway.metrics import Metrics
from kinfold_services.gateway.screen import words
from kinfold_services.gateway.screen.listing import Listing
from kinfold_services.gateway.screen.live import _People
from kinfold_services.gateway.workspaces import GatewayWorkspace
from kinfold_services.settings import Settings
from tests.support.erased_people import ADA, ADAS_TEXTS, adas_events, publish
from tests.support.erasures import erase
from tests.support.projecting import fold_log, newest_entry
from tests.support.replaying import replay
from tests.support.waiting import wait_until

WANTED = Subscription("0-0", snapshot=False, contacts=frozenset(), types=frozenset())


_PASSED_OVER: Final = (ModuleType, type, FunctionType, asyncio.AbstractEventLoop)


async def is_allowed() -> bool:
    """Allow everything."""
    return True


def held(*roots: object) -> list[bytes]:
    """Changes and rows in memory that show the person: what the roots and the gateway's modules refer to."""
    shown = [text.encode() for text in ADAS_TEXTS]
    modules = [vars(module) for name, module in sys.modules.items() if name.startswith("kinfold_services.gateway")]
    gc.collect()  # what only a cycle refers to is not held
    held = (each for each in _reachable([*roots, *modules]) if isinstance(each, bytes) and b"ct_" in each)
    return [each for each in held if any(text in each for text in shown)]


def _reachable(roots: Iterable[object]) -> Iterator[bytes | str]:
    """All bytes and strings that these refer to, except through modules, classes, functions and event loops."""
    waiting, seen = list(roots), set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, _PASSED_OVER):
            continue
        seen.add(id(each))
        if isinstance(each, bytes | str):
            yield each
        else:
            waiting += gc.get_referents(each)


def note_seats(people: _People, messages: list[Message]) -> None:
    """Show a list the changes of the metadata `seat`."""
    for message in messages:
        if b'"seat":7' in (message.data or b""):
            people.note(message)


async def test_row_of_an_erased_person_leaves_memory(redis: Redis, redis_url: str, workspace: str) -> None:
    """A list of people shows her, and is told of a change."""
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    ada = cast("bytes", await redis.hget(key(workspace, "external-ids"), "ada-1815")).decode()
    async with connect(redis_url) as client:
        served = GatewayWorkspace(client, workspace, Settings(), Metrics(), Directory(Settings()))
        await served.hub.start()
        await publish(redis, workspace, {"type": "MetadataSet", "externalId": "ada-1815", "metadata": {"seat": 7}})
        await fold_log(redis, redis_url, workspace)
        people = _People(served, Listing.of(None, None, None, None, None), frozenset({ada}))
        following = follow(served.hub, WANTED, is_allowed)
        while not people.is_waiting:
            note_seats(people, await anext(following))
        assert [b"Ada Lovelace" in each async for each in people.events()] == [True]
        assert any(each.startswith(b"event: ct_") for each in held(served, people, following))

        await erase(redis, workspace, ADA)

        types = set[str]()
        while "ContactErased" not in types:
            types |= {each.type for each in await anext(following)}
        assert held(served, people, following) == []
        await following.aclose()
        await served.hub.stop()


async def test_changes_leave_memory_when_nobody_follows_the_feed(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This gateway does not see an erasure that comes then."""
    monkeypatch.setattr(hub_module, "_BLOCK_MS", 20)
    async with following_changes(redis_url, workspace) as hub:
        await publish(redis, workspace, *adas_events())
        await fold_log(redis, redis_url, workspace)
        await wait_until(lambda: held(hub) != [])

        monkeypatch.setattr(hub_module, "_IDLE_S", 0.0)

        await wait_until(lambda: not hub._is_reading())
        assert held(hub) == []


async def test_changes_of_others_that_show_an_erased_person_leave_memory(redis: Redis, redis_url: str, workspace: str) -> None:
    """A replay has taken her device from Ben, who had it by mistake."""
    async with following_changes(redis_url, workspace) as hub:
        await publish(
            redis,
            workspace,
            {"type": "VisitorIdentified", "externalId": "ada-1815", "visitorId": "adas-phone"},
            {"type": "VisitorIdentified", "externalId": "ben", "visitorId": "adas-laptop"},
        )
        await fold_log(redis, redis_url, workspace)
        wrong = (await newest_entry(redis, workspace, "events")).decode()
        await publish(redis, workspace, {"type": "VisitorIdentified", "externalId": "ada-1815", "visitorId": "adas-laptop"})
        await publish(redis, workspace, {"type": "EventsExcluded", "entries": [wrong]})
        await fold_log(redis, redis_url, workspace)
        await replay(redis, workspace)
        await wait_until(lambda: held(hub) != [])

        await erase(redis, workspace, ADA)

        async def is_told() -> bool:
            return hub.last == await hub.newest()

        await wait_until(is_told)
        assert held(hub) == []


async def test_snapshot_leaves_memory_while_its_reader_follows_the_feed(redis: Redis, redis_url: str, workspace: str) -> None:
    """Readers may follow for weeks, and a snapshot has every contact."""
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    async with following_changes(redis_url, workspace) as hub:
        following = follow(hub, WANTED._replace(after=None, snapshot=True), is_allowed)
        events = set[str | None]()
        while "snapshot-end" not in events:
            events |= {each.event for each in await anext(following)}
        told = asyncio.ensure_future(anext(following))
        assert held(hub, following) != []

        await erase(redis, workspace, ADA)

        assert "ContactErased" in {each.type for each in await told}
        assert held(hub, following) == []
        await following.aclose()


def test_user_agent_leaves_memory_with_the_page_that_shows_it() -> None:
    """A rare one names a person's device."""
    agent = "Mozilla/5.0 (Linux; Android 14; adas-own-phone) AppleWebKit/537.36 Chrome/120.0.0.0 Mobile Safari/537.36"
    assert words.device(agent).kind == "phone"

    shown_by = [vars(module) for name, module in sys.modules.items() if name.startswith(("kinfold_services", "ua_parser"))]
    assert [each for each in _reachable(shown_by) if each == agent] == []


@asynccontextmanager
async def following_changes(redis_url: str, workspace: str) -> AsyncGenerator[FeedHub]:
    """Give a hub that reads the feed."""
    async with connect(redis_url) as client:
        hub = FeedHub(client, workspace, 1000, Metrics())
        await hub.start()
        yield hub
        await hub.stop()
