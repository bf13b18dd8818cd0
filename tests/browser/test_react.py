"""`@kinfold/react` in an application that Vite has built, rendered on a server and hydrated in StrictMode.

React 18 is the development build, where StrictMode runs effects twice. React 19 is that for production.
"""

import html
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, Request, expect

from kinfold_schemas.keys import key
from kinfold_services.access.keys import create_key
from tests.support.applications import REACT_VERSIONS, applications, rendered
from tests.support.visits import Shop, Stage, staging

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

ADA: Final = {
    "id": "u-1",
    "email": "ada@example.org",
    "name": "Ada",
    "image": "https://img.example/ada.png",
    "avatar": "https://img.example/ada.png",
    "plan": "free",
    "createdAt": "2026-01-02T03:04:05.000Z",
    "company": "Analytical Engines",
    "mrr": 0,
}
LIN: Final = {"id": "u-2", "email": "lin@example.org", "name": "Lin", "plan": "free"}
PROFILE: Final = {"externalId": "u-1", "email": "ada@example.org", "name": "Ada", "image": "https://img.example/ada.png"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the directory of the built applications."""
    return applications(tmp_path_factory)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(redis_url: str, built: Path) -> AsyncIterator[Stage]:
    """Give a stage whose site has the built applications."""
    async with staging(redis_url, built) as running:
        yield running


class Application:
    """The application in a tab."""

    def __init__(self, shop: Shop, built: Path, version: str = "19") -> None:
        self.shop = shop
        self.sent = list[dict[str, Any]]()
        """The events in requests to the gateway."""
        self._noted = list[BrowserContext]()
        self._built = built
        self._version = version

    async def open(
        self,
        example: str,
        user: dict[str, Any] | None,
        context: BrowserContext | None = None,
        **options: str | bool | None,
    ) -> Page:
        """Open the application with one of its examples. Waits until it is hydrated."""
        given = {"host": self.shop.gateway_url, "key": self.shop.key, "automated": True, **options}
        props = json.dumps({"options": given, "example": example, "user": user})
        script = f'<script type="module" src="/react-{self._version}/client.js"></script>'
        root = f'<div id="root" data-props="{html.escape(props)}">{rendered(self._built, self._version, props)}</div>'
        browser = context or self.shop.context
        if browser not in self._noted:  # before the page is loaded: it may send at once
            self._noted.append(browser)
            browser.on("request", self._note)
        page = await self.shop.open_html(root + script, context)
        await page.wait_for_function("window.kinfold")
        return page

    def _note(self, request: Request) -> None:
        if request.method == "POST" and request.url.startswith(self.shop.gateway_url):
            self.sent += json.loads(request.post_data or "")


async def visitor(page: Page) -> dict[str, Any]:
    """What `useVisitor` gives as the visitor."""
    shown = page.locator("#visitor")
    await expect(shown).not_to_have_text("null")
    return dict(json.loads(await shown.inner_text()))


async def press(page: Page, button: str) -> None:
    await page.get_by_role("button", name=button).click()


async def flush(page: Page) -> None:
    assert await page.evaluate("kinfold.flush()")


@pytest.mark.parametrize("version", REACT_VERSIONS)
@pytest.mark.parametrize(
    ("example", "metadata"),
    [
        ("component", {"plan": "free", "signupDate": ADA["createdAt"], "company": ADA["company"], "mrr": 0}),
        ("hook", {"plan": "free"}),
    ],
)
async def test_examples_make_a_contact_send_nothing_twice_and_upgrade_the_plan(
    shop: Shop, built: Path, version: str, example: str, metadata: dict[str, Any]
):
    application = Application(shop, built, version)
    page = await application.open(example, ADA)
    assert (await page.locator("#version").inner_text()).startswith(f"{version}.")
    await flush(page)

    identified = await shop.folded("/v1/contacts", externalId="u-1")
    assert {name: identified[name] for name in PROFILE} == PROFILE
    assert identified["metadata"] == metadata
    assert await visitor(page) == {"id": identified["visitorIds"][0], "contact": {**PROFILE, "metadata": metadata}}
    assert [event["type"] for event in application.sent] == ["VisitorIdentified"]

    for _ in range(3):
        await press(page, "Render again")
    await expect(page.locator("#renders")).to_have_text("4")
    await flush(page)
    await page.reload()
    await visitor(page)
    await flush(page)
    assert len(application.sent) == 1

    await press(page, "Upgrade")
    await page.wait_for_function("kinfold.visitor.contact.metadata.plan === 'pro'")
    await flush(page)
    upgraded = await shop.folded("/v1/contacts", externalId="u-1")
    changed = application.sent[1]["metadata"]
    assert (changed.keys(), changed["plan"], changed["mrr"]) == ({"plan", "upgradedAt", "mrr"}, "pro", 99)
    assert upgraded["metadata"] == {**metadata, **changed}
    assert len(application.sent) == 2


async def test_two_browsers_are_two_visitors_of_one_contact(shop: Shop, built: Path):
    application = Application(shop, built)
    async with await shop.stage.browser.new_context() as other:
        laptop, phone = await application.open("component", ADA), await application.open("short", ADA, other)
        ids = [(await visitor(page))["id"] for page in (laptop, phone)]
        await flush(laptop)
        await flush(phone)

    contact = await shop.folded("/v1/contacts", externalId="u-1")
    assert (contact["visitorCount"], sorted(contact["visitorIds"])) == (2, sorted(ids))


async def test_component_renders_again_when_the_contact_changes_in_the_gateway(shop: Shop, built: Path):
    page = await Application(shop, built).open("component", ADA, live=True)
    await flush(page)
    event = {"type": "VisitorIdentified", "externalId": "u-1", "name": "Ada Lovelace"}
    await shop.stage.redis.xadd(key(shop.workspace, "events"), {"event": json.dumps(event)})
    await expect(page.locator("#visitor")).to_contain_text("Ada Lovelace", timeout=30_000)

    assert (await visitor(page))["contact"]["email"] == "ada@example.org"


async def test_log_out_makes_a_new_visitor_whom_the_rendered_component_does_not_identify(shop: Shop, built: Path):
    """Until the application has removed it, it still has the props of the user who has logged out."""
    application = Application(shop, built)
    page = await application.open("component", ADA)
    first = await visitor(page)
    await press(page, "Log out")
    await page.wait_for_function("!kinfold.visitor.contact")
    await press(page, "Render again")
    await flush(page)
    second = await visitor(page)

    assert (second["contact"], second["id"] != first["id"]) == (None, True)
    assert [event["visitorId"] for event in application.sent] == [first["id"]]
    page = await application.open("component", LIN)
    await flush(page)
    assert (await shop.folded("/v1/contacts", externalId="u-2"))["visitorIds"] == [second["id"]]


@pytest.mark.parametrize("before", ["pending", "denied"])
async def test_consent_that_comes_late_identifies_the_visitor(shop: Shop, built: Path, before: str):
    application = Application(shop, built)
    page = await application.open("component", ADA, consent=before)
    await press(page, "Render again")
    await expect(page.locator("#renders")).to_have_text("2")
    assert await page.locator("#visitor").inner_text() == "null"
    assert await page.evaluate("[document.cookie, localStorage.length]") == ["", 0]

    await press(page, "Agree")
    await visitor(page)
    await flush(page)
    assert [event["externalId"] for event in application.sent] == ["u-1"]


async def test_provider_that_is_mounted_again_leaves_a_denial_as_it_is(shop: Shop, built: Path):
    page = await Application(shop, built).open("component", ADA, consent="granted")
    await visitor(page)
    await page.evaluate("kinfold.setConsent('denied')")
    await press(page, "Mount again")
    await press(page, "Render again")
    await expect(page.locator("#renders")).to_have_text("2")

    assert await page.locator("#visitor").inner_text() == "null"
    assert await page.evaluate("[document.cookie, localStorage.length]") == ["", 0]


async def test_another_key_ends_what_the_first_one_started(shop: Shop, built: Path):
    """A page view is one, and of the same visitor."""
    application = Application(shop, built)
    next_key = await create_key(shop.stage.redis, shop.workspace, "development")
    page = await application.open("component", None, pages=True, nextKey=next_key)
    await flush(page)
    await page.evaluate("first = kinfold")
    await press(page, "Next key")
    await page.wait_for_function("kinfold !== first")
    await flush(page)
    await page.evaluate("history.pushState({}, '', '/next')")
    await flush(page)

    events = await shop.logged(3)
    assert len({event["visitorId"] for event in events}) == 1
    assert len(events) == len(application.sent) == 3


async def test_without_a_user_nothing_is_sent(shop: Shop, built: Path):
    application = Application(shop, built)
    page = await application.open("component", {"plan": "free"})
    await flush(page)

    assert ((await visitor(page))["contact"], application.sent, shop.warnings) == (None, [], [])


async def test_missing_key_is_a_warning_in_the_console(shop: Shop, built: Path):
    """A build without an environment variable is such a page. It works on, without kinfold."""
    page = await Application(shop, built).open("component", ADA, key=None)
    await press(page, "Render again")
    await expect(page.locator("#renders")).to_have_text("2")

    assert "start: expected a host and a key" in shop.warnings[0]
    assert await page.locator("#visitor").inner_text() == "null"


async def test_missing_provider_is_a_warning_in_the_console(shop: Shop, built: Path):
    page = await Application(shop, built).open("outside", ADA)
    await press(page, "Render again")
    await expect(page.locator("#renders")).to_have_text("2")

    assert shop.warnings[0] == "kinfold: expected a <KinfoldProvider> above this component, got none"
