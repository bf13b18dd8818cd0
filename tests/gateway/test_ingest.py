"""`POST /v1/events`: the log has the acknowledged events, and no others."""

import gzip
import json
from codecs import BOM_UTF8
from typing import Any

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.gateway.callers import MAX_BODY_BYTES
from tests.support.gateways import Gateway

SEEN = {"type": "VisitorSeen", "visitorId": "v-1"}
BAD = {"type": "VisitorSeen"}


async def log_of(gateway: Gateway) -> list[dict[str, Any]]:
    """The events of the log."""
    return [event for _, event in await gateway.entries("events")]


async def test_single_event_is_appended(unfolded: Gateway):
    """The response has its position."""
    answer = await unfolded.post(json.dumps({**SEEN, "id": "e-1"}).encode())

    assert answer.status_code == 202
    last = (await unfolded.entries("events"))[-1][0]
    assert answer.json() == {"position": last, "appended": 1, "rejected": []}
    assert await log_of(unfolded) == [{**SEEN, "id": "e-1"}]


async def test_unknown_fields_are_reported(unfolded: Gateway):
    """Contract section 2: they are ignored. A misspelt field would otherwise be lost without a word."""
    identified = {"type": "VisitorIdentified", "externalId": "u-1", "mail": "ada@example.org", "zz": None}
    answer = await unfolded.post(json.dumps([{**SEEN, "id": "e-1"}, {**identified, "id": "e-2", "token": "t"}]).encode())

    assert (answer.status_code, answer.json()["appended"], answer.json()["ignoredCount"]) == (202, 2, 2)
    assert answer.json()["ignored"] == [
        {
            "index": 1,
            "field": "mail",
            "reason": "unknown-field",
            "detail": "mail: expected a field of VisitorIdentified, got 'mail'; the nearest is 'email'",
        },
        {"index": 1, "field": "zz", "reason": "unknown-field", "detail": "zz: expected a field of VisitorIdentified, got 'zz'"},
    ]
    assert [event["id"] for event in await log_of(unfolded)] == ["e-1", "e-2"]


async def test_response_lists_a_bounded_number_of_unknown_fields(unfolded: Gateway):
    """An event of 60 KB may have thousands of them, with long names."""
    fields = {f"{'x' * 200}{number}": 1 for number in range(250)}
    answer = await unfolded.post(json.dumps({**SEEN, **fields}).encode())

    assert (answer.json()["ignoredCount"], len(answer.json()["ignored"])) == (250, 100)
    assert len(answer.content) < 40_000


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'[{"type":"VisitorSeen","visitorId":"a"},{"type":"VisitorSeen","visitorId":"b"}]', {}),
        (b'{"type":"VisitorSeen","visitorId":"a"}\n\n{"type":"VisitorSeen","visitorId":"b"}\r\n', {}),
        (
            b'{"type":"VisitorSeen","visitorId":"a"}\n{"type":"VisitorSeen","visitorId":"b"}',
            {"Content-Type": "application/x-ndjson"},
        ),
        (
            gzip.compress(b'{"type":"VisitorSeen","visitorId":"a"}\n')
            + gzip.compress(b'{"type":"VisitorSeen","visitorId":"b"}'),
            {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"},
        ),
        (BOM_UTF8 + b'[{"type":"VisitorSeen","visitorId":"a"},{"type":"VisitorSeen","visitorId":"b"}]', {}),
        (BOM_UTF8 + b'{"type":"VisitorSeen","visitorId":"a"}\n{"type":"VisitorSeen","visitorId":"b"}\n', {}),
        (
            BOM_UTF8 + b'\n{"type":"VisitorSeen","visitorId":"a"}\n{"type":"VisitorSeen","visitorId":"b"}',
            {"Content-Type": "application/x-ndjson"},
        ),
        (
            gzip.compress(BOM_UTF8 + b'{"type":"VisitorSeen","visitorId":"a"}\n{"type":"VisitorSeen","visitorId":"b"}'),
            {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"},
        ),
    ],
    ids=["array", "lines", "ndjson", "gzip", "array, bom", "lines, bom", "ndjson, bom", "gzip, bom"],
)
async def test_events_are_appended_in_order(unfolded: Gateway, body: bytes, headers: dict[str, str]):
    """As an array, as lines, and as gzip with several members. A byte order mark is skipped."""
    answer = await unfolded.client.post("/v1/events", content=body, headers=headers)

    assert (answer.status_code, answer.json()["appended"]) == (202, 2), answer.text
    assert [event["visitorId"] for event in await log_of(unfolded)] == ["a", "b"]


async def test_bytes_of_an_event_are_kept(unfolded: Gateway, redis: Redis):
    """Spaces, escapes, other alphabets, repeated fields and numbers that Python cannot represent."""
    sent = [
        '{ "type":"VisitorSeen", "visitorId" : "v-1", "id":"e-1", "context": {"title": "Zürich 東京 🐦"} }',
        r'{"type":"VisitorSeen","visitorId":"v-\u00fc","id":"e-2","id":"e-3","newer":1e999}',
    ]
    answer = await unfolded.post("\n".join(sent).encode())

    assert answer.status_code == 202, answer.text
    entries: Any = await redis.xrange(key("default", "events"))
    assert [fields[b"event"].decode() for _, fields in entries] == sent


async def test_index_counts_all_events_of_a_long_request(unfolded: Gateway):
    """Events are checked in groups."""
    events: list[dict[str, Any]] = [{**SEEN, "id": f"e-{number}"} for number in range(600)]
    events[249], events[250], events[599] = BAD, {**events[250], "page": "/"}, BAD
    answer = (await unfolded.post(*events, partial="true")).json()

    assert [each["index"] for each in answer["rejected"]] == [249, 599]
    assert [each["index"] for each in answer["ignored"]] == [250]
    assert [event["id"] for event in await log_of(unfolded)] == [event["id"] for event in events if "id" in event]


async def test_pretty_printed_event_is_one_event(unfolded: Gateway):
    assert (await unfolded.post(json.dumps(SEEN, indent=2).encode())).json()["appended"] == 1


async def test_event_without_an_id_gets_one(unfolded: Gateway):
    """Each event gets a different id. Unknown fields of newer producers are kept."""
    await unfolded.put({**SEEN, "newer": {"nested": [1]}}, {**SEEN, "id": None}, {**SEEN, "id": ""}, {**SEEN, "id": "mine"})

    events = await log_of(unfolded)
    assert events[0]["newer"] == {"nested": [1]}
    assert len({event["id"] for event in events}) == 4
    assert all(event["id"] for event in events)
    assert events[3]["id"] == "mine"


async def test_one_invalid_event_rejects_the_request(unfolded: Gateway):
    """422. The error has the index, the field, and what was expected and got. No event is appended."""
    answer = await unfolded.post(SEEN, BAD, SEEN)

    assert answer.status_code == 422
    error = answer.json()
    assert error["error"] == "invalid-events"
    assert error["detail"].startswith("events[1]: visitorId: expected a string of 1 to 255 characters, got nothing")
    assert error["requestId"] == answer.headers["X-Request-Id"]
    assert (error["appended"], error["rejectedCount"]) == (0, 1)
    assert error["rejected"] == [
        {
            "index": 1,
            "reason": "invalid",
            "field": "visitorId",
            "expected": "a string of 1 to 255 characters",
            "got": "nothing",
            "detail": "visitorId: expected a string of 1 to 255 characters, got nothing",
        }
    ]
    assert await log_of(unfolded) == []


@pytest.mark.parametrize(
    ("event", "hint"),
    [
        (
            {"type": "VisitorIdentified", "visitorId": "x", "userId": "u-5"},
            "; `userId` is not a field of VisitorIdentified (did you mean `externalId`?)",
        ),
        (
            {"type": "VisitorIdentified", "distinct_id": "u-5", "traits": {}},
            (
                "; `distinct_id` is not a field of VisitorIdentified (did you mean `externalId`?)"
                "; `traits` is not a field of VisitorIdentified (did you mean `metadata`?)"
            ),
        ),
        (
            {"type": "VisitorSeen", "distinct_id": "d-5", "properties": {}},
            (
                "; `distinct_id` is not a field of VisitorSeen (did you mean `visitorId`?)"
                "; `properties` is not a field of VisitorSeen (did you mean `context`?)"
            ),
        ),
        ({"type": "VisitorSeen", "vistorId": "x"}, "; `vistorId` is not a field of VisitorSeen (did you mean `visitorId`?)"),
        ({"type": "VisitorSeen", "token": "x"}, ""),  # a field of a page
        ({"type": "VisitorSeen", "zzz": 1}, "; `zzz` is not a field of VisitorSeen"),
        (
            {"type": "VisitorSeen", "z1": 1, "z2": 1, "z" * 90: 1, "z4": 1, "z5": 1},
            (
                "; `z1` is not a field of VisitorSeen; `z2` is not a field of VisitorSeen"
                f"; `{'z' * 60}` is not a field of VisitorSeen; and 2 more unknown fields"
            ),
        ),
        ({"type": "Sung", "userId": "u-5"}, ""),
    ],
)
async def test_rejection_names_the_fields_that_the_type_does_not_have(unfolded: Gateway, event: dict[str, Any], hint: str):
    """They are often where the missing value is. The names of Segment and PostHog are known."""
    answer = (await unfolded.post(event)).json()

    (rejected,) = answer["rejected"]
    reason = f"{rejected['field']}: expected {rejected['expected']}, got {rejected['got']}"
    assert rejected["detail"] == reason + hint
    assert answer["detail"] == f"events[0]: {reason}{hint}; no event of the request was appended"


async def test_value_that_looks_like_a_sentence_stays_in_got(unfolded: Gateway):
    """`got` is the value itself and is never parsed out of `detail`."""
    answer = await unfolded.post({"type": "a, got b: expected c, got d"})

    (rejected,) = answer.json()["rejected"]
    assert rejected["field"] == "type"
    assert rejected["got"] == "'a, got b: expected c, got d'"


async def test_partial_appends_valid_events_and_lists_the_others(unfolded: Gateway):
    """`?partial=true` is for senders that pass on events of others."""
    answer = await unfolded.post(BAD, SEEN, {"type": "Sung"}, SEEN, partial="true")

    assert answer.status_code == 202
    body = answer.json()
    assert body["appended"] == 2
    assert [(each["index"], each["reason"]) for each in body["rejected"]] == [(0, "invalid"), (2, "unknown-type")]
    assert len(await log_of(unfolded)) == 2


async def test_partial_without_valid_events_appends_nothing(unfolded: Gateway):
    """The position is null."""
    assert (await unfolded.post(BAD, partial="true")).json()["position"] is None


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"type": "VisitorSeen", "visitorId": "null"}, "blocked-identifier"),
        ({"type": "VisitorIdentified", "visitorId": "v"}, "no-identifier"),
        ({"type": "MetadataSet", "visitorId": "v", "email": "a@b.c"}, "invalid"),
        ({"type": "MetadataSet", "visitorId": "v", "metadata": {"a": []}}, "invalid"),
        ({"type": "MetadataSet", "visitorId": "v", "metadata": {"a": 1}, "hash": "x"}, "hash-mismatch"),
        ({"type": "VisitorSeen", "visitorId": "v", "at": "yesterday"}, "invalid"),
        ({"type": "VisitorSeen", "visitorId": "v\0"}, "invalid"),
        ({"type": "VisitorSeen", "visitorId": "v", "padding": "x" * 65_536}, "too-large"),
    ],
)
async def test_event_that_the_fold_would_reject_is_rejected(unfolded: Gateway, event: dict[str, Any], reason: str):
    """With the same reason. So no event that got 202 is rejected later because of its form."""
    answer = await unfolded.post(event)

    assert answer.status_code == 422
    rejected = answer.json()["rejected"][0]
    assert rejected["reason"] == reason
    assert rejected["detail"] == f"{rejected['field']}: expected {rejected['expected']}, got {rejected['got']}"


async def test_identifier_that_the_workspace_blocks_is_rejected(redis: Redis, unfolded: Gateway):
    await redis.sadd(key("default", "blocked-identifiers"), "/^test-/")

    assert (await unfolded.post({**SEEN, "visitorId": "test-1"})).json()["rejected"][0]["reason"] == "blocked-identifier"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"[1, 2", {}, 400),
        (b"[" * 200_000, {}, 400),
        (b"{", {}, 422),
        (b'"x"', {}, 422),
        (b"\xff\xfe", {}, 422),
        (b"no gzip", {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(b"{}")[:-4], {"Content-Encoding": "gzip"}, 400),
        (b"{}", {"Content-Encoding": "br"}, 415),
        (b" " * (MAX_BODY_BYTES + 1), {}, 413),
        (gzip.compress(b" " * (MAX_BODY_BYTES + 1)), {"Content-Encoding": "gzip"}, 413),
        (b"[" + b"1," * 30_000 + b"1]", {}, 413),
    ],
    # Fixed names: gzip output contains the time, and pytest-xdist needs the same names in every worker.
    ids=[
        "nothing",
        "array-cut-short",
        "too-deep",
        "object-cut-short",
        "string",
        "not-utf8",
        "not-gzip",
        "gzip-cut-short",
        "unknown-encoding",
        "too-large",
        "too-large-decompressed",
        "too-many",
    ],
)
async def test_body_without_events_is_rejected(unfolded: Gateway, body: bytes, headers: dict[str, str], status: int):
    """The error says what is wrong."""
    answer = await unfolded.client.post("/v1/events", content=body, headers=headers)

    assert answer.status_code == status
    assert answer.json()["detail"]
    assert await log_of(unfolded) == []


async def test_body_of_the_maximum_size_is_accepted(unfolded: Gateway):
    """1 MiB, to the byte."""
    event = json.dumps(SEEN).encode()
    assert (await unfolded.post(event + b" " * (MAX_BODY_BYTES - len(event)))).status_code == 202


async def test_request_appends_nothing_if_redis_is_full(redis: Redis, unfolded: Gateway):
    """503 with Retry-After. None of its events is in the log."""
    await unfolded.put(SEEN)
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", used // 2)
    try:
        answer = await unfolded.post(SEEN, SEEN)
    finally:
        await redis.config_set("maxmemory", 0)

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert len(await log_of(unfolded)) == 1
    assert (await unfolded.post(SEEN)).status_code == 202


async def test_request_id_is_kept_or_created(unfolded: Gateway):
    """The response has it as a header, and an error has it in its body."""
    given = await unfolded.client.get("/v1/nowhere", headers={"X-Request-Id": "abc-1"})
    odd = await unfolded.client.get("/healthz", headers={"X-Request-Id": "no spaces, please"})

    assert (given.status_code, given.headers["X-Request-Id"], given.json()["requestId"]) == (404, "abc-1", "abc-1")
    assert len(odd.headers["X-Request-Id"]) == 24
