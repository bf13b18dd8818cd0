"""The change feed over HTTP and WebSocket."""

import asyncio
import json
import socket
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import pytest
import structlog
import websockets
from redis.asyncio import Redis
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from kinfold_schemas.keys import key
from kinfold_services.gateway import following as following_module
from kinfold_services.gateway import hub as hub_module
from kinfold_services.gateway import server as server_module
from kinfold_services.gateway import snapshot as snapshot_module
from kinfold_services.gateway.following import Wish, follow
from kinfold_services.gateway.hub import FeedHub
from kinfold_services.gateway.metrics import Metrics
from tests.support.event_log import append
from tests.support.gateways import Gateway, serving, stream_of
from tests.support.projecting import fold_log, projecting
from tests.support.sse import following
from tests.support.waiting import wait_until


def identified(external_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "VisitorIdentified", "externalId": external_id, **fields}


async def put_and_fold(gateway: Gateway, *events: dict[str, Any]) -> None:
    position = await gateway.put(*events)
    await gateway.get("/v1/contacts", after=position)


async def test_changes_come_as_the_feed_has_them(gateway: Gateway):
    """`id` is the feed's entry, `data` its change, and there is no event name: `onmessage` sees each."""
    async with following(gateway.client) as stream:
        start = await stream.next()
        await gateway.put(identified("u-1", name="Ada"), identified("u-1", name="Lovelace"))
        received = await stream.messages(2)

    assert (start.id, start.data) == ("0-0", None) if start else False
    entries = await gateway.entries("changes")
    assert [(each.id, each.event) for each in received] == [(entry, "") for entry, _ in entries]
    assert [each.data for each in received] == [change for _, change in entries]
    assert [each.data["type"] for each in received] == ["ContactCreated", "ContactUpdated"]


async def test_a_stream_is_resumed_where_it_broke_off(gateway: Gateway):
    """By the header, as EventSource does, or by `since`: nothing between is missing, nothing comes again."""
    await put_and_fold(gateway, *(identified(f"u-{number}") for number in range(5)))

    async with following(gateway.client, {"since": "0"}) as stream:
        first = await stream.messages(2)
    async with following(gateway.client, {"since": "0"}, last_id=first[-1].id) as stream:
        second = await stream.messages(2)
    async with following(gateway.client, {"since": second[-1].id}) as stream:
        third = await stream.message()

    names = [each.data["contact"]["externalId"] for each in (*first, *second, third)]
    assert names == [f"u-{number}" for number in range(5)]


async def test_more_than_the_ring_holds_is_read_from_redis(gateway: Gateway):
    """Somebody follows already, and another comes from far behind: both get all there is, in order."""
    async with following(gateway.client) as near:
        position = ""
        for first in range(0, 5000, 1000):
            position = await gateway.put(*(identified(f"u-{number}") for number in range(first, first + 1000)))
        await gateway.get("/v1/contacts", after=position)
        async with following(gateway.client, {"since": "0"}) as far:
            from_far = [each.data["contact"]["externalId"] for each in await far.messages(5000)]
        from_near = [each.data["contact"]["externalId"] for each in await near.messages(5000)]

    assert from_near == from_far == [f"u-{number}" for number in range(5000)]


async def test_a_reader_that_was_long_on_its_way_gets_what_comes(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
):
    """Nobody else follows, and to read the past takes it longer than the feed is read for nobody: nothing is skipped."""
    monkeypatch.setattr(hub_module, "_IDLE_S", 0.05)
    monkeypatch.setattr(hub_module, "_BLOCK_MS", 10)
    await append(redis, workspace, [identified("u-1")])
    await fold_log(redis, redis_url, workspace)
    hub = FeedHub(redis, workspace, 100, Metrics())
    await hub.start()
    stream = follow(hub, Wish("0", snapshot=False, contacts=frozenset(), types=frozenset()), always)
    past = await anext(stream)
    await wait_until(lambda: f"feed of {workspace}" not in {task.get_name() for task in asyncio.all_tasks()})

    coming = asyncio.ensure_future(anext(stream))
    await append(redis, workspace, [identified("u-2")], start=1)
    await fold_log(redis, redis_url, workspace)

    entries = [entry for entry, _ in await stream_of(redis, workspace, "changes")]
    assert [message.id for message in [*past, *await coming] if message.id] == entries
    await stream.aclose()
    await hub.stop()


async def always() -> bool:
    return True


async def test_filters(gateway: Gateway):
    """By contact, into the one that it is merged into, and by type."""
    await put_and_fold(gateway, {"type": "VisitorIdentified", "email": "a@b.org"}, identified("u-1"), identified("u-2"))
    ada = await gateway.get("/v1/contacts", email="a@b.org")
    async with (
        following(gateway.client, {"contactId": ada["id"]}) as of_ada,
        following(gateway.client, {"type": ["ContactUpdated", "ContactsMerged"]}) as of_types,
    ):
        await put_and_fold(
            gateway,
            identified("u-2", name="x"),
            identified("u-1", email="a@b.org"),
            identified("u-1", name="Ada"),
            identified("u-3"),
        )
        about_ada = await of_ada.messages(2)
        updates = await of_types.messages(3)

    assert [each.data["type"] for each in about_ada] == ["ContactsMerged", "ContactUpdated"]
    assert [each.data["contact"]["externalId"] for each in updates] == ["u-2", "u-1", "u-1"]


@pytest.mark.parametrize("snapshot", [False, True])
async def test_who_comes_back_to_a_contact_follows_what_it_was_merged_into(gateway: Gateway, snapshot: bool):  # noqa: FBT001
    """An EventSource comes back with the id that its page was opened with, though the merge lies behind it."""
    await put_and_fold(gateway, {"type": "VisitorIdentified", "email": "a@b.org"}, identified("u-1"), identified("u-2"))
    ada = await gateway.get("/v1/contacts", email="a@b.org")
    await put_and_fold(gateway, identified("u-1", email="a@b.org"))
    merged = (await gateway.entries("changes"))[-1][0]
    other = await gateway.get("/v1/contacts", externalId="u-2")
    params = {"contactId": [ada["id"], other["id"]], **({"snapshot": "true"} if snapshot else {"since": merged})}

    async with following(gateway.client, params) as stream:
        begun = await stream.messages(2) if snapshot else []
        await put_and_fold(gateway, identified("u-1", name="Ada"), identified("u-2", name="x"), identified("u-2", name="y"))
        change = next(each for each in await stream.messages(2) if not each.event)

    assert {each.data["contact"]["externalId"] for each in begun} == ({"u-1", "u-2"} if snapshot else set())
    assert change.data["contact"]["name"] == "Ada"


@pytest.mark.parametrize("wanted", ["contactUpdated", "ContactUpdated,ContactsMerged"])
async def test_a_type_that_there_is_not_is_no_filter(unfolded: Gateway, wanted: str):
    """Nothing would ever come of it, and nobody would know why."""
    async with unfolded.client.stream("GET", "/v1/changes", params={"type": wanted}) as answer:
        assert answer.status_code == 400
        assert b"ContactsMerged, IdentityConflict" in await answer.aread()


async def test_a_snapshot_comes_first_and_then_the_changes_from_there(gateway: Gateway):
    """Every living contact, by id, then `snapshot-end` with the entry behind which the changes go on."""
    await put_and_fold(gateway, *(identified(f"u-{number}") for number in range(3)))

    async with following(gateway.client, {"snapshot": "true"}) as stream:
        contacts = await stream.messages(3)
        end = await stream.message()
        await gateway.put(identified("u-3"))
        change = await stream.message()

    assert sorted(each.data["contact"]["externalId"] for each in contacts) == ["u-0", "u-1", "u-2"]
    assert [each.data["contactId"] for each in contacts] == sorted(each.data["contactId"] for each in contacts)
    assert {(each.event, each.id, each.data["type"], each.data["cause"]) for each in contacts} == {
        ("", "snapshot", "ContactCreated", "snapshot")
    }
    newest = (await gateway.entries("changes"))[2][0]
    assert (end.event, end.id, end.data) == ("snapshot-end", newest, {"position": newest})
    assert change.data["contact"]["externalId"] == "u-3"


async def test_a_snapshot_of_nothing(gateway: Gateway):
    """Its end comes at once."""
    async with following(gateway.client, {"snapshot": "true"}) as stream:
        assert (await stream.message()).event == "snapshot-end"


async def test_resumed_within_a_snapshot_the_reader_begins_anew(gateway: Gateway):
    """It has a part of one: `reset`, then a whole one. Behind a whole one it just goes on."""
    await put_and_fold(gateway, identified("u-1"), identified("u-2"))
    async with following(gateway.client, {"snapshot": "true"}) as stream:
        half = await stream.message()
    async with following(gateway.client, {"snapshot": "true"}, last_id=half.id) as stream:
        reset, *contacts, end = await stream.messages(4)
    async with following(gateway.client, {"snapshot": "true"}, last_id=end.id) as stream:
        await gateway.put(identified("u-3"))
        change = await stream.message()

    assert (reset.event, reset.id) == ("reset", "")
    assert ([each.event for each in contacts], end.event) == (["", ""], "snapshot-end")
    assert change.data["contact"]["externalId"] == "u-3"


@pytest.mark.parametrize("since", ["0", "1-1"])
async def test_entries_that_are_no_longer_kept(redis: Redis, gateway: Gateway, since: str):
    """`event: reset`, and the end; with `snapshot=true` all contacts follow instead."""
    await put_and_fold(gateway, *(identified(f"u-{number}") for number in range(5)))
    await redis.xtrim(key("default", "changes"), maxlen=2, approximate=False)

    async with following(gateway.client, {"since": since}) as stream:
        assert (await stream.message()).event == "reset"
        assert await stream.next() is None
    async with following(gateway.client, {"since": since, "snapshot": "true"}) as stream:
        received = await stream.messages(7)

    assert [each.event for each in received] == ["reset", "", "", "", "", "", "snapshot-end"]


async def test_entries_that_never_were(gateway: Gateway):
    """Somebody else's feed, or one that lost its data: going on behind an entry that is not there yet would skip silently."""
    await put_and_fold(gateway, identified("u-1"))

    async with following(gateway.client, {"since": "99999999999999-0"}) as stream:
        assert (await stream.message()).event == "reset"
    for nonsense in ("soon", "1-", f"{2**64}-0"):
        assert (await gateway.client.get("/v1/changes", params={"since": nonsense})).status_code == 400


async def test_entries_that_the_server_lost(gateway: Gateway):
    """It came back without its newest ones, and was written to before anybody asked: what the reader holds never was."""
    await put_and_fold(gateway, *(identified(f"u-{number}") for number in range(3)))
    (first, kept), (lost, _), (last, followed) = await gateway.entries("changes")
    feed = key("default", "changes")
    await gateway.redis.delete(feed)
    for entry, change in ((first, kept), (last, followed)):
        await gateway.redis.xadd(feed, {"change": json.dumps(change)}, id=entry)

    async with following(gateway.client, {"since": lost}) as stream:
        assert (await stream.message()).event == "reset"
    async with following(gateway.client, {"since": first}) as stream:
        assert (await stream.message()).id == last


async def test_an_entry_of_the_feed_that_is_no_change_stops_nobody(gateway: Gateway):
    """Somebody's hand has put it there. Who follows gets what comes behind it, and so does who resumes before it or at it."""
    feed = key("default", "changes")
    await put_and_fold(gateway, identified("u-1"))
    async with following(gateway.client) as near, following(gateway.client, {"snapshot": "true"}) as other:
        await other.messages(2)
        with capture_logs() as logs:
            fields: list[Any] = [{"foo": "bar"}, {"change": "no JSON"}, {"change": "{}"}]
            foreign = [cast("bytes", await gateway.redis.xadd(feed, each)).decode() for each in fields]
            await put_and_fold(gateway, identified("u-2"))
            followed = [await near.message(), await other.message()]
    async with following(gateway.client, {"since": "0"}) as far:
        followed.append((await far.messages(2))[1])
    for entry in foreign:
        async with following(gateway.client, {"since": entry}) as resumed:
            followed.append(await resumed.message())

    assert [each.data["contact"]["externalId"] for each in followed] == ["u-2"] * 6
    assert [each["entry"] for each in logs if each["event"] == "feed entry left out: it is no change"] == foreign


async def test_what_the_reader_of_the_feed_logs_is_of_no_request(gateway: Gateway):
    """It reads for all, whoever came first."""
    with capture_logs() as logs:
        structlog.get_config()["processors"].insert(0, merge_contextvars)
        async with following(gateway.client) as stream:
            await stream.next()
            await gateway.redis.xadd(key("default", "changes"), {"foo": "bar"})
            await put_and_fold(gateway, identified("u-1"))
            await stream.message()

    said = [each for each in logs if each["event"] == "feed entry left out: it is no change"]
    assert ["request_id" in each for each in said] == [False]
    assert all(each["request_id"] for each in logs if each["event"] == "request")


async def test_an_entry_that_is_no_change_stops_no_snapshot(gateway: Gateway):
    """It came while the contacts were read."""
    await put_and_fold(gateway, identified("u-1"))
    pages = await snapshot_module._read_pages(gateway.redis, "default")
    await gateway.redis.xadd(key("default", "changes"), {"foo": '"bar"'})
    await put_and_fold(gateway, identified("u-2"))
    pages.positions.append((await gateway.entries("changes"))[-1][0])

    await pages.bring_up(gateway.redis, "default")

    assert len(pages.contacts) == 2


async def test_comments_keep_proxies_from_closing_the_stream(gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    """A comment every so often, 15 s as it comes."""
    assert following_module.PING_EVERY_S == 15
    monkeypatch.setattr(following_module, "PING_EVERY_S", 0.1)
    async with following(gateway.client) as stream:
        received = [await stream.next() for _ in range(3)]

    assert [each.comment for each in received if each and each.comment] == ["still here", "still here"]


async def test_a_revoked_key_ends_its_streams(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch):
    """At the next comment: nobody reads on with a key that is worth nothing."""
    monkeypatch.setattr(following_module, "PING_EVERY_S", 0.1)
    async with serving(redis_url, redis) as gateway, following(gateway.client) as stream:
        stored = await redis.hkeys(key("default", "api-keys"))
        await redis.hdel(key("default", "api-keys"), *stored)
        while await stream.next() is not None:
            pass


async def test_a_reader_that_is_too_slow_is_cut_off_and_can_resume(redis: Redis, redis_url: str):
    """Its buffer is bounded; what it gets before it is cut off is whole, and what comes after it is there when it resumes."""
    async with (
        projecting(redis_url),
        serving(redis_url, redis, gateway_buffer_entries=100) as gateway,
        following(gateway.client) as slow,
    ):
        image, position = "x" * 60_000, ""
        for first in range(0, 400, 10):
            position = await gateway.put(*(identified(f"u-{number}", image=image) for number in range(first, first + 10)))
        await gateway.get("/v1/contacts", limit=1, after=position)
        names = list[str]()
        while (received := await slow.next()) is not None:
            names += [received.data["contact"]["externalId"]] if received.data else []
        assert names == [f"u-{number}" for number in range(len(names))]
        assert len(names) < 400
        async with following(gateway.client, last_id=slow.last_id) as again:
            names += [each.data["contact"]["externalId"] for each in await again.messages(400 - len(names))]
        cut_off = (await gateway.client.get("/metrics")).text

    assert names == [f"u-{number}" for number in range(400)]
    assert 'kinfold_gateway_cut_off_total{workspace="default"} 1.0' in cut_off


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system has no such limit")
async def test_a_reader_that_takes_in_nothing_is_hung_up_on(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch):
    """A frozen process never closes its connection: the gateway does not keep it, and what it was sent, for ever."""
    monkeypatch.setattr(server_module, "_UNREAD_S", 0.2)
    image = "x" * 60_000
    with capture_logs() as logs, socket.socket() as frozen:
        async with projecting(redis_url), serving(redis_url, redis, gateway_buffer_entries=20) as gateway:
            address = urlsplit(gateway.url)
            frozen.connect((address.hostname, address.port))
            frozen.sendall(f"GET /v1/changes?access_token={gateway.secret} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            await wait_until(partial(is_followed, gateway))

            for first in range(0, 400, 10):
                await gateway.put(*(identified(f"u-{number}", image=image) for number in range(first, first + 10)))

            await wait_until(lambda: any(each.get("path") == "/v1/changes" for each in logs))


async def is_followed(gateway: Gateway) -> bool:
    """Whether somebody is on the feed."""
    return 'kinfold_gateway_subscribers{workspace="default"} 1.0' in (await gateway.client.get("/metrics")).text


async def test_one_reader_of_redis_however_many_follow(gateway: Gateway):
    """Blocked clients of the server: one for the feed, beside the projector's."""
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(following(gateway.client)) for _ in range(20)]
        await put_and_fold(gateway, identified("u-1"))
        for stream in streams:
            assert (await stream.message()).data["contact"]["externalId"] == "u-1"
        clients = await gateway.redis.client_list()

    assert sum(each["cmd"] == "xread" for each in clients) == 2


async def test_the_same_over_websocket(gateway: Gateway):
    """Messages are objects: `id`, `event` and `data`."""
    await put_and_fold(gateway, identified("u-1"))
    query = urlencode({"snapshot": "true", "access_token": gateway.secret})
    url = gateway.url.replace("http", "ws") + f"/v1/changes/ws?{query}"
    async with websockets.connect(url) as socket:
        half, contact, end = [json.loads(await socket.recv()) for _ in range(3)]
        await gateway.put(identified("u-2"))
        change = json.loads(await socket.recv())
    async with websockets.connect(url + f"&since={change['id']}") as socket:
        await gateway.put(identified("u-3"))
        resumed = json.loads(await socket.recv())

    assert half == {"id": "snapshot"}
    assert (contact["id"], contact["data"]["contact"]["externalId"]) == ("snapshot", "u-1")
    assert (end["event"], end["id"]) == ("snapshot-end", end["data"]["position"])
    assert (change["data"]["type"], change["data"]["contact"]["externalId"]) == ("ContactCreated", "u-2")
    assert resumed["data"]["contact"]["externalId"] == "u-3"


async def test_when_the_gateway_stops_its_streams_are_told_to_come_back(redis: Redis, redis_url: str):
    """`retry`, then the end; a WebSocket is closed with 1012. All within 5 s, though 50 are open."""
    loop = asyncio.get_running_loop()
    async with serving(redis_url, redis) as gateway:
        contexts = [following(gateway.client_of(gateway.secret)) for _ in range(50)]
        opened = [await context.__aenter__() for context in contexts]
        socket = await websockets.connect(gateway.url.replace("http", "ws") + f"/v1/changes/ws?access_token={gateway.secret}")
        await socket.recv()
        started = loop.time()
    assert loop.time() - started < 5
    for stream, context in zip(opened, contexts, strict=True):
        received = [await stream.next(), await stream.next(), await stream.next()]
        assert [each.retry_ms is not None if each else None for each in received] == [False, True, None]
        await context.__aexit__(None, None, None)
    await socket.wait_closed()
    assert socket.close_code == 1012
