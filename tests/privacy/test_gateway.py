"""Erasing over HTTP: recorded by the gateway, done by the projector, and told to every subscriber (contract section 10)."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.support.erased_people import ADAS_TEXTS, adas_events
from tests.support.erasures import keys_with
from tests.support.gateways import Gateway, serving
from tests.support.projecting import projecting
from tests.support.waiting import wait_until

PERSON = {"externalId": "ada-1815"}


@pytest.fixture
async def gateway(redis: Redis, redis_url: str) -> AsyncIterator[Gateway]:
    """Give a gateway, and a projector that finishes erasures."""
    async with projecting(redis_url), serving(redis_url, redis) as gateway:
        yield gateway


async def test_person_is_erased_and_the_old_id_answers_410(redis: Redis, gateway: Gateway) -> None:
    accepted = await gateway.client.post("/v1/events", json=adas_events(), params={"partial": "true"})
    ada = (await gateway.get("/v1/contacts", **PERSON, after=accepted.json()["position"]))["id"]

    asked = await gateway.client.post("/v1/erasures", json={**PERSON, "by": "the office", "reason": "asked"})

    assert asked.status_code == 202, asked.text
    location = asked.headers["Location"]
    receipt: dict[str, Any] = {}

    async def is_done() -> bool:
        receipt.update(await gateway.get(location))
        return bool(receipt["state"] == "done")

    await wait_until(is_done, 60)
    assert (receipt["by"], receipt["people"], receipt["contactIds"]) == ("the office", 1, [ada])
    assert await keys_with(redis, gateway.workspace, ADAS_TEXTS) == {}
    gone = await gateway.client.get(f"/v1/contacts/{ada}")
    assert gone.status_code == 410
    assert {name: gone.json()[name] for name in ("error", "detail")} == {
        "error": "erased",
        "detail": "contact: the person was erased",
    }
    again = await gateway.client.post("/v1/erasures", json={"contactId": ada})
    assert again.status_code == 410
    assert (await gateway.client.post("/v1/erasures", json=PERSON)).status_code == 404
    page = await gateway.client.get(location, params={"page": "true"})
    assert page.headers["Content-Type"].startswith("text/html")
    assert receipt["erasure"] in page.text
    assert [each["erasure"] for each in await gateway.get("/v1/erasures")] == [receipt["erasure"]]


async def test_subscribers_are_told_and_the_ring_has_no_body_any_more(gateway: Gateway) -> None:
    told: list[dict[str, Any]] = []

    async def follow(since: str, until: str) -> None:
        async with gateway.client.stream("GET", "/v1/changes", params={"since": since}) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    told.append(json.loads(line.removeprefix("data: ")))
                    if told[-1]["type"] == until:
                        return

    following = asyncio.create_task(follow("0", "ContactErased"))
    await gateway.client.post("/v1/events", json=adas_events(), params={"partial": "true"})
    await wait_until(lambda: any(each.get("contact", {}).get("name") == "Ada Lovelace" for each in told), 30)

    await gateway.client.post("/v1/erasures", json=PERSON)

    await asyncio.wait_for(following, 60)
    assert told[-1]["type"] == "ContactErased"
    assert "contact" not in told[-1]
    told.clear()
    following = asyncio.create_task(follow("0", "VisitorUnlinked"))  # Ben's, when Ada took the kiosk: from the ring
    await asyncio.wait_for(following, 30)
    assert not any(text in json.dumps(told) for text in ADAS_TEXTS)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "body: expected exactly one of externalId, email, visitorId, contactId, got 0"),
        ({"externalId": "a", "email": "a@b.example"}, "got 2"),
        ({"name": "Ada"}, "body: expected fields among externalId, email, visitorId, contactId, by, reason, got 'name'"),
        ({"email": ["a"]}, 'email: expected a string or null, got ["a"] (an array)'),
        ([], "body: expected a JSON object that names a person, got [] (an array)"),
    ],
)
async def test_request_that_does_not_name_one_person_is_rejected(gateway: Gateway, body: Any, detail: str) -> None:
    answer = await gateway.client.post("/v1/erasures", json=body)

    assert answer.status_code == 400, answer.text
    assert detail in answer.json()["detail"]
