"""What is stored and sent before the visitor agrees, and without."""

from typing import Any

import pytest

from tests.support.visits import Shop, Stage

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

STORED = "[document.cookie, ...Object.keys(localStorage), ...Object.keys(sessionStorage)].filter(Boolean)"
CALLS = "kinfold.page(), kinfold.identify({ externalId: 'u-1' }), kinfold.setMetadata({ plan: 'pro' }), kinfold.flush()"


async def test_late_consent_keeps_the_calls_and_their_times(shop: Shop):
    page = await shop.open(consent="pending", pages="")
    before = await page.evaluate("Date.now()")
    await page.evaluate(CALLS)
    assert await page.evaluate(f"[kinfold.visitor, {STORED}]") == [None, []]
    between = await page.evaluate("Date.now()")
    await page.wait_for_function("(than) => Date.now() > than + 50", arg=between)
    assert await shop.log() == []

    await page.evaluate("kinfold.setConsent('granted')")
    await page.evaluate("kinfold.flush()")

    events = await shop.logged(4)
    assert [event["type"] for event in events] == ["VisitorSeen", "VisitorIdentified", "MetadataSet", "VisitorSeen"]
    times = await page.evaluate("(events) => events.map(({ at }) => Date.parse(at))", events)
    assert before <= times[0] <= times[1] <= times[2] <= between < times[3]
    assert (await shop.folded("/v1/contacts", externalId="u-1"))["metadata"] == {"plan": "pro"}


async def test_withdrawn_consent_ends_the_page_views_of_navigation(shop: Shop):
    """Nothing is stored meanwhile. After the next grant, each page is one view."""
    page = await shop.open(pages="")
    assert await page.evaluate("kinfold.flush()")
    await page.evaluate("kinfold.setConsent('denied')")
    await page.evaluate("history.pushState({}, '', '/denied'), void dispatchEvent(new Event('online'))")
    await page.evaluate("history.pushState({}, '', '/shown'), void dispatchEvent(new Event('online'))")
    assert await page.evaluate(f"new Promise(setTimeout).then(() => {STORED})") == []
    for _ in range(2):
        await page.evaluate("kinfold.setConsent('granted')")
    await page.evaluate("history.pushState({}, '', '/next')")
    assert await page.evaluate("kinfold.flush()")

    events = await shop.log()
    site = shop.stage.site.url
    assert [event["context"]["url"] for event in events] == [shop.url, f"{site}/shown", f"{site}/next"]
    assert events[0]["visitorId"] != events[1]["visitorId"]


async def test_withdrawn_consent_reaches_the_other_tabs(shop: Shop):
    here, there = await shop.open(), await shop.open()
    await here.evaluate("kinfold.identify({ externalId: 'u-1' })")
    assert await here.evaluate("kinfold.flush()")
    await here.evaluate("kinfold.setConsent('denied')")
    await there.wait_for_function("kinfold.visitor === null")
    await there.evaluate(CALLS)

    assert await there.evaluate(f"[kinfold.visitor, {STORED}]") == [None, []]
    assert [event["type"] for event in await shop.log()] == ["VisitorIdentified"]


async def test_denial_reaches_the_other_tabs_though_storage_is_full(shop: Shop):
    here, there = await shop.open(), await shop.open()
    used = await here.evaluate("Object.entries(localStorage).flat().join('').length")
    await here.evaluate(f"localStorage.fill = 'x'.repeat(5 * 1024 * 1024 - 4 - {used})")
    await here.evaluate("kinfold.setConsent('denied')")

    await there.wait_for_function("kinfold.visitor === null")


async def test_consent_that_is_pending_again_stores_and_sends_nothing(shop: Shop):
    """The calls are kept for the same visitor until the next grant."""
    page = await shop.open()
    await page.evaluate("kinfold.page()")
    assert await page.evaluate("kinfold.flush()")
    first, stored = await page.evaluate("[kinfold.visitor.id, JSON.stringify(localStorage)]")
    await page.evaluate("kinfold.setConsent('pending')")
    await page.evaluate("kinfold.setMetadata({ plan: 'pro' }), kinfold.setConsent('pending'), kinfold.setMetadata({ mrr: 9 })")
    assert await page.evaluate("[kinfold.visitor, JSON.stringify(localStorage)]") == [None, stored]
    await page.evaluate("kinfold.setConsent('granted')")
    assert await page.evaluate("kinfold.flush()")

    events = await shop.log()
    assert [event.get("metadata") for event in events] == [None, {"plan": "pro"}, {"mrr": 9}]
    assert {event["visitorId"] for event in events} == {first}


async def test_page_without_a_key_removes_nothing_of_another_one(shop: Shop):
    """Such as a page whose build did not have an environment variable."""
    page = await shop.open(key="kf_dk_0_0")
    stored = await page.evaluate(STORED)
    broken = await shop.open_html(shop.element(key=""))
    await broken.wait_for_function("window.kinfold")
    assert await broken.evaluate("kinfold.start({ host: location.origin }).visitor") is None
    assert await broken.evaluate("kinfold.start().visitor") is None

    assert await broken.evaluate(STORED) == stored
    assert await page.evaluate("kinfold.visitor") is not None


async def test_denied_consent_stores_and_sends_nothing(shop: Shop):
    page = await shop.open(consent="pending")
    await page.evaluate(CALLS)
    await page.evaluate("kinfold.setConsent('denied')")
    await page.evaluate(CALLS)
    await page.close()
    page = await shop.open(consent="denied", pages="")
    await page.evaluate(CALLS)

    assert await page.evaluate(f"[kinfold.visitor, {STORED}]") == [None, []]
    assert await shop.log() == []


async def test_withdrawn_consent_removes_what_was_stored(shop: Shop):
    page = await shop.open()
    await page.evaluate("kinfold.identify({ externalId: 'u-1' })")
    assert await page.evaluate("kinfold.flush()")
    first = await page.evaluate("kinfold.visitor.id")
    await shop.context.set_offline(True)
    await page.evaluate("kinfold.setMetadata({ plan: 'pro' })")
    await page.evaluate("kinfold.setConsent('denied')")
    assert await page.evaluate(STORED) == []
    await shop.context.set_offline(False)
    await page.evaluate("kinfold.setConsent('granted')")
    await page.evaluate("kinfold.page(), kinfold.flush()")

    identified, seen = await shop.logged(2)
    assert (identified["visitorId"], identified["type"], seen["type"]) == (first, "VisitorIdentified", "VisitorSeen")
    assert seen["visitorId"] != first


@pytest.mark.parametrize(
    ("script", "attributes"),
    [
        ("Object.defineProperty(navigator, 'doNotTrack', { get: () => '1' })", {}),
        ("Object.defineProperty(navigator, 'globalPrivacyControl', { get: () => true })", {}),
        ("", {"automated": "false"}),  # Playwright's Chromium says that it is automated
    ],
    ids=["do-not-track", "global-privacy-control", "automated"],
)
async def test_signals_of_the_browser_are_honoured(stage: Stage, workspace: str, script: str, attributes: dict[str, Any]):
    async with stage.shop(workspace) as shop:
        await shop.context.add_init_script(script)
        page = await shop.open(pages="", **attributes)
        await page.evaluate(CALLS)

        assert await page.evaluate(f"[kinfold.visitor, {STORED}]") == [None, []]
        assert await shop.log() == []


async def test_signals_are_ignored_where_the_site_says_so(shop: Shop):
    await shop.context.add_init_script("Object.defineProperty(navigator, 'globalPrivacyControl', { get: () => true })")
    page = await shop.open(ignore_privacy_signals="")
    await page.evaluate("kinfold.page(), kinfold.flush()")

    (event,) = await shop.logged(1)
    assert event["type"] == "VisitorSeen"
