"""A page with a publishable key identifies somebody only with a token of the workspace's backend (`access.identity_tokens`)."""

import base64
import itertools
import json
import time
from typing import Any, Final, NamedTuple

import jwt
import pytest
from redis.asyncio import Redis

import kinfold
from kinfold_schemas.events import VisitorIdentified
from kinfold_schemas.identifiers import CONTRACT_RULES
from kinfold_schemas.keys import key
from kinfold_schemas.names import named_by
from kinfold_schemas.rejections import Rejection
from kinfold_services.access.identity_tokens import (
    Proof,
    ensure_identity_secret,
    prove,
    retire_identity_secret,
    rotate_identity_secret,
)
from kinfold_services.gateway import workspaces
from tests.support.gateways import Gateway, stream_of

FAR: Final = 2**33
BAD: Final = (403, "bad-token")


class Backend(NamedTuple):
    """A backend that signs with a JWT library, as the documentation shows it for any language."""

    secret: str

    @property
    def kid(self) -> str:
        """The secret's kid, which is part of its text."""
        return self.secret.split("_")[2]

    def sign(self, _alg: str = "HS256", _kid: Any = "", **claims: Any) -> str:
        """A token with these claims, for an hour unless they say otherwise."""
        claims = {"exp": int(time.time()) + 3600, **claims}
        headers = {"kid": _kid or self.kid}
        return jwt.encode({name: value for name, value in claims.items() if value is not None}, self.secret, _alg, headers)


async def backend_of(gateway: Gateway) -> Backend:
    return Backend(await gateway.identity_secret())


def identified(**fields: Any) -> dict[str, Any]:
    return {"type": "VisitorIdentified", "visitorId": "v-1", **fields}


async def send(gateway: Gateway, event: dict[str, Any]) -> tuple[int, str]:
    """The status of the response, and the reason if the event was rejected."""
    answer = await gateway.browser.post("/v1/events", json=event)
    return answer.status_code, answer.json().get("rejected", [{}])[0].get("reason", "") if answer.status_code != 202 else ""


def raw(header: Any, payload: Any, signature: str = "") -> str:
    """A token of these parts, unsigned."""
    parts = (json.dumps(part) if not isinstance(part, bytes) else part.decode() for part in (header, payload))
    return ".".join([*(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts), signature])


async def test_identity_with_a_token_is_accepted(unfolded: Gateway):
    """An external id, an address, or both, each with or without the visitor. The log does not contain the tokens."""
    backend = await backend_of(unfolded)
    pair = backend.sign(sub="u-2", email="b@x.org")
    accepted = [
        identified(externalId="u-1", token=backend.sign(sub="u-1")),
        identified(externalId="u-1", name="Ada", token=backend.sign(sub="u-1", visitorId="v-1")),
        identified(email="a@x.org", token=backend.sign(email="a@x.org")),
        identified(externalId="u-2", email="b@x.org", token=pair),
        identified(externalId="u-2", token=pair),  # claims less than the token proves
        {"type": "VisitorIdentified", "externalId": "u-1", "token": backend.sign(sub="u-1")},
        identified(externalId="u-1", token=kinfold.sign(backend.secret, external_id="u-1")),
        identified(externalId="u-1", email="ä@x.org", token=kinfold.sign(backend.secret, external_id="u-1", email="ä@x.org")),
        identified(email="a@x.org", token=kinfold.sign(backend.secret, email="a@x.org", visitor_id="v-1", expires_in_s=5)),
    ]
    assert [await send(unfolded, event) for event in accepted] == [(202, "")] * len(accepted)

    stored = [event for _, event in await unfolded.entries("events")]
    assert len(stored) == len(accepted)
    assert all("token" not in event for event in stored)


async def test_token_covers_the_compared_form_of_an_identifier(unfolded: Gateway):
    """Backend and page may use different spellings of one identifier. A look-alike identifier is rejected."""
    backend = await backend_of(unfolded)
    jose = backend.sign(email="JOS\u00c9@b\u00fccher.example")
    kate, cafe = backend.sign(email="kate@x.org"), backend.sign(sub=" caf\u00e9", visitorId="v-e\u0301 ")
    accepted = [
        identified(email="jos\u00e9@xn--bcher-kva.example", token=jose),
        identified(email="\ufeffjose\u0301@XN--bcher-kva.example.", token=jose),
        identified(email="Kate@x.org.", token=kate),
        identified(externalId="\u200bcafe\u0301", visitorId="v-\u00e9", token=cafe),
    ]
    rejected = [
        identified(email="\u212aate@x.org", token=kate),
        identified(email="jose@b\u00fccher.example", token=jose),
        identified(externalId="cafe", visitorId="v-\u00e9", token=cafe),
        identified(externalId="CAF\u00c9", visitorId="v-\u00e9", token=cafe),
        identified(externalId="caf\u00e9", visitorId="V-\u00e9", token=cafe),
        identified(externalId="caf\u00e9", visitorId="v-e", token=cafe),
    ]
    assert [await send(unfolded, event) for event in accepted] == [(202, "")] * len(accepted)
    assert [await send(unfolded, event) for event in rejected] == [BAD] * len(rejected)


async def test_token_for_another_identity_is_rejected(unfolded: Gateway):
    """Each row swaps or leaves out one of the things that a token says."""
    backend = await backend_of(unfolded)
    sign = backend.sign
    ways: dict[str, dict[str, Any]] = {
        "no token": {"externalId": "u-1"},
        "null": {"externalId": "u-1", "token": None},
        "blank": {"externalId": "u-1", "token": ""},
        "a number": {"externalId": "u-1", "token": 1},
        "a large number": {"externalId": "u-1", "token": 10**30},
        "an object": {"externalId": "u-1", "token": {"sub": "u-1"}},
        "another person": {"externalId": "u-2", "token": sign(sub="u-1")},
        "another visitor": {"externalId": "u-1", "token": sign(sub="u-1", visitorId="v-2")},
        "an empty visitor": {"externalId": "u-1", "token": sign(sub="u-1", visitorId="")},
        "a visitor that is not text": {"externalId": "u-1", "token": sign(sub="u-1", visitorId=["v-1"])},
        "a token for a visitor without one": {
            "visitorId": None,
            "externalId": "u-1",
            "token": sign(sub="u-1", visitorId="v-1"),
        },
        "an address for an external id": {"externalId": "a@x.org", "token": sign(email="a@x.org")},
        "an external id for an address": {"email": "a@x.org", "token": sign(sub="a@x.org")},
        "another address": {"email": "b@x.org", "token": sign(email="a@x.org")},
        "an address that is not text": {"email": "a@x.org", "token": sign(email=["a@x.org"])},
        "an address beside": {"externalId": "u-1", "email": "a@x.org", "token": sign(sub="u-1")},
        "an external id beside": {"externalId": "u-1", "email": "a@x.org", "token": sign(email="a@x.org")},
        "another address beside": {"externalId": "u-1", "email": "b@x.org", "token": sign(sub="u-1", email="a@x.org")},
        "the address of a person alone": {"email": "a@x.org", "token": sign(sub="u-1", email="a@x.org")},
        "a blank id before an address": {"externalId": "", "email": "a@x.org", "token": sign(sub="", email="a@x.org")},
        "a blocked id before an address": {
            "externalId": "null",
            "email": "a@x.org",
            "token": sign(sub="null", email="a@x.org"),
        },
        "a blocked id before an address alone": {"externalId": "null", "email": "a@x.org", "token": sign(email="a@x.org")},
        "a blocked address behind an id": {"externalId": "u-1", "email": "null", "token": sign(sub="u-1", email="null")},
        "no claims": {"externalId": "u-1", "token": sign()},
    }
    taken = {way: result for way, fields in ways.items() if (result := await send(unfolded, identified(**fields))) != BAD}

    assert taken == {}
    assert await unfolded.redis.xlen(key("default", "events")) == 0


async def test_token_that_no_valid_secret_signed_is_rejected(unfolded: Gateway):
    """Each row is an attempt to make a token without the secret, or to use one beyond its time."""
    backend = await backend_of(unfolded)
    other = Backend((await ensure_identity_secret(unfolded.redis, "other"))[0].identity_secret)
    good = backend.sign(sub="u-1")
    header, claims = {"alg": "HS256", "kid": backend.kid}, {"sub": "u-1", "exp": FAR}
    payload, signature = good.split(".")[1:]
    now = int(time.time())
    ways = {
        "expired": backend.sign(sub="u-1", exp=now - 120),
        "expired long ago": backend.sign(sub="u-1", exp=0),
        "never expires": backend.sign(sub="u-1", exp=None),
        "expires at no time": backend.sign(sub="u-1", exp=float("inf")),
        "not valid yet": backend.sign(sub="u-1", nbf=now + 3600),
        "meant for somebody else": backend.sign(sub="u-1", aud="shop"),
        "alg none": raw({"alg": "none", "kid": backend.kid}, claims),
        "alg none with a signature": raw({"alg": "none", "kid": backend.kid}, claims, signature),
        "alg nOnE": raw({"alg": "nOnE", "kid": backend.kid}, claims, signature),
        "another alg": backend.sign("HS512", sub="u-1"),
        "no alg": raw({"kid": backend.kid}, claims, signature),
        "no kid": jwt.encode(claims, backend.secret, "HS256"),
        "unknown kid": backend.sign(_kid="0" * 12, sub="u-1"),
        "another kid": backend.sign(_kid=other.kid, sub="u-1"),
        "a path as kid": backend.sign(_kid="../../etc/passwd", sub="u-1"),
        "another workspace's": other.sign(sub="u-1"),
        "another workspace's with our kid": other.sign(_kid=backend.kid, sub="u-1"),
        "by the random part of the secret": jwt.encode(
            claims, backend.secret.rpartition("_")[2], "HS256", {"kid": backend.kid}
        ),
        "by the publishable key": jwt.encode(claims, unfolded.publishable, "HS256", {"kid": backend.kid}),
        "by the kid": jwt.encode(claims, backend.kid.ljust(32, "0"), "HS256", {"kid": backend.kid}),
        "other claims under the signature": raw(header, {**claims, "sub": "u-1"}, signature),
        "another's signature": f"{good.rpartition('.')[0]}.{backend.sign(sub='u-2').rpartition('.')[2]}",
        "cut": good[:-1],
        "without a signature": good.rpartition(".")[0] + ".",
        "upper case": good.upper(),
        "with a space": f" {good}",
        "padded": f"{good}=",
        "twice": f"{good}.{good}",
        "a payload that is not JSON": raw(header, b"{", signature),
        "a header that is not JSON": f"e30x.{payload}.{signature}",
        "a header that is a list": raw(["HS256"], claims, signature),
        "a deep header": raw(b"[" * 4000, claims, signature),
        "critical extensions": raw({**header, "crit": ["b64"], "b64": False}, claims, signature),
        "long": raw({**header, "x": "x" * 9000}, claims, signature),
        "the HMAC of the first version": "0" * 64,
        "not ASCII": "ä.ö.ü",
    }
    results = {way: await send(unfolded, identified(externalId="u-1", token=token)) for way, token in ways.items()}

    assert {way: result for way, result in results.items() if result != BAD} == {}
    assert await send(unfolded, identified(externalId="u-1", token=good)) == (202, "")


async def test_clocks_of_backend_and_gateway_may_differ_by_a_minute(unfolded: Gateway):
    backend = await backend_of(unfolded)
    now = int(time.time())

    assert await send(unfolded, identified(externalId="u-1", token=backend.sign(sub="u-1", exp=now - 30))) == (202, "")
    assert await send(unfolded, identified(externalId="u-1", token=backend.sign(sub="u-1", iat=now + 30))) == (202, "")


async def test_two_secrets_are_valid_while_one_replaces_the_other(unfolded: Gateway, monkeypatch: pytest.MonkeyPatch):
    """Tokens of both are accepted, until the old secret is retired. A third one is not made beside two."""
    monkeypatch.setattr(workspaces, "_FRESH_S", 0.0)
    redis = unfolded.redis
    old = await backend_of(unfolded)
    made = await rotate_identity_secret(redis, "default")
    assert made is not None
    new = Backend(made.identity_secret)
    before = [await send(unfolded, identified(externalId="u", token=each.sign(sub="u"))) for each in (old, new)]
    third = await rotate_identity_secret(redis, "default")
    newest, *_ = await ensure_identity_secret(redis, "default")
    is_retired = await retire_identity_secret(redis, "default", old.kid), await retire_identity_secret(redis, "default", "x")
    after = [await send(unfolded, identified(externalId="u", token=each.sign(sub="u"))) for each in (old, new)]

    assert (before, third, newest) == ([(202, "")] * 2, None, made)
    assert is_retired == (True, False)
    assert after == [BAD, (202, "")]


async def test_first_identity_secret_is_made_once(redis: Redis):
    (first,) = await ensure_identity_secret(redis, "default")

    assert await ensure_identity_secret(redis, "default") == [first]
    assert first.identity_secret.startswith(f"kf_is_{first.kid}_")


async def test_later_identities_need_tokens_too(gateway: Gateway):
    """The page of an identified visitor cannot change its identity, or a contact's name, without a token."""
    backend = await backend_of(gateway)
    token = backend.sign(sub="u-1")
    assert await send(gateway, identified(externalId="u-1", name="Ada", token=token)) == (202, "")

    assert await send(gateway, identified(externalId="u-1", name="Eve")) == BAD
    assert await send(gateway, identified(externalId="u-2", token=token)) == BAD
    assert await send(gateway, {"type": "MetadataSet", "externalId": "u-1", "token": token, "metadata": {"plan": "free"}}) == (
        403,
        "not-allowed",
    )
    contact = await gateway.get(
        "/v1/contacts", externalId="u-1", after=await gateway.put({"type": "VisitorSeen", "visitorId": "v"})
    )
    assert contact["name"] == "Ada"


@pytest.mark.parametrize("value", ["1e999", "9" * 5000, "1.10"])
async def test_fields_beside_a_token_are_stored_unchanged(unfolded: Gateway, value: str):
    """An unknown field may hold a number that Python cannot decode."""
    token = (await backend_of(unfolded)).sign(sub="u-1")
    body = f'{{"type":"VisitorIdentified","externalId":"u-1","newer":{value},"token":"{token}"}}'

    answer = await unfolded.browser.post("/v1/events", content=body)

    assert answer.status_code == 202, answer.text
    ((_, stored),) = await stream_of(unfolded.redis, "default", "events")
    assert f'"newer":{value},' in stored.decode()
    assert "token" not in stored.decode()


async def test_token_with_an_escaped_name_is_not_stored(unfolded: Gateway):
    r"""JSON may write `token` as `tok\u0065n`, and a field twice. Every caller's tokens are removed."""
    token = (await backend_of(unfolded)).sign(sub="u-1")
    body = f'{{"type":"VisitorIdentified","externalId":"u-1","token":"{token}","tok\\u0065n" : "{token}"}}'
    for client in (unfolded.browser, unfolded.client):
        assert (await client.post("/v1/events", content=body)).status_code == 202

    stored = [data for _, data in await stream_of(unfolded.redis, "default", "events")]
    assert [token.encode() in data or b"tok" in data for data in stored] == [False, False]


async def test_repeated_field_does_not_bypass_the_check(unfolded: Gateway):
    """The gateway checks the same value of a repeated JSON field that the fold will use."""
    token = (await backend_of(unfolded)).sign(sub="u-1")
    body = f'{{"type":"VisitorIdentified","externalId":"u-1","external\\u0049d":"u-2","token":"{token}"}}'

    assert (await unfolded.browser.post("/v1/events", content=body)).status_code == 403


async def test_one_event_without_a_token_rejects_the_request(unfolded: Gateway):
    """403. With `?partial=true` only that event is rejected."""
    events = [{"type": "VisitorSeen", "visitorId": "v-1"}, identified(externalId="u-1")]
    whole = await unfolded.browser.post("/v1/events", json=events)
    partly = await unfolded.browser.post("/v1/events", json=events, params={"partial": "true"})

    assert (whole.status_code, whole.json()["error"], whole.json()["appended"]) == (403, "forbidden", 0)
    assert (partly.status_code, partly.json()["appended"]) == (202, 1)
    assert [(each["index"], each["reason"]) for each in partly.json()["rejected"]] == [(1, "bad-token")]


async def test_error_says_what_is_wrong_with_a_token(unfolded: Gateway):
    """The developer of a page reads it in the console. It does not repeat the token."""
    backend = await backend_of(unfolded)
    expired = backend.sign(sub="u-1", exp=1)
    answers = [
        (await unfolded.browser.post("/v1/events", json=identified(externalId="u-1", token=token))).json()["rejected"][0]
        for token in (expired, backend.sign(sub="u-2"), backend.sign(_kid="k", sub="u-1"))
    ]

    assert [each["detail"] for each in answers] == [
        "token: expected a token that has not expired, got an expired one",
        "token: expected a token whose sub is the externalId, 'u-1', got sub 'u-2'",
        "token: expected a token whose header has the kid of a valid identity secret, got kid 'k'",
    ]
    assert expired not in json.dumps(answers)


CALLS: Final = ("identify", "track", "page", "screen")


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("place", ["call", "batch", "batch context"])
async def test_token_is_in_the_context_of_a_segment_call(unfolded: Gateway, kind: str, place: str):
    """The same token is worth nothing for another person or another visitor. A track is then one of the visitor alone."""
    token = (await backend_of(unfolded)).sign(sub="u-1", email="a@x.org", visitorId="v-1")

    async def identities(user: str, visitor: str) -> tuple[int, list[str]]:
        """The status, and the external ids in the log."""
        await unfolded.redis.delete(key("default", "events"))
        call: dict[str, Any] = {"type": kind, "userId": user, "anonymousId": visitor, "context": {"token": token}}
        path, body = f"/v1/{kind}", call
        if place != "call":
            path, body = "/v1/batch", {"batch": [call]}
        if place == "batch context":
            body["context"] = call.pop("context")
        answer = await unfolded.browser.post(path, json=body)
        events = [event for _, event in await unfolded.entries("events")]
        assert token not in json.dumps(events)
        return answer.status_code, [event["externalId"] for event in events if event["type"] == "VisitorIdentified"]

    refused = 403 if (kind, place) == ("identify", "call") else 200
    assert await identities("u-1", "v-1") == (200, ["u-1"])
    assert await identities("u-2", "v-1") == (refused, [])
    assert await identities("u-1", "v-2") == (refused, [])


async def test_segment_calls_say_which_identity_was_not_proven(unfolded: Gateway):
    """An identify is rejected. Of a track only the `userId` is ignored."""
    call = {"type": "identify", "userId": "u-1", "anonymousId": "v-1", "traits": {"token": "of-a-game"}}
    identify = await unfolded.browser.post("/v1/batch", json={"batch": [call]})
    track = await unfolded.browser.post("/v1/track", json={"userId": "u-9", "anonymousId": "v-1", "event": "x"})

    assert identify.json()["rejected"][0]["reason"] == "bad-token"
    assert (track.status_code, track.json()["appended"], track.json()["ignored"][0]["reason"]) == (200, 1, "unsigned-identity")


PARTS: Final = (None, "own", "other")


@pytest.mark.parametrize("claimed", list(itertools.product(PARTS, repeat=3)), ids=str)
def test_token_proves_exactly_what_it_says(claimed: tuple[str | None, ...]):
    """Every token against every event: each field left out, the same, or another one."""
    sub, address, visitor = claimed
    secret = f"kf_is_{'0' * 12}_{'0' * 64}"
    token = Backend(secret).sign(sub=sub, email=address and f"{address}@x.org", visitorId=visitor)
    for external_id, email, visitor_id in itertools.product(PARTS, repeat=3):
        if external_id is None and email is None:
            continue  # no identification
        address_of_event = None if email is None else f"{email}@x.org"
        event = VisitorIdentified(external_id=external_id, email=address_of_event, visitor_id=visitor_id)
        names = named_by(event, CONTRACT_RULES)
        assert not isinstance(names, Rejection)
        is_proven = sub == external_id and email in {None, address} and visitor in {None, visitor_id}

        proof = prove(token, {"0" * 12: secret}, event, names)

        assert isinstance(proof, Proof) is is_proven, (claimed, event)
        assert not is_proven or proof == Proof(visitor=visitor is not None), (claimed, event)


@pytest.mark.parametrize("kind", ["alias", "group"])
async def test_other_calls_of_segment_identify_nobody(unfolded: Gateway, kind: str):
    """Not even with a token."""
    token = (await backend_of(unfolded)).sign(sub="u-1", visitorId="v-1")
    call = {"userId": "u-1", "anonymousId": "v-1", "previousId": "v-2", "groupId": "g", "context": {"token": token}}
    one = await unfolded.browser.post(f"/v1/{kind}", json=call)
    batch = await unfolded.browser.post("/v1/batch", json={"batch": [{**call, "type": kind}]})

    assert (one.status_code, batch.status_code) == (200, 200)
    assert await unfolded.redis.xlen(key("default", "events")) == 0


async def test_token_of_somebody_else_moves_no_linked_visitor_on_any_path(gateway: Gateway):
    """An attacker with a token of their own, which names no visitor, replays it for visitors that others hold."""
    backend = await backend_of(gateway)
    paths = ["/v1/events", f"/v1/events?writeKey={gateway.publishable}", "/v1/batch", *(f"/v1/{kind}" for kind in CALLS)]
    held = [{"externalId": f"u-{number}", "visitorId": f"v-{number}"} for number in range(len(paths))]
    await gateway.put(*[{"type": "VisitorIdentified", **each} for each in held])
    token = backend.sign(sub="mallory")
    for number, path in enumerate(paths):
        event = {"type": "VisitorIdentified", "externalId": "mallory", "visitorId": f"v-{number}", "token": token}
        call = {"type": "identify", "userId": "mallory", "anonymousId": f"v-{number}", "context": {"token": token}}
        body = event if "events" in path else {"batch": [call]} if "batch" in path else call
        answer = await gateway.browser.post(path, json=body)
        assert answer.status_code in {200, 202}, answer.text
    position = await gateway.put({"type": "VisitorSeen", "visitorId": "v"})

    for number in range(len(paths)):
        visitor = await gateway.get(f"/v1/visitors/v-{number}", after=position)
        assert visitor["contact"]["externalId"] == f"u-{number}", paths[number]
    mallory = await gateway.get("/v1/contacts", externalId="mallory")
    assert mallory["visitorIds"] == []
