"""What a page with a publishable key may change of what a backend said (contract sections 2 to 5, Trust)."""

import asyncio
import json
from functools import partial
from typing import Any, Final

import pytest

import kinfold
from kinfold_services.access.keys import create_key
from tests.support.command_line import Kinfold
from tests.support.gateways import Gateway

OWN: Final = ("source", "visitorProven")


def identified(**fields: Any) -> dict[str, Any]:
    return {"type": "VisitorIdentified", "visitorId": "v-1", "externalId": "u-1", **fields}


def described(**metadata: Any) -> dict[str, Any]:
    return {"type": "MetadataSet", "visitorId": "v-1", "metadata": metadata}


async def marks(gateway: Gateway) -> list[list[Any]]:
    """The gateway's own fields of each event in the log; None where there is none."""
    return [[event.get(name) for name in OWN] for _, event in await gateway.entries("events")]


async def test_events_of_pages_are_marked_in_the_log(unfolded: Gateway):
    """`visitorProven` says that the token names the visitor. A development key needs no token."""
    secret = await unfolded.identity_secret()
    development = await create_key(unfolded.redis, "default", "development")
    any_visitor = kinfold.sign(secret, external_id="u-1")
    this_visitor = kinfold.sign(secret, external_id="u-1", visitor_id="v-1")
    for event in (
        {"type": "VisitorSeen", "visitorId": "v-1"},
        described(a=1),
        identified(token=any_visitor),
        identified(token=this_visitor),
        identified(token=any_visitor, id="e-1"),
    ):
        assert (await unfolded.browser.post("/v1/events", json=event)).status_code == 202
    async with unfolded.client_of(development) as client:
        assert (await client.post("/v1/events", json=identified())).status_code == 202
    page = {"userId": "u-1", "anonymousId": "v-1", "context": {"token": this_visitor}}
    assert (await unfolded.browser.post("/v1/page", json=page)).json()["appended"] == 2

    untrusted = ["browser", None]
    proven = ["browser", True]
    assert await marks(unfolded) == [untrusted, untrusted, untrusted, proven, untrusted, proven, proven, untrusted]


@pytest.mark.parametrize("kind", ["secret", "publishable"])
@pytest.mark.parametrize(
    "own",
    [
        '"source":"browser","visitorProven":true',
        '"sourc\\u0065":"shop","visitor\\u0050roven":true',
        '"source" : ["browser"], "source":null, "visitorProven":1',
        '"source":"browser","source":"shop"',
    ],
)
async def test_callers_do_not_set_the_gateways_own_fields(unfolded: Gateway, kind: str, own: str):
    """Neither a backend, which is trusted anyway, nor a page. JSON may write a name with escapes, and a field twice."""
    token = kinfold.sign(await unfolded.identity_secret(), external_id="u-1")
    client = unfolded.client if kind == "secret" else unfolded.browser
    body = f'{{{own},"type":"VisitorIdentified","visitorId":"v-1","externalId":"u-1","token":"{token}"}}'
    answer = await client.post("/v1/events", content=body)

    assert answer.status_code == 202, answer.text
    assert await marks(unfolded) == [[None, None] if kind == "secret" else ["browser", None]]
    ((_, event),) = await unfolded.entries("events")
    assert event.keys() - OWN == {"type", "visitorId", "externalId", "id"}


async def test_metadata_may_have_keys_of_these_names(unfolded: Gateway):
    """Only the event's own fields are removed."""
    event = described(source="newsletter", visitorProven=False)
    event["metadata"]["token"] = "of a game"  # noqa: S105  not of ours
    await unfolded.browser.post("/v1/events", json=event)

    ((_, stored),) = await unfolded.entries("events")
    assert (stored["metadata"], stored["source"]) == (event["metadata"], "browser")


async def test_page_changes_nothing_that_a_backend_said(gateway: Gateway, redis_url: str):
    """What was dropped is counted and explained, and a replay gives the same."""
    token = kinfold.sign(await gateway.identity_secret(), external_id="u-1", visitor_id="v-1")
    backend = identified(name="Ada", metadata={"plan": "pro", "debt": 5}, id="e-1", at="2026-01-01T00:00:00Z")
    early = await gateway.browser.post("/v1/events", json={**described(plan="free"), "id": "e-1"})
    await gateway.put(backend)
    page = identified(name="Eve", metadata={"plan": "max", "theme": "dark"}, unset=["debt"], token=token, id="e-2")
    late = await gateway.browser.post("/v1/events", json=page)
    assert (early.status_code, late.status_code) == (202, 202)

    contact = await gateway.get("/v1/contacts", externalId="u-1", after=late.json()["position"])
    assert contact["name"] == "Ada"
    assert contact["metadata"] == {"plan": "pro", "debt": 5, "theme": "dark"}
    kinfold_of = partial(asyncio.to_thread, Kinfold("--redis-url", redis_url).run_apart)
    (status,) = (await kinfold_of("status")).lines
    assert (status["untrusted"], status["id-reused"], status["duplicate"], status["rejected"]) == (3, 0, 0, 0)
    *_, last = (await kinfold_of("explain", contact["id"])).lines
    assert last["did"][-1]["what"] == "dropped 3 of what a page said"
    assert (await kinfold_of("verify")).status == 0


async def test_page_moves_a_visitor_only_with_a_token_for_it(gateway: Gateway):
    """A token that was made for any visitor identifies its person, and leaves the visitor where it is."""
    secret = await gateway.identity_secret()
    await gateway.put(identified())

    async def holder_after(token: str) -> str:
        sent = await gateway.browser.post("/v1/events", json=identified(externalId="u-2", token=token))
        assert sent.status_code == 202, sent.text
        contact = await gateway.get("/v1/contacts", visitorId="v-1", after=sent.json()["position"])
        assert await gateway.get("/v1/contacts", externalId="u-2")
        return str(contact["externalId"])

    assert await holder_after(kinfold.sign(secret, external_id="u-2")) == "u-1"
    assert await holder_after(kinfold.sign(secret, external_id="u-2", visitor_id="v-1")) == "u-2"


async def test_largest_call_of_a_page_is_stored(unfolded: Gateway):
    """The gateway's own fields do not take it beyond the limit of an event."""
    token = kinfold.sign(await unfolded.identity_secret(), external_id="u-1", visitor_id="v-1")
    traits = {f"t{number}": "x" * 240 for number in range(120)}
    call = {"anonymousId": "v-1", "userId": "u-1", "context": {"token": token}, "traits": traits}
    for number in range(5):
        room = 64 * 1024 - len(json.dumps(call)) - len(f', "p{number}": ""')
        traits[f"p{number}"] = "x" * min(8000, room)
    body = json.dumps(call)
    answer = await unfolded.browser.post("/v1/identify", content=body)

    assert (len(body), answer.status_code) == (64 * 1024, 200), answer.text
    assert answer.json()["appended"] == 1
