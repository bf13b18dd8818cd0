"""Traits and identifiers of Segment's calls (`services.gateway.events.segment_traits`), and which are ignored."""

import asyncio
import http.client
import logging
from typing import Any

import httpx
import pytest
import segment.analytics.client as segment

from kinfold_schemas.events import MAX_EVENT_BYTES
from tests.support.gateways import Gateway

Json = dict[str, Any]


async def stored(gateway: Gateway, *calls: Json) -> list[Json]:
    """The events that calls are translated to."""
    answer = await gateway.client.post("/v1/batch", json={"batch": list(calls)})
    assert answer.json()["success"], answer.text
    return [event for _, event in await gateway.entries("events")]


async def ignored(gateway: Gateway, *calls: Json) -> list[tuple[str, str]]:
    """The ignored parts of calls: field and reason."""
    answer = await gateway.client.post("/v1/batch", json={"batch": list(calls)})
    assert answer.status_code == 200, answer.text
    return [(each["field"], each["reason"]) for each in answer.json()["ignored"]]


async def folded(gateway: Gateway, *calls: Json) -> Any:
    """The contact u-1 after calls, each in its own request."""
    position = ""
    for call in calls:
        answer = await gateway.client.post("/v1/batch", json={"batch": [{"userId": "u-1", "type": "identify", **call}]})
        position = answer.json()["position"]
    return await gateway.get("/v1/contacts", externalId="u-1", after=position)


@pytest.mark.parametrize(
    ("user_id", "external_id"),
    [(12345.0, "12345"), (12345, "12345"), (1.5, "1.5"), (2**53, "9007199254740992"), (1e300, "1e+300"), (-7.0, "-7")],
)
async def test_number_becomes_an_identifier(unfolded: Gateway, user_id: float, external_id: str):
    """As its shortest text. Languages without integers send 12345.0."""
    (event,) = await stored(unfolded, {"type": "identify", "userId": user_id})

    assert event["externalId"] == external_id


@pytest.mark.parametrize("value", [True, False, ["u"], {"id": "u"}])
async def test_call_with_only_an_invalid_identifier_is_rejected(unfolded: Gateway, value: object):
    """It identifies no one, so it must not be reported as a success."""
    calls = [{"type": "identify", "userId": value}, {"type": "track", "userId": value}]

    answer = await unfolded.client.post("/v1/batch", json={"batch": calls})

    body = answer.json()
    assert (body["success"], body["appended"], body["rejectedCount"]) == (False, 0, 2)
    assert {(each["reason"], each["field"]) for each in body["rejected"]} == {("invalid", "userId")}


@pytest.mark.parametrize("value", [True, ["u"]])
async def test_invalid_identifier_beside_a_valid_one_is_ignored(unfolded: Gateway, value: object):
    """The visit still counts."""
    call = {"type": "track", "userId": value, "anonymousId": "v"}

    assert await ignored(unfolded, call) == [("userId", "identifier")]
    ((_, event),) = await unfolded.entries("events")
    assert (event["type"], event["visitorId"]) == ("VisitorSeen", "v")


@pytest.mark.parametrize(
    "trait",
    [
        {"email": "bob"},
        {"email": "a@b.org, c@d.org"},
        {"email": "a@b.org c@d.org@e.org"},
        {"email": None},
        {"email": ""},
        {"email": 42},
        {"email": "undefined"},
        {"avatar": "data:image/png;base64," + "A" * 70_000},
        {"avatar": {"url": "x"}},
        {"name": "N" * 70_000},
        {"name": "N" * 1023},
        {"avatar": "data:image/png;base64," + "A" * 4096},
        {"name": 42},
        {"name": "  "},
        {"bio": "x" * 9000},
        {"address": {"city": "x"}},
        {"tags": ["x"]},
        {"k" * 129: 1},
    ],
    ids=lambda trait: f"{str(trait)[:30]}",
)
async def test_invalid_trait_is_ignored(unfolded: Gateway, trait: Json):
    """The rest of the call counts, and the response names the trait."""
    call = {"type": "identify", "userId": "u", "traits": {**trait, "plan": "pro"}}

    ((field, reason),) = await ignored(unfolded, call)

    (name,) = trait
    assert (field, reason) == (f"traits.{name}"[:60], "trait")
    ((_, event),) = await unfolded.entries("events")
    assert {name: event[name] for name in event if name != "id"} == {
        "type": "VisitorIdentified",
        "externalId": "u",
        "metadata": {"plan": "pro"},
    }


async def test_longest_traits_are_ignored_if_the_event_is_too_large(unfolded: Gateway):
    """Each trait is small enough, but all together are not."""
    traits = {**{f"t{number}": "x" * (8000 + number) for number in range(10)}, "plan": "pro"}

    left_out = await ignored(unfolded, {"type": "identify", "userId": "u", "traits": traits})

    assert left_out == [("traits.t9", "trait"), ("traits.t8", "trait")]
    ((_, event),) = await unfolded.entries("events")
    assert event["metadata"] == {name: value for name, value in traits.items() if name not in {"t8", "t9"}}
    assert len(str(event)) < MAX_EVENT_BYTES


async def test_invalid_context_is_ignored(unfolded: Gateway):
    """The visit still counts."""
    page = {"url": "u" * 9000, "title": ["T"], "path": "/"}
    call = {"type": "page", "anonymousId": "v", "context": {"page": page, "ip": {"v4": "1.1.1.1"}}, "properties": "x"}

    assert sorted(await ignored(unfolded, call)) == [
        ("context.ip", "context"),
        ("context.title", "context"),
        ("context.url", "context"),
        ("properties", "context"),
    ]
    ((_, event),) = await unfolded.entries("events")
    assert event["context"] == {"path": "/"}


async def test_value_that_is_not_an_object_is_ignored(unfolded: Gateway):
    """For traits and context, including the batch's context."""
    calls = [{"type": "identify", "userId": "u", "traits": "plan=pro", "context": 7}]

    answer = await unfolded.client.post("/v1/batch", json={"batch": calls, "context": ["x"]})

    assert [each["field"] for each in answer.json()["ignored"]] == ["context", "context", "traits"]
    assert answer.json()["appended"] == 1


async def test_null_trait_is_removed(gateway: Gateway):
    """As in Segment."""
    contact = await folded(gateway, {"traits": {"plan": "pro", "seats": 5}}, {"traits": {"plan": None}})

    assert contact["metadata"] == {"seats": 5}


async def test_null_trait_is_removed_from_an_anonymous_visitor(gateway: Gateway):
    """From its metadata. A null name is ignored, and the response names the trait."""
    calls = [
        {"type": "identify", "anonymousId": "v", "traits": {"plan": "pro", "name": "Ada"}},
        {"type": "identify", "anonymousId": "v", "traits": {"plan": None, "name": None, "seats": 5}},
    ]
    answer = await gateway.client.post("/v1/batch", json={"batch": calls})

    assert [(each["index"], each["field"]) for each in answer.json()["ignored"]] == [(1, "traits.name")]
    visitor = await gateway.get("/v1/visitors/v", after=answer.json()["position"])
    assert (visitor["name"], visitor["metadata"]) == ("Ada", {"seats": 5})


@pytest.mark.parametrize(
    ("traits", "name"),
    [
        ({"firstName": "Ada", "lastName": "Lovelace"}, "Ada Lovelace"),
        ({"firstName": "Ada", "lastName": "Lovelace", "name": "Countess"}, "Countess"),
        ({"firstName": " Ada ", "lastName": ""}, "Ada"),
        ({"firstName": None, "lastName": "Lovelace"}, "Lovelace"),
        ({"firstName": "Ada"}, None),
        ({"lastName": "Lovelace"}, None),
        ({"firstName": "Ada", "lastName": 7}, None),
        ({"firstName": "", "lastName": None}, None),
    ],
)
async def test_name_is_made_of_both_parts(gateway: Gateway, traits: Json, name: str | None):
    """Both parts are metadata. They are also the name if both are given."""
    contact = await folded(gateway, {"traits": traits})

    assert contact["name"] == name
    assert contact["metadata"] == {part: traits[part] for part in ("firstName", "lastName") if traits.get(part) is not None}


@pytest.mark.parametrize("part", [{"firstName": "Augusta"}, {"lastName": "King"}])
async def test_one_part_of_a_name_keeps_the_other(gateway: Gateway, part: Json):
    """A `firstName` alone must not change "Ada Lovelace" to "Augusta"."""
    contact = await folded(gateway, {"traits": {"firstName": "Ada", "lastName": "Lovelace"}}, {"traits": part})

    assert contact["name"] == "Ada Lovelace"
    assert contact["metadata"] == {"firstName": "Ada", "lastName": "Lovelace", **part}


@pytest.mark.parametrize("name", [{}, {"name": "Countess"}])
async def test_name_and_avatar_of_an_anonymous_visitor_become_name_and_image(unfolded: Gateway, name: Json):
    """They become name and image, as for a contact. The parts of the name are metadata as well."""
    parts = {"firstName": "Ada", "lastName": "Lovelace"}
    traits = {**parts, **name, "avatar": "https://x.org/a.png"}
    (event,) = await stored(unfolded, {"type": "identify", "anonymousId": "v", "traits": traits})

    assert {field: event[field] for field in event if field != "id"} == {
        "type": "MetadataSet",
        "visitorId": "v",
        "name": name.get("name", "Ada Lovelace"),
        "image": "https://x.org/a.png",
        "metadata": parts,
    }


@pytest.mark.parametrize(
    "trait", [{"name": 42}, {"name": " "}, {"avatar": None}, {"avatar": {"url": "x"}}, {"name": "N" * 70_000}]
)
async def test_invalid_name_of_an_anonymous_visitor_is_ignored(unfolded: Gateway, trait: Json):
    """It is not stored as metadata either."""
    call = {"type": "identify", "anonymousId": "v", "traits": {**trait, "plan": "pro"}}

    assert await ignored(unfolded, call) == [(f"traits.{name}", "trait") for name in trait]
    ((_, event),) = await unfolded.entries("events")
    assert {field: event[field] for field in event if field != "id"} == {
        "type": "MetadataSet",
        "visitorId": "v",
        "metadata": {"plan": "pro"},
    }


async def test_name_of_an_anonymous_visitor_becomes_the_contacts(gateway: Gateway):
    """With the first call that has a user id."""
    traits = {"name": "Ada", "avatar": "https://x.org/a.png"}
    contact = await folded(gateway, {"userId": None, "anonymousId": "v", "traits": traits}, {"anonymousId": "v"})

    assert (contact["name"], contact["image"], contact["metadata"]) == ("Ada", "https://x.org/a.png", {})


async def test_invalid_address_leaves_a_visitor_anonymous(unfolded: Gateway):
    """It is not stored as metadata either."""
    call = {"type": "identify", "anonymousId": "v", "traits": {"email": "bob", "plan": "pro"}}

    assert await ignored(unfolded, call) == [("traits.email", "trait")]
    ((_, event),) = await unfolded.entries("events")
    assert (event["type"], event["metadata"]) == ("MetadataSet", {"plan": "pro"})


async def test_deeply_nested_values_are_ignored(unfolded: Gateway):
    """A value near the parser's limit of depth causes no internal error."""
    for depth in range(800, 1040, 5):
        nested = b"[" * depth + b"]" * depth
        body = b'{"userId": %s, "anonymousId": "v", "timestamp": %s, "traits": {"a": %s}, "context": {"ip": %s}}'
        answer = await unfolded.client.post("/v1/page", content=body % (nested, nested, nested, nested))
        assert answer.status_code in {200, 400}, (depth, answer.text)


@pytest.mark.parametrize("kind", ["alias", "group"])
async def test_unsupported_call_says_that_nothing_was_appended(unfolded: Gateway, kind: str):
    """The response is a success: for an error an SDK would send the call again or drop the batch."""
    answer = await unfolded.client.post(f"/v1/{kind}", json={"userId": "u", "previousId": "v", "groupId": "g"})

    body = answer.json()
    assert (answer.status_code, body["success"], body["appended"], body["ignoredCount"]) == (200, True, 0, 1)
    (ignored,) = body["ignored"]
    assert (ignored["index"], ignored["field"], ignored["reason"]) == (0, "type", kind)
    assert "nothing was appended" in ignored["detail"]
    assert await unfolded.entries("events") == []


async def test_response_lists_the_first_hundred_ignored_parts(unfolded: Gateway):
    """`ignoredCount` counts all of them."""
    traits: Json = {f"t{number}": {} for number in range(150)}
    calls = [{"type": "identify", "userId": "u", "traits": traits}]

    body = (await unfolded.client.post("/v1/batch", json={"batch": calls})).json()

    assert (len(body["ignored"]), body["ignoredCount"]) == (100, 150)
    metrics = (await unfolded.client.get("/metrics")).text
    assert 'kinfold_gateway_segment_ignored_total{what="trait",workspace="default"} 150.0' in metrics


async def test_response_sums_up_ignored_parts_for_debug_logs(unfolded: Gateway):
    """Ruby's SDK logs `error` even for status 200, and Node's SDK shows the headers. Valid calls have neither."""
    bad: Json = {"type": "identify", "userId": "u", "traits": {"tags": ["é"], "näme\n": {}}}

    bad_answer = await unfolded.client.post("/v1/batch", json={"batch": [bad, {"type": "track"}]})
    fine = await unfolded.client.post("/v1/batch", json={"batch": [{"type": "identify", "userId": "u"}]})

    error = bad_answer.json()["error"]
    assert error.startswith("rejected calls: 1, ignored parts of calls: 2; first, call 1: userId, anonymousId")
    assert bad_answer.headers["Kinfold-Ignored"] == error
    assert "error" not in fine.json()
    assert "Kinfold-Ignored" not in fine.headers


async def test_debug_output_of_the_python_sdk_shows_ignored_parts(
    unfolded: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    """The SDK logs the same sentence for every success. The debug output of its HTTP library has the headers."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    monkeypatch.setattr(logging.getLogger("segment"), "level", logging.DEBUG)

    def use_it() -> None:
        client = segment.Client(unfolded.secret, host=unfolded.url, upload_interval=0.01, debug=True)
        client.identify("u-1", {"email": "bob"})
        client.flush()
        client.join()

    await asyncio.to_thread(use_it)

    assert "kinfold-ignored: rejected calls: 0, ignored parts of calls: 1; first, call 0: " in capsys.readouterr().out.lower()


async def test_calls_with_the_same_message_id_are_all_appended(unfolded: Gateway):
    """The fold detects duplicates. The gateway passes ids on unchanged and drops no call."""
    calls: list[Json] = [
        {"type": "identify", "userId": "u-1", "messageId": "m"},
        {"type": "identify", "userId": "u-2", "messageId": "m"},
    ]
    body: httpx.Response = await unfolded.client.post("/v1/batch", json={"batch": calls})
    again = await unfolded.client.post("/v1/batch", json={"batch": calls[:1]})

    assert (body.json()["appended"], again.json()["appended"]) == (2, 1)
    events = [event for _, event in await unfolded.entries("events")]
    assert [(event["externalId"], event["id"]) for event in events] == [("u-1", "m"), ("u-2", "m"), ("u-1", "m")]
