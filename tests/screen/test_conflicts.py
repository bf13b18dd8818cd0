"""The inbox of conflicts in Chromium: both people side by side, live, and settled ones."""

from datetime import UTC, datetime

import pytest
from playwright.async_api import expect

from tests.support.screen import Agent, Stage, person, violations

pytestmark = pytest.mark.asyncio(loop_scope="package")

CLAIM = {"type": "VisitorIdentified", "visitorId": "phone", "externalId": "u-ada", "email": "grace@example.org"}


async def conflict(agent: Agent) -> None:
    """Publish Ada and Grace, and an event that names Grace's address for Ada."""
    await agent.publish(
        person("Grace", plan="pro", city="London"),
        person("Ada", plan="free", city="London"),
        {**CLAIM, "visitorId": "v-grace"},
    )


async def test_both_people_stand_side_by_side_with_what_they_share_and_what_differs(agent: Agent):
    await conflict(agent)
    tab = await agent.sign_in(path="/conflicts")

    card = tab.locator("article")
    await expect(card.get_by_role("heading")).to_have_text("grace@example.org")
    await expect(tab.get_by_role("status")).to_have_text("1 open")
    await expect(card).to_contain_text("Two people with different external ids are never merged")
    await expect(card.locator("thead a.person")).to_have_text(["Ada", "Grace"])
    await expect(card.locator("tr", has_text="plan")).to_contain_text("plan\tfree\tpro", use_inner_text=True)
    await expect(card.locator(".same .tag")).to_have_text(["city: London", "device v-grace"])
    assert await violations(tab) == []

    await tab.keyboard.press("j")
    await tab.keyboard.press("Enter")
    await tab.wait_for_url("**/people/ct_*")


async def test_address_of_a_person_without_a_name_is_shown_once(agent: Agent):
    """Besides the heading, which is the address that the conflict is about."""
    await agent.publish(
        {"type": "VisitorIdentified", "visitorId": "laptop", "externalId": "u-grace", "email": "grace@example.org"},
        {"type": "VisitorIdentified", "visitorId": "phone", "externalId": "u-ada", "email": "ada@example.org"},
        CLAIM,
    )
    tab = await agent.sign_in(path="/conflicts")

    card = tab.locator("article")
    await expect(card.locator("thead a.person")).to_have_text(["ada@example.org", "grace@example.org"])
    await expect(card.locator("tbody")).to_contain_text("External id\tu-ada\tu-grace", use_inner_text=True)
    text = await card.locator(".body").inner_text()
    assert [text.count("ada@example.org"), text.count("grace@example.org")] == [3, 1]
    assert "but u-grace has it and keeps it" in text


async def test_new_conflict_waits_above_and_a_changed_person_changes_in_place(agent: Agent):
    await conflict(agent)
    await agent.publish(person("Alan"))
    tab = await agent.sign_in(path="/conflicts")
    await expect(tab.locator("article")).to_have_count(1)

    await agent.publish(
        {"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "enterprise"}},
        {**CLAIM, "externalId": "u-alan", "visitorId": "v-alan"},
    )

    await expect(tab.locator("article tr", has_text="plan")).to_contain_text("enterprise")
    await expect(tab.locator(".news")).to_have_text("Show 1 new conflict")
    await tab.locator(".news").click()
    await expect(tab.locator("article")).to_have_count(2)


async def test_settled_conflict_leaves_the_inbox_and_stays_under_all(agent: Agent):
    await conflict(agent)
    tab = await agent.sign_in(path="/conflicts")

    await agent.publish({"type": "VisitorIdentified", "externalId": "u-grace", "email": "grace@new.example"})

    await expect(tab.locator("article .tag.good")).to_contain_text("settled")  # in place
    await tab.reload()
    await expect(tab.locator(".empty")).to_contain_text("No open conflict")
    assert await violations(tab) == []
    await tab.get_by_role("link", name="Show settled ones").click()
    await expect(tab.locator("article .tag.good")).to_contain_text("settled")
    assert await violations(tab) == []


async def test_conflicts_are_paged(agent: Agent):
    await agent.publish(
        *[person(f"Person {number:02}") for number in range(23)],
        *[
            {**CLAIM, "externalId": f"u-person.{number:02}", "visitorId": f"v-{number}", "email": "person.00@example.org"}
            for number in range(1, 23)
        ],
    )
    tab = await agent.sign_in(path="/conflicts")

    await expect(tab.get_by_role("status")).to_have_text("22 open")
    await expect(tab.locator("article")).to_have_count(20)
    await tab.get_by_role("link", name="Next").click()
    await expect(tab.locator("article")).to_have_count(2)
    await tab.get_by_role("link", name="First page").click()
    await expect(tab.locator("article")).to_have_count(20)


async def test_keys_lead_to_the_main_pages(agent: Agent):
    await agent.people("Ada")
    tab = await agent.sign_in()
    await tab.clock.set_fixed_time(datetime.now(UTC))  # the second key has to follow within 1.5 s

    for key, path in (("c", "conflicts"), ("p", "people")):
        await tab.keyboard.press("g")
        await tab.keyboard.press(key)
        await tab.wait_for_url(f"**/{path}")


async def test_conflicts_are_readable_without_javascript(stage: Stage, workspace: str):
    async with stage.agent(workspace, java_script_enabled=False) as agent:
        await conflict(agent)
        tab = await agent.sign_in("read", path="/conflicts")
        await expect(tab.locator("article")).to_contain_text("Has it")
        await tab.get_by_role("link", name="grace@example.org").click()
        await expect(tab.get_by_role("heading", level=1)).to_have_text("Conflict")
