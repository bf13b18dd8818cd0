"""Every call of a page arrives once, as the log tells it: early, offline, on the way out, and in several tabs."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from playwright.async_api import Page, Route

from kinfold_schemas.times import text_ms
from tests.support.gateways import serving, stop_refills
from tests.support.proxy import Proxy
from tests.support.visits import FLAGS, PATIENCE_S, Shop, Stage, chromium, snippet
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

SEND_EACH: Final = """(async () => {
    for (let i = 0; i < 90; i++) { kinfold.setMetadata({ ['a' + i]: i }); await kinfold.flush() }
})()"""
CLOCK: Final = """{
    const real = Date.now.bind(Date)
    Date = class extends Date { constructor(...given) { given.length ? super(...given) : super(real() + WRONG) } }
    Date.now = () => real() + WRONG
}"""
COUNT: Final = "for (let i = 0; i < {0}; i++) kinfold.setMetadata({{ [{1!r} + i]: i }})"
WAITING: Final = "Object.keys(localStorage).filter((name) => name.includes('.unsent.')).length"
HOUR_MS: Final = 3_600_000


@pytest_asyncio.fixture(loop_scope="module")
async def cut(shop: Shop) -> AsyncIterator[Proxy]:
    """Give a network between the pages of the shop and the gateway that can be disturbed."""
    with Proxy(shop.stage.gateway_url) as proxy:
        shop.gateway_url = proxy.url
        yield proxy


def keys(events: list[dict[str, Any]]) -> list[str]:
    """The metadata keys of the events, in order."""
    return [key for event in events for key in event.get("metadata", {})]


def numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


async def nothing_waits(page: Page) -> None:
    await page.wait_for_function(f"{WAITING} === 0", timeout=PATIENCE_S * 1000)


async def test_calls_before_the_script_is_loaded_are_kept_with_their_times(shop: Shop):
    """Also those through a function that was taken from the snippet's object."""
    calls = "kinfold.identify({ externalId: 'u-1' }); kinfold.setMetadata({ plan: 'pro' }); kept = kinfold.setMetadata"
    page = await shop.open_html(f"{snippet()}<script>{calls}; calledAt = Date.now()</script>")
    await page.wait_for_function("Date.now() > calledAt + 50")
    element = shop.element().replace("</script>", "<\\/script>")
    await page.evaluate(f"document.body.append(document.createRange().createContextualFragment(`{element}`))")
    await page.wait_for_function("!kinfold.q")
    await page.evaluate("kept({ late: true })")
    assert await page.evaluate("kinfold.flush()")

    identified, changed, late = await shop.log()
    assert [identified["externalId"], changed["metadata"], late["metadata"]] == ["u-1", {"plan": "pro"}, {"late": True}]
    called_at = await page.evaluate("calledAt")
    assert text_ms(changed["at"]) <= called_at < text_ms(changed["sentAt"])


async def test_calls_of_open_and_closed_tabs_arrive_after_the_network_is_back(shop: Shop, cut: Proxy):
    """One tab stays open, another is closed offline: its calls arrive from the next page.

    The proxy is offline, too: Chromium lets the last request of a page that closes through.
    """
    page = await shop.open(pages="")
    closed = await shop.open()
    assert await page.evaluate("kinfold.flush()")
    cut.refuse()
    await shop.context.set_offline(True)
    await page.evaluate(COUNT.format(10, "a"))
    await closed.evaluate(COUNT.format(10, "b"))
    assert not await page.evaluate("kinfold.flush()")
    await closed.close()
    assert await page.evaluate(WAITING) == 20
    assert len(await shop.log()) == 1

    cut.accept()
    await shop.context.set_offline(False)
    await nothing_waits(page)

    _, *events = await shop.log()
    assert [key for key in keys(events) if key[0] == "a"] == numbered("a", 10)
    assert [key for key in keys(events) if key[0] == "b"] == numbered("b", 10)
    assert len(events) == 20


async def test_calls_of_a_minute_offline_keep_their_times(shop: Shop):
    """On the page's clock. The page tries again meanwhile, and the calls keep the minute between them."""
    await shop.context.clock.install()
    page = await shop.open()
    failed = list[str]()
    page.on("requestfailed", lambda request: failed.append(request.url))
    await shop.context.set_offline(True)
    await page.evaluate("kinfold.setMetadata({ a0: 0 })")
    await page.clock.run_for(60_000)
    while len(failed) < 2:  # a request takes real time to fail
        await page.clock.run_for(1_000)
    await page.evaluate("kinfold.setMetadata({ a1: 1 })")
    assert await page.evaluate(WAITING) == 2
    await shop.context.set_offline(False)
    await nothing_waits(page)

    first, second = await shop.log()
    assert (first["metadata"], second["metadata"]) == ({"a0": 0}, {"a1": 1})
    assert text_ms(second["at"]) - text_ms(first["at"]) >= 60_000


async def test_page_tries_again_while_the_gateway_is_away(shop: Shop, cut: Proxy):
    """The page tries again by itself, and at longer and longer intervals."""
    page = await shop.open()
    cut.refuse()
    await page.evaluate(COUNT.format(5, "a"))
    async with page.expect_request("**/v1/events*"):
        pass
    async with page.expect_request("**/v1/events*", timeout=PATIENCE_S * 1000):
        pass
    cut.accept()
    await nothing_waits(page)

    assert keys(await shop.log()) == numbered("a", 5)


async def test_page_waits_as_long_as_retry_after_says(shop: Shop, redis_url: str, monkeypatch: pytest.MonkeyPatch):
    """90 calls, each of them sent at once, run into the rate limit. Every one arrives once, and no request comes too early."""
    stage = shop.stage
    limited = serving(
        redis_url, stage.redis, shop.workspace, gateway_origins=stage.site.url, gateway_browser_requests_per_s=0.5
    )
    async with limited as gateway:
        shop.gateway_url = gateway.url
        page = await shop.open()
        answers = list[tuple[int, float]]()
        page.on("response", lambda answer: answers.append((answer.status, answer.request.timing["startTime"])))
        stop_refills(monkeypatch)  # until the limit is reached, however slow the browser is
        sending = asyncio.create_task(page.evaluate(SEND_EACH))
        await wait_until(lambda: any(status == 429 for status, _ in answers))
        monkeypatch.undo()
        await sending
        await nothing_waits(page)

    assert keys(await shop.log()) == numbered("a", 90)
    refused = [index for index, (status, _) in enumerate(answers) if status == 429]
    assert refused
    for index in refused:
        assert answers[index + 1][1] - answers[index][1] > 900


async def test_last_call_before_the_page_is_left_arrives(shop: Shop):
    page = await shop.open()
    elsewhere = f"{shop.stage.site.url}/elsewhere"
    await page.evaluate(f"kinfold.setMetadata({{ last: true }}), location.assign({json.dumps(elsewhere)})")

    (event,) = await shop.logged(1)
    assert event["metadata"] == {"last": True}


async def test_events_of_a_page_that_is_left_are_sent_once(shop: Shop):
    """They are sent before the next page comes, whose server takes longer than the gateway."""
    page = await shop.open(pages="")
    storage = await shop.context.new_page()  # a page that is being left can be asked nothing
    await storage.goto(shop.stage.site.url)

    async def slow(route: Route) -> None:
        await shop.logged(2 * number + 2)
        await nothing_waits(storage)
        await route.continue_()

    await page.route(shop.url, slow)
    for number in range(3):
        async with page.expect_navigation():
            await page.evaluate(f"kinfold.setMetadata({{ a{number}: 1 }}), location.reload()")
        await page.wait_for_function("window.kinfold && !kinfold.q")
    await nothing_waits(page)

    events = await shop.log()
    assert (keys(events), len(events)) == (numbered("a", 3), 7)


async def closed_before_the_answer(shop: Shop, cut: Proxy, call: str) -> Page:
    """Close a page after its request has arrived and before the answer comes. Returns the next page."""
    await shop.context.clock.install()
    page = await shop.open()
    cut.delay_s = 60.0
    await page.evaluate(f"void {call}, void kinfold.flush()")
    await shop.logged(1)
    await page.close()
    cut.delay_s = 0.0
    return await shop.open()


async def test_next_page_waits_with_what_an_answer_may_be_under_way_for(shop: Shop, cut: Proxy):
    """The request arrived, and its answer did not. The next page sends the event again after 10 s, and no earlier."""
    page = await closed_before_the_answer(shop, cut, "kinfold.setMetadata({ a0: 1 })")
    await page.evaluate("kinfold.setMetadata({ a1: 1 })")
    await page.evaluate("kinfold.flush()")
    assert keys(await shop.log()) == ["a0", "a1"]
    await page.clock.fast_forward(11_000)
    await nothing_waits(page)

    assert keys(await shop.log()) == ["a0", "a1", "a0"]


async def test_tab_closed_in_mid_call_loses_nothing(shop: Shop, cut: Proxy):
    """The request arrives, and its answer does not. The next page sends the event again, and it counts once."""
    page = await closed_before_the_answer(shop, cut, "kinfold.identify({ externalId: 'u-1', metadata: { plan: 'pro' } })")
    await page.clock.fast_forward(11_000)
    await nothing_waits(page)

    (event,) = await shop.logged_once(1)
    assert [(each["id"], each["externalId"]) for each in await shop.log()] == [(event["id"], "u-1")] * 2
    contact = await shop.folded("/v1/contacts", externalId="u-1")
    assert (contact["metadata"], contact["version"]) == ({"plan": "pro"}, 2)  # created, and linked


async def test_tab_closed_before_the_request_arrives_loses_nothing(shop: Shop, cut: Proxy):
    """The browser may repeat the old page's last request by itself, so an event may be in the log twice, with one id."""
    await shop.context.clock.install()
    page = await shop.open()
    cut.refuse()
    await page.evaluate(COUNT.format(3, "a"))
    await page.close()
    cut.accept()
    page = await shop.open()
    await page.clock.fast_forward(11_000)
    await nothing_waits(page)

    assert keys(await shop.logged_once(3)) == numbered("a", 3)


async def test_two_tabs_send_every_call_once(shop: Shop):
    """Each tab's calls stay in their order."""
    pages = [await shop.open(), await shop.open()]
    for page, name in zip(pages, "ab", strict=True):
        await page.evaluate(COUNT.format(30, name))
        for number in range(5):
            await page.evaluate(
                f"void kinfold.page(), void kinfold.setMetadata({{ {name}x{number}: 1 }}), void kinfold.flush()"
            )
    for page in pages:
        await nothing_waits(page)

    events = await shop.log()
    assert len(events) == len({event["id"] for event in events}) == 80
    assert len({event["visitorId"] for event in events}) == 1
    for name in "ab":
        assert [key for key in keys(events) if key[0] == name] == numbered(name, 30) + numbered(f"{name}x", 5)


async def test_two_tabs_without_locks_send_every_call_once(shop: Shop):
    """As on pages without TLS. Each leaves the other one's calls to it."""
    await shop.context.add_init_script("Object.defineProperty(navigator, 'locks', { value: undefined })")
    pages = [await shop.open(), await shop.open()]
    for page, name in zip(pages, "ab", strict=True):
        await page.evaluate(COUNT.format(3, name))
    for page in pages:
        await page.evaluate("kinfold.flush()")
    for page in pages:
        await nothing_waits(page)

    assert sorted(keys(await shop.log())) == numbered("a", 3) + numbered("b", 3)


async def test_calls_are_sent_though_storage_is_full(shop: Shop):
    """What cannot be stored is kept in memory and sent. What did not change is recognised all the same."""
    page = await shop.open("<script>localStorage.fill = 'x'.repeat(5 * 1024 * 1024 - 4)</script>", pages="")
    await page.evaluate("kinfold.identify({ externalId: 'u-1', metadata: { plan: 'pro' } })")
    await page.evaluate("kinfold.setMetadata({ plan: 'pro' })")
    await page.evaluate("kinfold.setMetadata({ plan: 'team' })")
    assert await page.evaluate("kinfold.flush()")
    await page.evaluate("kinfold.setMetadata({ plan: 'team' }), kinfold.setMetadata({ last: 1 })")
    await page.evaluate("location.assign('/elsewhere')")

    events = await shop.logged(4)
    assert [event.get("metadata") for event in events] == [None, {"plan": "pro"}, {"plan": "team"}, {"last": 1}]


async def test_calls_are_sent_though_cookies_are_blocked(stage: Stage, workspace: str, tmp_path: Path):
    """Chromium blocks storage together with cookies. The visitor lasts as long as the page, and every call arrives."""
    (tmp_path / "Default").mkdir()
    blocked = {"profile": {"default_content_setting_values": {"cookies": 2}}}
    (tmp_path / "Default/Preferences").write_text(json.dumps(blocked))
    async with (
        stage.shop(workspace) as shop,
        await stage.playwright.chromium.launch_persistent_context(tmp_path, executable_path=chromium(), args=FLAGS) as context,
    ):
        page = await shop.open(context=context, pages="")
        why = "(() => { try { return localStorage } catch ({ name }) { return name } })()"
        assert await page.evaluate(why) == "SecurityError"
        await page.evaluate("kinfold.identify({ externalId: 'u-1' })")
        await page.evaluate("kinfold.setMetadata({ plan: 'pro' }), kinfold.setMetadata({ plan: 'pro' })")
        assert await page.evaluate("kinfold.flush()")

        seen, identified, changed = await shop.log()
        assert seen["visitorId"] == identified["visitorId"] == changed["visitorId"]


@pytest.mark.parametrize("wrong_ms", [HOUR_MS, -HOUR_MS])
async def test_clock_that_is_an_hour_wrong_is_corrected(shop: Shop, wrong_ms: int):
    """Offline calls keep their distance, and the visitor was seen when it really was."""
    await shop.context.add_init_script(CLOCK.replace("WRONG", str(wrong_ms)))
    page = await shop.open()
    await shop.context.set_offline(True)
    await page.evaluate("kinfold.page(), firstAt = Date.now()")
    await page.wait_for_function("Date.now() > firstAt + 300")
    await page.evaluate("kinfold.page()")
    await shop.context.set_offline(False)
    await nothing_waits(page)

    first, second = await shop.log()
    visitor = await shop.folded(f"/v1/visitors/{first['visitorId']}")
    called_at = await page.evaluate("firstAt") - wrong_ms
    assert abs(text_ms(first["at"]) - called_at) > HOUR_MS / 2
    assert abs(text_ms(visitor["firstSeenAt"]) - called_at) < 10_000
    assert text_ms(visitor["lastSeenAt"]) - text_ms(visitor["firstSeenAt"]) == text_ms(second["at"]) - text_ms(first["at"])


async def test_events_of_a_request_have_one_time_of_sending(shop: Shop):
    """The gateway corrects each by its own difference. The clock of this page goes on whenever it is read."""
    await shop.context.add_init_script(
        "{ const real = Date; let ms = real.now(); Date = class extends real "
        "{ constructor(...given) { given.length ? super(...given) : super(Date.now()) } static now() { return ms += 1 } } }"
    )
    page = await shop.open()
    await page.evaluate("kinfold.page(), kinfold.page()")
    assert await page.evaluate("kinfold.flush()")

    first, second = await shop.log()
    assert first["sentAt"] == second["sentAt"]


async def test_page_views_of_a_single_page_application(shop: Shop):
    """A change of the hash is none, and the query is not sent."""
    page = await shop.open(pages="")
    await page.evaluate("history.pushState({}, '', '?tab=1&secret=x')")
    await page.evaluate("history.replaceState({}, '', '#top')")
    await page.evaluate("history.pushState({}, '', '/elsewhere')")
    await page.evaluate("history.back()")
    await page.wait_for_url("**?tab=1*")
    await page.evaluate("kinfold.flush()")

    events = await shop.logged(4)
    context = [(event["context"]["url"], event["context"].get("referrer")) for event in events]
    elsewhere = f"{shop.stage.site.url}/elsewhere"
    assert context == [(shop.url, None), (shop.url, shop.url), (elsewhere, shop.url), (shop.url, elsewhere)]


async def test_page_view_has_the_title_that_the_application_sets_after_the_url(shop: Shop):
    """As React does, in a later task. Where the URL has changed again, the title is another page's."""
    page = await shop.open(pages="")
    assert await page.evaluate("kinfold.flush()")
    await page.evaluate("history.pushState({}, '', '/short')")
    await page.evaluate("history.pushState({}, '', '/prices'), setTimeout(() => document.title = 'Prices')")
    events = await shop.logged(3)

    assert [event["context"]["title"] for event in events] == ["Shop", "Shop", "Prices"]


async def test_page_as_a_listener_and_a_long_title_are_a_page_view(shop: Shop):
    """What `page` is called with does not count, and no character is cut in half."""
    page = await shop.open("<script>document.title = 't'.repeat(1999) + '😀'; kinfold.page('Home')</script>")
    await page.evaluate("kinfold.page('Home'), document.body.onclick = kinfold.page, document.body.click()")
    assert await page.evaluate("kinfold.flush()")

    assert [(event["type"], event["context"]["title"]) for event in await shop.log()] == [("VisitorSeen", "t" * 1999)] * 3


async def test_calls_after_a_page_view_keep_their_place(shop: Shop):
    """The page view waits for its title while a request is under way, and they wait with it."""
    await shop.context.clock.install()
    page = await shop.open()
    await page.clock.pause_at(await page.evaluate("Date.now() / 1000 + 1"))
    first = asyncio.get_running_loop().create_future()

    async def hold_the_first(route: Route) -> None:
        if first.done():
            await route.continue_()
        else:
            first.set_result(route)

    await page.route("**/v1/events*", hold_the_first)
    await page.evaluate("kinfold.setMetadata({ a: 0 }), flushed = kinfold.flush(), null")
    await page.evaluate("kinfold.page(), kinfold.setMetadata({ b: 1 })")
    await (await first).continue_()
    await page.evaluate("flushed")
    await page.clock.run_for(200)
    await nothing_waits(page)

    assert [event.get("metadata") for event in await shop.log()] == [{"a": 0}, None, {"b": 1}]


async def test_page_from_the_back_forward_cache_is_a_page_view(shop: Shop):
    page = await shop.open(pages="")
    assert await page.evaluate("kinfold.flush()")
    for event in ("pagehide", "pageshow"):
        await page.evaluate(f"void dispatchEvent(new PageTransitionEvent('{event}', {{ persisted: true }}))")
    assert await page.evaluate("kinfold.flush()")

    assert [event["type"] for event in await shop.log()] == ["VisitorSeen"] * 2


async def test_page_that_the_browser_loads_in_advance_is_a_view_when_the_visitor_opens_it(shop: Shop):
    """Chromium says `prerendering` of it. Calls are kept, and the last word on consent counts."""
    await shop.context.add_init_script("Object.defineProperty(document, 'prerendering', { value: true, configurable: true })")
    page = await shop.open(pages="")
    await page.evaluate("kinfold.setMetadata({ plan: 'pro' })")
    assert not await page.evaluate("kinfold.flush()")
    await page.evaluate("kinfold.setConsent('granted'), kinfold.setConsent('pending')")
    await page.evaluate("delete document.prerendering, document.dispatchEvent(new Event('prerenderingchange')), null")
    assert await page.evaluate("[kinfold.visitor, document.cookie, localStorage.length]") == [None, "", 0]
    await page.evaluate("kinfold.setConsent('granted')")
    assert await page.evaluate("kinfold.flush()")

    assert [event["type"] for event in await shop.log()] == ["MetadataSet", "VisitorSeen"]


async def test_second_element_of_a_page_does_nothing(shop: Shop):
    page = await shop.open(before=shop.element(pages=""), pages="")
    await page.wait_for_function("document.readyState === 'complete'")
    assert await page.evaluate("kinfold.flush()")

    assert len(await shop.log()) == 1


async def test_calls_end_where_the_script_cannot_be_loaded(shop: Shop):
    """Also those made later. A listener can be removed before the script is there."""
    await shop.context.route("**/kinfold.js", lambda route: route.abort())
    page = await shop.open_html(f"{snippet()}<script>early = kinfold.reset()</script>{shop.element()}")

    assert await page.evaluate("early.then(() => kinfold.flush())") is False
    assert await page.evaluate("typeof kinfold.onChange(() => {})") == "function"


async def test_values_that_no_event_may_contain_do_not_stop_the_others(shop: Shop):
    """No error reaches the page."""
    page = await shop.open()
    await page.evaluate(
        """kinfold.setMetadata({
            good: 'ok', nested: { a: 1 }, list: [1], nan: NaN, huge: 2 ** 60, big: 10n, long: 'x'.repeat(9000), none: undefined,
            half: 'a\\ud800b', nul: 'a\\0b', no: Symbol(), date: new Date(NaN), [`x${'y'.repeat(200)}`]: 1, '': 1, '\\0': 1,
        })"""
    )
    await page.evaluate(
        "kinfold.setMetadata(null), kinfold.identify(), kinfold.identify({ externalId: {} }), kinfold.onChange(3)"
    )
    await page.evaluate("kinfold.setMetadata({ after: true })")
    assert await page.evaluate("kinfold.flush()")

    assert [event["metadata"] for event in await shop.log()] == [
        {"good": "ok", "big": 10, "half": "ab", "nul": "ab"},
        {"after": True},
    ]


async def test_damaged_storage_does_not_stop_the_page(shop: Shop):
    page = await shop.open()
    await page.evaluate(
        "kinfold.setMetadata({ lost: 1 }); for (const name of Object.keys(localStorage)) localStorage[name] = '{'"
    )
    await page.evaluate("document.cookie = document.cookie.split('=')[0] + '=<script>; path=/'")
    await page.reload()
    await page.wait_for_function("window.kinfold && !kinfold.q")
    await page.evaluate("kinfold.setMetadata({ plan: 'pro' })")
    await nothing_waits(page)

    async def is_logged() -> bool:
        return keys(await shop.log()) == ["plan"]

    await wait_until(is_logged)
