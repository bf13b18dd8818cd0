"""What goes wrong, as pages: what happened, in a sentence, and a way on. Programs get the JSON of the API."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import Page, expect
from redis.asyncio import Redis

from kinfold_services.access.keys import revoke_key
from kinfold_services.server.embedded import EmbeddedServer
from tests.support.gateways import serving, stop_refills
from tests.support.screen import BY, Agent, violations
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


async def sign_in(tab: Page, key: str) -> None:
    """Fill in the form that the tab shows, and send it."""
    await tab.get_by_label("Key", exact=True).fill(key)
    await tab.get_by_label("Your name").fill(BY)
    await tab.get_by_role("button", name="Sign in").click()


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/nowhere", 404, "There is no page at this address."),
        ("/people/ct_none/nowhere", 404, "There is no page at this address."),
        ("/sign-out", 405, "This address belongs to a form"),
    ],
)
async def test_wrong_address_gives_a_browser_a_page_and_a_program_json(agent: Agent, path: str, status: int, sentence: str):
    async with agent.client() as client:
        page = await client.get(path, headers=BROWSER)
        answer = await client.get(path)

    assert (page.status_code, page.headers["Content-Type"]) == (status, "text/html; charset=utf-8")
    assert sentence in page.text
    assert 'href="/people"' in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
    assert answer.json()["requestId"] == answer.headers["X-Request-Id"]
    assert page.headers.get("Allow") == answer.headers.get("Allow")


async def test_paths_of_the_api_answer_a_browser_in_json(agent: Agent):
    async with agent.client() as client:
        answer = await client.get("/v1/nowhere", headers=BROWSER)

    assert answer.json()["error"] == "no-such-path"


async def test_error_pages_have_no_violation_of_accessibility_rules(agent: Agent):
    """Without a session, with one, and where the session may not."""
    tab = await agent.tab()
    await tab.goto(f"{agent.stage.url}/nowhere")
    assert await violations(tab) == []
    await tab.get_by_role("link", name="Back to people").click()
    await sign_in(tab, await agent.key("read"))
    await tab.get_by_role("button", name="Sign out").wait_for()
    answer = await tab.goto(f"{agent.stage.url}/people/ct_none/correct")
    assert answer is not None
    assert answer.status == 403
    await expect(tab.get_by_role("navigation", name="Main")).to_be_visible()
    assert await violations(tab) == []


async def test_ended_session_says_so_and_leads_back_to_the_page(agent: Agent):
    await agent.people("Ada")
    key = await agent.key()
    tab = await agent.tab()
    await tab.goto(f"{agent.stage.url}/people?q=ada")
    assert await tab.get_by_role("alert").count() == 0
    await sign_in(tab, key)
    await tab.get_by_role("button", name="Sign out").wait_for()
    await revoke_key(agent.stage.redis, agent.workspace, key.split("_")[-2])

    async def is_over() -> bool:
        await tab.goto(f"{agent.stage.url}/people?q=ada")
        return urlsplit(tab.url).path == "/sign-in"

    await wait_until(is_over)
    await expect(tab.get_by_role("alert")).to_contain_text("Your session has ended.")
    assert await violations(tab) == []
    await sign_in(tab, await agent.key())
    await expect(tab.locator("#rows a.person")).to_have_text(["Ada"])
    assert urlsplit(tab.url).query == "q=ada"


async def test_typing_after_the_session_has_ended_leads_to_the_form_and_back(agent: Agent):
    async with agent.client() as client:
        of_htmx = {"HX-Request": "true", "HX-Current-URL": f"{agent.stage.url}/people?q=a"}
        answer = await client.get("/people?q=ad", headers={"Cookie": "kinfold_session=gone.gone", **of_htmx})

    assert parse_qs(urlsplit(answer.headers["HX-Redirect"]).query) == {"next": ["/people?q=a"], "ended": ["1"]}


async def test_too_many_requests_and_a_server_that_is_away_are_pages(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stop_refills(monkeypatch)
    with EmbeddedServer.start(tmp_path / "data") as server:
        async with (
            Redis.from_url(server.url, decode_responses=False) as redis,
            serving(server.url, redis, gateway_browser_requests_per_s=0.3) as gateway,
        ):
            tab = await agent.tab()
            await tab.goto(f"{gateway.url}/people")
            await sign_in(tab, gateway.secret)
            await tab.get_by_role("link", name="Live").wait_for()

            async def is_limited() -> bool:
                answer = await tab.goto(f"{gateway.url}/nowhere")
                return answer is not None and answer.status == 429

            await wait_until(is_limited)
            await expect(tab.get_by_role("alert")).to_contain_text("Try again in")
            await expect(tab.get_by_role("link", name="Try again")).to_have_attribute("href", "/nowhere")
            await tab.goto(f"{gateway.url}//elsewhere.example/")
            await expect(tab.get_by_role("link", name="Try again")).to_have_attribute("href", "/people")
            assert await violations(tab) == []

            server.stop()
            answer = await tab.goto(f"{gateway.url}/live?type=VisitorSeen")
            assert answer is not None
            assert answer.status == 503
            await expect(tab.get_by_role("alert")).to_contain_text("Redis did not answer")
            await expect(tab.get_by_role("link", name="Try again")).to_have_attribute("href", "/live?type=VisitorSeen")
            assert await violations(tab) == []
