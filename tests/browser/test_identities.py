"""Who the visitor is, as the log tells it."""

import json
from typing import Any

import pytest
from playwright.async_api import Page

import kinfold
from kinfold_services.access.identity_tokens import ensure_identity_secret
from tests.support.proxy import Proxy
from tests.support.visits import Shop, Stage

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

ADA = "{ externalId: 'u-1', email: 'ada@example.org', name: 'Ada', metadata: { plan: 'free', seats: 3, since: new Date(0) } }"
LIN = "{ externalId: 'u-2', email: 'lin@example.org' }"


def said(events: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """The type of each event, and what it says: the external id or the metadata."""
    return [(event["type"], event.get("externalId", event.get("metadata"))) for event in events]


async def visitor_id(page: Page) -> str:
    return str(await page.evaluate("kinfold.visitor.id"))


async def test_page_view_identity_and_metadata_become_a_contact(shop: Shop):
    page = await shop.open(pages="")
    await page.evaluate(f"kinfold.identify({ADA})")
    await page.evaluate("kinfold.setMetadata({ plan: 'pro', trial: null })")
    assert await page.evaluate("kinfold.flush()")

    seen, identified, changed = await shop.log()
    contact = await shop.folded("/v1/contacts", externalId="u-1")
    visitor = await page.evaluate("kinfold.visitor")

    context = seen["context"]
    assert context.keys() == {"url", "title", "userAgent", "timezone", "locale"}
    assert (context["url"], context["title"]) == (shop.url, "Shop")
    assert {seen["visitorId"], identified["visitorId"], changed["visitorId"]} == {visitor["id"]}
    assert changed["metadata"] == {"plan": "pro", "trial": None}
    assert contact["name"] == "Ada"
    assert contact["metadata"] == {"plan": "pro", "seats": 3, "since": "1970-01-01T00:00:00.000Z", "trial": None}
    expected = {"externalId": "u-1", "email": "ada@example.org", "name": "Ada", "metadata": contact["metadata"]}
    assert visitor["contact"] == expected


async def test_what_did_not_change_is_not_sent_across_page_loads(shop: Shop):
    """A subset of what was sent is recognised, too; of what changed, only the changed keys are sent."""
    page = await shop.open()
    await page.evaluate(f"kinfold.identify({ADA}), kinfold.identify({ADA})")
    assert await page.evaluate("kinfold.flush()")
    first = await visitor_id(page)

    await page.reload()
    await page.wait_for_function("window.kinfold && !kinfold.q")
    await page.evaluate(f"kinfold.identify({ADA})")
    await page.evaluate("kinfold.identify({ externalId: 'u-1', metadata: { seats: 3 } })")
    await page.evaluate("kinfold.identify({ externalId: 'u-1', email: 'Ada@Example.org' })")
    await page.evaluate("kinfold.identify({ externalId: 'u-1', metadata: { plan: 'pro', seats: 3 } })")
    await page.evaluate("kinfold.identify({ externalId: 'u-1', metadata: { seats: '3' } })")
    assert await page.evaluate("kinfold.flush()")

    assert await visitor_id(page) == first
    events = said(await shop.log())
    assert events == [("VisitorIdentified", "u-1"), ("MetadataSet", {"plan": "pro"}), ("MetadataSet", {"seats": "3"})]


async def test_metadata_that_a_page_sets_when_it_is_loaded_is_sent_once_a_day(shop: Shop):
    """Nobody has clicked. A subset of what was sent is recognised."""
    await shop.context.clock.install()
    for keys, hours in (("seats: 3, plan: 'free'", 1), ("plan: 'free', seats: 3", 22), ("seats: 3", 2), ("plan: 'free'", 0)):
        page = await shop.open(f"<script>kinfold.setMetadata({{ {keys} }})</script>")
        assert await page.evaluate("kinfold.flush()")
        await page.clock.fast_forward(3_600_000 * hours)

    assert [event["metadata"] for event in await shop.log()] == [{"seats": 3, "plan": "free"}, {"plan": "free"}]


async def say_on_the_phone(shop: Shop, **metadata: Any) -> None:
    """Set metadata of the contact `u-1` as a page on another device does."""
    event = {"type": "VisitorIdentified", "externalId": "u-1", "visitorId": "v_phone", "metadata": metadata}
    url = f"{shop.gateway_url}/v1/events?writeKey={shop.key}"
    answer = await shop.context.request.post(url, data=[event], headers={"Origin": shop.stage.site.url})
    assert answer.ok, await answer.text()


async def test_click_sets_back_a_value_that_another_device_has_changed(shop: Shop):
    """10 s after it was last sent. An identity that is rendered again does not."""
    await shop.context.clock.install()
    button = "<button onclick=\"kinfold.setMetadata({ theme: 'dark' })\">Dark</button>"
    laptop = await shop.open(f"<script>kinfold.identify({ADA})</script>{button}")
    await laptop.dblclick("button")
    assert await laptop.evaluate("kinfold.flush()")
    await say_on_the_phone(shop, theme="light")
    await laptop.reload()
    await laptop.wait_for_function("window.kinfold && !kinfold.q")
    await laptop.clock.fast_forward(11_000)
    await laptop.evaluate("kinfold.identify({ externalId: 'u-1', metadata: { theme: 'dark' } })")
    await laptop.dblclick("button")
    assert await laptop.evaluate("kinfold.flush()")

    dark = ("MetadataSet", {"theme": "dark"})
    assert said(await shop.log()) == [("VisitorIdentified", "u-1"), dark, ("VisitorIdentified", "u-1"), dark]
    assert (await shop.folded("/v1/contacts", externalId="u-1"))["metadata"]["theme"] == "dark"


async def test_plan_that_another_device_has_changed_arrives_together_with_what_is_new(shop: Shop):
    """Nobody has clicked: the visitor comes back from the page of the payment."""
    upgrade = "kinfold.setMetadata({ plan: 'pro', upgradedAt: new Date().toISOString(), mrr: 99 })"
    page = await shop.open(f"<script>kinfold.identify({{ externalId: 'u-1' }}), {upgrade}</script>")
    assert await page.evaluate("kinfold.flush()")
    await say_on_the_phone(shop, plan="free", mrr=0)
    await page.reload()
    assert len(await shop.logged(4)) == 4

    contact = await shop.folded("/v1/contacts", externalId="u-1")
    assert (contact["metadata"]["plan"], contact["metadata"]["mrr"]) == ("pro", 99)


async def test_identity_is_sent_again_after_a_day(shop: Shop):
    """The gateway may have lost or erased it. Otherwise this changes nothing there."""
    await shop.context.clock.install()
    page = await shop.open()
    await page.evaluate(f"kinfold.identify({ADA})")
    assert await page.evaluate("kinfold.flush()")
    await page.clock.fast_forward(23 * 3_600_000)
    await page.evaluate(f"kinfold.identify({ADA})")
    await page.clock.fast_forward(2 * 3_600_000)
    await page.evaluate(f"kinfold.identify({ADA}), kinfold.identify({ADA})")
    assert await page.evaluate("kinfold.flush()")

    first, again = await shop.log()
    assert (again["externalId"], again["metadata"]) == ("u-1", first["metadata"])
    assert (await shop.folded("/v1/contacts", externalId="u-1"))["version"] == 2  # created, and linked


async def test_next_user_is_another_visitor_though_an_identity_was_too_large(shop: Shop):
    page = await shop.open()
    await page.evaluate(
        """kinfold.identify({
            externalId: 'u-1', metadata: Object.fromEntries([...'abcdefg'].map((name) => [name, 'x'.repeat(8000)])),
        })"""
    )
    first = await visitor_id(page)
    await page.reload()
    await page.wait_for_function("window.kinfold && !kinfold.q")
    await page.evaluate(f"kinfold.identify({LIN})")
    second = await visitor_id(page)
    assert await page.evaluate("kinfold.flush()")

    assert (said(await shop.log()), first != second) == ([("VisitorIdentified", "u-2")], True)
    assert len(shop.warnings) == 1


async def test_identity_is_sent_after_one_that_was_too_large(shop: Shop):
    page = await shop.open()
    await page.evaluate(
        """kinfold.identify({
            externalId: 'u-1', metadata: Object.fromEntries([...'abcdefg'].map((name) => [name, 'x'.repeat(8000)])),
        })"""
    )
    await page.evaluate("kinfold.identify({ externalId: 'u-1', metadata: { plan: 'pro' } })")
    assert await page.evaluate("kinfold.flush()")

    assert [event["metadata"] for event in await shop.log()] == [{"plan": "pro"}]


async def test_another_gateway_is_told_everything_and_gets_no_event_of_the_first(shop: Shop):
    """Its workspace may have the same name. The visitor is the same."""
    with Proxy(shop.gateway_url) as first_gateway:
        shop.gateway_url = first_gateway.url
        page = await shop.open()
        await page.evaluate(f"kinfold.identify({ADA})")
        assert await page.evaluate("kinfold.flush()")
        first_gateway.refuse()
        await page.evaluate("kinfold.setMetadata({ only: 'first' })")
        await page.close()
        shop.gateway_url = shop.stage.gateway_url
        page = await shop.open()
        await page.evaluate(f"kinfold.identify({ADA})")
        assert await page.evaluate("kinfold.flush()")

    first, second = await shop.log()
    assert said([first, second]) == [("VisitorIdentified", "u-1")] * 2
    assert first["visitorId"] == second["visitorId"]


async def test_log_out_and_in_as_somebody_else_makes_two_contacts_with_a_visitor_each(shop: Shop):
    page = await shop.open(pages="")
    await page.evaluate(f"kinfold.identify({ADA})")
    first = await visitor_id(page)
    await page.evaluate("kinfold.reset()")
    between = await page.evaluate("kinfold.visitor")
    await page.evaluate("kinfold.page()")
    await page.evaluate(f"kinfold.identify({LIN})")
    assert await page.evaluate("kinfold.flush()")

    second = await visitor_id(page)
    assert between == {"id": second, "contact": None}
    assert [(event["type"], event["visitorId"]) for event in await shop.log()] == [
        ("VisitorSeen", first),
        ("VisitorIdentified", first),
        ("VisitorSeen", second),
        ("VisitorIdentified", second),
    ]
    assert (await shop.folded("/v1/contacts", externalId="u-1"))["visitorIds"] == [first]
    assert (await shop.folded("/v1/contacts", externalId="u-2"))["visitorIds"] == [second]


@pytest.mark.parametrize("reload", [False, True])
async def test_another_external_id_makes_another_visitor_without_a_reset(shop: Shop, reload: bool):  # noqa: FBT001  a parameter
    """The metadata of the first is news again for the second."""
    page = await shop.open()
    await page.evaluate(f"kinfold.identify({ADA})")
    first = await visitor_id(page)
    assert await page.evaluate("kinfold.flush()")
    if reload:
        await page.reload()
        await page.wait_for_function("window.kinfold && !kinfold.q")
    await page.evaluate("kinfold.identify({ externalId: 'u-2', metadata: { plan: 'free' } })")
    second = await visitor_id(page)
    assert await page.evaluate("kinfold.flush()")

    assert first != second
    ada, lin = await shop.log()
    assert (ada["visitorId"], lin["visitorId"], lin["metadata"]) == (first, second, {"plan": "free"})


async def test_anonymous_visitor_stays_itself_when_it_is_identified(shop: Shop):
    page = await shop.open(pages="")
    await page.evaluate("kinfold.setMetadata({ theme: 'dark' })")
    await page.evaluate("kinfold.identify({ email: 'ada@example.org' })")
    await page.evaluate("kinfold.identify({ email: 'ada@example.org', externalId: 42 })")
    assert await page.evaluate("kinfold.flush()")

    assert len({event["visitorId"] for event in await shop.log()}) == 1
    contact = await shop.folded("/v1/contacts", externalId="42")
    assert (contact["email"], contact["metadata"]) == ("ada@example.org", {"theme": "dark"})


@pytest.mark.parametrize("first", ["{ externalId: 'u-1' }", "{ email: 'ada@example.org' }"])
@pytest.mark.parametrize("forgetting", ["", "localStorage.clear()"])
async def test_somebody_known_by_another_address_is_another_visitor(shop: Shop, first: str, forgetting: str):
    """Even where only the cookie is left, as on another subdomain."""
    page = await shop.open()
    await page.evaluate(f"kinfold.identify({first})")
    assert await page.evaluate("kinfold.flush()")
    await page.evaluate(forgetting)
    await page.reload()
    await page.wait_for_function("window.kinfold && !kinfold.q")
    await page.evaluate("kinfold.identify({ email: 'lin@example.org' })")
    assert await page.evaluate("kinfold.flush()")

    ada, lin = await shop.log()
    assert (lin["email"], lin["visitorId"] != ada["visitorId"]) == ("lin@example.org", True)


async def test_tab_of_the_first_user_does_not_speak_for_the_second(shop: Shop):
    """Ada logs out in one tab, and Lin logs in. Ada's other tab is still open, and says something about Ada."""
    old = await shop.open()
    await old.evaluate(f"kinfold.identify({ADA})")
    ada = await visitor_id(old)
    new = await shop.open()
    await new.evaluate("kinfold.reset()")
    await new.evaluate(f"kinfold.identify({LIN})")
    lin = await visitor_id(new)
    await old.evaluate("kinfold.setMetadata({ plan: 'pro' })")
    await new.evaluate("kinfold.setMetadata({ plan: 'team' })")
    # A tab sees a little later what another one has stored. Until then it would say again what it cannot know to be said.
    await old.wait_for_function("(id) => Object.values(localStorage).some((each) => each.includes(id))", arg=lin)
    await old.evaluate(f"kinfold.identify({LIN})")
    assert await visitor_id(old) == lin
    await old.evaluate("kinfold.flush()")
    await new.evaluate("kinfold.flush()")

    events = await shop.logged(4)
    assert sorted(
        (event["visitorId"], event["type"], str(event.get("metadata", {}).get("plan"))) for event in events
    ) == sorted(
        [
            (ada, "VisitorIdentified", "free"),
            (lin, "VisitorIdentified", "None"),
            (ada, "MetadataSet", "pro"),
            (lin, "MetadataSet", "team"),
        ]
    )
    assert (await shop.folded("/v1/contacts", externalId="u-1"))["metadata"]["plan"] == "pro"
    assert (await shop.folded("/v1/contacts", externalId="u-2"))["metadata"] == {"plan": "team"}


@pytest.mark.parametrize(("before", "after"), [("", "shop.localhost"), ("shop.localhost", "")], ids=["set", "removed"])
async def test_log_out_holds_where_a_site_has_changed_the_domain_of_its_cookie(shop: Shop, before: str, after: str):
    """The browser may have a cookie of each kind. The visitor who has logged out does not come back."""
    url = shop.url.replace("//", "//shop.")
    page = await shop.open(domain=before)
    await page.goto(url)
    await page.wait_for_function("window.kinfold && !kinfold.q")
    page = await shop.open(domain=after)
    await page.goto(url)
    await page.wait_for_function("window.kinfold && !kinfold.q")
    first = await visitor_id(page)
    assert await page.evaluate("document.cookie.includes(kinfold.visitor.id)")
    await page.evaluate("kinfold.reset()")
    second = await visitor_id(page)
    await page.reload()
    await page.wait_for_function("window.kinfold && !kinfold.q")

    assert (await visitor_id(page), first != second) == (second, True)


async def test_number_that_is_not_exact_is_no_identifier(shop: Shop):
    """`Number(undefined)` would be one person for many, and 2 ** 60 may be a neighbour's number."""
    page = await shop.open()
    await page.evaluate("kinfold.identify({ externalId: Number(undefined), email: 'ada@example.org' })")
    await page.evaluate("kinfold.identify({ externalId: 2 ** 60 })")
    assert await page.evaluate("kinfold.flush()")

    (event,) = await shop.log()
    assert ("externalId" in event, event["email"]) == (False, "ada@example.org")
    assert len(shop.warnings) == 1


async def test_two_browsers_are_two_visitors_of_one_contact(shop: Shop):
    laptop = await shop.open()
    async with await shop.stage.browser.new_context() as other:
        phone = await shop.open(context=other)
        for page in (laptop, phone):
            await page.evaluate(f"kinfold.identify({ADA})")
            assert await page.evaluate("kinfold.flush()")
        expected = {await visitor_id(laptop), await visitor_id(phone)}

    contact = await shop.folded("/v1/contacts", externalId="u-1")
    assert (contact["visitorCount"], set(contact["visitorIds"])) == (2, expected)


async def test_rejected_identity_is_sent_again_with_another_token_and_loses_nothing_else(stage: Stage, workspace: str):
    """A publishable key needs proof. Without it the gateway rejects the identity, and takes the events around it."""
    async with stage.shop(workspace, "publishable") as shop:
        page = await shop.open(pages="")
        await page.evaluate("kinfold.identify({ externalId: 'u-1', metadata: { plan: 'pro' }, token: 'wrong' })")
        assert await page.evaluate("kinfold.flush()")
        async with page.expect_request("**/v1/events*") as sent:
            await page.evaluate("kinfold.identify({ externalId: 'u-1', token: 'wrong' })")  # sends nothing
            await page.evaluate("kinfold.setMetadata({ plan: 'pro' })")
            await page.evaluate("kinfold.identify({ externalId: 'u-1', token: 'another' })")
            assert await page.evaluate("kinfold.flush()")
        request = await sent.value

        assert [event.get("token") for event in json.loads(request.post_data or "")] == [None, "another"]
        assert said(await shop.log()) == [("VisitorSeen", None), ("MetadataSet", {"plan": "pro"})]
        assert len(shop.warnings) == 2


@pytest.mark.parametrize("when", ["while the first waits", "while the first is sent", "on the next page"])
async def test_fresh_token_is_sent_though_a_stale_one_waits(stage: Stage, workspace: str, when: str):
    """The same one again is not."""
    async with stage.shop(workspace, "publishable") as shop:
        secret = (await ensure_identity_secret(stage.redis, shop.workspace))[0].identity_secret
        fresh = f"kinfold.identify({{ externalId: 'u-1', token: '{kinfold.sign(secret, external_id='u-1')}' }})"
        stale = "kinfold.identify({ externalId: 'u-1', metadata: { plan: 'pro' }, token: 'expired' })"
        page = await shop.open()
        if when == "while the first is sent":
            await page.evaluate(f"{stale}, void kinfold.flush(), {fresh}, {fresh}")
        else:
            await shop.context.set_offline(True)
            await page.evaluate(stale)
            if when == "on the next page":
                await page.close()
                await shop.context.set_offline(False)
                page = await shop.open(f"<script>{fresh}; {fresh}</script>")
            else:
                await page.evaluate(f"{fresh}, {fresh}")
                await shop.context.set_offline(False)
        events = await shop.logged(1)
        await page.wait_for_function("!Object.keys(localStorage).some((name) => name.includes('.unsent.'))")

        assert said(events) == said(await shop.log()) == [("VisitorIdentified", "u-1")]
        assert [each.partition(":")[0] for each in shop.warnings if "token" in each] != []


async def test_rejected_identity_leaves_the_visitor_to_the_person_before(stage: Stage, workspace: str):
    """Ada's new address was not accepted. The next user is another visitor, and Ada is the same one."""
    async with stage.shop(workspace, "publishable") as shop:
        secret = (await ensure_identity_secret(stage.redis, shop.workspace))[0].identity_secret
        tokens = {name: kinfold.sign(secret, external_id=name) for name in ("u-1", "u-2")}
        page = await shop.open()
        for person in (
            {"externalId": "u-1", "token": tokens["u-1"]},
            {"externalId": "u-1", "email": "ada@example.org", "token": "expired"},
            {"externalId": "u-2", "token": tokens["u-2"]},
        ):
            await page.evaluate("(person) => kinfold.identify(person)", person)
            assert await page.evaluate("kinfold.flush()")

        ada, lin = await shop.log()
        assert said([ada, lin]) == [("VisitorIdentified", "u-1"), ("VisitorIdentified", "u-2")]
        assert ada["visitorId"] != lin["visitorId"]


async def test_metadata_after_a_rejected_identity_is_not_the_next_users(stage: Stage, workspace: str):
    async with stage.shop(workspace, "publishable") as shop:
        secret = (await ensure_identity_secret(stage.redis, shop.workspace))[0].identity_secret
        page = await shop.open()
        await page.evaluate("kinfold.identify({ externalId: 'u-1', token: 'expired' })")
        assert await page.evaluate("kinfold.flush()")
        await page.evaluate("kinfold.setMetadata({ plan: 'gold' })")
        token = kinfold.sign(secret, external_id="u-2")
        await page.evaluate("(token) => kinfold.identify({ externalId: 'u-2', token })", token)
        assert await page.evaluate("kinfold.flush()")

        changed, lin = await shop.log()
        assert changed["visitorId"] != lin["visitorId"]
        assert (await shop.folded("/v1/contacts", externalId="u-2"))["metadata"] == {}


async def test_page_hears_of_a_rejected_identity(stage: Stage, workspace: str):
    async with stage.shop(workspace, "publishable") as shop:
        page = await shop.open("<script>heard = []; addEventListener('kinfold:rejected', (e) => heard.push(e.detail))</script>")
        await page.evaluate("kinfold.identify({ externalId: 'u-1', token: 'expired' })")
        await page.evaluate("kinfold.flush()")

        (heard,) = await page.evaluate("heard")
        assert (heard["event"]["externalId"], "token" in heard["detail"]) == ("u-1", True)


@pytest.mark.parametrize("names_visitor", [False, True], ids=["any visitor", "this visitor"])
async def test_page_with_a_publishable_key_identifies_with_a_token(stage: Stage, workspace: str, names_visitor: bool):  # noqa: FBT001  a parameter
    """The page asks its backend for a token, and passes the id of its visitor where the token is for this visitor alone."""
    async with stage.shop(workspace, "publishable") as shop:
        secret = (await ensure_identity_secret(stage.redis, shop.workspace))[0].identity_secret
        page = await shop.open(pages="")
        this = await visitor_id(page)
        token = kinfold.sign(secret, external_id="u-1", email="ada@example.org", visitor_id=this if names_visitor else None)
        person = {"externalId": "u-1", "email": "Ada@Example.org", "name": "Ada", "token": token}
        await page.evaluate("(person) => kinfold.identify(person)", person)
        assert await page.evaluate("kinfold.flush()")

        assert said(await shop.log()) == [("VisitorSeen", None), ("VisitorIdentified", "u-1")]
        contact = await shop.folded("/v1/contacts", externalId="u-1")
        assert (contact["email"], contact["name"], contact["visitorIds"]) == ("Ada@Example.org", "Ada", [this])
        assert token not in json.dumps(await shop.log())
        assert shop.warnings == []


async def test_token_of_another_visitor_identifies_nobody(stage: Stage, workspace: str):
    """A page that copied a token of another browser cannot use it, and the console says why."""
    async with stage.shop(workspace, "publishable") as shop:
        secret = (await ensure_identity_secret(stage.redis, shop.workspace))[0].identity_secret
        token = kinfold.sign(secret, external_id="u-1", visitor_id="v_of-another-browser")
        page = await shop.open(pages="")
        await page.evaluate("(token) => kinfold.identify({ externalId: 'u-1', token })", token)
        assert await page.evaluate("kinfold.flush()")

        assert said(await shop.log()) == [("VisitorSeen", None)]
        (warning,) = shop.warnings
        assert "expected a token for the event's visitor" in warning
        assert "got one for visitor 'v_of-another-browser'" in warning


async def test_log_holds_no_token(shop: Shop):
    page = await shop.open()
    await page.evaluate("kinfold.identify({ externalId: 'u-1', token: 'a.b.c' })")
    assert await page.evaluate("kinfold.flush()")

    (event,) = await shop.log()
    assert "token" not in event


async def test_listeners_hear_of_every_change_of_the_visitor(shop: Shop):
    page = await shop.open("<script>heard = []; kinfold.onChange((visitor) => heard.push(visitor.contact))</script>")
    await page.evaluate("void kinfold.onChange(() => { throw Error('of a listener') })")
    await page.evaluate("kinfold.identify({ externalId: 'u-1' })")
    await page.evaluate("kinfold.identify({ externalId: 'u-1' })")
    await page.evaluate("kinfold.setMetadata({ plan: 'pro' })")
    await page.evaluate("kinfold.reset()")

    assert await page.evaluate("heard") == [
        {"externalId": "u-1", "metadata": {}},
        {"externalId": "u-1", "metadata": {"plan": "pro"}},
        None,
    ]


async def test_fields_that_an_identity_does_not_have_are_warnings(shop: Shop):
    """`plan` belongs into the metadata, and would be lost without a word."""
    page = await shop.open()
    await page.evaluate("kinfold.identify({ externalId: 'u-1', mail: 'ada@example.org', plan: 'pro' })")
    await page.evaluate("kinfold.setMetadata('ab'), kinfold.setMetadata(['a']), kinfold.setMetadata(new Map([['a', 1]]))")
    assert await page.evaluate("kinfold.flush()")

    assert said(await shop.log()) == [("VisitorIdentified", "u-1")]
    assert [warning.partition(", got")[0] for warning in shop.warnings] == [
        "kinfold: identify: expected no mail",
        "kinfold: identify: expected no plan",
        *["kinfold: metadata: expected an object"] * 3,
    ]
