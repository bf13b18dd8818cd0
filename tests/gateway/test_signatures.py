"""Identities from browsers must be signed by the workspace's backend (`services.access.signatures`)."""

import hashlib
import hmac
import json
from typing import Any

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.access.signatures import identity_secret, renew_identity_secret
from tests.support.gateways import Gateway, stream_of


def mac(secret: str, message: str) -> str:
    """A signature, made as a backend in any language would make it."""
    return hmac.new(secret.encode(), message.encode(), hashlib.sha256).hexdigest()


def identified(**fields: Any) -> dict[str, Any]:
    return {"type": "VisitorIdentified", "visitorId": "v-1", **fields}


async def send(gateway: Gateway, event: dict[str, Any]) -> tuple[int, str]:
    """The status of the response, and the reason if the event was rejected."""
    answer = await gateway.browser.post("/v1/events", json=event)
    return answer.status_code, answer.json().get("rejected", [{}])[0].get("reason", "") if answer.status_code != 202 else ""


async def test_signed_identity_is_accepted(gateway: Gateway):
    """An external id, an address in any spelling, or both. The log does not contain the signatures."""
    secret = await gateway.identity_secret()
    pair = mac(secret, "u-2\0b@x.org")
    for event in (
        identified(externalId="u-1", signature=mac(secret, "u-1")),
        identified(externalId=" u-1 ", name="Ada", signature=mac(secret, "u-1")),
        identified(email="A@X.org", signature=mac(secret, "a@x.org")),
        identified(externalId="u-2", email=" B@x.org", signature=mac(secret, "u-2"), emailSignature=pair),
    ):
        assert await send(gateway, event) == (202, "")

    assert all("ignature" not in json.dumps(event) for _, event in await gateway.entries("events"))


async def test_signature_covers_the_compared_form_of_an_identifier(gateway: Gateway):
    """Any spelling by the browser is accepted. A look-alike identifier is rejected."""
    secret = await gateway.identity_secret()
    jose = mac(secret, "jos\u00e9@xn--bcher-kva.example")
    kate, cafe = mac(secret, "kate@x.org"), mac(secret, "caf\u00e9")
    for event in (
        identified(email="jos\u00e9@b\u00fccher.example", signature=jose),
        identified(email="\ufeffJOSE\u0301@XN--bcher-kva.example.", signature=jose),
        identified(email="Kate@x.org.", signature=kate),
        identified(externalId="\u200bcafe\u0301", signature=cafe),
    ):
        assert await send(gateway, event) == (202, "")

    for event in (
        identified(email="\u212aate@x.org", signature=kate),
        identified(email="jose@b\u00fccher.example", signature=jose),
        identified(externalId="cafe", signature=cafe),
    ):
        assert await send(gateway, event) == (403, "bad-signature")


async def test_wrong_or_missing_signature_is_rejected(gateway: Gateway):
    """Each row is an attempt to get around the signature."""
    secret = await gateway.identity_secret()
    other = await identity_secret(gateway.redis, "other")
    first, address = mac(secret, "u-1"), mac(secret, "a@x.org")
    pair = mac(secret, "u-1\0a@x.org")
    ways: dict[str, dict[str, Any]] = {
        "no signature": {"externalId": "u-1"},
        "null": {"externalId": "u-1", "signature": None},
        "blank": {"externalId": "u-1", "signature": ""},
        "not a string": {"externalId": "u-1", "signature": 1},
        "another's": {"externalId": "u-2", "signature": first},
        "other case of the id": {"externalId": "U-1", "signature": first},
        "other case of the hex": {"externalId": "u-1", "signature": first.upper()},
        "cut": {"externalId": "u-1", "signature": first[:-1]},
        "another workspace's": {"externalId": "u-1", "signature": mac(other, "u-1")},
        "by the publishable key": {"externalId": "u-1", "signature": mac(gateway.publishable, "u-1")},
        "swapped: the address's for the id": {"externalId": "u-1", "signature": address},
        "swapped: the id's for the address": {"email": "a@x.org", "signature": first},
        "in the other field": {"externalId": "u-1", "emailSignature": first},
        "an address beside": {"externalId": "u-1", "email": "a@x.org", "signature": first},
        "an address beside, signed alone": {
            "externalId": "u-1",
            "email": "a@x.org",
            "signature": first,
            "emailSignature": address,
        },
        "the fields' signatures exchanged": {
            "externalId": "u-1",
            "email": "a@x.org",
            "signature": pair,
            "emailSignature": first,
        },
        "only the pair": {"externalId": "u-1", "email": "a@x.org", "emailSignature": pair},
        "a pair of another id": {
            "externalId": "u-2",
            "email": "a@x.org",
            "signature": mac(secret, "u-2"),
            "emailSignature": pair,
        },
        "a pair of another address": {"externalId": "u-1", "email": "b@x.org", "signature": first, "emailSignature": pair},
        "the pair as an id": {"externalId": "u-1 a@x.org", "signature": pair},
        "a blank id before a signed address": {"externalId": "", "email": "a@x.org", "signature": address},
        "a blank id that was signed": {"externalId": " ", "email": "a@x.org", "signature": mac(secret, "")},
        "a blocked id before a signed address": {"externalId": "null", "email": "a@x.org", "signature": address},
        "an address beside a blocked, signed id": {"externalId": "null", "email": "a@x.org", "signature": mac(secret, "null")},
        "a blank address": {"externalId": "u-1", "email": " ", "signature": first},
    }
    taken = {
        way: result
        for way, fields in ways.items()
        if (result := await send(gateway, identified(**fields))) != (403, "bad-signature")
    }

    assert taken == {}
    assert await gateway.redis.xlen(key("default", "events")) == 0


async def test_later_identities_need_signatures_too(gateway: Gateway):
    """The page of an identified visitor cannot change its identity, or a contact's name, without a signature."""
    secret = await gateway.identity_secret()
    assert await send(gateway, identified(externalId="u-1", name="Ada", signature=mac(secret, "u-1"))) == (202, "")

    assert await send(gateway, identified(externalId="u-1", name="Eve")) == (403, "bad-signature")
    assert await send(gateway, identified(externalId="u-2", signature=mac(secret, "u-1"))) == (403, "bad-signature")
    assert await send(gateway, {"type": "MetadataSet", "externalId": "u-1", "metadata": {"plan": "free"}}) == (
        403,
        "not-allowed",
    )
    contact = await gateway.get(
        "/v1/contacts", externalId="u-1", after=await gateway.put({"type": "VisitorSeen", "visitorId": "v"})
    )
    assert contact["name"] == "Ada"


@pytest.mark.parametrize("value", ["1e999", "9" * 5000, "1.10"])
async def test_fields_beside_a_signature_are_stored_unchanged(gateway: Gateway, value: str):
    """An unknown field may hold a number that Python cannot decode."""
    signature = mac(await gateway.identity_secret(), "u-1")
    body = f'{{"type":"VisitorIdentified","externalId":"u-1","newer":{value},"signature":"{signature}"}}'

    answer = await gateway.browser.post("/v1/events", content=body)

    assert answer.status_code == 202, answer.text
    ((_, stored),) = await stream_of(gateway.redis, "default", "events")
    assert f'"newer":{value},' in stored.decode()


async def test_repeated_field_does_not_bypass_the_check(gateway: Gateway):
    """The gateway checks the same value of a repeated JSON field that the fold will use."""
    secret = await gateway.identity_secret()
    body = f'{{"type":"VisitorIdentified","externalId":"u-1","externalId":"u-2","signature":"{mac(secret, "u-1")}"}}'

    assert (await gateway.browser.post("/v1/events", content=body)).status_code == 403


async def test_one_unsigned_event_rejects_the_request(gateway: Gateway):
    """403. With `?partial=true` only that event is rejected."""
    events = [{"type": "VisitorSeen", "visitorId": "v-1"}, identified(externalId="u-1")]
    whole = await gateway.browser.post("/v1/events", json=events)
    partly = await gateway.browser.post("/v1/events", json=events, params={"partial": "true"})

    assert (whole.status_code, whole.json()["error"], whole.json()["appended"]) == (403, "forbidden", 0)
    assert (partly.status_code, partly.json()["appended"]) == (202, 1)
    assert [(each["index"], each["reason"]) for each in partly.json()["rejected"]] == [(1, "bad-signature")]


async def test_renewed_identity_secret_is_different(redis: Redis):
    """`kinfold keys identity-secret --renew` is for a secret that was leaked."""
    old = await identity_secret(redis, "default")

    assert await identity_secret(redis, "default") == old
    assert await renew_identity_secret(redis, "default") != old


@pytest.mark.parametrize("path", ["/v1/identify", "/v1/batch"])
async def test_segment_identify_is_signed_in_its_context(gateway: Gateway, path: str):
    """A publishable key needs a signature. For a track, only the unsigned `userId` is ignored."""
    secret = await gateway.identity_secret()

    def body(**context: Any) -> dict[str, Any]:
        call = {"type": "identify", "userId": "u-1", "anonymousId": "v-1", "context": context}
        return call if path == "/v1/identify" else {"batch": [call]}

    signed = await gateway.browser.post(path, json=body(signature=mac(secret, "u-1")))
    unsigned = await gateway.browser.post(path, json=body())
    track = await gateway.browser.post("/v1/track", json={"userId": "u-9", "anonymousId": "v-1", "event": "x"})

    assert (signed.status_code, signed.json()["appended"]) == (200, 1)
    assert unsigned.status_code == (403 if path == "/v1/identify" else 200)
    assert unsigned.json()["rejected"][0]["reason"] == "bad-signature"
    assert (track.status_code, track.json()["appended"], track.json()["ignored"][0]["reason"]) == (200, 1, "unsigned-identity")
