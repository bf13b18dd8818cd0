"""The page of a person in Chromium: facts, devices, metadata, timeline, conflicts, merges and why; attacks by their data."""

import re
from typing import Any, Final
from urllib.parse import quote

import pytest
from playwright.async_api import Page, expect

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from tests.support.screen import Agent, Stage, person, violations

pytestmark = pytest.mark.asyncio(loop_scope="package")

IPHONE: Final = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 "
    "Mobile/15E148 Safari/604.1"
)
CONTEXT: Final = {
    "url": "https://shop.example/pricing",
    "referrer": "https://news.example/",
    "userAgent": IPHONE,
    "timezone": "Europe/Berlin",
}
MARKUP: Final = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>\"'><svg/onload=window.hacked=1>{{7*7}}"
MARKED_ID: Final = MARKUP.removesuffix("{{7*7}}")  # an unfilled template is a blocked identifier


async def open_person(agent: Agent, name: str) -> Page:
    """Sign in, and open the person from the list."""
    tab = await agent.sign_in()
    await tab.locator("#rows a.person", has_text=name).first.click()
    await tab.wait_for_url("**/people/ct_*")
    return tab


async def test_person_shows_devices_metadata_and_timeline(agent: Agent):
    await agent.publish(
        {"type": "VisitorSeen", "visitorId": "v-ada", "context": CONTEXT},
        person("Ada", plan="free"),
        {"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "pro"}},
    )
    tab = await open_person(agent, "Ada")

    await expect(tab.get_by_role("heading", level=1)).to_have_text("Ada")
    await expect(tab.locator(".top")).to_contain_text("Berlin")
    await expect(tab.locator(".top .dot")).to_have_class("dot online")
    await expect(tab.locator(".device")).to_contain_text("Mobile Safari 18 on iOS 18, iPhone")
    await expect(tab.locator(".device a[target]")).to_have_attribute("href", CONTEXT["url"])
    await expect(tab.locator(".device")).to_contain_text("From https://news.example/")
    await expect(tab.locator(".pair", has_text="plan")).to_contain_text("pro")
    await expect(tab.locator(".story > li").first).to_contain_text("plan changed")
    await expect(tab.locator(".story > li").first).to_contain_text("free → pro")
    await expect(tab.locator(".story > li").last).to_contain_text("Became known")
    assert await violations(tab) == []


async def test_change_arrives_on_the_open_page(agent: Agent):
    await agent.people("Ada", plan="free")
    tab = await open_person(agent, "Ada")

    await agent.publish({"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "enterprise"}})

    await expect(tab.locator(".pair", has_text="plan")).to_contain_text("enterprise")
    await expect(tab.locator(".story > li").first).to_contain_text("free → enterprise")


async def test_merge_and_conflict_are_told_and_the_old_id_leads_on(agent: Agent):
    await agent.publish(
        {"type": "VisitorIdentified", "visitorId": "laptop", "email": "ada@example.org", "name": "Ada by mail"},
        {"type": "VisitorIdentified", "visitorId": "phone", "externalId": "u-1", "name": "Ada by id"},
        person("Grace"),
    )
    tab = await open_person(agent, "Ada by mail")
    old = tab.url
    await agent.publish(
        {"type": "VisitorIdentified", "visitorId": "phone", "externalId": "u-1", "email": "ada@example.org"},
        {"type": "VisitorIdentified", "visitorId": "phone", "externalId": "u-1", "email": "grace@example.org"},
    )

    # The open page follows the merge by itself.
    await expect(tab.get_by_role("heading", level=1)).to_have_text("Ada by id")
    await tab.goto(old)
    await expect(tab.locator(".note").first).to_contain_text("was merged into this person")
    await expect(tab.locator(".facts")).to_contain_text(old.rpartition("/")[2])
    await expect(tab.locator(".note.warn")).to_contain_text("grace@example.org")
    await expect(tab.locator(".story")).to_contain_text("Turned out to be the same person")
    await expect(tab.locator(".story")).to_contain_text("Did not get the address grace@example.org")
    assert await violations(tab) == []


async def test_why_names_the_event_and_the_rule_of_a_value(agent: Agent):
    await agent.publish(person("Ada"), {"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "pro"}})
    tab = await open_person(agent, "Ada")

    await tab.get_by_role("link", name="Why plan").click()
    step = tab.locator(":target")
    await expect(step).to_contain_text("plan nothing → pro")
    await expect(step).to_contain_text("last write wins")
    await step.locator("summary").click()
    await expect(step.locator("pre")).to_contain_text('"MetadataSet"')
    assert await violations(tab) == []


async def test_unknown_person_is_not_found(agent: Agent):
    await agent.people("Ada")
    tab = await agent.sign_in()
    answer = await tab.goto(f"{agent.stage.url}/people/ct_nobody")

    assert answer is not None
    assert answer.status == 404
    await expect(tab.get_by_role("alert")).to_contain_text("ct_nobody")
    assert await violations(tab) == []


async def test_timeline_continues_after_its_first_page(agent: Agent):
    changes = [{"type": "MetadataSet", "externalId": "u-ada", "metadata": {"step": number}} for number in range(60)]
    await agent.publish(person("Ada"), *changes)
    tab = await open_person(agent, "Ada")

    await expect(tab.locator(".story > li").first).to_contain_text("59")
    await tab.get_by_role("link", name="Older changes").click()
    await expect(tab.locator(".story > li").last).to_contain_text("Became known")


async def test_nothing_that_people_send_runs_as_code(agent: Agent):
    """The policy has nothing to block either: `Agent` fails for every report of it."""
    await agent.publish(
        {"type": "VisitorSeen", "visitorId": MARKED_ID, "context": hostile()},
        {
            "type": "VisitorIdentified",
            "visitorId": MARKED_ID,
            "externalId": MARKED_ID,
            "email": "x@example.org",
            "name": MARKUP,
            "image": 'https://127.0.0.1:1/"onerror="window.hacked=1',
            "metadata": {MARKUP: MARKUP, "plan": "javascript:window.hacked=1"},
        },
    )
    tab = await open_person(agent, "window.hacked")
    links = await tab.locator("a[href]").evaluate_all("links => links.map(link => link.protocol)")
    assert set(links) <= {"http:", "https:"}
    await expect(tab.get_by_role("heading", level=1)).to_have_text(MARKUP)

    await agent.publish({"type": "MetadataSet", "externalId": MARKED_ID, "metadata": {"live": MARKUP}})
    await expect(tab.locator(".pair", has_text="live")).to_contain_text(MARKUP)
    await tab.get_by_role("link", name="Why live").click()
    await expect(tab.locator(":target")).to_contain_text(MARKUP)

    await tab.goto(f"{agent.stage.url}/people?column=live&column={MARKUP[:20]}&q=img")
    await expect(tab.locator("#rows a.person")).to_have_text(MARKUP)
    await agent.publish({"type": "MetadataSet", "externalId": MARKED_ID, "metadata": {"live": f"again {MARKUP}"}})
    await expect(tab.locator("#rows tr")).to_contain_text("again <img")
    await tab.locator("summary", has_text="Filter").click()
    await tab.get_by_label("Field").fill("live")
    await tab.get_by_label("Field").blur()
    await expect(tab.locator("#values option").first).to_have_attribute("value", f"again {MARKUP}")
    assert await tab.evaluate("window.hacked") is None
    assert await tab.locator("main img, main script, main svg[onload]").count() == 0


async def test_nothing_that_events_say_runs_as_code_on_the_other_pages(agent: Agent):
    """Conflicts, rejects, live and as-of, also for what arrives while the page is open. A long word widens no page."""
    named = {"name": MARKUP + "W" * 140, "metadata": {MARKUP: MARKUP}}
    hacked = {"visitorId": MARKED_ID, "externalId": MARKED_ID, **named}
    other = {**hacked, "visitorId": f"other {MARKED_ID}", "externalId": f"other {MARKED_ID}", "email": "x@example.org"}
    bad = {"type": MARKUP, MARKUP: MARKUP, "by": MARKUP, "email": MARKUP, "context": hostile()}
    await agent.publish(
        {"type": "VisitorIdentified", **hacked},
        {"type": "VisitorIdentified", **other},
        {"type": "VisitorIdentified", **hacked, "email": "x@example.org"},
        {"type": "VisitorSeen", "visitorId": MARKED_ID, "context": hostile()},
        bad,
    )
    tab = await agent.sign_in(path="/live")
    await agent.publish({"type": "MetadataSet", "externalId": MARKED_ID, "metadata": {"live": MARKUP}}, {**bad, "type": "x"})
    await expect(tab.locator(".events > li").nth(1)).to_contain_text(f"live = {MARKUP[:30]}")
    person_url = await tab.locator(".events a.person").first.get_attribute("href")
    reject = re.compile("Rejects|Not|Unknown|Invalid")
    its = [f"{person_url}/{page}" for page in ("at", "why", "correct", "merge?q=window")]
    for path in ("/live", "/conflicts", "/rejects", f"/live?text={quote(MARKUP)}", *its):
        await tab.goto(agent.stage.url + path)
        await expect(tab.locator("main")).to_contain_text("window.hacked" if "text=" not in path else "Live")
        links = await tab.locator("main a[href]").evaluate_all("links => links.map(link => link.protocol)")
        assert set(links) <= {"http:", "https:"}, path
        assert await tab.locator("main img, main script, main svg[onload]").count() == 0, path
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        if path == "/rejects":
            await tab.locator(".rejects a.tag", has_text=reject).first.click()
            await expect(tab.locator("pre")).to_contain_text("window.hacked")
            assert await tab.locator("main img, main script, main svg[onload]").count() == 0
        assert await tab.evaluate("window.hacked") is None, path
    await tab.get_by_role("button", name="Preview").first.click()
    await expect(tab.locator("main")).to_contain_text("window.hacked")
    assert await tab.evaluate("window.hacked") is None


@pytest.mark.parametrize("url", ["javascript:window.hacked=1", " javascript:alert(1)", "data:text/html,<b>", "//evil", "x"])
async def test_only_a_web_address_is_a_link(agent: Agent, url: str):
    await agent.publish({"type": "VisitorSeen", "visitorId": "v-ada", "context": {**CONTEXT, "url": url}}, person("Ada"))
    tab = await open_person(agent, "Ada")

    await expect(tab.locator(".device")).to_contain_text("Mobile Safari")
    assert await tab.locator(".device a[target]").count() == 0


async def test_person_is_readable_without_javascript(stage: Stage, workspace: str):
    async with stage.agent(workspace, java_script_enabled=False) as agent:
        await agent.people("Ada", plan="pro")
        tab = await open_person(agent, "Ada")
        await expect(tab.locator(".pair")).to_contain_text("pro")
        await tab.get_by_role("link", name="Why?").click()
        await expect(tab.get_by_role("heading", level=1)).to_contain_text("Why Ada")
        await tab.get_by_role("button", name="Sign out").click()
        await tab.wait_for_url("**/sign-in")


def hostile() -> dict[str, Any]:
    """A context that is full of markup."""
    return {"url": f"https://shop.example/?{MARKUP}", "referrer": MARKUP, "userAgent": MARKUP, "timezone": "../../etc/passwd"}


async def test_every_fact_has_its_own_why(agent: Agent):
    await agent.publish(
        person("Ada", plan="free"),
        {"type": "VisitorIdentified", "externalId": "u-ada", "email": "ada@new.example", "source": "browser"},
        {"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "pro"}, "name": "Ada Lovelace"},
        {"type": "VisitorIdentified", "visitorId": "phone", "externalId": "u-ada"},
    )
    tab = await open_person(agent, "Ada")
    url = tab.url

    for fact, event in {
        "Why the name": "Ada Lovelace",
        "Why the external id": '"externalId": "u-ada"',
        "Why plan": '"plan": "pro"',
        "Why the device phone": '"visitorId": "phone"',
    }.items():
        await tab.get_by_role("link", name=fact, exact=True).click()
        await expect(tab.locator(":target pre")).to_contain_text(event)
        await tab.goto(url)
    await expect(tab.locator(".facts dd", has_text="Ada Lovelace")).to_contain_text("backend")
    await expect(tab.locator(".facts dd", has_text="ada@new.example")).to_contain_text("a page")


async def test_explanation_is_paged(agent: Agent):
    await agent.publish(
        person("Ada"), *[{"type": "MetadataSet", "externalId": "u-ada", "metadata": {"n": number}} for number in range(30)]
    )
    tab = await open_person(agent, "Ada")
    await tab.get_by_role("link", name="Why?").click()
    await expect(tab.locator(".step")).to_have_count(25)
    await tab.get_by_role("link", name="Older").click()
    await expect(tab.locator(".step")).to_have_count(6)
    await expect(tab.locator(".step").last).to_contain_text("created ct_")
    await tab.get_by_role("link", name="Newest").click()
    await expect(tab.locator(".step").first).to_contain_text("metadata.n 28 → 29")

    await agent.publish({"type": "VisitorSeen", "visitorId": "v-ada"}, {"type": "VisitorIdentified", "externalId": "u-ada"})
    await tab.reload()
    await expect(tab.locator(".step").first).to_contain_text("nothing new")
    await expect(tab.locator(".step").nth(1)).to_contain_text("seen")
    await tab.get_by_role("link", name="Changes").click()
    await expect(tab.locator(".step").first).to_contain_text("metadata.n 28 → 29")
    await tab.get_by_role("link", name="Older").click()
    await expect(tab.locator(".step")).to_have_count(6)


async def test_value_that_came_with_a_merge_is_explained_by_the_merge(agent: Agent):
    await agent.publish(
        {"type": "VisitorIdentified", "visitorId": "laptop", "email": "ada@example.org", "metadata": {"plan": "free"}},
        {"type": "VisitorIdentified", "visitorId": "phone", "externalId": "u-1", "name": "Ada"},
        {"type": "VisitorIdentified", "externalId": "u-1", "email": "ada@example.org", "id": "the-merge"},
    )
    tab = await open_person(agent, "Ada")

    await tab.get_by_role("link", name="Why plan", exact=True).click()

    await expect(tab.locator(":target pre")).to_contain_text("the-merge")


async def test_person_is_shown_as_they_were(agent: Agent):
    """The slider moves through the log; the buttons go from change to change."""
    await agent.publish(person("Ada", plan="free"))
    await agent.publish({"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "pro", "seats": 5}})
    await agent.publish({"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "team"}})
    tab = await open_person(agent, "Ada")
    await tab.get_by_role("link", name="As of").click()

    plan = tab.locator("tr", has_text="plan")
    await expect(plan.locator("td")).to_have_text(["pro", "team"])
    await expect(tab.locator(".top")).to_contain_text("after change 2 of 3")
    assert await violations(tab) == []
    await tab.get_by_role("link", name="Earlier change").click()
    await expect(plan.locator("td")).to_have_text(["free", "team"])
    await expect(tab.locator("tr", has_text="seats").locator("td")).to_have_text(["–", "5"])
    await expect(tab.get_by_role("heading", level=1)).to_contain_text("As of")

    slider = tab.get_by_role("slider")
    await tab.wait_for_load_state()  # the script submits the form of the slider
    await slider.focus()
    entries: Any = await agent.stage.redis.xrevrange(key(agent.workspace, "events"), count=1)
    most, step = [int(await slider.get_attribute(name) or "") for name in ("max", "step")]
    assert most - position_key(entries[0][0].decode())[0] <= step  # nothing moves after the last change
    await slider.press("End")
    await expect(plan.locator("td")).to_have_text(["team", "the same"])


async def test_two_people_who_are_one_now_are_shown_as_two(agent: Agent):
    await agent.publish(
        {"type": "VisitorIdentified", "visitorId": "laptop", "email": "ada@example.org", "name": "Ada by mail"},
        {"type": "VisitorIdentified", "visitorId": "phone", "externalId": "u-1", "name": "Ada by id"},
        {"type": "VisitorIdentified", "externalId": "u-1", "email": "ada@example.org"},
    )
    tab = await open_person(agent, "Ada by id")
    await tab.get_by_role("link", name="As of").click()

    await expect(tab.locator(".note")).to_contain_text("this was 2 people")
    await expect(tab.locator("article.card")).to_have_count(2)


async def test_moment_outside_of_the_log_is_rejected(agent: Agent):
    await agent.people("Ada")
    tab = await open_person(agent, "Ada")
    url = tab.url
    for at in ("nonsense", "1-0", "9999999999999-0"):
        answer = await tab.goto(f"{url}/at?at={at}")
        assert answer is not None
        assert answer.status == 400
        await expect(tab.get_by_role("alert")).to_contain_text("at:")


async def test_past_works_without_javascript(stage: Stage, workspace: str):
    async with stage.agent(workspace, java_script_enabled=False) as agent:
        await agent.people("Ada", plan="free")
        await agent.publish({"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "pro"}})
        tab = await open_person(agent, "Ada")
        await tab.get_by_role("link", name="As of").click()
        await expect(tab.locator("tr", has_text="plan").locator("td")).to_have_text(["free", "pro"])
        await tab.get_by_role("slider").fill(await tab.get_by_role("slider").get_attribute("max") or "")
        await tab.get_by_role("button", name="Show").click()
        await expect(tab.locator("tr", has_text="plan").locator("td")).to_have_text(["pro", "the same"])
