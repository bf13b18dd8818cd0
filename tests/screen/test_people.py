"""The list of people in Chromium: search, filters, order, columns, live rows, CSV, keys, and without JavaScript."""

import re

import pytest
from playwright.async_api import expect

from tests.support.screen import Agent, Stage, names, person, violations

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_typing_narrows_the_list_and_stays_in_the_address(agent: Agent):
    await agent.people("Ada Lovelace", "Grace Hopper", "Alan Turing")
    tab = await agent.sign_in()

    await tab.keyboard.press("/")
    await tab.keyboard.type("gräce")  # case and accents do not matter

    await expect(tab.locator("#rows a.person")).to_have_count(1)
    assert await names(tab) == ["Grace Hopper"]
    await expect(tab.locator("#hits")).to_have_text("1 person")
    await expect(tab).to_have_url(re.compile(r"/people\?q=gr%C3%A4ce$"))
    await tab.reload()
    assert await names(tab) == ["Grace Hopper"]


async def test_filter_is_built_of_field_operator_and_suggested_value(agent: Agent):
    await agent.publish(
        person("Ada", plan="pro", seats=5), person("Grace", plan="free", seats=1), person("Alan", plan="pro", seats=2)
    )
    tab = await agent.sign_in()

    await tab.locator("summary", has_text="Filter").click()
    await expect(tab.get_by_label("Field")).to_be_focused()
    await tab.keyboard.press("Escape")
    await expect(tab.get_by_label("Field")).to_be_hidden()
    await expect(tab.locator("summary", has_text="Filter")).to_be_focused()
    await tab.keyboard.press("Enter")
    await tab.get_by_label("Field").fill("plan")
    await tab.get_by_label("Field").blur()
    await expect(tab.locator("#values option").first).to_have_attribute("value", "pro")
    await tab.get_by_label("Value").fill("pro")
    await tab.get_by_role("button", name="Add filter").click()
    await expect(tab.locator(".chip")).to_have_text(["Remove the filter plan is pro"])
    assert sorted(await names(tab)) == ["Ada", "Alan"]

    await tab.locator("summary", has_text="Filter").click()
    await tab.get_by_label("Field").fill("seats")
    await tab.get_by_label("Operator").select_option("is at least")
    await tab.get_by_label("Value").fill("5")
    await tab.get_by_role("button", name="Add filter").click()
    await expect(tab.locator(".chip")).to_have_count(2)
    assert await names(tab) == ["Ada"]

    await tab.locator(".chip", has_text="plan is pro").click()
    await expect(tab.locator(".chip")).to_have_count(1)
    assert await names(tab) == ["Ada"]


async def test_list_is_sorted_by_a_column_of_metadata(agent: Agent):
    await agent.publish(person("Ada", seats=5), person("Grace", seats=11), person("Alan"))
    tab = await agent.sign_in()

    await tab.get_by_role("link", name="seats").click()
    await expect(tab.locator("th[aria-sort=ascending]")).to_contain_text("seats")
    assert await names(tab) == ["Ada", "Grace", "Alan"]
    await tab.get_by_role("link", name="seats").click()
    await expect(tab.locator("th[aria-sort=descending]")).to_contain_text("seats")
    assert await names(tab) == ["Grace", "Ada", "Alan"]


async def test_columns_are_chosen_and_stay_in_the_address(agent: Agent):
    await agent.people("Ada", plan="pro", city="London")
    tab = await agent.sign_in()

    await tab.locator("summary", has_text="Columns").click()
    await tab.get_by_label("plan").uncheck()
    await tab.get_by_role("button", name="Show", exact=True).click()

    await tab.wait_for_url("**/people?column=city")
    await expect(tab.get_by_role("columnheader", name="plan")).to_have_count(0)
    await expect(tab.get_by_role("columnheader", name="city")).to_be_visible()


async def test_shown_row_changes_in_place_and_new_people_wait_above(agent: Agent):
    await agent.people("Ada", "Grace", plan="free")
    tab = await agent.sign_in()
    await expect(tab.locator("#rows a.person")).to_have_count(2)
    before = await names(tab)
    await tab.locator("#rows a.person").nth(1).focus()

    await agent.publish(
        {"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "enterprise"}},
        person("Alan", plan="pro"),
    )

    await expect(tab.locator("#rows tr", has_text="Ada")).to_contain_text("enterprise")
    await expect(tab.locator(".news")).to_have_text("Show 1 new person")
    assert await names(tab) == before
    assert await tab.evaluate("document.activeElement.textContent") == before[1]
    await tab.locator(".news").click()
    await expect(tab.locator("#rows a.person")).to_have_count(3)


async def test_filtered_list_hears_only_of_people_who_come_to_match(agent: Agent):
    await agent.publish(person("Ada", plan="pro"), person("Grace", plan="free"))
    tab = await agent.sign_in(path="/people?where=plan%3Dpro")
    assert await names(tab) == ["Ada"]

    await agent.publish(
        person("Alan", plan="free"), {"type": "MetadataSet", "externalId": "u-grace", "metadata": {"plan": "pro"}}
    )

    await expect(tab.locator(".news")).to_have_text("Show 1 new person")
    await tab.locator(".news").click()
    await expect(tab.locator("#rows a.person")).to_have_count(2)


async def test_merged_row_says_into_whom(agent: Agent):
    await agent.publish(
        {"type": "VisitorIdentified", "visitorId": "laptop", "email": "ada@example.org", "name": "Ada by mail"},
        {"type": "VisitorIdentified", "visitorId": "phone", "externalId": "u-1", "name": "Ada by id"},
    )
    tab = await agent.sign_in()
    await expect(tab.locator("#rows a.person")).to_have_count(2)

    await agent.publish({"type": "VisitorIdentified", "visitorId": "phone", "externalId": "u-1", "email": "ada@example.org"})

    await expect(tab.locator("#rows .gone")).to_contain_text("Merged into Ada by id")


async def test_rows_go_on_after_the_connection_was_cut(agent: Agent):
    await agent.people("Ada", plan="free")
    tab = await agent.sign_in()
    await agent.context.set_offline(True)
    await agent.publish({"type": "MetadataSet", "externalId": "u-ada", "metadata": {"plan": "pro"}})

    await agent.context.set_offline(False)

    await expect(tab.locator("#rows tr")).to_contain_text("pro")


async def test_server_that_does_not_answer_is_named_until_it_does(agent: Agent):
    await agent.people("Ada", "Grace")
    tab = await agent.sign_in()
    search = tab.get_by_label("Search people")
    await agent.context.set_offline(True)
    await search.press_sequentially("ad")
    await expect(tab.get_by_text("kinfold does not answer.")).to_be_visible()

    await agent.context.set_offline(False)
    await search.press_sequentially("a")
    await expect(tab.locator("#rows a.person")).to_have_text(["Ada"])
    await expect(tab.get_by_text("kinfold does not answer.")).to_be_hidden()

    # A stream that is tried every second, and fails each time, counts from its first failure.
    await tab.clock.install()
    await tab.goto(f"{agent.stage.url}/nowhere")
    await tab.evaluate(
        """() => {
            const real = window.EventSource;
            window.EventSource = function () { window.opened = this; this.close = this.addEventListener = () => {}; };
            htmx.createEventSource("/nowhere");
            window.EventSource = real;
        }"""
    )
    for _ in range(5):
        await tab.evaluate("opened.onerror(new Event('error'))")
        await tab.clock.run_for(1000)
    assert await tab.get_by_text("kinfold does not answer.").is_visible()


async def test_next_page_goes_on_where_the_first_ends(agent: Agent):
    await agent.publish(*[person(f"Person {number:02}") for number in range(60)])
    tab = await agent.sign_in(path="/people?sort=name")

    first = await names(tab)
    await tab.get_by_role("link", name="Next").click()
    await tab.get_by_role("link", name="First page").wait_for()

    assert first + await names(tab) == [f"Person {number:02}" for number in range(60)]


async def test_csv_has_everybody_on_the_list_and_no_formula(agent: Agent):
    """A telephone number is not a formula, so `kinfold import-contacts` reads it back as it was."""
    people = [person(f"Person {number:02}", plan="pro") for number in range(55)]
    await agent.publish(*people, person("=1+1", plan="pro"), person("+49 30 1", plan="pro"), person("Grace"))
    tab = await agent.sign_in(path="/people?where=plan%3Dpro&sort=name")

    async with tab.expect_download() as downloading:
        await tab.get_by_role("link", name="CSV").click()
    lines = (await (await downloading.value).path()).read_text("utf-8").splitlines()

    assert lines[0] == "id,externalId,email,name,visitorCount,firstSeenAt,lastSeenAt,createdAt,plan"
    assert len(lines) == 58
    assert ",+49 30 1," in lines[1]
    assert ",'=1+1," in lines[2]
    assert lines[-1].endswith(",pro")


async def test_keys_move_through_the_list_and_open_a_person(agent: Agent):
    await agent.people("Ada", "Grace", "Alan")
    tab = await agent.sign_in(path="/people?sort=name")

    await tab.keyboard.press("?")
    await expect(tab.get_by_role("dialog")).to_be_visible()
    await tab.keyboard.press("Escape")
    for pressed in ("j", "j", "j", "k"):
        await tab.keyboard.press(pressed)
    assert await tab.evaluate("document.activeElement.textContent") == "Alan"
    await tab.keyboard.press("Enter")

    await tab.wait_for_url("**/people/ct_*")
    await expect(tab.get_by_role("heading", level=1)).to_have_text("Alan")
    await tab.keyboard.press("Escape")
    await tab.wait_for_url("**/people?sort=name")


async def test_wrong_filter_of_an_address_can_be_corrected_on_the_page(agent: Agent):
    """The page stays, with what was expected, and the other parameters."""
    await agent.publish(person("Ada", plan="pro"), person("Grace", plan="free"))
    tab = await agent.sign_in(path="/people?q=a&where=plan%3D%3D%3Dpro&sort=name")

    await expect(tab.get_by_role("alert")).to_contain_text("plan===pro")
    await expect(tab.get_by_role("alert")).to_contain_text("expected")
    await expect(tab.get_by_label("Search people")).to_have_value("a")
    await expect(tab.locator(".chip")).to_have_text(["Remove the filter plan===pro"])
    assert await violations(tab) == []

    await tab.get_by_label("Search people").press("End")
    await tab.keyboard.type("d")  # the part of the page that htmx loads says the same
    await tab.wait_for_url("**/people?q=ad&**")
    await expect(tab.get_by_role("alert")).to_contain_text("plan===pro")
    await tab.get_by_label("Filter to correct").fill("plan=pro")
    await tab.get_by_label("Filter to correct").press("Enter")
    await expect(tab.locator(".chip")).to_have_text(["Remove the filter plan is pro"])
    assert await names(tab) == ["Ada"]


async def test_wrong_filter_that_was_built_stays_in_the_form_beside_the_error(agent: Agent):
    await agent.people("Ada", "Grace")
    tab = await agent.sign_in()

    await tab.locator("summary", has_text="Filter").click()
    await tab.get_by_label("Field").fill("lastSeenAt")
    await tab.get_by_label("Operator").select_option("is after")
    await tab.get_by_label("Value").fill("soon")
    await tab.get_by_role("button", name="Add filter").click()

    await expect(tab.locator(".panel").get_by_role("alert")).to_contain_text("soon")
    await expect(tab.get_by_label("Field")).to_have_value("lastSeenAt")
    await expect(tab.get_by_label("Operator")).to_have_value("after")
    await expect(tab.get_by_label("Value")).to_have_value("soon")
    assert sorted(await names(tab)) == ["Ada", "Grace"]
    assert await violations(tab) == []


async def test_list_that_is_asked_for_wrongly_is_a_page_with_status_400(agent: Agent):
    """And so is the part that htmx loads, but for a filter that is not sent yet."""
    await agent.people("Ada")
    await agent.sign_in()
    (cookie,) = [each for each in await agent.context.cookies() if each.get("name") == "kinfold_session"]
    headers = {"Cookie": f"kinfold_session={cookie.get('value')}"}
    expected = {
        "where=plan%3D%3D": 400,
        "sort=a%20b": 400,
        "cursor=x": 400,
        "operator=like&field=a": 200,
        "operator=%3D&value=pro": 200,
    }

    async with agent.client() as client:
        for query, status in expected.items():
            whole = await client.get(f"/people?{query}", headers=headers)
            part = await client.get(f"/people?{query}", headers={**headers, "HX-Request": "true"})
            assert (whole.status_code, part.status_code) == (400, status), query
            assert 'role="alert"' in whole.text, query
            assert 'id="find"' in whole.text, query
            assert "<html" not in part.text, query


async def test_empty_list_names_keys_that_no_person_has(agent: Agent):
    """A misspelt field is such a key."""
    await agent.people("Ada")
    tab = await agent.sign_in(path="/people?where=lastSeen+before+30d&where=plan%3Dpro")

    await expect(tab.get_by_text("Nobody matches")).to_be_visible()
    await expect(tab.get_by_text("No person has the metadata lastSeen, plan.")).to_be_visible()


async def test_list_works_without_javascript(stage: Stage, workspace: str):
    async with stage.agent(workspace, java_script_enabled=False) as agent:
        await agent.publish(person("Ada", plan="pro"), person("Grace", plan="free"))
        tab = await agent.sign_in()
        await tab.get_by_label("Search people").fill("ada")
        await tab.get_by_role("button", name="Search").click()
        await tab.wait_for_url("**/people?q=ada*")
        assert await names(tab) == ["Ada"]

        await tab.goto(f"{stage.url}/people")
        await tab.locator("summary", has_text="Filter").click()
        await tab.get_by_label("Field").fill("plan")
        await tab.get_by_label("Operator").select_option("is not")
        await tab.get_by_label("Value").fill("pro")
        await tab.get_by_role("button", name="Add filter").click()
        await tab.wait_for_url("**/people?where=*")
        assert await names(tab) == ["Grace"]

        await tab.locator("#rows a.person").click()
        await expect(tab.get_by_role("heading", level=1)).to_have_text("Grace")


async def test_people_without_a_device_are_not_online(agent: Agent):
    """Neither those of an import, nor those whose devices were seen long ago; also when their rows change live."""
    at = "2020-01-01T10:00:00.000Z"
    await agent.publish(
        person("Ada"),
        {"type": "VisitorIdentified", "externalId": "u-alan", "name": "Alan", "metadata": {"plan": "free"}},
        {**person("Grace"), "at": at},
        {"type": "MetadataSet", "externalId": "u-grace", "metadata": {"plan": "pro"}},
    )
    tab = await agent.sign_in()

    async def online() -> list[str]:
        return await tab.locator("#rows tr", has=tab.locator(".dot.online")).locator("a.person").all_inner_texts()

    assert await online() == ["Ada"]
    await agent.publish({"type": "MetadataSet", "externalId": "u-grace", "metadata": {"plan": "team"}})
    await expect(tab.locator("#rows tr", has_text="Grace")).to_contain_text("team")
    assert await online() == ["Ada"]
    await agent.publish({"type": "VisitorSeen", "visitorId": "v-grace"})
    await expect(tab.locator("#rows tr", has_text="Grace").locator(".dot.online")).to_have_count(1)

    await tab.locator("#rows a.person", has_text="Alan").click()
    await expect(tab.locator(".status")).to_contain_text("No device; last event")
    assert await tab.locator(".dot.online").count() == 0


async def test_list_has_no_violation_of_accessibility_rules(agent: Agent):
    await agent.people("Ada", "Grace", plan="pro")
    tab = await agent.sign_in(path="/people?where=plan%3Dpro")
    assert await violations(tab) == []
    await tab.locator("summary", has_text="Filter").click()
    assert await violations(tab) == []
    await tab.goto(f"{agent.stage.url}/people?q=nobody+at+all")
    assert await violations(tab) == []
