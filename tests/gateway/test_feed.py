"""The change feed over HTTP and WebSocket."""

import asyncio
import json
from typing import Any, cast
from urllib.parse import urlencode

import pytest
import structlog
import websockets
from redis.asyncio import Redis
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from kinfold_schemas.keys import key
from kinfold_services.gateway.changes import hub as hub_module
from kinfold_services.gateway.changes.following import Subscription, follow
from kinfold_services.gateway.changes.hub import FeedHub, Follower
from kinfold_services.gateway.changes.messages import Message
from kinfold_services.gateway.metrics import Metrics
from kinfold_services.state import snapshot as snapshot_module
from kinfold_services.state.snapshot import SnapshotReader
from tests.support.event_log import append
from tests.support.gateways import Gateway, stream_of
from tests.support.projecting import fold_log
from tests.support.sse import following
from tests.support.waiting import wait_until


def identified(external_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "VisitorIdentified", "externalId": external_id, **fields}


async def put_and_fold(gateway: Gateway, *events: dict[str, Any]) -> None:
    position = await gateway.put(*events)
    await gateway.get("/v1/contacts", after=position)


async def test_changes_have_the_ids_and_data_of_the_feed(gateway: Gateway):
    """They have no event name, so that `onmessage` gets them."""
    async with following(gateway.client) as stream:
        start = await stream.next()
        await gateway.put(identified("u-1", name="Ada"), identified("u-1", name="Lovelace"))
        received = await stream.messages(2)

    assert (start.id, start.data) == ("0-0", None) if start else False
    entries = await gateway.entries("changes")
    assert [(each.id, each.event) for each in received] == [(entry, "") for entry, _ in entries]
    assert [each.data for each in received] == [change for _, change in entries]
    assert [each.data["type"] for each in received] == ["ContactCreated", "ContactUpdated"]


async def test_stream_resumes_where_it_ended(gateway: Gateway):
    """With `Last-Event-ID`, as EventSource sends it, or `since`: no change is missing or repeated."""
    await put_and_fold(gateway, *(identified(f"u-{number}") for number in range(5)))

    async with following(gateway.client, {"since": "0"}) as stream:
        first = await stream.messages(2)
    async with following(gateway.client, {"since": "0"}, last_id=first[-1].id) as stream:
        second = await stream.messages(2)
    async with following(gateway.client, {"since": second[-1].id}) as stream:
        third = await stream.message()

    names = [each.data["contact"]["externalId"] for each in (*first, *second, third)]
    assert names == [f"u-{number}" for number in range(5)]


async def test_changes_older_than_the_ring_are_read_from_redis(gateway: Gateway):
    """One reader follows from the start, another resumes from the beginning. Both get all changes in order."""
    async with following(gateway.client) as near:
        position = ""
        for first in range(0, 5000, 1000):
            position = await gateway.put(*(identified(f"u-{number}") for number in range(first, first + 1000)))
        await gateway.get("/v1/contacts", after=position)
        async with following(gateway.client, {"since": "0"}) as far:
            from_far = [each.data["contact"]["externalId"] for each in await far.messages(5000)]
        from_near = [each.data["contact"]["externalId"] for each in await near.messages(5000)]

    assert from_near == from_far == [f"u-{number}" for number in range(5000)]


async def test_reader_misses_nothing_if_the_hub_stops_meanwhile(
    redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
):
    """The reader takes longer to read missed changes than the hub runs without followers."""
    monkeypatch.setattr(hub_module, "_IDLE_S", 0.05)
    monkeypatch.setattr(hub_module, "_BLOCK_MS", 10)
    await append(redis, workspace, [identified("u-1")])
    await fold_log(redis, redis_url, workspace)
    hub = FeedHub(redis, workspace, 100, Metrics())
    await hub.start()
    stream = follow(hub, Subscription("0", snapshot=False, contacts=frozenset(), types=frozenset()), always)
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


async def test_filters_by_contact_and_by_type(gateway: Gateway):
    """A reader of a contact also gets the changes of the contact that it is merged into."""
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
async def test_reader_of_a_merged_contact_follows_the_survivor(gateway: Gateway, snapshot: bool):  # noqa: FBT001
    """An EventSource reconnects with the id in its URL, even after that contact was merged."""
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
async def test_unknown_type_is_rejected(unfolded: Gateway, wanted: str):
    """Such a filter would match no change."""
    async with unfolded.client.stream("GET", "/v1/changes", params={"type": wanted}) as answer:
        assert answer.status_code == 400
        assert b"ContactsMerged, IdentityConflict" in await answer.aread()


async def test_snapshot_is_followed_by_the_changes_since(gateway: Gateway):
    """All living contacts by id, `snapshot-end` with a feed entry, then the changes after that entry."""
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


async def test_snapshot_without_contacts_ends_at_once(gateway: Gateway):
    async with following(gateway.client, {"snapshot": "true"}) as stream:
        assert (await stream.message()).event == "snapshot-end"


async def test_reader_that_resumes_during_a_snapshot_gets_a_new_one(gateway: Gateway):
    """`reset`, then a complete snapshot. A reader that resumes after `snapshot-end` gets changes only."""
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
async def test_reader_is_reset_if_the_feed_was_trimmed(redis: Redis, gateway: Gateway, since: str):
    """Then the stream ends, or with `snapshot=true` all contacts follow."""
    await put_and_fold(gateway, *(identified(f"u-{number}") for number in range(5)))
    await redis.xtrim(key("default", "changes"), maxlen=2, approximate=False)

    async with following(gateway.client, {"since": since}) as stream:
        assert (await stream.message()).event == "reset"
        assert await stream.next() is None
    async with following(gateway.client, {"since": since, "snapshot": "true"}) as stream:
        received = await stream.messages(7)

    assert [each.event for each in received] == ["reset", "", "", "", "", "", "snapshot-end"]


async def test_reader_is_reset_after_an_entry_that_never_existed(gateway: Gateway):
    """The entry is from another feed, or the server lost it. To wait for it would skip changes silently."""
    await put_and_fold(gateway, identified("u-1"))

    async with following(gateway.client, {"since": "99999999999999-0"}) as stream:
        assert (await stream.message()).event == "reset"
    for nonsense in ("soon", "1-", f"{2**64}-0"):
        assert (await gateway.client.get("/v1/changes", params={"since": nonsense})).status_code == 400


async def test_reader_is_reset_if_the_server_lost_its_entry(gateway: Gateway):
    """The server restarted without its newest entries, and new ones were written before the reader resumed."""
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


async def test_reader_is_reset_if_others_follow_past_its_lost_entry(gateway: Gateway):
    """The gateway remembers the entries on both sides of the lost one."""
    await put_and_fold(gateway, identified("u-0"))
    async with following(gateway.client) as near:
        await put_and_fold(gateway, identified("u-1"))
        first = (await near.message()).id
        await put_and_fold(gateway, identified("u-2"))
        last = (await near.message()).id
        lost = f"{str(first).partition('-')[0]}-1000"

        async with following(gateway.client, {"since": str(first)}) as stream:
            assert (await stream.message()).id == last
        async with following(gateway.client, {"since": lost}) as stream:
            assert (await stream.message()).event == "reset"


async def test_feed_entry_that_is_not_a_change_is_skipped(gateway: Gateway):
    """Readers that follow, resume before it or resume at it get the changes after it."""
    feed = key("default", "changes")
    await put_and_fold(gateway, identified("u-1"))
    async with following(gateway.client) as near, following(gateway.client, {"snapshot": "true"}) as other:
        await other.messages(2)
        with capture_logs() as logs:
            fields: list[Any] = [{"foo": "bar"}, {"change": "no JSON"}, {"change": "{}"}, {"change": '{"x":' + "[" * 100_000}]
            foreign = [cast("bytes", await gateway.redis.xadd(feed, each)).decode() for each in fields]
            await put_and_fold(gateway, identified("u-2"))
            followed = [await near.message(), await other.message()]
    async with following(gateway.client, {"since": "0"}) as far:
        followed.append((await far.messages(2))[1])
    for entry in foreign:
        async with following(gateway.client, {"since": entry}) as resumed:
            followed.append(await resumed.message())

    assert [each.data["contact"]["externalId"] for each in followed] == ["u-2"] * 7
    assert [each["entry"] for each in logs if each["event"] == "feed entry ignored: not a change"] == foreign


async def test_reader_is_reset_if_a_change_cannot_be_passed_on(gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    """If the hub's task ended instead, its readers would wait forever."""
    offer, failures = FeedHub._offer, [RuntimeError("broken")]

    def fails_once(self: FeedHub, follower: Follower, messages: list[Message]) -> None:
        if failures:
            raise failures.pop()
        offer(self, follower, messages)

    async with following(gateway.client, {"snapshot": "true"}) as stream:
        assert (await stream.message()).event == "snapshot-end"
        monkeypatch.setattr(FeedHub, "_offer", fails_once)
        with capture_logs() as logs:
            await put_and_fold(gateway, identified("u-1"))
            told = [await stream.message()]
            while "externalId" not in json.dumps(told[-1].data):
                told.append(await stream.message())
    assert told[0].event == "reset"
    assert "u-1" in json.dumps(told[-1].data)
    assert [each["error"] for each in logs if each["event"] == "feed cannot be read"] == ["broken"]


async def test_hub_logs_without_a_request_id(gateway: Gateway):
    """It reads for all followers, not for the request that started it."""
    await put_and_fold(gateway, identified("u-0"))  # a projector that starts with a feed and no state takes the state for lost
    with capture_logs() as logs:
        structlog.get_config()["processors"].insert(0, merge_contextvars)
        async with following(gateway.client) as stream:
            await stream.next()
            await gateway.redis.xadd(key("default", "changes"), {"foo": "bar"})
            await put_and_fold(gateway, identified("u-1"))
            await stream.message()

    ignored = [each for each in logs if each["event"] == "feed entry ignored: not a change"]
    assert ["request_id" in each for each in ignored] == [False]
    assert all(each["request_id"] for each in logs if each["event"] == "request")


async def test_snapshot_skips_a_feed_entry_that_is_not_a_change(gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    """The entry was added while the contacts were read, before a change of a contact of the first page."""
    monkeypatch.setattr(snapshot_module, "_PAGE", 1)
    await put_and_fold(gateway, identified("u-1"))
    reader = SnapshotReader(gateway.redis, "default")
    pages = reader.pages()
    ((contact_id, _),) = await anext(pages)
    await gateway.redis.xadd(key("default", "changes"), {"foo": '"bar"'})
    await put_and_fold(gateway, identified("u-1", name="Ada"))
    assert [page async for page in pages] == [[]]

    corrections = [each async for page in reader.corrections() for each in page]

    assert [each for each, _ in corrections] == [contact_id]
    assert b'"Ada"' in (corrections[0][1] or b"")


async def test_websocket_sends_the_same_messages(gateway: Gateway):
    """As objects with `id`, `event` and `data`."""
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
