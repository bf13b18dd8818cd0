"""An erasure rewrites the log while a projector folds. It goes on, and forgets what was erased (contract section 10)."""

import asyncio
import gc
import json
from collections.abc import Sequence
from types import FunctionType, ModuleType
from typing import Any, Final

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_services.connections import connect
from kinfold_services.projector import window as window_module
from kinfold_services.projector.service import ProjectorService
from kinfold_services.projector.window import ProjectorWindow
from kinfold_services.state.position import Position
from kinfold_services.state.queries import StateQueries
from kinfold_services.state.reader import StateReader
from tests.support.erased_people import ADA, ADAS_TEXTS, adas_events, publish
from tests.support.erasures import erase
from tests.support.event_log import append, entry_id
from tests.support.projecting import FOLD_S, newest_entry, projecting, wait_until_folded
from tests.support.replaying import replay, verify
from tests.support.waiting import wait_until

BEN: Final[dict[str, Any]] = {"type": "VisitorIdentified", "externalId": "ben"}
ADAS_NOTE: Final[dict[str, Any]] = {
    "type": "MetadataSet",
    "id": "n-1",
    "externalId": "ada-1815",
    "metadata": {"note": "first programmer"},
}
_PASSED_OVER: Final = (ModuleType, type, FunctionType, asyncio.AbstractEventLoop)


async def test_window_after_an_erasure_is_that_of_a_new_projector(redis: Redis, redis_url: str, workspace: str) -> None:
    """Also for events that came before it was read again, duplicates and events of pages among them."""
    async with projecting(redis_url, workspace) as service:
        page = {"type": "VisitorSeen", "id": "p-1", "visitorId": "adas-laptop", "source": "browser"}
        await publish(redis, workspace, *adas_events(), ADAS_NOTE, ADAS_NOTE, page, page, {**BEN, "id": "b-1"})
        await wait_until_folded(redis, workspace, await newest_entry(redis, workspace, "events"))
        before = service.workspaces[workspace]

        await erase(redis, workspace, ADA)

        await publish(redis, workspace, ADAS_NOTE, {**BEN, "id": "b-1"}, {**BEN, "id": "b-2"})
        await wait_until_folded(redis, workspace, await newest_entry(redis, workspace, "events"))
        await wait_until(lambda: is_renewed(service, workspace), FOLD_S)
        assert service.workspaces[workspace] is before
        assert content(before._window._window) == content((await new_window(redis_url, workspace))._window)
    assert (await StateQueries(redis, workspace).status()).duplicate == 2  # those that came after the erasure
    assert await verify(redis, workspace) == []


async def test_events_are_folded_before_the_window_is_read_again(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resend of an erased event is a duplicate then, too, and the projector keeps the workspace."""
    reading = asyncio.Event()
    monkeypatch.setattr(window_module, "_pause", reading.wait)
    with capture_logs() as logs:
        async with projecting(redis_url, workspace) as service:
            await publish(redis, workspace, *adas_events(), ADAS_NOTE)
            await wait_until_folded(redis, workspace, await newest_entry(redis, workspace, "events"))

            await erase(redis, workspace, ADA)
            await publish(redis, workspace, ADAS_NOTE, {**BEN, "metadata": {"plan": "free"}})

            await wait_until_folded(redis, workspace, await newest_entry(redis, workspace, "events"))
            assert not is_renewed(service, workspace)
            reading.set()
            await wait_until(lambda: is_renewed(service, workspace), FOLD_S)
            renewed = service.workspaces[workspace]._window._window
            assert content(renewed) == content((await new_window(redis_url, workspace))._window)
    assert "workspace lost" not in {each["event"] for each in logs}
    assert (await StateQueries(redis, workspace).status()).duplicate == 1
    assert await verify(redis, workspace) == []


async def test_entries_that_waited_during_an_erasure_are_folded_once(redis: Redis, redis_url: str, workspace: str) -> None:
    """Two batches are in the window and not committed when the log is rewritten. Some of their entries are duplicates."""
    first = await append(redis, workspace, [{**BEN, "id": "b-1"}, ADAS_NOTE | {"type": "VisitorIdentified"}])
    async with projecting(redis_url, workspace, batch_entries=3) as service:
        await wait_until_folded(redis, workspace, first)
        await redis.set(key(workspace, "hold"), "a replay's")
        waiting = [{**BEN, "id": "b-1"}, ADAS_NOTE, {**BEN, "id": "b-2"}, ADAS_NOTE, {**BEN, "id": "b-2"}, {**BEN, "id": "b-3"}]
        last = await append_at_once(redis, workspace, waiting, start=2)
        projector = service.workspaces[workspace]
        await wait_until(lambda: projector.position.stream_id == last, FOLD_S)

        await erase(redis, workspace, ADA)

        last = await append(redis, workspace, [{**BEN, "id": "b-3"}, ADAS_NOTE, {**BEN, "id": "b-4"}], start=100)
        await wait_until_folded(redis, workspace, last)
        assert service.workspaces[workspace] is projector
    status = await StateQueries(redis, workspace).status()
    assert (status.duplicate, status.id_reused) == (4, 0)  # b-1, b-2, b-3, and the note that was erased
    assert await verify(redis, workspace) == []


async def test_entries_that_waited_during_a_replay_are_folded_once(redis: Redis, redis_url: str, workspace: str) -> None:
    """The replay leaves out an entry, so a resend of it is not a duplicate any more."""
    first = await append(redis, workspace, [{**BEN, "id": "b-1"}, {**BEN, "id": "b-2", "name": "Bob"}])
    async with projecting(redis_url, workspace, batch_entries=3) as service:
        await wait_until_folded(redis, workspace, first)
        await append(redis, workspace, [{"type": "EventsExcluded", "entries": [entry_id(1)]}], start=2)
        await wait_until_folded(redis, workspace, entry_id(2))
        await redis.set(key(workspace, "hold"), "a replay's")
        waiting = [{**BEN, "id": "b-1"}, {**BEN, "id": "b-2", "name": "Bob"}, {**BEN, "id": "b-3"}, {**BEN, "id": "b-3"}]
        last = await append_at_once(redis, workspace, waiting, start=3)
        projector = service.workspaces[workspace]
        await wait_until(lambda: projector.position.stream_id == last, FOLD_S)  # in memory

        await replay(redis, workspace)

        last = await append(redis, workspace, [{**BEN, "id": "b-4"}], start=100)
        await wait_until_folded(redis, workspace, last)
    assert (await StateQueries(redis, workspace).status()).duplicate == 2  # b-1 and b-3
    contact = await StateQueries(redis, workspace).contact_by_external_id("ben")
    assert contact is not None
    assert contact.name == "Bob"
    assert await verify(redis, workspace) == []


@pytest.mark.parametrize("are_events_coming", [True, False])
async def test_an_erased_person_leaves_the_projectors_memory(
    redis: Redis, redis_url: str, workspace: str, *, are_events_coming: bool
) -> None:
    """The state, the duplicate window, and what was read of the log."""
    async with projecting(redis_url, workspace) as service:
        await publish(redis, workspace, *adas_events(), ADAS_NOTE)
        await wait_until_folded(redis, workspace, await newest_entry(redis, workspace, "events"))
        assert held(service.workspaces[workspace]) >= {"ada-1815", "adas-laptop", "Ada Lovelace"}

        await erase(redis, workspace, ADA)

        if are_events_coming:
            await publish(redis, workspace, BEN)
            await wait_until_folded(redis, workspace, await newest_entry(redis, workspace, "events"))
        await wait_until(lambda: is_renewed(service, workspace), FOLD_S)
        await wait_until(lambda: held(service) == set(), FOLD_S)


async def append_at_once(client: Redis, workspace: str, events: Sequence[dict[str, Any]], *, start: int) -> str:
    """As `append`: the projector reads them as one page."""
    number = start
    async with client.pipeline(transaction=True) as pipeline:
        for number, event in enumerate(events, start):
            pipeline.xadd(key(workspace, "events"), {"event": json.dumps(event)}, id=entry_id(number))
        await pipeline.execute()
    return entry_id(number)


def is_renewed(service: ProjectorService, workspace: str) -> bool:
    """Whether a projector has taken note of an erasure, and has read its window again."""
    if (projector := service.workspaces.get(workspace)) is None:
        return False
    return projector._window._log == projector._window._log_now != ""


async def new_window(redis_url: str, workspace: str) -> ProjectorWindow:
    """The window of a projector that starts now."""

    async def nothing() -> None:
        pass

    async with connect(redis_url) as client:
        reader, window = StateReader(client, workspace), ProjectorWindow(client, workspace)
        position: Position = await reader.position()
        await window.open(position, "", IdentifierRules(await reader.blocked_identifiers()), await reader.excluded(), nothing)
    return window


def content(thing: object) -> object:
    """Everything that an object holds, in a form that can be compared."""
    names: Sequence[str] = getattr(thing, "__slots__", ()) or list(getattr(thing, "__dict__", ()))
    return {name: content(getattr(thing, name)) for name in names} if names else thing


def held(*roots: object) -> set[str]:
    """The person's texts in the strings and bytes that these refer to, except through modules, classes, functions and loops."""
    gc.collect()  # what only a cycle refers to is not held
    waiting: list[object] = list(roots)
    seen, found = set[int](), set[str]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, _PASSED_OVER):
            continue
        seen.add(id(each))
        if isinstance(each, str | bytes):
            found |= _shown(each)
        else:
            waiting += gc.get_referents(each)
    return found


def _shown(text: str | bytes) -> set[str]:
    written = text if isinstance(text, str) else text.decode(errors="replace")
    return {each for each in ADAS_TEXTS if each in written}
