"""Putting people right in Chromium: a form, a preview, the correction, and the way back."""

import json
from typing import Any, Final

import pytest
from playwright.async_api import Page, expect

from kinfold_schemas.keys import key
from tests.support.screen import BY, Agent, Stage, person, violations

pytestmark = pytest.mark.asyncio(loop_scope="package")

PATIENCE_MS: Final = 120_000
"""An undo replays the log in a process of its own."""


async def open_person(agent: Agent, name: str) -> Page:
    """Sign in, and open the person from the list."""
    tab = await agent.sign_in()
    await tab.locator("#rows a.person", has_text=name).first.click()
    await tab.wait_for_url("**/people/ct_*")
    return tab


async def newest_event(agent: Agent) -> dict[str, Any]:
    """The newest event of the log."""
    entries: Any = await agent.stage.redis.xrevrange(key(agent.workspace, "events"), count=1)
    event: dict[str, Any] = json.loads(entries[0][1][b"event"])
    return event


async def press_undo(tab: Page, press: str) -> None:
    """Press a button that takes something back, and wait for the preview."""
    await tab.get_by_role("button", name=press).click(timeout=PATIENCE_MS)
    await tab.get_by_role("heading", level=1, name="what will change").wait_for(timeout=PATIENCE_MS)


async def undo(tab: Page, press: str, confirm: str) -> None:
    """Press a button that takes something back, and confirm the preview."""
    await press_undo(tab, press)
    await tab.get_by_role("button", name=confirm).click(timeout=PATIENCE_MS)
    await expect(tab.get_by_role("status")).to_contain_text("Taken back.", timeout=PATIENCE_MS)


async def test_person_is_corrected_and_the_correction_undone(stage: Stage, workspace: str):
    """Without JavaScript, from the form to the way back."""
    async with stage.agent(workspace, java_script_enabled=False) as agent:
        await agent.people("Ada", plan="free", city="London", seats=5)
        tab = await open_person(agent, "Ada")
        url = tab.url
        await tab.get_by_role("link", name="Correct").click()
        await tab.get_by_label("E-mail").fill("ada@new.example")
        await tab.get_by_label("plan", exact=True).fill("pro")
        await tab.get_by_label("Remove city").check()
        await tab.get_by_label("New key 1", exact=True).fill("vip")
        await tab.get_by_label("Value of new key 1").fill("true")
        await tab.get_by_label("Why").fill("She called")
        await tab.get_by_role("button", name="Preview").click()

        changes = [
            "E-mail\tada@example.org\tada@new.example",
            "city\tLondon\tremoved",
            "plan\tfree\tpro",
            "vip\t–\ttrue",
        ]
        await expect(tab.locator(".facts-then tbody tr")).to_have_text(changes, use_inner_text=True)
        assert (await newest_event(agent))["type"] == "VisitorIdentified"  # nothing is done yet
        await tab.get_by_role("button", name="Do it").click()
        await expect(tab.get_by_role("status")).to_contain_text(f"By {BY}")
        event = await newest_event(agent)
        assert (event["type"], event["by"], event["reason"]) == ("IdentityCorrected", BY, "She called")
        assert event["metadata"] == {"plan": "pro", "vip": True}
        done = tab.url
        await tab.goto(url)
        await expect(tab.locator(".facts")).to_contain_text("ada@new.example")
        await expect(tab.locator(".pair", has_text="vip")).to_contain_text(f"{BY}, by hand")
        await expect(tab.locator(".story > li").first).to_contain_text(f"corrected by {BY}: She called")

        await tab.goto(done)
        await undo(tab, "Undo", "Undo it")
        await tab.goto(url)
        await expect(tab.locator(".facts")).to_contain_text("ada@example.org")
        await expect(tab.locator(".pair", has_text="plan")).to_contain_text("free")


async def test_two_people_are_merged_by_hand_and_the_merge_is_taken_back(agent: Agent):
    await agent.people("Ada", "Augusta King")
    tab = await open_person(agent, "Ada")
    await tab.get_by_role("link", name="Merge").click()
    await tab.get_by_label("Search for the other person").fill("august")
    await tab.keyboard.press("Enter")
    await expect(tab.locator(".picks a.person")).to_have_text(["Augusta King"])
    assert await violations(tab) == []
    await tab.get_by_role("button", name="Preview the merge").click()

    await expect(tab.locator("article.card", has_text="merged into another person")).to_contain_text("Augusta King")
    await expect(tab.get_by_text("It keeps the external id u-ada")).to_be_visible()
    assert await violations(tab) == []
    await tab.get_by_role("button", name="The other way round").click()
    await expect(tab.get_by_text("It keeps the external id u-augusta.king")).to_be_visible()
    await tab.get_by_role("button", name="Do it").click()
    await expect(tab.get_by_role("status")).to_contain_text("Done.")
    assert await violations(tab) == []

    await tab.locator("main h2 a").click()
    await expect(tab.get_by_role("heading", level=1)).to_have_text("Augusta King")
    await undo(tab, "Take back", "Take it back")
    await tab.goto(f"{agent.stage.url}/people")
    await expect(tab.locator("#rows a.person")).to_have_count(2)


async def test_wrong_merge_that_an_event_made_is_taken_back(agent: Agent):
    """Somebody signed up on a friend's phone: one event named both, so they became one person."""
    await agent.publish(
        {"type": "VisitorIdentified", "visitorId": "phone", "email": "ada@example.org", "name": "Ada"},
        {"type": "VisitorIdentified", "visitorId": "laptop", "externalId": "u-grace", "name": "Grace"},
        {"type": "VisitorIdentified", "visitorId": "laptop", "externalId": "u-grace", "email": "ada@example.org"},
    )
    tab = await open_person(agent, "Grace")
    await undo(tab, "Take back", "Take it back")

    await expect(tab.locator("main a.person")).to_have_text(["Grace", "Ada"])  # both are one click away
    assert await violations(tab) == []
    await tab.get_by_text("The log leaves 1 entry out").get_by_role("link").click()
    await expect(tab.locator("pre")).to_contain_text("u-grace")
    await tab.goto(f"{agent.stage.url}/people?sort=name")
    await expect(tab.locator("#rows a.person")).to_have_text(["Ada", "Grace"])
    await tab.locator("#rows a.person", has_text="Ada").click()
    await expect(tab.locator(".device")).to_contain_text("phone")
    await expect(tab.locator(".facts")).to_contain_text("ada@example.org")
    await expect(tab.locator(".facts dd", has_text="ada@example.org")).to_contain_text("replay · why")
    await tab.get_by_role("link", name="Why the e-mail").click()
    await expect(tab.get_by_role("heading", level=1)).to_have_text("Why Ada is who they are")


async def test_device_is_unlinked(agent: Agent):
    await agent.publish(person("Ada"), {"type": "VisitorIdentified", "visitorId": "kiosk", "externalId": "u-ada"})
    tab = await open_person(agent, "Ada")

    await tab.get_by_role("button", name="Unlink… kiosk").click()
    await expect(tab.get_by_label("Device")).to_contain_text("kiosk belongs to nobody then")
    assert await violations(tab) == []
    await tab.get_by_role("button", name="Do it").click()
    await expect(tab.locator(".rows")).to_contain_text("Device kiosk was unlinked")
    done = tab.url
    await press_undo(tab, "Undo")
    await expect(tab.get_by_label("Why")).to_be_visible()
    assert await violations(tab) == []
    await tab.goto(done)
    await tab.locator("main h2 a").click()
    await expect(tab.locator(".device")).to_have_count(1)


@pytest.mark.parametrize(
    ("button", "preview", "left"),
    [
        ("They are one person", "merged into another person", {"Grace": "grace@example.org"}),  # the later name
        ("Give the address to Ada", "removed", {"Ada": "grace@example.org", "Grace": "u-grace"}),
        (
            "Dismiss",
            "The conflict about grace@example.org leaves the list",
            {"Ada": "ada@example.org", "Grace": "grace@example.org"},
        ),
    ],
)
async def test_conflict_is_settled(agent: Agent, button: str, preview: str, left: dict[str, str]):
    await agent.people("Ada")  # folded before Grace comes: in the same millisecond, Ada's name would stay
    await agent.publish(person("Grace"), {"type": "VisitorIdentified", "externalId": "u-ada", "email": "grace@example.org"})
    tab = await agent.sign_in(path="/conflicts")
    await tab.get_by_role("button", name=button).click()
    await expect(tab.locator("main")).to_contain_text(preview)
    await tab.get_by_role("button", name="Do it").click()
    await expect(tab.get_by_role("status")).to_contain_text("Done.")

    await tab.locator("a[data-back]", has_text="Conflicts").click()
    await expect(tab.locator(".empty")).to_contain_text("No open conflict")
    await tab.goto(f"{agent.stage.url}/people?sort=name")
    await expect(tab.locator("#rows a.person")).to_have_text(list(left))
    await expect(tab.locator("#rows .names .sub")).to_have_text(list(left.values()))


async def test_rejected_correction_leaves_the_form_as_it_was_filled_in(agent: Agent):
    """And the preview calls everybody what they are called now, not what they would be called."""
    await agent.people("Ada", plan="free")
    tab = await open_person(agent, "Ada")
    await tab.get_by_role("link", name="Correct").click()
    await tab.get_by_label("Name").fill("Augusta")
    await tab.get_by_label("E-mail").fill("no address")
    await tab.get_by_label("Remove plan").check()
    await tab.get_by_label("New key 1", exact=True).fill("vip")
    await tab.get_by_label("Value of new key 1").fill("true")
    await tab.get_by_label("Why").fill("She called")
    await tab.get_by_role("button", name="Preview").click()

    await expect(tab.get_by_role("alert")).to_contain_text("got 'no address'")
    await expect(tab.get_by_label("Name")).to_have_value("Augusta")
    await expect(tab.get_by_label("Remove plan")).to_be_checked()
    await expect(tab.get_by_label("New key 1", exact=True)).to_have_value("vip")
    await expect(tab.get_by_label("Why")).to_have_value("She called")
    await tab.get_by_label("E-mail").fill("ada@example.com")
    await tab.get_by_role("button", name="Preview").click()
    await expect(tab.locator("article a.person")).to_have_text("Ada")
    await expect(tab.locator(".facts-then tbody th")).to_have_text(["Name", "E-mail", "plan", "vip"])


async def test_address_of_somebody_else_is_taken_only_after_asking(agent: Agent):
    await agent.people("Ada", "Grace")
    tab = await open_person(agent, "Ada")
    await tab.get_by_role("link", name="Correct").click()
    assert await violations(tab) == []
    await tab.get_by_label("E-mail").fill("grace@example.org")
    await tab.get_by_role("button", name="Preview").click()

    await expect(tab.get_by_role("alert")).to_contain_text("Grace has this already")
    assert await violations(tab) == []
    await tab.get_by_role("button", name="Preview taking it").click()
    await expect(tab.locator("article.card").nth(1).locator("tr", has_text="E-mail")).to_contain_text("removed")
    await tab.get_by_role("button", name="Do it").click()
    await expect(tab.get_by_role("status")).to_contain_text("Done.")


async def test_way_back_from_an_address_of_somebody_else_keeps_what_was_typed(stage: Stage, workspace: str):
    """Without JavaScript, too."""
    async with stage.agent(workspace, java_script_enabled=False) as agent:
        await agent.people("Grace")
        await agent.people("Ada", plan="free", city="London", seats=5)
        tab = await open_person(agent, "Ada")
        await tab.get_by_role("link", name="Correct").click()
        await tab.get_by_label("Name").fill("Augusta")
        await tab.get_by_label("E-mail").fill("grace@example.org")
        await tab.get_by_label("External id").fill("")
        await tab.get_by_label("plan", exact=True).fill('"7"')
        await tab.get_by_label("Remove city").check()
        await tab.get_by_label("New key 2", exact=True).fill("vip")
        await tab.get_by_label("Value of new key 2").fill("true")
        await tab.get_by_label("Why").fill("She called")
        await tab.get_by_role("button", name="Preview").click()
        await expect(tab.get_by_role("alert")).to_contain_text("Grace has this already")
        await tab.get_by_role("button", name="Back to the form").click()

        await expect(tab.get_by_role("heading", level=1)).to_have_text("Correct Ada")
        for label, value in {
            "Name": "Augusta",
            "E-mail": "grace@example.org",
            "External id": "",
            "plan": '"7"',
            "seats": "5",
            "New key 1": "vip",
            "Value of new key 1": "true",
            "Why (optional)": "She called",
        }.items():
            await expect(tab.get_by_label(label, exact=True)).to_have_value(value)
        await expect(tab.get_by_label("Remove city")).to_be_checked()
        await tab.get_by_label("E-mail").fill("augusta@example.org")
        await tab.get_by_role("button", name="Preview").click()
        facts = ["Name", "E-mail", "External id", "city", "plan", "vip"]
        await expect(tab.locator(".facts-then tbody th")).to_have_text(facts)


async def test_two_operators_do_not_overwrite_each_other(agent: Agent):
    """Neither between form and preview, nor between preview and confirmation."""
    await agent.people("Ada", plan="free")
    tab = await open_person(agent, "Ada")
    await tab.get_by_role("link", name="Correct").click()
    await expect(tab.get_by_label("plan", exact=True)).to_have_value("free")
    await agent.publish({"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "pro"}})
    await tab.get_by_label("Name").fill("Ada Lovelace")
    await tab.get_by_role("button", name="Preview").click()
    await expect(tab.get_by_role("alert")).to_contain_text("Somebody has changed this person meanwhile")
    await expect(tab.get_by_label("plan", exact=True)).to_have_value("pro")

    await tab.get_by_role("button", name="Preview").click()
    await expect(tab.get_by_role("alert")).to_contain_text("Nothing was changed in the form")
    await tab.get_by_label("Name").fill("Ada Lovelace")
    await tab.get_by_role("button", name="Preview").click()
    await tab.get_by_role("button", name="Do it").wait_for()
    await agent.publish({"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "team"}})
    await tab.get_by_role("button", name="Do it").click()
    await expect(tab.get_by_role("alert")).to_contain_text("has changed since the preview, so nothing was done")
    assert (await newest_event(agent))["type"] == "MetadataSet"
    await tab.get_by_role("button", name="Do it").click()
    await expect(tab.get_by_role("status")).to_contain_text("Done.")


async def test_read_key_sees_no_way_to_change_a_person(agent: Agent):
    await agent.publish(
        person("Ada"), person("Grace"), {"type": "VisitorIdentified", "externalId": "u-ada", "email": "grace@example.org"}
    )
    tab = await agent.sign_in("read")
    await tab.locator("#rows a.person", has_text="Ada").first.click()
    await tab.wait_for_url("**/people/ct_*")
    assert await tab.locator("main form").count() == 0
    assert await tab.get_by_role("link", name="Correct").count() == 0
    await tab.goto(f"{agent.stage.url}/conflicts")
    assert await tab.locator("main form").count() == 0
    answer = await tab.goto(f"{tab.url.replace('/conflicts', '/people')}/ct_any/correct")
    assert answer is not None
    assert answer.status == 403
