"""What a request may cost, and who pays for it (docs/security.md)."""

import asyncio
import gzip
import json
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from litestar import Litestar
from litestar._kwargs.extractors import create_query_default_dict
from litestar._parsers import parse_cookie_string, parse_query_string
from redis.asyncio import Redis
from structlog.testing import capture_logs

from kinfold_schemas.keys import key
from kinfold_services.gateway import app as app_module
from kinfold_services.gateway.events import segment
from kinfold_services.gateway.events.bodies import MAX_MEMBERS
from kinfold_services.gateway.framework_bounds import with_bounds
from kinfold_services.gateway.turns import SMALL, Turns
from tests.support.gateways import Gateway, logged_requests, serving, stop_refills

SEEN = b'{"type":"VisitorSeen","visitorId":"v-1"}'
COMPRESSED = {"Content-Encoding": "gzip"}


@pytest.fixture
async def slow(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """Give a gateway whose limits never refill: 20 requests for a stranger, 6 requests and 100 events for a browser."""
    stop_refills(monkeypatch)
    async with serving(redis_url, redis, gateway_browser_requests_per_s=2, gateway_browser_events_per_s=0.001) as running:
        yield running


def batch(count: int, **more: Any) -> bytes:
    """A batch of Segment calls."""
    return json.dumps({"batch": [{"type": "track", "anonymousId": f"v-{number}"} for number in range(count)], **more}).encode()


def members(count: int) -> bytes:
    """An event as gzip with this many members."""
    return gzip.compress(SEEN) + gzip.compress(b"") * (count - 1)


async def appended(gateway: Gateway) -> int:
    """How many entries the log has."""
    return await gateway.redis.xlen(key("default", "events"))


# --- decompression


async def test_gzip_has_few_members(unfolded: Gateway):
    """Each empty member costs 20 bytes and a decompressor."""
    fits, too_many, bomb = [
        await unfolded.client.post("/v1/events", content=members(count), headers=COMPRESSED)
        for count in (MAX_MEMBERS, MAX_MEMBERS + 1, 52_000)
    ]

    assert fits.status_code == 202
    for answer in (too_many, bomb):
        assert (answer.status_code, answer.json()["detail"]) == (400, "body: expected at most 16 gzip members, got more")


@pytest.mark.parametrize("path", ["/v1/events", "/v1/batch", "/v1/track"])
async def test_browser_body_is_small_and_stays_small(unfolded: Gateway, path: str):
    """64 KiB with a publishable key, as it is sent and decompressed. A backend may send more."""
    spaces = b" " * 70_000
    body = {"/v1/events": SEEN, "/v1/batch": batch(1), "/v1/track": b'{"anonymousId":"v-1"}'}[path] + spaces

    plain = await unfolded.browser.post(path, content=body)
    compressed = await unfolded.browser.post(path, content=gzip.compress(body), headers=COMPRESSED)
    streamed = await unfolded.browser.post(path, content=_in_parts(body))
    backend = await unfolded.client.post(path, content=gzip.compress(body), headers=COMPRESSED)

    assert [each.status_code for each in (plain, compressed, streamed)] == [413, 413, 413]
    assert plain.json()["detail"] == "body: expected at most 65536 bytes, got more"
    assert compressed.json()["detail"] == "body: expected at most 65536 bytes once decompressed, got more"
    assert backend.status_code in {200, 202}, backend.text
    assert await appended(unfolded) == 1


async def _in_parts(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


async def test_key_in_a_body_does_not_lift_its_limit(unfolded: Gateway):
    body = batch(1, writeKey=unfolded.publishable) + b" " * 70_000
    async with unfolded.client_of(None) as client:
        answer = await client.post("/v1/batch", content=body)

    assert (answer.status_code, answer.json()["detail"]) == (413, f"body: expected at most 65536 bytes, got {len(body)}")


@pytest.mark.parametrize("kind", ["publishable", "unknown"])
async def test_body_is_not_parsed_for_a_key_in_it_that_may_not_send_so_much(
    unfolded: Gateway, kind: str, monkeypatch: pytest.MonkeyPatch
):
    """1 KB of gzip may hold 350,000 arrays. To build them takes most of a second, in which nobody else gets an answer."""
    parsed: list[int] = []
    loads = vars(segment)["_loads"]

    def noted(data: bytes) -> Any:
        parsed.append(len(data))
        return loads(data)

    monkeypatch.setattr(segment, "_loads", noted)
    key = unfolded.publishable if kind == "publishable" else "kf_pk_none"
    arrays = b",".join([b"[]"] * 340_000)
    nested = b'"nested":{"writeKey":"kf_pk_none"}'
    async with unfolded.client_of(None) as client:
        statuses = [
            (await client.post("/v1/batch", content=gzip.compress(body), headers=COMPRESSED)).status_code
            for body in (
                b'{"writeKey":"%b","batch":[%b]}' % (key.encode(), arrays),
                b'{"batch":[%b],%b,"writeK\\u0065y":"%b"}' % (arrays, nested, key.encode()),
                b'{"writeKey":[%b]}' % arrays,
                b'{"writeKey":"%b","batch":[%b,NaN]}' % (key.encode(), arrays),
            )
        ]

    assert statuses == ([413, 413, 401, 401] if kind == "publishable" else [401] * 4)
    assert parsed == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"batch":[{"writeKey":"kf_pk_other","type":"track","anonymousId":"v-1"}],"writeKey":"%b"}',
        b'{"writeKey":"kf_pk_other","batch":[{"type":"track","anonymousId":"v-1"}],"writeKey":"%b"}',
        b'{"batch":[{"type":"track","anonymousId":"v-1","n":NaN}],"writeKey":"%b"}',
    ],
    ids=["beside one in a call", "named twice", "beside NaN"],
)
async def test_key_is_found_in_a_body(unfolded: Gateway, body: bytes):
    async with unfolded.client_of(None) as client:
        answer = await client.post("/v1/batch", content=body % unfolded.publishable.encode())

    assert (answer.status_code, answer.json()["appended"]) == (200, 1), answer.text


async def test_large_bodies_are_parsed_in_turn():
    """Everything else that is ready runs between two of them."""
    turns, turn, parsed_in = Turns(), 0, list[int]()

    async def count() -> None:
        nonlocal turn
        while len(parsed_in) < 12:
            turn += 1
            await asyncio.sleep(0)

    def note(_: bytes) -> None:
        parsed_in.append(turn)

    large, small = b" " * (SMALL + 1), b" " * SMALL
    await asyncio.gather(*[turns.parse(body, note) for body in (large, small) * 6], count())

    assert parsed_in[:6] == [0] * 6
    assert len(set(parsed_in[6:])) == 6


# --- what the framework makes of a request


async def test_cookies_are_not_parsed_by_the_framework(unfolded: Gateway):
    """Python 3.11 takes seconds for 12 KB of a quoted value, and the framework keeps 1,024 headers."""
    parse_cookie_string.cache_clear()
    async with unfolded.client_of(None) as client:
        answer = await client.get("/people", headers={"Cookie": 'kinfold_session="' + "\\\\" * 6000 + '"'})

    assert answer.headers["Location"] == "/sign-in?ended=1"
    assert parse_cookie_string.cache_info().currsize == 0


async def test_long_paths_and_queries_are_not_kept(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch):
    """The framework keeps the latest 1,024. They have up to 32 KiB each, and take ten times that when they are parsed."""
    routers: list[Any] = []

    def noted(app: Any, litestar: Litestar) -> Any:
        routers.append(litestar.asgi_router)
        return with_bounds(app, litestar)

    monkeypatch.setattr(app_module, "with_bounds", noted)
    async with serving(redis_url, redis) as gateway, gateway.client_of(None) as client:
        for number in range(5):
            await client.get(f"/sourceConfig?writeKey={number}", params={f"k{each}": number for each in range(100)})
            await client.get(f"/v1/projects/{'x' * 2000}{number}/settings")
    caches = [routers[0].handle_routing, parse_query_string, create_query_default_dict]

    assert [cache.cache_info().currsize <= 2 for cache in caches] == [True] * 3


async def test_query_with_too_many_parameters_is_not_parsed(unfolded: Gateway):
    parse_query_string.cache_clear()
    async with unfolded.client_of(None) as client:
        answers = [await client.get(f"{path}?{'a&' * 1000}") for path in ("/v1/contacts", "/sourceConfig", "/people")]

    for answer in answers:
        assert answer.status_code == 400
        assert "query: expected at most 1000 parameters, got 1001" in answer.text
    assert parse_query_string.cache_info().currsize == 0


async def test_host_that_fits_into_no_url_is_ignored(unfolded: Gateway):
    answers: dict[tuple[str, bytes], int] = {}
    async with unfolded.client_of(None) as client:
        for path in ("/docs", "/people", "/people?x=1", "/none", "/v1/projects/x/settings", "/v1/contacts"):
            for host in (b"x:99999999", b"a@b:99999", b"[", b"[::::]", b"\xff\xe2\x84\x80", b""):
                answer = await client.get(path, headers=[(b"Host", host), (b"Accept", b"text/html")])
                answers[path, host] = answer.status_code

    assert {each: status for each, status in answers.items() if status not in {200, 303, 400, 401, 404}} == {}
    assert await upgrade(unfolded, "/v1/changes/ws", b"x:99999999") == 401


# --- events


async def test_browser_request_has_few_events(unfolded: Gateway):
    """100 with a publishable key, in every form."""
    for count, status in ((100, 202), (101, 413)):
        answer = await unfolded.browser.post("/v1/events", content=b"[" + b",".join([SEEN] * count) + b"]")
        assert answer.status_code == status, answer.text
    lines = await unfolded.browser.post("/v1/events", content=b"\n".join([SEEN] * 101))
    calls = await unfolded.browser.post("/v1/batch", content=batch(101))

    assert (lines.status_code, calls.status_code) == (413, 413)
    assert calls.json()["detail"] == "body: expected at most 100 events in a request with a publishable key, got 101"
    assert await appended(unfolded) == 100


async def test_events_of_a_browser_have_a_budget(slow: Gateway):
    """It counts events, not requests. It counts those of all forms together, and those that are rejected."""
    first = await slow.browser.post("/v1/events", content=b"[" + b",".join([SEEN] * 60) + b"]")
    rejected = await slow.browser.post("/v1/events", content=b"[" + b",".join([b"{}"] * 30) + b"]")
    calls = await slow.browser.post("/v1/batch", content=batch(11))
    fits = await slow.browser.post("/v1/batch", content=batch(10))
    backend = await slow.client.post("/v1/batch", content=batch(500))

    assert [each.status_code for each in (first, rejected, calls, fits, backend)] == [202, 422, 429, 200, 200]
    assert calls.json()["detail"].startswith("events: expected at most 0.001 a second from this key and address, in bursts of ")
    assert int(calls.headers["Retry-After"]) > 500
    assert await appended(slow) == 60 + 10 + 500


# --- strangers


@pytest.mark.parametrize("path", ["/readyz", "/metrics", "/docs", "/openapi.json", "/kinfold.js", "/sourceConfig"])
async def test_routes_without_a_key_are_limited(slow: Gateway, path: str):
    """Each on its own, so that a flood of one does not end another."""
    async with slow.client_of(None) as client:
        statuses = [(await client.get(path)).status_code for _ in range(25)]
        other = await client.get("/readyz" if path != "/readyz" else "/metrics")
        alive = await client.get("/healthz")

    assert statuses == [200] * 20 + [429] * 5
    assert (other.status_code, alive.status_code) == (200, 200)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/none", 404),
        ("DELETE", "/v1/events", 405),
        ("POST", "/v1/events", 401),
        ("GET", "/v1/contacts?no-such-parameter=1", 400),
        ("GET", "/people?no-such-parameter=1", 400),
    ],
)
async def test_requests_that_lead_nowhere_are_limited(slow: Gateway, method: str, path: str, status: int):
    async with slow.client_of(None) as client:
        statuses = [(await client.request(method, path)).status_code for _ in range(25)]

    assert statuses == [status] * 20 + [429] * 5


async def test_websockets_that_lead_nowhere_are_limited(slow: Gateway, caplog: pytest.LogCaptureFixture):
    """Each is answered with its status, and uvicorn logs no error."""
    statuses = [await upgrade(slow, path) for path in ["/v1/changes/ws", "/none", "/healthz"] * 8]

    assert statuses == [401, 404, 400] * 6 + [401, 404] + [429] * 4
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []


async def upgrade(gateway: Gateway, path: str, host: bytes = b"x") -> int:
    """The status of a request for a WebSocket. Waits until the gateway has closed the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    writer.write(b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" % (path.encode(), host))
    writer.write(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


async def test_unknown_key_is_paid_for_before_it_is_looked_up(slow: Gateway):
    """An address that has used up its limit reaches Redis no more."""
    wrong = f"kf_pk_default_{'0' * 12}_{'0' * 64}"
    async with slow.client_of(wrong) as client:
        statuses = [(await client.post("/v1/events", content=SEEN)).status_code for _ in range(25)]
        asked = await lookups(slow)
        more = [(await client.post("/v1/events", content=SEEN)).status_code for _ in range(3)]

    assert (statuses[0], statuses[-1], more) == (401, 429, [429] * 3)
    assert await lookups(slow) == asked


async def lookups(gateway: Gateway) -> int:
    """How often the server was asked for a key."""
    return int((await gateway.redis.info("commandstats"))["cmdstat_hget"]["calls"])


@pytest.mark.parametrize("headers", [{}, COMPRESSED], ids=["plain", "gzip"])
async def test_body_of_a_stranger_is_paid_for_before_it_is_read(slow: Gateway, headers: dict[str, str]):
    """On Segment's paths the key may be in the body. A megabyte costs as much as 17 small requests."""
    body = batch(1, writeKey="none") + b" " * 1_000_000
    content = gzip.compress(body) if headers else body
    async with slow.client_of(None) as client:
        first = await client.post("/v1/batch", content=content, headers=headers)
        second = await client.post("/v1/batch", content=content, headers=headers)
        junk = await client.post("/v1/batch", content=b"no gzip at all" + b" " * 1_000_000, headers=headers)

    assert [each.status_code for each in (first, second, junk)] == [401, 429, 429]


async def test_valid_keys_in_bodies_cost_their_address_nothing(slow: Gateway):
    """A backend behind the same address as its SDK's users."""
    body = gzip.compress(batch(1, writeKey=slow.secret) + b" " * 1_000_000)
    async with slow.client_of(None) as client:
        statuses = [(await client.post("/v1/batch", content=body, headers=COMPRESSED)).status_code for _ in range(6)]

    assert statuses == [200] * 6


async def test_flood_from_an_address_does_not_stop_the_keys_in_use_there(slow: Gateway):
    """A stranger at the same address cannot shut out those with a key, as behind one router."""
    assert (await slow.client.post("/v1/events", content=SEEN)).status_code == 202
    async with slow.client_of(secrets.token_hex()) as stranger:
        statuses = [(await stranger.post("/v1/events", content=SEEN)).status_code for _ in range(25)]

    assert statuses[-1] == 429
    assert (await slow.client.post("/v1/events", content=SEEN)).status_code == 202


# --- logs


async def test_long_paths_are_cut_in_logs_and_answers(unfolded: Gateway):
    with capture_logs() as logs:
        answer = await unfolded.client.get("/" + "x" * 20_000)
        (line,) = await logged_requests(logs, 1)

    assert answer.status_code == 404
    assert len(answer.json()["detail"]) < 200
    assert line["path"] == "/" + "x" * 255 + "…"


async def test_refused_requests_do_not_fill_the_log(slow: Gateway):
    """A request over the limit has no line of its own at the usual level. The metrics count it."""
    async with slow.client_of(None) as client:
        with capture_logs() as logs:
            answers: list[httpx.Response] = await asyncio.gather(*[client.get("/none") for _ in range(60)])
            lines = await logged_requests(logs, len(answers))

    refused = [each for each in answers if each.status_code == 429]
    assert len(refused) == 40
    assert [each["log_level"] for each in lines if each.get("status") == 429] == ["debug"] * len(refused)


async def test_preflights_do_not_fill_the_log(unfolded: Gateway):
    """They have no limit, whether they are accepted or rejected."""
    asked = {"Access-Control-Request-Method": "POST"}
    async with unfolded.client_of(None) as client:
        with capture_logs() as logs:
            for origin in ("http://localhost", "https://evil.example"):
                await client.options("/v1/events", headers={**asked, "Origin": origin})
            lines = await logged_requests(logs, 2)

    assert [(each["status"], each["log_level"]) for each in lines] == [(204, "debug"), (400, "debug")]
