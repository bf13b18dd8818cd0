"""What pages need: the script, keys in the query, origins, and keys for development."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from kinfold_services.access.keys import Kind, create_key
from kinfold_services.gateway.web import KINFOLD, SCRIPTS, Script
from tests.support.command_line import Kinfold
from tests.support.gateways import Gateway, serving

SEEN = {"type": "VisitorSeen", "visitorId": "v-1"}
CLAIM = {"type": "VisitorIdentified", "visitorId": "v-1", "externalId": "u-1"}
SHOP = "https://shop.example"


async def post(gateway: Gateway, kind: Kind, event: dict[str, Any], **headers: str) -> httpx.Response:
    """Post an event as a page does: with the key in the query, and as plain text."""
    key = await create_key(gateway.redis, gateway.workspace, kind)
    async with gateway.client_of(None) as page:
        return await page.post(
            "/v1/events", params={"writeKey": key}, json=event, headers={"Content-Type": "text/plain", **headers}
        )


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize(
    ("version", "cached"), [(None, "max-age=300"), ("old", "max-age=300"), ("this", "max-age=31536000, immutable")]
)
async def test_script_is_cached_by_its_version(unfolded: Gateway, script: Script, version: str | None, cached: str):
    asked = {} if version is None else {"v": script.version if version == "this" else version}
    async with unfolded.client_of(None) as page:
        answer = await page.get(script.path, params=asked)
        again = await page.get(script.path, params=asked, headers={"If-None-Match": answer.headers["ETag"]})

    assert (answer.status_code, answer.content, again.status_code, again.content) == (200, script.content, 304, b"")
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert answer.headers["Cache-Control"] == f"public, {cached}"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_docs_page_shows_the_element_that_loads_the_script(unfolded: Gateway):
    page = (await unfolded.client.get("/docs")).text

    digest = base64.b64encode(hashlib.sha384(KINFOLD.content).digest()).decode()
    assert f"sha384-{digest}" == KINFOLD.integrity
    assert f"integrity=&quot;{KINFOLD.integrity}&quot;" in page
    assert f"{unfolded.url}/kinfold.js?v={KINFOLD.version}&quot;" in page


async def test_key_in_the_query_is_a_publishable_one(unfolded: Gateway):
    """URLs are logged on the way, so a secret key is refused there."""
    taken, refused = await post(unfolded, "publishable", SEEN), await post(unfolded, "secret", SEEN)

    assert taken.status_code == 202
    assert refused.status_code == 403
    assert refused.json()["detail"] == "writeKey: expected a publishable key in the query, got a secret one"


async def test_event_of_a_page_that_cannot_read_the_answer_is_not_appended(redis: Redis, redis_url: str):
    """It would send its events again and again. A proxy that serves site and gateway under one origin works."""
    async with serving(redis_url, redis, gateway_origins=SHOP) as gateway:
        listed = await post(gateway, "publishable", SEEN, Origin=SHOP)
        same = await post(gateway, "publishable", SEEN, **{"Origin": "https://proxy.example", "Sec-Fetch-Site": "same-origin"})
        other = await post(gateway, "publishable", SEEN, Origin="https://evil.example")
        events = await gateway.entries("events")

    assert [listed.status_code, same.status_code, other.status_code] == [202, 202, 403]
    assert other.json()["detail"] == "Origin: expected one of KINFOLD_GATEWAY_ORIGINS, got 'https://evil.example'"
    assert len(events) == 2


@pytest.mark.parametrize(
    ("settings", "origin", "allowed"),
    [
        ({}, "http://localhost:5173", True),
        ({}, "http://127.0.0.1", True),
        ({}, "http://localhost.evil.example", False),
        ({}, "http://localhost:80@evil.example", False),
        ({"gateway_origins": SHOP}, "http://localhost:5173", False),
        ({"gateway_host": "0.0.0.0"}, "http://localhost:5173", False),  # noqa: S104  other machines can reach it
    ],
)
async def test_pages_of_this_machine_may_use_a_gateway_of_this_machine(
    redis: Redis, redis_url: str, settings: dict[str, str], origin: str, *, allowed: bool
):
    """So the first page works without a setting."""
    async with serving(redis_url, redis, **settings) as gateway:
        answer = await post(gateway, "publishable", SEEN, Origin=origin)

    assert (answer.status_code == 202, answer.headers.get("Access-Control-Allow-Origin") == origin) == (allowed, allowed)


async def test_development_key_identifies_without_proof(unfolded: Gateway):
    """A token that it sends all the same does not get into the log. The gateway warns of the key."""
    with capture_logs() as logs:
        answer = await post(unfolded, "development", {**CLAIM, "token": "a.b.c"}, Origin="http://localhost:5173")

    assert answer.status_code == 202
    ((_, event),) = await unfolded.entries("events")
    assert event.keys() == {*CLAIM, "id", "source", "visitorProven"}
    (warning,) = (each for each in logs if each["event"].startswith("a development key is in use"))
    assert warning["log_level"] == "warning"


@pytest.mark.parametrize(
    "event", [{"type": "MetadataSet", "externalId": "u-1", "metadata": {}}, {"type": "EventsExcluded", "entries": ["1-0"]}]
)
async def test_development_key_may_otherwise_do_what_a_publishable_one_may(unfolded: Gateway, event: dict[str, Any]):
    answer = await post(unfolded, "development", event, Origin="http://localhost:5173")
    key = await create_key(unfolded.redis, "default", "development")
    async with unfolded.client_of(key) as page:
        reading = await page.get("/v1/contacts")

    assert (answer.status_code, reading.status_code) == (403, 403)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Origin": SHOP}, 202),
        ({"Origin": "http://localhost:5173"}, 202),
        ({"Origin": "https://other.example"}, 403),
        ({"Origin": "http://["}, 403),
        ({"X-Forwarded-For": "192.0.2.7"}, 403),
        ({"X-Forwarded-For": "192.0.2.7", "Origin": "http://localhost:5173"}, 403),
    ],
)
async def test_development_key_works_on_this_machine_and_on_pages_of_named_origins(
    redis: Redis, redis_url: str, headers: dict[str, str], status: int
):
    """`*` names no origin."""
    async with serving(redis_url, redis, gateway_origins=f"*,{SHOP}") as gateway:
        answer = await post(gateway, "development", SEEN, **headers)

    assert answer.status_code == status, answer.text
    if status == 403:
        assert "with a development key, got" in answer.json()["detail"]


def test_creating_a_development_key_warns(redis_url: str, workspace: str, data_dir: Path):
    kinfold = Kinfold("--redis-url", redis_url, "--workspace", workspace, "--data-dir", data_dir)
    made = kinfold.run("keys", "create", "--kind", "development")

    assert made.status == 0
    assert "anyone who can read this key can claim to be anyone" in made.err
