"""What the SDKs of Segment and RudderStack for pages load, and identities that they send again without a token."""

from typing import Any, Final

import pytest
from redis.asyncio import Redis

import kinfold
from tests.support.gateways import Gateway, serving
from tests.support.proxy import Proxy

TRAITS: Final = {"plan": "pro"}


@pytest.mark.parametrize(
    ("origin", "protocol"), [("http://localhost:5173", "http"), ("https://localhost", "https"), (None, "http")]
)
async def test_segments_sdk_learns_where_it_sends_calls(unfolded: Gateway, origin: str | None, protocol: str):
    """A page over TLS has reached the gateway over TLS, although a proxy may have ended that."""
    headers = {} if origin is None else {"Origin": origin}
    async with unfolded.client_of(None) as page:
        answer = await page.get("/v1/projects/kf_pk_x/settings", headers=headers)

    host = unfolded.url.partition("//")[2]
    told = answer.json()["integrations"]["Segment.io"]
    assert (told["apiKey"], told["apiHost"], told["protocol"]) == ("kf_pk_x", f"{host}/v1", protocol)
    assert answer.headers["Vary"] == "Origin"


async def test_settings_do_not_depend_on_redis(redis: Redis, redis_url: str):
    """Without an answer, an SDK does not start, and the calls of the page are lost."""
    with Proxy(redis_url) as proxy:
        async with serving(proxy.url, redis) as gateway, gateway.client_of(None) as page:
            proxy.fall_silent()
            answers = [await page.get(path) for path in ("/v1/projects/x/settings", "/sourceConfig/?writeKey=x")]

    assert [answer.status_code for answer in answers] == [200, 200]


async def identify(gateway: Gateway, **call: Any) -> tuple[int, list[str]]:
    """The status of an identify of a page without a token, and the types of the events that the log has then."""
    answer = await gateway.browser.post("/v1/i", json=call)
    return answer.status_code, [event["type"] for _, event in await gateway.entries("events")]


async def test_identity_that_the_visitor_has_needs_no_token(gateway: Gateway):
    """What else the call says is the visitor's metadata. The log has no second claim of the identity."""
    await gateway.put({"type": "VisitorIdentified", "externalId": "u-1", "email": "Ada@x.org", "visitorId": "v-1"})
    status, types = await identify(
        gateway, userId=" u-1", anonymousId="v-1", messageId="m-1", traits={"name": "Ada", "email": "ada@X.org", **TRAITS}
    )
    (_, (_, event)) = await gateway.entries("events")
    contact = await gateway.get("/v1/contacts", externalId="u-1", after=(await gateway.entries("events"))[-1][0])

    assert (status, types[1:]) == (200, ["MetadataSet"])
    expected = {"type": "MetadataSet", "id": "m-1", "visitorId": "v-1", "name": "Ada", "metadata": TRAITS}
    assert event == {**expected, "source": "browser"}
    assert (contact["name"], contact["metadata"], contact["email"]) == ("Ada", TRAITS, "Ada@x.org")


@pytest.mark.parametrize(
    "claim",
    [
        {"userId": "u-2", "anonymousId": "v-1"},
        {"userId": "U-1", "anonymousId": "v-1"},
        {"userId": "u-1", "anonymousId": "v-2"},
        {"userId": "u-1", "anonymousId": "v-3"},
        {"userId": "u-1"},
        {"userId": "u-1", "anonymousId": "v-1", "traits": {"email": "eve@x.org"}},
        {"anonymousId": "v-1", "traits": {"email": "lin@x.org"}},
        {"userId": "u-3", "anonymousId": "v-3", "traits": {"email": "cy@x.org"}},
    ],
)
async def test_identity_that_is_not_the_visitors_needs_a_token(gateway: Gateway, claim: dict[str, Any]):
    """`v-2` has another contact, which has an address, `v-3` one without an address, or is unknown."""
    await gateway.put(
        {"type": "VisitorIdentified", "externalId": "u-1", "email": "ada@x.org", "visitorId": "v-1"},
        {"type": "VisitorIdentified", "externalId": "u-2", "email": "lin@x.org", "visitorId": "v-2"},
        {"type": "VisitorIdentified", "externalId": "u-3", "visitorId": "v-3"},
    )

    assert await identify(gateway, **{"traits": TRAITS, **claim}) == (403, ["VisitorIdentified"] * 3)


async def test_proof_in_the_same_batch_counts(gateway: Gateway):
    """The log is folded up to it before the identity without a token is judged. A claim of somebody else stays rejected."""
    token = kinfold.sign(await gateway.identity_secret(), external_id="u-1")
    proven = {"type": "identify", "userId": "u-1", "anonymousId": "v-1", "context": {"token": token}}
    later = {"type": "identify", "userId": "u-1", "anonymousId": "v-1", "traits": TRAITS}
    other = {"type": "identify", "userId": "u-2", "anonymousId": "v-1", "traits": {"plan": "gold"}}
    answer = (await gateway.browser.post("/v1/b", json={"batch": [proven, later, other]})).json()
    contact = await gateway.get("/v1/contacts", externalId="u-1", after=answer["position"])

    assert (answer["appended"], [each["index"] for each in answer["rejected"]]) == (2, [2])
    assert contact["metadata"] == TRAITS
