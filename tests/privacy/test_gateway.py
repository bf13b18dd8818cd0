"""Erasing over HTTP: recorded by the gateway, done by the projector, and told to every subscriber (contract section 10)."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from kinfold_services.access.keys import create_key
from tests.support.erased_people import ADAS_TEXTS, adas_events
from tests.support.erasures import keys_with
from tests.support.gateways import PATIENCE_S, Gateway, serving
from tests.support.projecting import fold_log, projecting
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

    await wait_until(is_done, 300)  # the process that erases is nicer than all others
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


@pytest.mark.parametrize("named", ["externalId", "email", "visitorId", "contactId"])
async def test_page_of_a_person_says_that_an_erasure_is_pending(redis: Redis, redis_url: str, named: str) -> None:
    """Those of other people do not. No projector runs, so the erasure stays pending."""
    ada = {"externalId": "u-ada", "email": "Ada@example.org", "visitorId": "v-ada"}
    ben = {"externalId": "u-ben", "email": "ben@example.org", "visitorId": "v-ben"}
    async with serving(redis_url, redis) as gateway:
        await gateway.put(*[{"type": "VisitorIdentified", **each} for each in (ada, ben)])
        await fold_log(redis, redis_url, gateway.workspace)
        ada["contactId"], ben["contactId"] = [
            (await gateway.get("/v1/contacts", externalId=each["externalId"]))["id"] for each in (ada, ben)
        ]
        asked = await gateway.client.post("/v1/erasures", json={named: ada[named].replace("Ada", "ADA")})
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S) as screen:
            await screen.post("/sign-in", data={"key": gateway.secret, "by": "Sam"})
            adas, bens = [(await screen.get(f"/people/{each['contactId']}")).text for each in (ada, ben)]
            await screen.post("/sign-in", data={"key": await create_key(redis, gateway.workspace, "read"), "by": "Sam"})
            read = (await screen.get(f"/people/{ada['contactId']}")).text

    receipt = f'<a href="/erasures/{asked.json()["erasure"]}">'
    assert "This person is being erased. The erasure was requested" in adas
    assert receipt in adas
    assert "u-ben" in bens
    assert "This person is being erased" not in bens
    assert "This person is being erased" in read
    assert receipt not in read  # receipts need a secret key


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
    await wait_until(lambda: any(each.get("contact", {}).get("name") == "Ada Lovelace" for each in told))

    await gateway.client.post("/v1/erasures", json=PERSON)

    await asyncio.wait_for(following, 120)
    assert told[-1]["type"] == "ContactErased"
    assert "contact" not in told[-1]
    told.clear()
    following = asyncio.create_task(follow("0", "VisitorUnlinked"))  # Ben's, when Ada took the kiosk: from the ring
    await asyncio.wait_for(following, 120)
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
