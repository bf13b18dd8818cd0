"""A search on the list of people that nobody matches looks the text up as the id of a visitor."""

import re
from html import unescape
from typing import Any, Final

import msgspec
import pytest
from playwright.async_api import expect

from kinfold_schemas.contacts import Contact, Visitor
from kinfold_services.connections import connect
from kinfold_services.directory.metadata_keys import MetadataKeys
from kinfold_services.directory.query import Count, Page
from kinfold_services.gateway.directory import Directory
from kinfold_services.gateway.metrics import Metrics
from kinfold_services.gateway.screen import people
from kinfold_services.gateway.screen.listing import Listing
from kinfold_services.gateway.screen.pages import render
from kinfold_services.gateway.screen.people import Found, Searched, visitor_searched
from kinfold_services.gateway.workspaces import GatewayWorkspace
from kinfold_services.state.queries import StateQueries
from tests.support.proxy import Proxy
from tests.support.screen import BY, Agent, Stage, person

pytestmark = pytest.mark.asyncio(loop_scope="package")

UNKNOWN: Final = "No name, e-mail, external id or contact id contains “{}”, and no visitor has this id."
HOSTILE: Final = '"><script>document.title="taken"</script>&amp;'


async def answers(agent: Agent, *searches: str) -> list[str]:
    """The HTML of the page for each search, with a read key and without JavaScript, from the results on."""
    async with agent.client() as client:
        await client.post("/sign-in", data={"key": await agent.key("read"), "by": BY})
        pages = [await client.get("/people", params={"q": each}) for each in searches]
    assert {page.status_code for page in pages} == {200}
    return [page.text.partition('id="results"')[2] for page in pages]


def words_of(html: str) -> str:
    """The text of HTML, with single spaces."""
    return " ".join(unescape(re.sub(r"<[^>]*>", "", html)).split())


async def test_visitor_of_a_search_is_named_with_its_person_or_when_it_was_last_seen(agent: Agent):
    """A part of a visitor id is not looked up. An unlinked visitor does not name the person who had it."""
    tablet = {"type": "VisitorSeen", "visitorId": "tablet", "context": {"url": "https://shop.example/cart"}}
    kiosk = {"type": "VisitorSeen", "visitorId": "kiosk", "context": {"url": "javascript:alert(1)"}}
    await agent.publish(tablet, kiosk, {**person("Lin Yutang"), "visitorId": "a-8"}, person("Ada"))
    queries = StateQueries(agent.stage.redis, agent.workspace)
    lin, ada = [await queries.contact_by_visitor(each) for each in ("a-8", "v-ada")]
    assert lin is not None
    assert ada is not None
    correction = {"type": "IdentityCorrected", "contactId": ada.id, "by": BY, "unlinkVisitorId": "v-ada"}
    await agent.publish(correction)

    linked, anonymous, scripted, unlinked, part = await answers(agent, "a-8", " tablet ", "kiosk", "v-ada", "tabl")

    assert "The visitor a-8 belongs to Lin Yutang. Show everybody" in words_of(linked)
    assert f'<a href="/people/{lin.id}">Lin Yutang</a>' in linked
    assert "The visitor tablet is known, and no event has identified it yet. Last seen just now on" in words_of(anonymous)
    assert '<a href="https://shop.example/cart"' in anonymous
    assert "on javascript:alert(1)" in words_of(scripted)
    assert 'href="javascript' not in scripted
    assert "The visitor v-ada was unlinked, and no event has identified it since. Last seen just now" in words_of(unlinked)
    assert ada.id not in unlinked
    assert UNKNOWN.format("tabl") in words_of(part)


async def test_longest_visitor_id_can_be_searched_for(agent: Agent):
    longest = "v" * 255
    await agent.publish(person("Ada"), {"type": "VisitorSeen", "visitorId": longest})

    (found,) = await answers(agent, longest)

    assert f"The visitor {longest} is known" in words_of(found)


async def test_anonymous_visitor_is_found_where_nobody_is_known_yet(agent: Agent):
    await agent.publish({"type": "VisitorSeen", "visitorId": "tablet"})

    found, missed = await answers(agent, "tablet", "laptop")

    assert "The visitor tablet is known" in words_of(found)
    assert missed == ""  # the page about the first event


async def test_visitor_is_named_above_people_who_are_only_similar():
    """PostgreSQL finds similar words where nobody matches."""
    at = "2026-11-01T10:00:00.000Z"
    nothing: dict[str, Any] = {
        "external_id": None,
        "email": None,
        "image": None,
        "metadata": {},
        "metadata_hash": "",
        "visitor_ids": [],
    }
    times: dict[str, Any] = dict.fromkeys(("created_at", "updated_at", "first_seen_at", "last_seen_at"), at)
    similar = Contact(id="ct_1", name="Marguerite", visitor_count=0, version=1, **nothing, **times)
    rows = Page([msgspec.json.encode(similar)], None, approximate=True, position="1-0")
    found = Found(rows, Count(0, is_exact=True, position="1-0"), MetadataKeys([], []), [], is_empty=False)
    visitor = Visitor(id="margerite", first_seen_at=at, last_seen_at=at)
    shown = people.shown_values(Listing(q="margerite"), found) | {"wrong": None, "seen": {"ct_1": at}}

    html = render("_results.html", **shown, searched=Searched(visitor))

    assert "The visitor margerite is known, and no event has identified it yet." in words_of(html)
    assert "Marguerite</a>" in html
    assert "The visitor" not in words_of(render("_results.html", **shown, searched=Searched()))


async def test_markup_in_a_searched_visitor_id_is_text(agent: Agent):
    """Also in the part of the page that htmx loads while somebody types."""
    await agent.people("Ada")
    tab = await agent.sign_in()
    search, empty = tab.get_by_label("Search people"), tab.locator(".empty")
    await search.fill(HOSTILE)
    await expect(empty).to_contain_text(UNKNOWN.format(HOSTILE))

    await agent.publish({"type": "VisitorSeen", "visitorId": HOSTILE, "context": {"url": f"https://x.example/{HOSTILE}"}})
    await search.fill(f"{HOSTILE} ")

    await expect(empty.locator(".mono")).to_have_text(HOSTILE)
    await expect(empty.get_by_role("link", name="x.example")).to_have_attribute("href", f"https://x.example/{HOSTILE}")
    assert await tab.locator("main script").count() == 0
    assert await tab.title() == "People · kinfold"


async def test_list_does_not_wait_for_a_visitor_if_redis_does_not_answer(
    stage: Stage, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch
):
    with Proxy(redis_url) as proxy:
        client = connect(proxy.url)
        asked = GatewayWorkspace(client, workspace, stage.settings, Metrics(), Directory(stage.settings))
        try:
            monkeypatch.setattr(people, "LOOKUP_S", 20.0)
            assert await visitor_searched(asked, "tablet") == Searched()
            monkeypatch.setattr(people, "LOOKUP_S", 0.1)
            proxy.fall_silent()
            assert await visitor_searched(asked, "tablet") is None
        finally:
            await client.aclose()
            asked.directory.close()
