"""The visitor's contact on its own page, live: `/kinfold-live.js`, and `live: true` of the npm package."""

import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page

import kinfold
from kinfold_schemas.keys import key
from kinfold_services.access.identity_tokens import ensure_identity_secret
from kinfold_services.access.keys import create_key
from tests.support.proxy import Proxy
from tests.support.visits import PATIENCE_S, Shop, Stage
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

HEARD = """<script>
    heard = []; kinfold.onChange((visitor) => {
        const name = visitor?.contact?.name
        if (name !== heard.at(-1)) heard.push(name)
    })
</script>"""
HIDE = """<script>
    let hidden = false
    Object.defineProperty(document, 'hidden', { get: () => hidden })
    function hide(is) { hidden = is; document.dispatchEvent(new Event('visibilitychange')) }
</script>"""


async def open_live(shop: Shop, before: str = "", **attributes: str) -> Page:
    return await shop.open(before, None, script="kinfold-live.js", **attributes)


async def put(shop: Shop, external_id: str, **fields: Any) -> None:
    """Say something of a person, as a backend does."""
    event = {"type": "VisitorIdentified", "externalId": external_id, **fields}
    await shop.stage.redis.xadd(key(shop.workspace, "events"), {"event": json.dumps(event)})


async def shows(page: Page, name: str | None) -> None:
    """Wait until the page shows a contact with this name."""
    await page.wait_for_function(
        "(name) => (kinfold.visitor?.contact?.name ?? null) === name", arg=name, timeout=PATIENCE_S * 1000
    )


async def readers(shop: Shop, count: int) -> None:
    """Wait until this many readers follow the workspace's feed in the gateway. All its pages are one."""
    line = f'kinfold_gateway_subscribers{{workspace="{shop.workspace}"}} {count}.0\n'

    async def are_so_many() -> bool:
        answer = await shop.context.request.get(f"{shop.gateway_url}/metrics")
        return line in await answer.text()

    await wait_until(are_so_many, PATIENCE_S)


async def test_contact_changes_on_the_page_when_a_backend_changes_it(stage: Stage, workspace: str):
    """The listeners hear of it. What the page has said itself stays, unless the gateway says otherwise."""
    async with stage.shop(workspace, "publishable") as shop:
        (secret,) = await ensure_identity_secret(stage.redis, shop.workspace)
        page = await open_live(shop, HEARD, pages="")
        visitor_id = await page.evaluate("kinfold.visitor.id")
        token = kinfold.sign(secret.identity_secret, external_id="u-1", visitor_id=visitor_id)
        claim = {"externalId": "u-1", "name": "Ada", "metadata": {"plan": "free"}, "token": token}
        await page.evaluate("(claim) => kinfold.identify(claim)", claim)
        assert await page.evaluate("kinfold.flush()")
        await put(shop, "u-1", name="Ada Lovelace", image="https://img.example/ada.png", metadata={"plan": "pro"})
        await shows(page, "Ada Lovelace")

        assert await page.evaluate("kinfold.visitor") == {
            "id": visitor_id,
            "contact": {
                "externalId": "u-1",
                "name": "Ada Lovelace",
                "image": "https://img.example/ada.png",
                "metadata": {"plan": "free"},
            },
        }
        assert await page.evaluate("heard") == ["Ada", "Ada Lovelace"]


async def test_metadata_is_live_with_a_key_that_shows_it(stage: Stage, workspace: str):
    """Also for a visitor whom the backend alone has identified."""
    async with stage.shop(workspace, "publishable") as shop:
        shop.key = await create_key(stage.redis, shop.workspace, "publishable", shows_metadata=True)
        page = await open_live(shop)
        assert await page.evaluate("kinfold.visitor.contact") is None
        visitor_id = await page.evaluate("kinfold.visitor.id")
        await put(shop, "u-1", visitorId=visitor_id, email="ada@example.org", name="Ada", metadata={"plan": "pro"})
        await shows(page, "Ada")

        assert await page.evaluate("kinfold.visitor.contact") == {"name": "Ada", "metadata": {"plan": "pro"}}


async def test_next_user_of_the_browser_sees_nothing_of_the_first(shop: Shop):
    page = await open_live(shop, HEARD)
    await page.evaluate("kinfold.identify({ externalId: 'u-1', name: 'Ada' })")
    assert await page.evaluate("kinfold.flush()")
    await put(shop, "u-1", name="Lovelace")
    await shows(page, "Lovelace")
    await page.evaluate("kinfold.reset()")
    await put(shop, "u-1", name="Byron")
    await page.evaluate("kinfold.identify({ externalId: 'u-2', name: 'Lin' })")
    assert await page.evaluate("kinfold.flush()")
    await put(shop, "u-2", name="Lin Yutang")
    await shows(page, "Lin Yutang")

    assert await page.evaluate("heard") == ["Ada", "Lovelace", None, "Lin", "Lin Yutang"]


async def test_page_catches_up_after_an_outage(shop: Shop):
    """It asks again by itself, even after an answer with which an EventSource gives up."""
    with Proxy(shop.stage.gateway_url) as proxy:
        shop.gateway_url = proxy.url
        page = await open_live(shop)
        await page.evaluate("kinfold.identify({ externalId: 'u-1', name: 'Ada' })")
        assert await page.evaluate("kinfold.flush()")
        await put(shop, "u-1", name="Lovelace")
        await shows(page, "Lovelace")
        statuses = list[int]()
        page.on("response", lambda answer: statuses.append(answer.status) if "/v1/own-contact" in answer.url else None)
        await page.route("**/v1/own-contact*", lambda route: route.fulfill(status=429))
        async with page.expect_response("**/v1/own-contact*"):
            proxy.refuse()
        await page.unroute("**/v1/own-contact*")
        await put(shop, "u-1", name="Byron")
        proxy.accept()
        await shows(page, "Byron")

    assert (statuses[0], statuses[-1]) == (429, 200)


async def test_hidden_page_holds_no_connection_and_catches_up_when_it_is_shown(shop: Shop):
    page = await open_live(shop, HIDE)
    await page.evaluate("kinfold.identify({ externalId: 'u-1', name: 'Ada' })")
    assert await page.evaluate("kinfold.flush()")
    await put(shop, "u-1", name="Lovelace")
    await shows(page, "Lovelace")
    await page.evaluate("hide(true)")
    await readers(shop, 0)
    await put(shop, "u-1", name="Byron")
    await page.evaluate("hide(false)")
    await shows(page, "Byron")

    await page.evaluate("kinfold.setConsent('denied')")
    await readers(shop, 0)


async def test_without_event_source_everything_else_works(shop: Shop):
    page = await open_live(shop, "<script>delete window.EventSource</script>")
    await page.evaluate("kinfold.identify({ externalId: 'u-1', name: 'Ada' })")
    assert await page.evaluate("kinfold.flush()")

    assert (await page.evaluate("kinfold.visitor.contact.name"), shop.warnings) == ("Ada", [])


async def test_usual_script_opens_no_stream(shop: Shop):
    """It has no code for it. With the other script, the same page opens one."""
    asked = list[str]()
    shop.context.on("request", lambda request: asked.append(urlsplit(request.url).path))
    for page in (await shop.open(live=""), await open_live(shop)):
        await page.evaluate("kinfold.identify({ externalId: 'u-1', name: 'Ada' })")
        assert await page.evaluate("kinfold.flush()")
        assert await page.evaluate("kinfold.visitor.contact.name") == "Ada"

    assert asked.index("/kinfold.js") < asked.index("/kinfold-live.js") < asked.index("/v1/own-contact")
    assert asked.count("/v1/own-contact") == 1


async def test_value_that_the_gateway_shows_otherwise_can_be_set_back_at_once(stage: Stage, workspace: str):
    """Without the live contact, `setMetadata` leaves out what it sent in the last 10 s."""
    async with stage.shop(workspace, "publishable") as shop:
        shop.key = await create_key(stage.redis, shop.workspace, "publishable", shows_metadata=True)
        await shop.context.clock.install()
        page = await open_live(shop)
        await page.clock.pause_at(await page.evaluate("Date.now() / 1000 + 1"))
        visitor_id = await page.evaluate("kinfold.visitor.id")
        for _ in range(2):
            await page.evaluate("kinfold.setMetadata({ theme: 'dark' })")
        assert await page.evaluate("kinfold.flush()")
        await put(shop, "u-1", visitorId=visitor_id, name="Ada", metadata={"theme": "light"})
        await shows(page, "Ada")
        await page.evaluate("kinfold.setMetadata({ theme: 'dark' })")
        assert await page.evaluate("kinfold.flush()")

        assert [event["metadata"]["theme"] for event in await shop.log()] == ["dark", "light", "dark"]
