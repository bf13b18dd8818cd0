"""Health, readiness, metrics, the OpenAPI document, outages, and how the gateway stops."""

import asyncio
import base64
import hashlib
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import websockets
from redis.asyncio import Redis

from kinfold_schemas.keys import WORKSPACES, key
from kinfold_services.gateway import operations
from kinfold_services.gateway.callers import MAX_BODY_BYTES
from kinfold_services.server.embedded import EmbeddedServer
from kinfold_services.state.status import WorkspaceReport
from tests.support.engines import free_port
from tests.support.gateways import PATIENCE_S, Gateway, GatewayProcess, serving
from tests.support.waiting import wait_until_sync

SEEN = {"type": "VisitorSeen", "visitorId": "v-1"}


@pytest.fixture
def port() -> int:
    """Give a free port."""
    return free_port()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """Give a server for this test alone."""
    with EmbeddedServer.start(tmp_path / "data", fsync="always") as server:
        yield server


async def test_readiness_has_the_projectors_lag(unfolded: Gateway):
    """No entry was folded yet, and one waits."""
    await unfolded.put(SEEN)

    assert await unfolded.get("/readyz") == {
        "ready": True,
        "redis": True,
        "lag": 1,
        "lastCommitAgeMs": None,
        "entriesLost": 0,
        "damaged": [],
    }


async def test_every_answer_tells_browsers_to_run_and_frame_nothing(unfolded: Gateway):
    """Errors too. The one style of /docs is permitted by its hash."""
    for path in ("/docs", "/openapi.json", "/kinfold.js", "/healthz", "/v1/contacts", "/none", "/sign-in", "/people"):
        answer = await unfolded.client.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        assert {"default-src 'none'", "frame-ancestors 'none'"} <= {each.strip() for each in policy.split(";")}, path
        assert "unsafe" not in policy, path

    docs = await unfolded.client.get("/docs")
    (style,) = re.findall("<style>(.*?)</style>", docs.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in docs.headers["Content-Security-Policy"]
    assert re.findall(r"<script|style=|\bon\w+=", docs.text) == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_and_readiness_answer_head(gateway: Gateway, path: str):
    """With the same status and no body, for monitors that send HEAD."""
    answer = await gateway.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


async def test_readiness_has_the_age_of_the_last_commit(gateway: Gateway):
    """The projector has just folded the whole log."""
    await gateway.get("/v1/visitors/v-1", after=await gateway.put(SEEN))

    readiness = await gateway.get("/readyz")

    assert (readiness["lag"], 0 <= readiness["lastCommitAgeMs"] < 10_000) == (0, True)


@pytest.mark.parametrize("path", ["/metrics", "/sign-in", "/docs", "/kinfold.js", "/static/kinfold.css"])
async def test_text_names_its_charset_once(unfolded: Gateway, path: str):
    """The framework adds it to every text."""
    answer = await unfolded.client.get(path)

    assert answer.headers["Content-Type"].count("charset=utf-8") == 1


async def test_metrics_count_events_and_outcomes(redis: Redis, gateway: Gateway):
    """Accepted and rejected events, outcomes and durations. An invalid name of a workspace is skipped."""
    await redis.sadd(WORKSPACES, "no name!")
    await gateway.post(SEEN, {"type": "VisitorSeen"}, partial="true")
    await gateway.get("/v1/visitors/v-1", after=await gateway.put(SEEN))

    metrics = (await gateway.client.get("/metrics")).text

    for line in (
        'kinfold_gateway_events_total{type="VisitorSeen",workspace="default"} 2.0',
        'kinfold_gateway_refused_total{reason="invalid",workspace="default"} 1.0',
        'kinfold_entries_total{outcome="folded",workspace="default"} 2.0',
        'kinfold_entries_total{outcome="rejected",workspace="default"} 0.0',
        'kinfold_lag_entries{workspace="default"} 0.0',
        'kinfold_id_reused_total{workspace="default"} 0.0',
        'kinfold_untrusted_total{workspace="default"} 0.0',
        'kinfold_visitors{workspace="default"} 1.0',
        "kinfold_gateway_append_seconds_count 2.0",
    ):
        assert line in metrics, metrics
    assert 'kinfold_batch_seconds_count{workspace="default"}' in metrics


async def test_gateway_answers_503_while_redis_is_stopped(tmp_path: Path):
    """With Retry-After, on every route that needs Redis. It recovers when Redis is back. `/healthz` always answers 200."""
    with EmbeddedServer.start(tmp_path) as server:
        redis = Redis.from_url(server.url)
        async with redis, serving(server.url, redis) as gateway:
            await gateway.put(SEEN)
            server.stop()
            for path in ("/v1/contacts", "/v1/visitors/v-1", "/v1/changes", "/metrics"):
                answer = await gateway.client.get(path)
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1"), path
            answer = await gateway.post(SEEN)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert answer.json()["error"] == "unavailable"
            ready = await gateway.client.get("/readyz")
            assert (ready.status_code, ready.json()["redis"]) == (503, False)
            assert (await gateway.client.head("/readyz")).status_code == 503
            assert (await gateway.client.get("/healthz")).status_code == 200

            with EmbeddedServer.start(tmp_path):
                assert (await gateway.post(SEEN)).status_code == 202
                assert (await gateway.client.get("/readyz")).status_code == 200


async def test_metrics_contain_every_one_of_many_workspaces(unfolded: Gateway, redis: Redis):
    """They are read a hundred at a time."""
    names = {f"many-{number}" for number in range(250)}
    for name in names:
        await redis.xadd(key(name, "events"), {"event": json.dumps(SEEN)})
    await redis.sadd(WORKSPACES, *names)
    try:
        text = (await unfolded.client.get("/metrics")).text
    finally:
        await redis.srem(WORKSPACES, *names)

    assert names <= set(re.findall(r'^kinfold_lag_entries{workspace="(.+)"} 1\.0$', text, re.MULTILINE))


async def test_gateway_is_ready_if_many_workspaces_take_long(unfolded: Gateway, monkeypatch: pytest.MonkeyPatch):
    """Otherwise a load balancer takes away all gateways at once, while Redis is there."""

    async def takes_long(_: object, _workspaces: object) -> list[WorkspaceReport]:
        raise TimeoutError

    monkeypatch.setattr(operations, "read_reports", takes_long)
    ready = await unfolded.get("/readyz")
    assert (ready["ready"], ready["redis"], ready["lag"]) == (True, True, None)


@pytest.mark.slow
async def test_gateway_answers_503_while_redis_hangs(tmp_path: Path):
    """On every kind of route, also for a WebSocket. A request does not hang as long as Redis does."""
    with EmbeddedServer.start(tmp_path) as server:
        redis = Redis.from_url(server.url)
        async with redis, serving(server.url, redis) as gateway:
            process_id = (await redis.info("server"))["process_id"]
            os.kill(process_id, signal.SIGSTOP)
            try:
                answers = await asyncio.gather(
                    gateway.client.get("/v1/contacts"),
                    gateway.client.get("/v1/changes"),
                    gateway.post(SEEN),
                    gateway.client.post("/v1/track", json={"anonymousId": "v-1"}),
                    refused_socket(gateway),
                )
            finally:
                os.kill(process_id, signal.SIGCONT)
            assert [(each.status_code, each.headers["Retry-After"]) for each in answers] == [(503, "1")] * len(answers)
            assert (await gateway.post(SEEN)).status_code == 202


async def refused_socket(gateway: Gateway, query: str = "") -> Any:
    """The response that rejects a WebSocket."""
    headers = {"Authorization": f"Bearer {gateway.secret}"}
    url = f"{gateway.url.replace('http', 'ws')}/v1/changes/ws{query}"
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(url, additional_headers=headers, open_timeout=PATIENCE_S)
    return refused.value.response


@pytest.mark.parametrize(("query", "status"), [("?since=soon", 400), ("?snapshot=perhaps", 400), ("/nowhere", 404)])
async def test_websocket_is_rejected_with_a_status(unfolded: Gateway, query: str, status: int):
    """With the status that an HTTP request would get."""
    assert (await refused_socket(unfolded, query)).status_code == status


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_stops_with_an_open_stream(server: EmbeddedServer, port: int, tmp_path: Path, number: signal.Signals):
    """`kinfold gateway` exits with status 0, even if a reader of the feed does not read. Its log has no keys."""
    key = make_key(server.url)
    log = tmp_path / "log"
    with GatewayProcess(server.url, port, log) as gateway, httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as client:
        headers = {"Authorization": f"Bearer {key}"}
        assert client.post("/v1/events", json=SEEN, headers={**headers, "X-Request-Id": "find-me"}).status_code == 202
        with client.stream("GET", "/v1/changes", headers=headers):
            gateway.process.send_signal(number)
            assert gateway.process.wait(PATIENCE_S) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    access = next(line for line in lines if line.get("request_id") == "find-me")
    assert (access["method"], access["path"], access["status"]) == ("POST", "/v1/events", 202)
    assert lines[0]["event"] == "gateway listens"
    assert lines[-1]["event"] == "gateway stopped"
    assert key not in log.read_text()


@pytest.mark.slow
def test_port_in_use_is_reported(server: EmbeddedServer, tmp_path: Path):
    """In a sentence, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        log = tmp_path / "log"
        with pytest.raises(AssertionError), GatewayProcess(server.url, taken.getsockname()[1], log):
            pass
        wait_until_sync(lambda: "in use" in log.read_text())
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("method", "path", "status", "error", "detail"),
    [
        ("GET", "/nowhere", 404, "no-such-path", "path: expected a path that /docs lists, got '/nowhere'"),
        ("POST", "/nowhere", 404, "no-such-path", "path: expected a path that /docs lists, got '/nowhere'"),
        ("GET", "/v1/no/where", 404, "no-such-path", "path: expected a path that /docs lists, got '/v1/no/where'"),
        ("PUT", "/v1/contacts", 405, "method-not-allowed", "method: expected GET, OPTIONS, got PUT"),
        ("POST", "/v1/events", 413, "too-large", f"body: expected at most {MAX_BODY_BYTES} bytes, got more"),
        (
            "GET",
            "/v1/contacts?limit=0",
            400,
            "bad-request",
            "limit: expected an integer from 1 to 500, got '0'",
        ),
    ],
)
async def test_errors_of_the_framework_have_our_format(  # noqa: PLR0917  each parameter is a column
    unfolded: Gateway, method: str, path: str, status: int, error: str, detail: str
):
    """The same media type and fields, and a detail like "expected X, got Y"."""
    answer = await unfolded.client.request(method, path, content=b"x" * (MAX_BODY_BYTES + 1) if status == 413 else None)

    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
    assert answer.json() == {"error": error, "detail": detail, "requestId": answer.headers["X-Request-Id"]}
    assert answer.headers.get("Allow") == ("GET, OPTIONS" if status == 405 else None)


async def test_openapi_document_has_all_schemas_and_a_page_shows_it(gateway: Gateway):
    """OpenAPI 3.1 with the schemas of events, contacts and errors. `/docs` shows it on a page without scripts."""
    document = await gateway.get("/openapi.json")
    page = await gateway.client.get("/docs")

    assert document["openapi"].startswith("3.1")
    assert {"VisitorSeen", "VisitorIdentified", "MetadataSet", "Contact", "Error"} <= document["components"]["schemas"].keys()
    assert page.headers["Content-Type"].startswith("text/html")
    for name in (*document["paths"], *document["components"]["schemas"]):
        assert f"{name}<" in page.text, name
    assert "<script" not in page.text
    assert {urlsplit(each).netloc for each in re.findall(r"https?://[^'\"<\s]+", page.text)} == {urlsplit(gateway.url).netloc}


def make_key(url: str) -> str:
    """Create a secret key."""
    from kinfold_services.access.keys import create_key  # noqa: PLC0415

    async def make() -> str:
        async with Redis.from_url(url) as redis:
            return await create_key(redis, "default", "secret")

    return asyncio.run(make())
