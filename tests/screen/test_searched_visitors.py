"""A search on the list of people that nobody matches looks the text up as the id of a visitor."""

import pytest
from playwright.async_api import expect

from kinfold_services.connections import connect
from kinfold_services.gateway.directory import Directory
from kinfold_services.gateway.metrics import Metrics
from kinfold_services.gateway.screen import people
from kinfold_services.gateway.screen.people import Searched, visitor_searched
from kinfold_services.gateway.workspaces import GatewayWorkspace
from kinfold_services.state.queries import StateQueries
from tests.support.proxy import Proxy
from tests.support.screen import Agent, Stage, person

pytestmark = pytest.mark.asyncio(loop_scope="package")

UNKNOWN = "No name, e-mail, external id or contact id contains “{}”, and no visitor has this id."
HOSTILE = '"><script>document.title="taken"</script>&amp;'


async def test_visitor_of_a_search_is_named_with_its_person_or_when_it_was_last_seen(stage: Stage, workspace: str):
    """Also without JavaScript, with a read key, and where nobody is known yet."""
    async with stage.agent(workspace, java_script_enabled=False) as agent:
        await agent.publish(
            {"type": "VisitorSeen", "visitorId": "tablet", "context": {"url": "https://shop.example/cart"}},
            {"type": "VisitorSeen", "visitorId": "kiosk", "context": {"url": "javascript:alert(1)"}},
        )
        tab = await agent.sign_in("read", path="/people?q=kiosk")
        empty = tab.locator(".empty")
        await expect(empty).to_contain_text("Last seen just now on javascript:alert(1)")
        assert await empty.locator("a[href^=javascript]").count() == 0
        await agent.publish({**person("Lin Yutang"), "visitorId": "a-8"})
        search = tab.get_by_label("Search people")

        await search.fill(" tablet ")
        await search.press("Enter")
        await expect(empty).to_contain_text("The visitor tablet is known, and no event has identified it yet.")
        await expect(empty).to_contain_text("Last seen just now on")
        await expect(empty.get_by_role("link", name="shop.example")).to_have_attribute("href", "https://shop.example/cart")

        await search.fill("tab")  # a part of an id is not looked up
        await search.press("Enter")
        await expect(empty).to_contain_text(UNKNOWN.format("tab"))

        await search.fill("a-8")
        await search.press("Enter")
        await expect(empty).to_contain_text("The visitor a-8 belongs to Lin Yutang.")
        await empty.get_by_role("link", name="Lin Yutang").click()
        await expect(tab.get_by_role("heading", level=1)).to_have_text("Lin Yutang")


async def test_markup_in_a_searched_visitor_id_is_text(agent: Agent):
    """Also in the part of the page that htmx loads while somebody types."""
    await agent.people("Ada")
    tab = await agent.sign_in()
    search, empty = tab.get_by_label("Search people"), tab.locator(".empty")
    await search.fill(HOSTILE)
    await expect(empty).to_contain_text(UNKNOWN.format(HOSTILE))

    await agent.publish({"type": "VisitorSeen", "visitorId": HOSTILE, "context": {"url": f"https://x.example/{HOSTILE}"}})
    await tab.reload()

    await expect(empty.locator(".mono")).to_have_text(HOSTILE)
    await expect(empty.get_by_role("link", name="x.example")).to_have_attribute("href", f"https://x.example/{HOSTILE}")
    assert await tab.locator("main script").count() == 0
    assert await tab.title() == "People · kinfold"


async def test_unlinked_visitor_of_a_search_does_not_name_its_former_person(agent: Agent):
    await agent.people("Ada")
    ada = await StateQueries(agent.stage.redis, agent.workspace).contact_by_visitor("v-ada")
    assert ada is not None
    await agent.publish(
        {"type": "MetadataSet", "externalId": "u-ada", "name": "Ada"},
        {"type": "IdentityCorrected", "contactId": ada.id, "by": "Sam", "unlinkVisitorId": "v-ada"},
    )

    tab = await agent.sign_in(path="/people?q=v-ada")

    empty = tab.locator(".empty")
    await expect(empty).to_contain_text("The visitor v-ada was unlinked, and no event has identified it since.")
    await expect(empty).not_to_contain_text("belongs to")
    assert await empty.locator(f"a[href*={ada.id}]").count() == 0


async def test_list_does_not_wait_for_a_visitor_that_redis_does_not_answer_for(
    stage: Stage, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(people, "LOOKUP_S", 0.1)
    with Proxy(redis_url) as proxy:
        client = connect(proxy.url)
        asked = GatewayWorkspace(client, workspace, stage.settings, Metrics(), Directory(stage.settings))
        try:
            proxy.delay_s = 30
            assert await visitor_searched(asked, "tablet") is None
        finally:
            await client.aclose()
            asked.directory.close()
