"""What calls over Segment's API say about a person (`services.gateway.segment_traits`), and what of it is left out."""

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
    """The events that calls come to."""
    answer = await gateway.client.post("/v1/batch", json={"batch": list(calls)})
    assert answer.json()["success"], answer.text
    return [event for _, event in await gateway.entries("events")]


async def ignored(gateway: Gateway, *calls: Json) -> list[tuple[str, str]]:
    """What is left out of calls: field and reason."""
    answer = await gateway.client.post("/v1/batch", json={"batch": list(calls)})
    assert answer.status_code == 200, answer.text
    return [(each["field"], each["reason"]) for each in answer.json()["ignored"]]


async def folded(gateway: Gateway, *calls: Json) -> Any:
    """The contact u-1 after calls, one request each."""
    position = ""
    for call in calls:
        answer = await gateway.client.post("/v1/batch", json={"batch": [{"userId": "u-1", "type": "identify", **call}]})
        position = answer.json()["position"]
    return await gateway.get("/v1/contacts", externalId="u-1", after=position)


@pytest.mark.parametrize(
    ("user_id", "external_id"),
    [(12345.0, "12345"), (12345, "12345"), (1.5, "1.5"), (2**53, "9007199254740992"), (1e300, "1e+300"), (-7.0, "-7")],
)
async def test_a_number_is_an_identifier_as_its_shortest_text(unfolded: Gateway, user_id: float, external_id: str):
    """A language without integers sends 12345.0."""
    (event,) = await stored(unfolded, {"type": "identify", "userId": user_id})

    assert event["externalId"] == external_id


@pytest.mark.parametrize("value", [True, False, ["u"], {"id": "u"}])
async def test_what_is_no_identifier_is_refused_where_nothing_else_names_somebody(unfolded: Gateway, value: object):
    """Success would be a lie: nobody was identified."""
    calls = [{"type": "identify", "userId": value}, {"type": "track", "userId": value}]

    answer = await unfolded.client.post("/v1/batch", json={"batch": calls})

    body = answer.json()
    assert (body["success"], body["appended"], body["rejectedCount"]) == (False, 0, 2)
    assert {(each["reason"], each["field"]) for each in body["rejected"]} == {("invalid", "userId")}


@pytest.mark.parametrize("value", [True, ["u"]])
async def test_what_is_no_identifier_is_said_where_something_else_names_somebody(unfolded: Gateway, value: object):
    """The visit counts."""
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
        {"name": 42},
        {"name": "  "},
        {"bio": "x" * 9000},
        {"address": {"city": "x"}},
        {"tags": ["x"]},
        {"k" * 129: 1},
    ],
    ids=lambda trait: f"{str(trait)[:30]}",
)
async def test_one_bad_trait_costs_that_trait(unfolded: Gateway, trait: Json):
    """The rest of the identification stays, and the answer names the trait."""
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


async def test_traits_that_are_too_many_bytes_together_cost_the_longest(unfolded: Gateway):
    """Each would fit, and an event of all would not."""
    traits = {**{f"t{number}": "x" * (8000 + number) for number in range(10)}, "plan": "pro"}

    left_out = await ignored(unfolded, {"type": "identify", "userId": "u", "traits": traits})

    assert left_out == [("traits.t9", "trait"), ("traits.t8", "trait")]
    ((_, event),) = await unfolded.entries("events")
    assert event["metadata"] == {name: value for name, value in traits.items() if name not in {"t8", "t9"}}
    assert len(str(event)) < MAX_EVENT_BYTES


async def test_a_page_that_does_not_fit_into_the_context_is_said(unfolded: Gateway):
    """A visit is one all the same."""
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


async def test_objects_that_are_none_are_said(unfolded: Gateway):
    """Traits and context of another type, the batch's own included."""
    calls = [{"type": "identify", "userId": "u", "traits": "plan=pro", "context": 7}]

    answer = await unfolded.client.post("/v1/batch", json={"batch": calls, "context": ["x"]})

    assert [each["field"] for each in answer.json()["ignored"]] == ["context", "context", "traits"]
    assert answer.json()["appended"] == 1


async def test_a_trait_that_is_null_is_removed(gateway: Gateway):
    """As Segment has it."""
    contact = await folded(gateway, {"traits": {"plan": "pro", "seats": 5}}, {"traits": {"plan": None}})

    assert contact["metadata"] == {"seats": 5}


async def test_a_trait_that_is_null_is_removed_from_an_anonymous_visitor(gateway: Gateway):
    """Its traits are metadata, name and avatar included."""
    calls = [
        {"type": "identify", "anonymousId": "v", "traits": {"plan": "pro", "name": "Ada"}},
        {"type": "identify", "anonymousId": "v", "traits": {"plan": None, "name": None, "seats": 5}},
    ]
    answer = await gateway.client.post("/v1/batch", json={"batch": calls})

    visitor = await gateway.get("/v1/visitors/v", after=answer.json()["position"])
    assert visitor["metadata"] == {"seats": 5}


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
async def test_the_parts_of_a_name(gateway: Gateway, traits: Json, name: str | None):
    """Both are kept as metadata, and make the name where both are told."""
    contact = await folded(gateway, {"traits": traits})

    assert contact["name"] == name
    assert contact["metadata"] == {part: traits[part] for part in ("firstName", "lastName") if traits.get(part) is not None}


@pytest.mark.parametrize("part", [{"firstName": "Augusta"}, {"lastName": "King"}])
async def test_one_part_of_a_name_does_not_wipe_the_other(gateway: Gateway, part: Json):
    """`firstName` alone made "Augusta" of "Ada Lovelace"."""
    contact = await folded(gateway, {"traits": {"firstName": "Ada", "lastName": "Lovelace"}}, {"traits": part})

    assert contact["name"] == "Ada Lovelace"
    assert contact["metadata"] == {"firstName": "Ada", "lastName": "Lovelace", **part}


async def test_an_anonymous_visitors_name_is_metadata(unfolded: Gateway):
    """A visitor has no other place for it."""
    traits = {"firstName": "Ada", "lastName": "Lovelace", "avatar": "https://x.org/a.png"}
    (event,) = await stored(unfolded, {"type": "identify", "anonymousId": "v", "traits": traits})

    assert event["metadata"] == {**traits, "name": "Ada Lovelace"}


async def test_a_bad_address_leaves_a_visitor_anonymous(unfolded: Gateway):
    """It is no metadata either."""
    call = {"type": "identify", "anonymousId": "v", "traits": {"email": "bob", "plan": "pro"}}

    assert await ignored(unfolded, call) == [("traits.email", "trait")]
    ((_, event),) = await unfolded.entries("events")
    assert (event["type"], event["metadata"]) == ("MetadataSet", {"plan": "pro"})


async def test_what_is_nested_as_deep_as_can_be_read_is_left_out(unfolded: Gateway):
    """What can be parsed can be spoken of, however near to the parser's end it is."""
    for depth in range(800, 1040, 5):
        nested = b"[" * depth + b"]" * depth
        body = b'{"userId": %s, "anonymousId": "v", "timestamp": %s, "traits": {"a": %s}, "context": {"ip": %s}}'
        answer = await unfolded.client.post("/v1/page", content=body % (nested, nested, nested, nested))
        assert answer.status_code in {200, 400}, (depth, answer.text)


@pytest.mark.parametrize("kind", ["alias", "group"])
async def test_calls_that_kinfold_does_not_have_say_what_they_do_not(unfolded: Gateway, kind: str):
    """The answer is a success, since an SDK would send it again or drop the batch; and it says that nothing was done."""
    answer = await unfolded.client.post(f"/v1/{kind}", json={"userId": "u", "previousId": "v", "groupId": "g"})

    body = answer.json()
    assert (answer.status_code, body["success"], body["appended"], body["ignoredCount"]) == (200, True, 0, 1)
    (said,) = body["ignored"]
    assert (said["index"], said["field"], said["reason"]) == (0, "type", kind)
    assert "nothing was appended" in said["detail"]
    assert await unfolded.entries("events") == []


async def test_a_list_of_what_was_ignored_has_an_end(unfolded: Gateway):
    """The first hundred, and how many there are."""
    traits: Json = {f"t{number}": {} for number in range(150)}
    calls = [{"type": "identify", "userId": "u", "traits": traits}]

    body = (await unfolded.client.post("/v1/batch", json={"batch": calls})).json()

    assert (len(body["ignored"]), body["ignoredCount"]) == (100, 150)
    metrics = (await unfolded.client.get("/metrics")).text
    assert 'kinfold_gateway_segment_ignored_total{what="trait",workspace="default"} 150.0' in metrics


async def test_what_was_ignored_is_summed_up_for_debug_logs(unfolded: Gateway):
    """Ruby's SDK logs `error` of an answer with status 200, Node's shows the headers. Nothing is said where all is well."""
    bad: Json = {"type": "identify", "userId": "u", "traits": {"tags": ["é"], "näme\n": {}}}

    told = await unfolded.client.post("/v1/batch", json={"batch": [bad, {"type": "track"}]})
    fine = await unfolded.client.post("/v1/batch", json={"batch": [{"type": "identify", "userId": "u"}]})

    error = told.json()["error"]
    assert error.startswith("1 calls were refused and 2 parts of calls ignored, the first in call 1: userId, anonymousId")
    assert told.headers["Kinfold-Ignored"] == error
    assert "error" not in fine.json()
    assert "Kinfold-Ignored" not in fine.headers


async def test_the_python_sdks_wire_log_shows_it(unfolded: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """The SDK's own log has one sentence for every success; the HTTP library's, that it is debugged with, has the headers."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    monkeypatch.setattr(logging.getLogger("segment"), "level", logging.DEBUG)

    def use_it() -> None:
        client = segment.Client(unfolded.secret, host=unfolded.url, upload_interval=0.01, debug=True)
        client.identify("u-1", {"email": "bob"})
        client.flush()
        client.join()

    await asyncio.to_thread(use_it)

    assert "kinfold-ignored: 0 calls were refused and 1 parts of calls ignored" in capsys.readouterr().out.lower()


async def test_two_users_under_one_message_id_are_both_appended(unfolded: Gateway):
    """Whether an id was there before is for the fold to say: the gateway passes ids on as they are, and drops none."""
    calls: list[Json] = [
        {"type": "identify", "userId": "u-1", "messageId": "m"},
        {"type": "identify", "userId": "u-2", "messageId": "m"},
    ]
    body: httpx.Response = await unfolded.client.post("/v1/batch", json={"batch": calls})
    again = await unfolded.client.post("/v1/batch", json={"batch": calls[:1]})

    assert (body.json()["appended"], again.json()["appended"]) == (2, 1)
    events = [event for _, event in await unfolded.entries("events")]
    assert [(event["externalId"], event["id"]) for event in events] == [("u-1", "m"), ("u-2", "m"), ("u-1", "m")]
