"""Signing in and out, sessions, links, CSRF, headers, and the first page of an empty workspace."""

import re
from collections.abc import Awaitable
from typing import cast
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.async_api import expect

from kinfold_schemas.keys import key as key_of
from kinfold_services.access.keys import revoke_key
from kinfold_services.access.sessions import create_link
from tests.support.gateways import PATIENCE_S, serving, stop_refills
from tests.support.screen import BY, Agent, person, violations
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def cookie_of(agent: Agent, kind: str = "secret") -> tuple[str, str]:
    """A session's cookie, and the CSRF token of its forms."""
    presented = await agent.key("read" if kind == "read" else "secret")
    async with agent.client() as client:
        answer = await client.post("/sign-in", data={"key": presented, "by": BY})
        assert answer.status_code == 303
        cookie = answer.headers["Set-Cookie"].partition(";")[0].partition("=")[2]
        page = await client.get("/people", headers={"Cookie": f"kinfold_session={cookie}"})
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', page.text)
    assert found is not None
    return cookie, found[1]


async def test_signing_in_leads_to_the_page_that_was_asked_for_and_out_again(agent: Agent):
    await agent.people("Ada")
    tab = await agent.sign_in("read", path="/people?q=ada")

    assert urlsplit(tab.url).query == "q=ada"
    await expect(tab.get_by_text(BY)).to_be_visible()
    await expect(tab.get_by_text("read only")).to_be_visible()
    cookies = {each.get("name"): each for each in await agent.context.cookies()}
    cookie = cookies["kinfold_session"]
    assert (cookie.get("httpOnly"), cookie.get("sameSite"), cookie.get("path")) == (True, "Strict", "/")

    await tab.get_by_role("button", name="Sign out").click()
    await tab.wait_for_url("**/sign-in")
    await tab.goto(f"{agent.stage.url}/people")
    assert urlsplit(tab.url).path == "/sign-in"


@pytest.mark.parametrize("presented", ["nonsense", "kf_sk_default_000000000000_" + "0" * 64, "publishable", "revoked"])
async def test_key_that_may_not_see_people_does_not_sign_in(agent: Agent, presented: str):
    key = presented
    if presented == "publishable":
        key = await agent.key("publishable")
    if presented == "revoked":
        key = await agent.key()
        await revoke_key(agent.stage.redis, agent.workspace, key.split("_")[-2])
    async with agent.client() as client:
        answer = await client.post("/sign-in", data={"key": key, "by": BY})

    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    assert 'role="alert"' in answer.text


async def test_sign_in_page_has_no_violation_of_accessibility_rules(agent: Agent):
    tab = await agent.tab()
    await tab.goto(f"{agent.stage.url}/sign-in")
    assert await violations(tab) == []
    await tab.get_by_label("Key", exact=True).fill("nonsense")
    await tab.get_by_label("Your name").fill(BY)
    await tab.get_by_role("button", name="Sign in").click()
    await expect(tab.get_by_role("alert")).to_be_visible()
    assert await violations(tab) == []


async def test_link_signs_in_once(agent: Agent):
    key = await agent.key()
    token = await create_link(agent.stage.redis, agent.workspace, key.split("_")[-2], "sam", key)
    tab = await agent.tab()
    for _ in range(2):  # looking does not use it up
        await tab.goto(f"{agent.stage.url}/sign-in?link={token}")
        await expect(tab.get_by_label("Your name")).to_have_value("sam")
    await tab.keyboard.press("Enter")  # the button has the focus
    await tab.get_by_role("button", name="Sign out").wait_for()

    await agent.context.clear_cookies()
    await tab.goto(f"{agent.stage.url}/sign-in?link={token}")
    await expect(tab.get_by_role("alert")).to_contain_text("used already")
    async with agent.client() as client:
        assert (await client.post("/sign-in", data={"link": token, "by": "sam"})).status_code == 401


async def test_redis_holds_neither_the_link_nor_its_key(agent: Agent):
    key = await agent.key()
    token = await create_link(agent.stage.redis, agent.workspace, key.split("_")[-2], "sam", key)
    links = key_of(agent.workspace, "sign-in-links")
    stored = await cast("Awaitable[dict[bytes, bytes]]", agent.stage.redis.hgetall(links))

    assert len(stored) == 1
    for name, value in stored.items():
        assert token.partition(".")[2].encode() not in name + value
        assert key.rpartition("_")[2].encode() not in name + value


async def test_empty_workspace_shows_the_first_event_and_becomes_the_person(agent: Agent):
    key = await agent.key()
    token = await create_link(agent.stage.redis, agent.workspace, key.split("_")[-2], "sam", key)
    await agent.publish({"type": "VisitorSeen", "visitorId": "nobody-yet"})
    tab = await agent.tab()
    await tab.goto(f"{agent.stage.url}/sign-in?link={token}")
    await tab.get_by_role("button", name="Sign in").click()
    await tab.get_by_role("button", name="Sign out").wait_for()
    await tab.wait_for_load_state()
    lines = await tab.locator("#first-event").inner_text()

    assert len(lines.splitlines()) == 3
    assert f"Authorization: Bearer {key}" in lines
    assert f"{agent.stage.url}/v1/events" in lines
    assert await violations(tab) == []

    await agent.publish(person("Ada Lovelace"))
    await tab.wait_for_url("**/people/ct_*")
    await expect(tab.get_by_role("heading", level=1)).to_have_text("Ada Lovelace")


@pytest.mark.parametrize("change", ["payload", "signature", "workspace", "cut", "empty"])
async def test_forged_session_is_rejected(agent: Agent, change: str):
    cookie, _ = await cookie_of(agent)
    payload, _, signature = cookie.partition(".")
    forged = {
        "payload": f"{payload[:-2]}AA.{signature}",
        "signature": f"{payload}.{'0' * 64}",
        "workspace": f"W10.{signature}",
        "cut": payload,
        "empty": ".",
    }[change]
    async with agent.client() as client:
        answer = await client.get("/people", headers={"Cookie": f"kinfold_session={forged}"})

    assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in?ended=1")


async def test_revoked_key_ends_its_sessions(agent: Agent):
    key = await agent.key()
    async with agent.client() as client:
        await client.post("/sign-in", data={"key": key, "by": BY})

        async def status() -> int:
            return (await client.get("/people")).status_code

        assert await status() in {200, 503}  # 503: the directory has not built the workspace yet
        await revoke_key(agent.stage.redis, agent.workspace, key.split("_")[-2])

        async def is_over() -> bool:
            return await status() == 303

        await wait_until(is_over)


async def test_session_in_use_makes_the_name_of_its_key_no_key(agent: Agent):
    """The id of a key is not secret: it is in lists of keys, and in every session."""
    key = await agent.key()
    name = f"{agent.workspace}/{key.split('_')[-2]}"
    async with agent.client() as client, agent.client() as stranger:
        await client.post("/sign-in", data={"key": key, "by": BY})
        assert (await client.get("/health")).status_code == 200
        asked = await stranger.get("/v1/contacts", headers={"Authorization": f"Bearer {name}"})
        written = await stranger.post(
            "/v1/events",
            json={"type": "VisitorSeen", "visitorId": "v-1"},
            headers={"Authorization": f"Bearer {name}"},
        )
        signed_in = await stranger.post("/sign-in", data={"key": name, "by": BY})

    assert [asked.status_code, written.status_code, signed_in.status_code] == [401, 401, 401]


@pytest.mark.parametrize("shown", ["http://[", ""])
async def test_part_of_a_page_that_is_at_no_url_leads_to_the_form(agent: Agent, shown: str):
    async with agent.client() as client:
        answer = await client.get("/people", headers={"HX-Request": "true", "HX-Current-URL": shown})

    assert (answer.status_code, answer.headers["HX-Redirect"]) == (200, "/sign-in")


@pytest.mark.parametrize("csrf", [None, "", "0" * 64])
async def test_form_without_the_sessions_token_is_rejected(agent: Agent, csrf: str | None):
    cookie, right = await cookie_of(agent)
    headers = {"Cookie": f"kinfold_session={cookie}"}
    async with agent.client() as client:
        wrong = await client.post("/sign-out", data={"other": "1"} if csrf is None else {"csrf": csrf}, headers=headers)
        other_site = await client.post("/sign-out", data={"csrf": right}, headers={**headers, "Sec-Fetch-Site": "cross-site"})
        answer = await client.post("/sign-out", data={"csrf": right}, headers=headers)

    assert [wrong.status_code, other_site.status_code, answer.status_code] == [403, 403, 303]


async def test_forms_are_bounded(agent: Agent):
    async with agent.client() as client:
        large = await client.post("/sign-in", data={"by": "x" * 65_536, "key": "x"})
        many = await client.post("/sign-in", data={f"field{number}": "x" for number in range(101)})
        other = await client.post("/sign-in", json={"by": "x", "key": "x"})

    assert [large.status_code, many.status_code, other.status_code] == [413, 400, 400]


async def test_guesses_of_keys_are_limited(agent: Agent, redis_url: str, monkeypatch: pytest.MonkeyPatch):
    """A session that is in use works on during a flood from its address."""
    stop_refills(monkeypatch)
    async with (
        serving(redis_url, agent.stage.redis, gateway_browser_requests_per_s=0.3) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S) as client,
        httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S) as stranger,
    ):
        await client.post("/sign-in", data={"key": await agent.key(), "by": BY})
        assert (await client.get("/people")).status_code in {200, 503}
        answers = [await stranger.post("/sign-in", data={"by": BY, "key": f"guess {number}"}) for number in range(5)]
        forged = [await stranger.get("/people", headers={"Cookie": "kinfold_session=x.y"}) for _ in range(5)]
        known = await client.get("/people")

    assert [answers[0].status_code, answers[-1].status_code, forged[0].status_code, forged[-1].status_code] == [
        401,
        429,
        303,
        429,
    ]
    assert "Retry-After" in answers[-1].headers
    assert "<html" in answers[-1].text
    assert known.status_code in {200, 503}


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example/", "javascript:alert(1)", ""])
async def test_signing_in_leads_to_no_other_site(agent: Agent, path: str):
    async with agent.client() as client:
        answer = await client.post("/sign-in", data={"key": await agent.key(), "by": BY, "next": path})

    assert answer.headers["Location"] == "/people"


async def test_cookie_has_the_host_prefix_over_tls(agent: Agent):
    async with agent.client() as client:
        answer = await client.post(
            "/sign-in", data={"key": await agent.key(), "by": BY}, headers={"X-Forwarded-Proto": "https"}
        )

    assert re.match(r"__Host-kinfold_session=[^;]+; .*HttpOnly.*Secure", answer.headers["Set-Cookie"])


async def test_every_answer_has_the_security_headers(agent: Agent):
    await agent.people("Ada")
    cookie, _ = await cookie_of(agent)
    paths = [
        "/",
        "/sign-in",
        "/people",
        "/people?where=%3D",
        "/people/ct_none",
        "/people.csv",
        "/static/kinfold.css",
        "/static/no",
    ]
    async with agent.client() as client:
        for path in paths:
            answer = await client.get(path, headers={"Cookie": f"kinfold_session={cookie}"})
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy, path
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.status_code < 500
