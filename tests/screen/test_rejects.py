"""The rejects in Chromium: reasons, bytes, retry, edit and retry, and who may do that."""

import json
from typing import Any, Final, cast, get_args

import pytest
from playwright.async_api import expect

from kinfold_projections.contact_ids import make_contact_id
from kinfold_schemas.keys import key
from kinfold_schemas.rejections import Reason
from kinfold_services.gateway.screen.rejects import REASONS
from kinfold_services.rejects.entries import REFUSED_BY_SERVER
from tests.support.projecting import wait_until_folded
from tests.support.screen import BY, Agent, Stage, person, violations
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

UNKNOWN: Final = {"type": "MetadataSet", "contactId": "ct_nobody", "metadata": {"plan": "pro"}}
MISSPELT: Final = {"type": "VisitorIdentifyed", "visitorId": "v-ada", "externalId": "u-ada", "name": "Ada"}


async def log_of(agent: Agent) -> list[dict[str, Any]]:
    """The events of the log."""
    entries: Any = await agent.stage.redis.xrange(key(agent.workspace, "events"))
    return [json.loads(fields[b"event"]) for _, fields in entries if fields[b"event"].startswith(b"{")]


async def too_early(agent: Agent) -> None:
    """Append metadata for Ada just before the event that makes her known. A retry is accepted."""
    log, (seconds, _) = key(agent.workspace, "events"), await cast("Any", agent.stage.redis).time()
    early = {**UNKNOWN, "contactId": make_contact_id(agent.workspace, f"{seconds}000-2")}
    await agent.stage.redis.xadd(log, {"event": json.dumps(early)}, id=f"{seconds}000-1")
    last = await agent.stage.redis.xadd(log, {"event": json.dumps(person("Ada"))}, id=f"{seconds}000-2")
    await wait_until_folded(agent.stage.redis, agent.workspace, last)


async def append(agent: Agent, event: bytes) -> None:
    """Append bytes to the log."""
    await agent.stage.redis.xadd(key(agent.workspace, "events"), {"event": event})


async def test_rejects_are_grouped_by_reason_and_filtered(agent: Agent):
    await append(agent, b"not json \xff\x00")
    await append(agent, b"not json either")
    await agent.publish(UNKNOWN)
    tab = await agent.sign_in(path="/rejects")

    await expect(tab.get_by_role("status")).to_have_text("3 open")
    await expect(tab.locator(".group")).to_have_text(["All reasons", "Not JSON 2", "Unknown contact 1"])
    await expect(tab.locator(".rejects > li").nth(2)).to_contain_text(r"not json \xff\x00")
    assert await violations(tab) == []

    await tab.locator(".group", has_text="Unknown contact").click()
    await expect(tab.locator(".rejects > li")).to_have_count(1)
    await expect(tab.locator(".rejects > li")).to_contain_text("ct_nobody")


async def test_retry_appends_the_event_again_and_records_who_did_it(agent: Agent):
    await too_early(agent)
    tab = await agent.sign_in(path="/rejects")

    await tab.get_by_role("button", name="Retry").click()

    await expect(tab.locator(".note.good")).to_contain_text("is in the log again")
    await expect(tab.locator(".empty")).to_contain_text("No reject")
    newest = (await log_of(agent))[-1]
    assert (newest["type"], newest["metadata"], newest["by"]) == ("MetadataSet", {"plan": "pro"}, BY)
    assert await violations(tab) == []
    await tab.get_by_role("link", name="Show settled ones").click()
    await expect(tab.locator(".tag.good")).to_contain_text("settled by entry")


async def test_edited_event_takes_the_place_of_the_rejected_one(agent: Agent):
    await agent.publish(MISSPELT)
    tab = await agent.sign_in(path="/rejects")
    await tab.get_by_role("link", name="Edit").click()
    box = tab.get_by_label("The event as JSON")
    await expect(box).to_have_value(json.dumps(MISSPELT, indent=2))
    assert await violations(tab) == []

    await box.fill("{not json")
    await tab.get_by_role("button", name="Append it again").click()
    await expect(tab.get_by_role("alert")).to_contain_text("Still rejected. Not JSON")
    await expect(box).to_have_value("{not json")  # what was typed is still there
    assert await violations(tab) == []

    await box.fill(json.dumps({**MISSPELT, "type": "VisitorIdentified"}))
    await tab.get_by_role("button", name="Append it again").click()
    await expect(tab.locator(".note.good")).to_contain_text("The reject is settled")
    assert (await log_of(agent))[-1]["by"] == BY

    async def is_known() -> bool:
        return bool(await cast("Any", agent.stage.redis).hexists(key(agent.workspace, "external-ids"), "u-ada"))

    await wait_until(is_known)


async def test_long_event_is_cut_until_it_is_opened(agent: Agent):
    await append(agent, b'{"type":"VisitorSeen","visitorId":"big","context":{"text":"' + b"y" * 70_000 + b'"}}')
    await agent.publish({"type": "Long", "text": "x" * 5000})
    tab = await agent.sign_in(path="/rejects")

    small, big = tab.locator(".rejects > li").nth(0), tab.locator(".rejects > li").nth(1)
    assert "x" * 301 not in await small.inner_text()
    await expect(big).to_contain_text("70,062 bytes")
    await small.get_by_role("link", name="Show all").click()
    await expect(tab.locator("pre")).to_contain_text("x" * 5000)
    await tab.go_back()
    await big.get_by_role("link", name="Show all").click()
    await expect(tab.locator("pre")).to_contain_text("y" * 60_000)
    await expect(tab.get_by_text("too many to edit here")).to_be_visible()


async def test_read_key_sees_rejects_and_cannot_retry(agent: Agent):
    await too_early(agent)
    tab = await agent.sign_in("read", path="/rejects")
    await expect(tab.locator(".rejects > li")).to_have_count(1)
    await expect(tab.get_by_role("button", name="Retry")).to_have_count(0)
    await tab.locator(".rejects a.tag").click()
    await expect(tab.get_by_label("The event as JSON")).to_have_count(0)

    csrf = await tab.locator("input[name=csrf]").first.get_attribute("value")
    answer = await tab.request.post(f"{tab.url}/retry", form={"csrf": csrf or ""})
    assert answer.status == 403
    assert len(await log_of(agent)) == 2


async def test_retry_needs_the_token_of_the_session(agent: Agent):
    await too_early(agent)
    tab = await agent.sign_in(path="/rejects")
    await tab.locator(".rejects a.tag").click()
    for name, value in (("csrf", "0" * 64), ("other", "x")):
        assert (await tab.request.post(f"{tab.url}/retry", form={name: value})).status == 403
    assert len(await log_of(agent)) == 2


async def test_rejects_are_paged(agent: Agent):
    await agent.publish(*[{"type": f"Type{number}"} for number in range(35)])
    tab = await agent.sign_in(path="/rejects")

    await expect(tab.locator(".rejects > li")).to_have_count(30)
    await expect(tab.locator(".rejects > li").first).to_contain_text("Type34")
    await tab.get_by_role("link", name="Older").click()
    await expect(tab.locator(".rejects > li")).to_have_count(5)
    await expect(tab.locator(".rejects > li").last).to_contain_text('"Type0"')


async def test_unknown_reject_is_not_found(agent: Agent):
    await agent.people("Ada")
    tab = await agent.sign_in()
    for path, status in (("/rejects/1-1", 404), ("/rejects/nonsense", 404), ("/rejects?before=nonsense", 400)):
        answer = await tab.goto(agent.stage.url + path)
        assert answer is not None
        assert answer.status == status


async def test_retry_works_without_javascript(stage: Stage, workspace: str):
    async with stage.agent(workspace, java_script_enabled=False) as agent:
        await too_early(agent)
        tab = await agent.sign_in(path="/rejects")
        await tab.get_by_role("button", name="Retry").click()
        await expect(tab.locator(".note.good")).to_contain_text("is in the log again")


async def test_every_reason_of_the_contract_has_a_name_and_a_meaning():
    assert REASONS.keys() == {*get_args(Reason), REFUSED_BY_SERVER}
