"""Erasing a person in Chromium: what will go, the confirmation, the receipt, and the page afterwards."""

from typing import Final

import pytest
from playwright.async_api import Page, expect

from kinfold_schemas.keys import key
from tests.support.screen import BY, Agent, Stage, person, violations
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

PATIENCE_MS: Final = 300_000
"""The projector erases in a process of its own, which is nicer than all others."""
SHARING: Final = ("u-ada", "u-grace")
"""The external ids of those who share a device."""


async def open_erasure(agent: Agent, name: str) -> tuple[Page, str]:
    """Sign in, and open the confirmation page from the person's page; also returns the URL of the person."""
    tab = await agent.sign_in()
    await tab.locator("#rows a.person", has_text=name).first.click()
    await tab.wait_for_url("**/people/ct_*")
    url = tab.url
    await tab.get_by_role("link", name="Erase this person").click()
    await tab.get_by_role("heading", level=1, name=f"Erase {name}").wait_for()
    return tab, url


async def pending(agent: Agent) -> int:
    """How many erasures were requested and are not done."""
    count: int = await agent.stage.redis.hlen(key(agent.workspace, "erasures-pending"))
    return count


async def test_person_is_erased_and_the_receipt_shown(agent: Agent):
    """The page of the receipt follows the erasure, prints without the frame, and the person's page answers 410."""
    await agent.publish(
        person("Ada"),
        person("Grace"),
        *[{"type": "VisitorIdentified", "visitorId": "kiosk", "externalId": each} for each in SHARING],
    )
    tab, url = await open_erasure(agent, "Ada")
    going = tab.get_by_label("What will go")
    for text in ("ada@example.org", "u-ada", "v-ada", "Shared devices, which stay with the other people"):
        await expect(going).to_contain_text(text)
    await expect(going.locator("dt:text-is('Log entries') + dd")).to_have_text("2")
    await expect(tab.get_by_label("What kinfold cannot reach")).to_contain_text("backups")
    assert await violations(tab) == []

    await tab.get_by_label("Contact id, e-mail or external id").fill(" ADA@example.org")
    await tab.get_by_label("Why").fill("Asked by letter")
    await tab.get_by_role("button", name="Erase this person").click()
    await tab.wait_for_url("**/erasures/er_*")
    await expect(tab.get_by_role("status")).to_contain_text("The erasure is done.", timeout=PATIENCE_MS)
    receipt = tab.get_by_label("Receipt", exact=True)
    for text in (BY, "Asked by letter"):
        await expect(receipt).to_contain_text(text)
    await expect(tab.locator("main")).not_to_contain_text("ada@example.org")
    assert await violations(tab) == []
    await tab.emulate_media(media="print")
    await expect(tab.get_by_role("navigation")).to_be_hidden()
    await expect(receipt).to_be_visible()

    for path in ("", "/erase", "/correct", "/why"):
        answer = await tab.goto(url + path)
        assert answer is not None
        assert answer.status == 410, path
        await expect(tab.get_by_role("alert")).to_contain_text("This person was erased.")
    await tab.goto(f"{agent.stage.url}/people?q=v-ada")
    await expect(tab.locator(".empty")).to_contain_text("no visitor has this id")
    await tab.goto(f"{agent.stage.url}/people?q=kiosk")
    await expect(tab.locator(".empty")).to_contain_text("The visitor kiosk belongs to Grace.")


async def test_person_is_erased_without_javascript(stage: Stage, workspace: str):
    """The page of the receipt says how it goes when it is loaded again."""
    async with stage.agent(workspace, java_script_enabled=False) as agent:
        await agent.people("Ada")
        tab, _ = await open_erasure(agent, "Ada")
        await tab.get_by_label("Contact id, e-mail or external id").fill("u-ada")
        await tab.get_by_role("button", name="Erase this person").click()
        await tab.wait_for_url("**/erasures/er_*")
        done = tab.get_by_role("status").filter(has_text="The erasure is done.")

        async def is_done() -> bool:
            await tab.reload()
            return await done.count() == 1

        await wait_until(is_done, PATIENCE_MS / 1000, 0.3)


async def test_wrong_confirmation_erases_nothing(agent: Agent):
    """The form keeps the reason. It takes no other person's identifier."""
    await agent.people("Ada", "Grace")
    tab, url = await open_erasure(agent, "Ada")
    await tab.get_by_label("Why").fill("Asked by letter")
    await tab.get_by_label("Contact id, e-mail or external id").fill("grace@example.org")
    await tab.get_by_role("button", name="Erase this person").click()

    await expect(tab.get_by_role("alert")).to_contain_text("Nothing was erased")
    await expect(tab.get_by_label("Why")).to_have_value("Asked by letter")
    assert await pending(agent) == 0
    answer = await tab.goto(url)
    assert answer is not None
    assert answer.status == 200


async def test_person_who_has_changed_since_the_page_is_not_erased(agent: Agent):
    """What would go is shown again, as it is now."""
    await agent.people("Ada")
    tab, _ = await open_erasure(agent, "Ada")
    await agent.publish({"type": "VisitorIdentified", "visitorId": "v-new", "externalId": "u-ada"})
    await tab.get_by_label("Contact id, e-mail or external id").fill("u-ada")
    await tab.get_by_role("button", name="Erase this person").click()

    await expect(tab.get_by_role("alert")).to_contain_text("has changed since")
    await expect(tab.get_by_label("What will go")).to_contain_text("v-new")
    assert await pending(agent) == 0


async def test_read_key_sees_no_button_and_may_not_erase(agent: Agent):
    await agent.people("Ada")
    tab = await agent.sign_in("read")
    await tab.locator("#rows a.person", has_text="Ada").first.click()
    await tab.wait_for_url("**/people/ct_*")
    assert await tab.get_by_role("link", name="Erase this person").count() == 0
    answer = await tab.goto(f"{tab.url}/erase")
    assert answer is not None
    assert answer.status == 403


async def test_form_of_another_session_is_refused(agent: Agent):
    await agent.people("Ada")
    tab, url = await open_erasure(agent, "Ada")
    await tab.locator("main input[name=csrf]").evaluate("input => input.value = '0'.repeat(64)")
    await tab.get_by_label("Contact id, e-mail or external id").fill("u-ada")
    await tab.get_by_role("button", name="Erase this person").click()

    await expect(tab.get_by_role("alert")).to_contain_text("expected the token of this session")
    assert await pending(agent) == 0
    assert url in tab.url
