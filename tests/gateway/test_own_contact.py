"""`GET /v1/own-contact`: what a page gets to know of its own visitor, live."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any, Final

import httpx
import pytest
from redis.asyncio import Redis

import kinfold
from kinfold_services.access.keys import create_key, revoke_key
from kinfold_services.gateway.changes import following as following_module
from kinfold_services.gateway.changes.hub import FeedHub
from kinfold_services.gateway.changes.watchers import READERS, Watchers
from kinfold_services.gateway.metrics import Metrics
from kinfold_services.state.queries import StateQueries
from tests.support.gateways import PATIENCE_S, Gateway, serving
from tests.support.projecting import projecting
from tests.support.sse import Stream, following
from tests.support.waiting import wait_until

ADA: Final = "v_" + "a" * 22
LIN: Final = "v_" + "-" * 22
PERSON: Final = {"name": "Ada", "image": "https://img.example/ada.png"}


def identified(external_id: str, visitor_id: str | None = None, **fields: Any) -> dict[str, Any]:
    visitor = {} if visitor_id is None else {"visitorId": visitor_id}
    return {"type": "VisitorIdentified", "externalId": external_id, **visitor, **fields}


@asynccontextmanager
async def live(gateway: Gateway, visitor_id: str = ADA, key: str | None = None) -> AsyncGenerator[Stream]:
    """Open the stream as an EventSource does: with the key in the query."""
    params = {"visitorId": visitor_id, "writeKey": key or gateway.publishable}
    async with gateway.client_of(None) as page, following(page, params, path="/v1/own-contact") as stream:
        yield stream


async def contact(stream: Stream) -> Any:
    return (await stream.message()).data["contact"]


async def test_page_gets_name_and_image_now_and_after_each_change(gateway: Gateway):
    """It gets no address, no external id and no metadata."""
    async with live(gateway) as stream:
        assert (await stream.message()).data == {"contact": None}
        await gateway.put({"type": "VisitorSeen", "visitorId": ADA})
        await gateway.put(identified("u-1", ADA, email="ada@example.org", metadata={"plan": "free"}, **PERSON))
        assert await contact(stream) == PERSON
        await gateway.put(identified("u-1", name="Ada Lovelace"))
        assert await contact(stream) == {**PERSON, "name": "Ada Lovelace"}

    async with live(gateway) as stream:
        assert await contact(stream) == {**PERSON, "name": "Ada Lovelace"}


async def test_metadata_is_shown_with_a_key_that_allows_it(gateway: Gateway):
    shows = await create_key(gateway.redis, "default", "publishable", shows_metadata=True)
    await gateway.get("/v1/contacts", after=await gateway.put(identified("u-1", ADA, metadata={"plan": "free"})))
    async with live(gateway) as plain, live(gateway, key=shows) as stream:
        assert (await contact(stream))["metadata"] == {"plan": "free"}
        await gateway.put({"type": "MetadataSet", "externalId": "u-1", "metadata": {"plan": "pro"}})
        assert (await contact(stream))["metadata"] == {"plan": "pro"}
        await gateway.put(identified("u-1", name="Ada"))
        assert await contact(plain) == {"name": None, "image": None}
        assert await contact(plain) == {"name": "Ada", "image": None}


async def test_stream_follows_the_person_through_a_merge(gateway: Gateway):
    await gateway.put(identified("u-1", name="Ada"))
    await gateway.get(
        "/v1/contacts", after=await gateway.put({"type": "VisitorIdentified", "visitorId": ADA, "email": "ada@example.org"})
    )
    async with live(gateway) as stream:
        assert await contact(stream) == {"name": None, "image": None}
        await gateway.put(identified("u-1", email="ada@example.org"))
        assert await contact(stream) == {"name": "Ada", "image": None}
        await gateway.put(identified("u-1", name="Lovelace"))
        assert await contact(stream) == {"name": "Lovelace", "image": None}


async def test_stream_shows_nobody_but_the_visitors_present_contact(gateway: Gateway):
    """The visitor moves from Ada to Lin. What changes of Ada after that, and of others at any time, is not shown."""
    await gateway.get("/v1/contacts", after=await gateway.put(identified("u-1", ADA, name="Ada")))
    async with live(gateway) as stream:
        assert (await contact(stream))["name"] == "Ada"
        await gateway.put(identified("u-3", LIN, name="Max"), identified("u-2", ADA, name="Lin"))
        assert (await contact(stream))["name"] == "Lin"
        await gateway.put(identified("u-1", name="Lovelace"), identified("u-3", name="Moritz"))
        await gateway.put(identified("u-2", name="Lin Yutang"))
        assert (await contact(stream))["name"] == "Lin Yutang"


async def test_all_pages_share_one_reader_of_the_feed(gateway: Gateway):
    """Two of one visitor, and one of another. When all have left, it leaves, too, and the next page begins again."""
    folded = await gateway.put(identified("u-1", ADA, name="Ada"), identified("u-2", LIN, name="Lin"))
    await gateway.get("/v1/contacts", after=folded)

    async def readers() -> str:
        metrics = (await gateway.client.get("/metrics")).text
        return next(line for line in metrics.splitlines() if line.startswith("kinfold_gateway_subscribers{")).split()[-1]

    async def none() -> bool:
        return await readers() == "0.0"

    for name in ("Lovelace", "Byron"):
        async with live(gateway) as first, live(gateway) as second, live(gateway, LIN) as third:
            for stream in (first, second, third):
                await contact(stream)
            assert await readers() == "1.0"
            await gateway.put(identified("u-1", name=name), identified("u-2", name=name))
            assert [(await contact(stream))["name"] for stream in (first, second, third)] == [name] * 3
        await wait_until(none)


async def test_page_misses_no_change_although_the_shared_reader_is_too_slow(redis: Redis, redis_url: str):
    """A reader that is cut off begins again, and every page reads its contact again."""
    async with projecting(redis_url), serving(redis_url, redis, gateway_buffer_entries=1) as gateway:
        await gateway.put(identified("u-1", ADA, name="0"))
        async with live(gateway) as stream:
            await gateway.put(*(identified("u-1", name=f"{number}") for number in range(1, 200)))
            while (await contact(stream) or {}).get("name") != "199":
                pass


async def test_pages_of_one_person_do_not_all_read_at_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    """Otherwise a visitor who changes a name again and again, with a thousand open pages, delays everybody else."""
    read, at_once, most = StateQueries.contact_by_visitor, 0, 0

    async def counted(queries: StateQueries, visitor_id: str) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return await read(queries, visitor_id)
        finally:
            at_once -= 1

    monkeypatch.setattr(StateQueries, "contact_by_visitor", counted)
    await gateway.get("/v1/contacts", after=await gateway.put(identified("u-1", ADA, name="Ada")))
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(live(gateway)) for _ in range(READERS * 2)]
        assert [(await contact(stream))["name"] for stream in streams] == ["Ada"] * len(streams)
        await gateway.put(identified("u-1", name="Lovelace"))
        assert [(await contact(stream))["name"] for stream in streams] == ["Lovelace"] * len(streams)

    assert 1 < most <= READERS


async def test_pages_of_one_person_share_500_reads_a_second(redis: Redis):
    hub = FeedHub(redis, "default", 10, Metrics())
    watchers = Watchers(hub)
    with ExitStack() as stack:
        pages = [stack.enter_context(watchers.watching(ADA)) for _ in range(200)]
        for page in pages:
            watchers.concern(page, "ct_1")
        other = stack.enter_context(watchers.watching(LIN))
        watchers.concern(other, "ct_2")
        nobody = stack.enter_context(watchers.watching(LIN))

        assert {round(len(pages) / watchers.pause_s(page)) for page in pages} == {500}
        assert watchers.pause_s(other) == pytest.approx(1 / 500)
        assert watchers.pause_s(nobody) == 0
    await hub.stop()


@pytest.mark.parametrize("visitor_id", ["", "laptop", "42", "v_" + "a" * 21, "v_" + "a" * 23, "v_" + "a" * 21 + "."])
async def test_visitor_id_that_can_be_guessed_is_rejected(unfolded: Gateway, visitor_id: str):
    answer = await unfolded.browser.get("/v1/own-contact", params={"visitorId": visitor_id})

    assert (answer.status_code, answer.json()["error"]) == (400, "bad-request")
    assert "expected an id of kinfold.js" in answer.json()["detail"]


async def test_secret_key_is_rejected_and_told_the_feed(unfolded: Gateway):
    answer = await unfolded.client.get("/v1/own-contact", params={"visitorId": ADA})

    assert (answer.status_code, "use /v1/changes" in answer.json()["detail"]) == (403, True)


async def test_page_of_another_origin_is_rejected(unfolded: Gateway):
    """Before it gets anything: an EventSource asks for no preflight."""
    params = {"visitorId": ADA, "writeKey": unfolded.publishable}
    async with httpx.AsyncClient(base_url=unfolded.url, timeout=PATIENCE_S) as page:
        answer = await page.get("/v1/own-contact", params=params, headers={"Origin": "https://evil.example"})

    assert (answer.status_code, "Origin: expected" in answer.json()["detail"]) == (403, True)


async def test_stream_ends_when_its_key_is_revoked(gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(following_module, "PING_EVERY_S", 0.1)
    async with live(gateway) as stream:
        assert await contact(stream) is None
        await revoke_key(gateway.redis, "default", gateway.publishable.split("_")[-2])
        while await stream.next() is not None:
            pass


async def test_stream_ends_when_the_gateway_stops(redis: Redis, redis_url: str):
    """The page is told to connect again after a delay, and none waits for the others."""
    async with serving(redis_url, redis) as gateway:
        stack = live(gateway)
        stream = await stack.__aenter__()
        assert await contact(stream) is None
    last = None
    while (received := await stream.next()) is not None:
        last = received
    await stack.__aexit__(None, None, None)

    assert last is not None
    assert last.retry_ms is not None


async def test_copied_token_shows_the_contact_only_to_visitors_that_it_identifies(gateway: Gateway):
    """A page proves with a token who its visitor is. A page without one stays without a contact."""
    token = kinfold.sign(await gateway.identity_secret(), external_id="u-1", visitor_id=ADA)
    await gateway.put(identified("u-1", name="Ada"))
    async with live(gateway) as own, live(gateway, LIN) as other:
        assert (await contact(own), await contact(other)) == (None, None)
        for visitor_id in (LIN, ADA):
            await gateway.browser.post("/v1/events", json=[{**identified("u-1", visitor_id), "token": token}])
        assert (await contact(own))["name"] == "Ada"
        await gateway.put(identified("u-2", LIN, name="Lin"))
        assert (await contact(other))["name"] == "Lin"
