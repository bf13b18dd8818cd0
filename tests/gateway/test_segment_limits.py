"""What a body may make of itself on its way through Segment's API and `?partial=true` (docs/security.md)."""

import json
import time
from typing import Any

import pytest

from kinfold_schemas.keys import key
from tests.support.gateways import Gateway

MANY = {f"k{number}": number for number in range(45_000)}
CALLS = [{"type": "identify", "userId": "u"}, {"type": "page", "anonymousId": "v"}] * 2000


async def cpu_s(gateway: Gateway, batch: dict[str, Any]) -> float:
    """The CPU time of this process, which runs the gateway, for a batch that is accepted."""
    content = json.dumps(batch, separators=(",", ":"))
    before = time.process_time()
    answer = await gateway.client.post("/v1/batch", content=content)
    assert answer.status_code == 200, answer.text
    return time.process_time() - before


@pytest.mark.parametrize("context", [MANY, {"page": MANY}, {"traits": MANY}], ids=["context", "page", "traits"])
async def test_context_of_a_batch_costs_once(unfolded: Gateway, context: dict[str, Any]):
    """Only the fields that are read are copied to its calls: 45,000 others × 4,000 calls would take seconds."""
    await cpu_s(unfolded, {"batch": CALLS})  # the first one also warms up
    plain = await cpu_s(unfolded, {"batch": CALLS})

    assert await cpu_s(unfolded, {"context": context, "batch": CALLS}) < 4 * plain


async def test_known_fields_of_a_shared_context_count(unfolded: Gateway):
    """Those of the call win. Traits are the call's own: nobody shares a profile."""
    shared = {"ip": "::1", "locale": "de", "page": {"url": "/a", "other": 1}, "traits": {"plan": "pro"}, "other": 1}
    calls = [
        {"type": "page", "anonymousId": "v", "context": {"locale": "fr"}, "properties": {"title": "T", "url": "/b"}},
        {"type": "identify", "userId": "u", "context": {"traits": {"city": "Paris"}}},
        {"type": "identify", "userId": "w"},
    ]
    await unfolded.client.post("/v1/batch", json={"context": shared, "batch": calls})

    seen, paris, bare = [event for _, event in await unfolded.entries("events")]
    assert seen["context"] == {"url": "/a", "title": "T", "ip": "::1", "locale": "fr"}
    assert paris["metadata"] == {"city": "Paris"}
    assert "metadata" not in bare


async def test_calls_do_not_multiply_what_they_share(unfolded: Gateway):
    """Five fields of 8 KB in the shared context, times 1,000 calls, are 40 MB of events out of a body of 70 KB."""
    page = dict.fromkeys(("url", "referrer", "title", "path", "search"), "x" * 8000)
    calls = [{"type": "track", "anonymousId": "v"}] * 1000

    answer = await unfolded.client.post("/v1/batch", json={"context": {"page": page}, "batch": calls})

    assert answer.status_code == 413
    assert answer.json()["detail"] == "batch: expected calls that make at most 8388608 bytes of events together, got more"
    assert await unfolded.redis.xlen(key("default", "events")) == 0


async def test_ignored_parts_are_counted_and_the_first_listed(unfolded: Gateway):
    traits: dict[str, list[int]] = {f"t{number}": [] for number in range(20_000)}

    answer = await unfolded.client.post("/v1/identify", json={"userId": "u", "traits": traits})

    body = answer.json()
    assert (answer.status_code, body["ignoredCount"], len(body["ignored"])) == (200, 20_000, 100)
    assert body["error"].startswith("rejected calls: 0, ignored parts of calls: 20000; first, call 0: traits.t0: ")
    assert len(answer.content) < 30_000
    metrics = (await unfolded.client.get("/metrics")).text
    assert 'kinfold_gateway_segment_ignored_total{what="trait",workspace="default"} 20000.0' in metrics


@pytest.mark.parametrize("path", ["/v1/events", "/v1/batch"])
async def test_rejections_are_counted_and_the_first_listed(unfolded: Gateway, path: str):
    """A few bytes each would make an answer of megabytes."""
    body = f"[{','.join(['1'] * 20_000)}]"
    if path == "/v1/batch":
        body = f'{{"batch":{body}}}'

    answer = await unfolded.client.post(path, content=body, params={"partial": "true"} if path == "/v1/events" else {})

    found = answer.json()
    assert (found["appended"], found["rejectedCount"], len(found["rejected"])) == (0, 20_000, 100)
    assert [each["index"] for each in found["rejected"]] == list(range(100))
    assert len(answer.content) < 30_000
    metrics = (await unfolded.client.get("/metrics")).text
    assert 'kinfold_gateway_refused_total{reason="invalid",workspace="default"} 20000.0' in metrics


async def test_workspace_with_a_pattern_that_does_not_work_says_so(unfolded: Gateway):
    """A member of the set that came there by hand. The projector does not serve the workspace either."""
    await unfolded.redis.sadd(key("default", "blocked-identifiers"), r"/(a)\1/")

    answer = await unfolded.post({"type": "VisitorSeen", "visitorId": "v"})

    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("blocked identifiers: expected a regular expression of RE2")
