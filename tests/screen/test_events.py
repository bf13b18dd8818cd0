"""Live in Chromium: events as they come in, what each did, filters and pause."""

import json
from typing import Final

import pytest
from playwright.async_api import Page, expect

from kinfold_schemas.keys import key
from kinfold_services.connections import connect
from kinfold_services.gateway.log_watch import RING, LogWatch, Reached, look
from tests.support.screen import Agent, Stage, person, violations
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

CLAIM: Final = {"type": "VisitorIdentified", "visitorId": "v-ada", "externalId": "u-ada", "email": "grace@example.org"}


async def events(tab: Page) -> list[str]:
    """What each event did, from top to bottom."""
    return await tab.locator(".events .did").all_inner_texts()


async def test_events_say_what_they_did(agent: Agent):
    await agent.publish(
        person("Ada", plan="free"),
        person("Grace"),
        CLAIM,
        {"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "pro"}},
        {"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "pro"}},
        {"type": "Nope"},
    )
    tab = await agent.sign_in(path="/live")

    nope, same, changed, conflict, _, created = await events(tab)
    assert nope.startswith("Rejected, unknown type: type: expected one of")
    assert [same, changed, conflict] == ["Nothing new", "Changed plan", "Conflict: somebody else has grace@example.org"]
    assert created == "Created the contact · Linked v-ada"
    await expect(tab.locator(".events > li").last).to_contain_text("e-mail ada@example.org")
    await expect(tab.locator(".events > li").last.locator("a.person")).to_have_text("Ada")
    assert await violations(tab) == []


async def test_events_that_change_no_contact_say_what_they_did(agent: Agent):
    """Both those on the page at first, and those that come in."""
    silent = (
        {"type": "VisitorSeen", "visitorId": "laptop", "at": "2026-11-01T10:00:00Z", "context": {"url": "/pricing"}},
        {"type": "VisitorSeen", "visitorId": "laptop", "at": "2026-11-01T10:00:01Z"},
        {"type": "MetadataSet", "visitorId": "laptop", "metadata": {"plan": "pro"}},
        {"type": "EventsExcluded", "entries": ["1-0", "2-0"]},
    )
    said = [
        "Events excluded: 1-0, 2-0. The next replay leaves them out",
        "Kept with the device until it is identified",
        "Seen again",
        "First seen",
    ]
    await agent.publish(*silent, {"type": "VisitorIdentified", "visitorId": "laptop", "externalId": "u-1"})
    tab = await agent.sign_in(path="/live")
    assert (await events(tab))[1:] == said

    await agent.publish(*[{**each, "visitorId": "phone"} if "visitorId" in each else each for each in silent])

    did = tab.locator(".events .did")
    await expect(did).to_have_count(9)
    for row, text in enumerate(said):  # a row that came in before its event was folded is replaced afterwards
        await expect(did.nth(row)).to_have_text(text)


async def test_new_events_come_in_above(agent: Agent):
    await agent.people("Ada")
    tab = await agent.sign_in(path="/live")
    await expect(tab.locator(".events > li")).to_have_count(1)

    await agent.publish({"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "pro"}}, {"type": "Nope"})

    await expect(tab.locator(".events > li")).to_have_count(3)
    await expect(tab.locator(".events .did").nth(1)).to_have_text("Changed plan")
    await expect(tab.locator(".events .did").first).to_contain_text("Rejected")
    await tab.locator(".events summary").nth(1).click()
    await expect(tab.locator(".events pre").nth(1)).to_contain_text('"plan": "pro"')
    assert await violations(tab) == []


async def test_first_event_replaces_the_hint(agent: Agent):
    tab = await agent.sign_in(path="/live")
    await expect(tab.get_by_role("heading", level=2)).to_have_text("No events yet")
    assert await violations(tab) == []

    await agent.people("Ada")

    await expect(tab.locator(".events > li")).to_have_count(1)
    await expect(tab.get_by_role("heading", name="No events yet")).to_be_hidden()


async def test_pause_holds_events_back_and_resume_shows_them(agent: Agent):
    await agent.people("Ada")
    tab = await agent.sign_in(path="/live")
    await expect(tab.locator(".events > li")).to_have_count(1)
    await tab.keyboard.press("p")
    await expect(tab.locator("#live-state")).to_have_text("Paused")

    await agent.people("Grace")
    await agent.people("Alan")
    other = await agent.tab()
    await other.goto(f"{agent.stage.url}/live")
    await expect(other.locator(".events > li")).to_have_count(3)
    await expect(tab.locator(".events > li")).to_have_count(1)
    await tab.get_by_role("button", name="Resume").click()

    await expect(tab.locator(".events > li")).to_have_count(3)


async def test_stream_that_is_opened_while_paused_waits(agent: Agent):
    """As when somebody pauses before htmx has connected."""
    await agent.people("Ada")
    tab = await agent.sign_in()
    opened = list[str]()
    tab.on("request", lambda request: opened.append(request.url) if "/live/events" in request.url else None)
    await tab.add_init_script(
        "document.addEventListener('DOMContentLoaded', () => document.querySelector('[data-pauses]').click(), true)"
    )
    await tab.goto(f"{agent.stage.url}/live")
    await expect(tab.locator("#live-state")).to_have_text("Paused")
    await tab.wait_for_function("document.querySelector('[sse-connect]')['htmx-internal-data']?.sseEventSource")
    assert opened == []

    await agent.people("Grace")
    await tab.get_by_role("button", name="Resume").click()
    await expect(tab.locator(".events > li")).to_have_count(2)


async def test_filter_by_type_identifier_and_text(agent: Agent):
    await agent.publish(
        person("Ada"), person("Grace"), {"type": "MetadataSet", "externalId": "u-grace", "metadata": {"plan": "enterprise"}}
    )
    tab = await agent.sign_in()
    for query, count in {
        "type=MetadataSet": 1,
        "who=ADA@example": 1,
        "who=u-grace": 2,
        "who=v-grace": 1,
        "type=VisitorIdentified&text=u-ada": 1,
        "type=VisitorSeen": 0,
        "text=enterprise": 1,
    }.items():
        await tab.goto(f"{agent.stage.url}/live?{query}")
        assert await tab.locator(".events > li").count() == count, query

    await tab.get_by_label("Text in the event").press("Enter")  # sends the form
    await tab.wait_for_url("**/live?type=&who=&text=enterprise")
    await agent.publish(person("Alan"), {"type": "Last", "visitorId": "enterprise"})
    await expect(tab.locator(".events strong").first).to_have_text("Last")
    await expect(tab.locator(".events > li")).to_have_count(2)


async def test_events_go_on_after_the_connection_was_cut(agent: Agent):
    await agent.people("Ada")
    tab = await agent.sign_in(path="/live")
    await expect(tab.locator(".events > li")).to_have_count(1)
    await agent.context.set_offline(True)
    await agent.people("Grace")

    await agent.context.set_offline(False)

    await expect(tab.locator(".events > li")).to_have_count(2)


async def test_long_event_has_a_page_of_its_own(agent: Agent):
    await agent.publish({"type": "VisitorSeen", "visitorId": "v", "context": {"text": "x" * 3000}})
    tab = await agent.sign_in(path="/live")
    await tab.locator(".events summary").click()
    assert "x" * 1000 not in await tab.locator(".events pre").inner_text()
    await tab.get_by_role("link", name="The whole event").click()
    await expect(tab.locator("pre")).to_contain_text("x" * 3000)
    assert await violations(tab) == []


async def test_page_keeps_a_bounded_number_of_rows(agent: Agent):
    await agent.publish(*[{"type": "VisitorSeen", "visitorId": f"v-{number}"} for number in range(50)])
    tab = await agent.sign_in(path="/live")
    await tab.locator(".events").evaluate("list => { list.dataset.keeps = 55 }")

    await agent.publish(*[{"type": "VisitorSeen", "visitorId": f"w-{number}"} for number in range(20)])

    await expect(tab.locator(".events .name").first).to_contain_text("w-19")
    await expect(tab.locator(".events > li")).to_have_count(55)


async def test_live_is_readable_without_javascript(stage: Stage, workspace: str):
    async with stage.agent(workspace, java_script_enabled=False) as agent:
        await agent.publish(person("Ada"), {"type": "Nope"})
        tab = await agent.sign_in("read", path="/live")
        await expect(tab.locator(".events > li")).to_have_count(2)
        await tab.get_by_role("combobox", name="Type").select_option("VisitorIdentified")
        await tab.get_by_role("button", name="Filter").click()
        await expect(tab.locator(".events > li")).to_have_count(1)


async def test_log_is_read_only_while_somebody_watches(agent: Agent, redis_url: str):
    """Two watchers share one reader. It ends with the last of them."""
    await agent.people("Ada")
    async with connect(redis_url) as client:
        watch = LogWatch(client, agent.workspace)
        one, other = watch.watch("0-0"), watch.watch("0-0")
        assert len((await anext(one))[0]) == len((await anext(other))[0]) == 1
        assert watch.is_reading
        await one.aclose()
        await agent.people("Grace")
        new, _ = await anext(other)
        assert [each.said.name for each in new] == ["Grace"]
        await other.aclose()
        await wait_until(lambda: _has_ended(watch))
        again = watch.watch("0-0")  # what it read before is forgotten and read again
        assert len((await anext(again))[0]) == 2
        await again.aclose()
        await watch.stop()


async def _has_ended(watch: LogWatch) -> bool:
    return not watch.is_reading


async def test_flood_is_counted_and_not_held(agent: Agent, redis_url: str):
    """Of many entries at once, the newest are shown, and the number of the others."""
    await agent.people("Ada")
    log = key(agent.workspace, "events")
    async with connect(redis_url) as client:
        before = await look(client, agent.workspace, Reached(), 10)
        pipeline = agent.stage.redis.pipeline(transaction=False)
        for number in range(1000):
            pipeline.xadd(log, {"event": json.dumps({"type": "VisitorSeen", "visitorId": f"v-{number}"})})
        await pipeline.execute()
        found = await look(client, agent.workspace, before.reached, 60)

    assert (len(found.entries), found.entries[0].gap) == (60, 940)
    assert found.entries[-1].said.visitor_id == "v-999"
    assert RING < 1000
