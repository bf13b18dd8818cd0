"""The SDKs of Segment and RudderStack for pages, as npm has them, with the settings that docs/how-to/sdks.md shows."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Page, Route

from kinfold import sign
from kinfold_services.access.identity_tokens import ensure_identity_secret
from tests.support.applications import applications
from tests.support.gateways import stop_refills
from tests.support.visits import Shop, Stage, staging
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

SDKS: Final = ("Segment", "RudderStack")
RESET: Final = {"Segment": "analytics.reset()", "RudderStack": "analytics.reset({ entries: { anonymousId: true } })"}
ADA: Final = {"email": "ada@example.org", "name": "Ada", "plan": "free"}

_DOCS: Final = Path(__file__).parents[2] / "docs/how-to/sdks.md"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Give a stage whose site has the SDKs, with a low rate limit."""
    async with staging(redis_url, applications(tmp_path_factory), gateway_browser_requests_per_s=10) as running:
        yield running


def settings(sdk: str, shop: Shop) -> str:
    """The lines of the documentation that load an SDK."""
    found = re.search(
        rf"^## {sdk}: .*?^```js\n(.*?)\n\n(.*?)\n\nanalytics\.page\(\);\n", _DOCS.read_text(), re.DOTALL | re.MULTILINE
    )
    assert found is not None
    return found[2].replace("GATEWAY", shop.gateway_url).replace("KEY", shop.key)


async def open_page(sdk: str, shop: Shop) -> Page:
    """Open a page with an SDK. Fails later if the SDK asks another server for something."""
    html = (
        '<script type="module" src="/react-19/sdks.js"></script>'
        f'<script type="module">{settings(sdk, shop)} window.analytics = analytics</script>'
    )
    page = await shop.open_html(html)
    await page.wait_for_function("window.analytics")
    return page


@pytest.fixture
def ours(shop: Shop) -> Iterator[None]:
    """Fail if the pages of a test ask another server than the site and the gateway."""
    asked = set[str]()
    shop.context.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
    yield
    assert asked <= {urlsplit(url).netloc for url in (shop.url, shop.gateway_url)}


async def arrived(shop: Shop, count: int) -> list[dict[str, Any]]:
    """The events in the log without those of a user in a `track` or `page`, as soon as there are `count`, in order of `at`."""

    async def enough() -> list[dict[str, Any]] | None:
        events = {event["id"]: event for event in await shop.log() if not event["id"].endswith(":user")}
        return sorted(events.values(), key=lambda event: event["at"]) if len(events) >= count else None

    return cast("list[dict[str, Any]]", await wait_until(enough))


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.usefixtures("ours")
async def test_page_track_identify_later_traits_and_reset(shop: Shop, sdk: str):
    """With a development key, identities need no token."""
    page = await open_page(sdk, shop)
    for call in (
        "analytics.page('Start')",
        f"analytics.identify('u-1', {json.dumps(ADA)})",
        "analytics.track('Bought', { price: 3 })",
        "analytics.identify({ plan: 'pro' })",
        RESET[sdk],
        "analytics.page('Bye')",
    ):
        await page.evaluate(f"void {call}")
        await page.wait_for_timeout(20)  # another millisecond of the browser's clock for each
    seen, identified, bought, later, bye = await arrived(shop, 5)
    contact = await shop.folded("/v1/contacts", externalId="u-1")

    assert (seen["type"], seen["context"]["url"], seen["context"]["page"]) == ("VisitorSeen", shop.url, "Start")
    assert (identified["type"], identified["externalId"], identified["email"]) == ("VisitorIdentified", "u-1", ADA["email"])
    assert (bought["type"], later["type"], bye["type"]) == ("VisitorSeen", "VisitorIdentified", "VisitorSeen")
    first, second = seen["visitorId"], bye["visitorId"]
    assert ({identified["visitorId"], bought["visitorId"], later["visitorId"]}, first != second) == ({first}, True)
    assert (contact["name"], contact["metadata"], contact["visitorIds"]) == ("Ada", {"plan": "pro"}, [first])


@pytest.mark.parametrize("sdk", SDKS)
async def test_signed_identity_counts_and_later_traits_need_no_token(stage: Stage, workspace: str, sdk: str):
    """The SDKs send the user again with each call, but not the token. A new claim needs one."""
    async with stage.shop(workspace, "publishable") as shop:
        (secret,) = await ensure_identity_secret(stage.redis, shop.workspace)
        token = sign(secret.identity_secret, external_id="u-1", email=ADA["email"])
        page = await open_page(sdk, shop)
        refused = list[str]()
        page.on("response", lambda answer: refused.append(answer.url) if answer.status == 403 else None)
        await page.evaluate(f"void analytics.identify('u-1', {json.dumps(ADA)}, {json.dumps({'context': {'token': token}})})")
        await page.evaluate("void analytics.identify({ plan: 'pro' })")
        await page.evaluate("void analytics.track('Bought')")
        await shop.logged(3)
        assert refused == []
        await page.evaluate("void analytics.identify('u-2', { plan: 'gold' })")
        await page.evaluate("void analytics.track('Sold')")
        events = await arrived(shop, 4)
        contact = await shop.folded("/v1/contacts", externalId="u-1")
        await wait_until(lambda: len(refused) == 1)

    assert sorted(event["type"] for event in events) == ["MetadataSet", "VisitorIdentified", "VisitorSeen", "VisitorSeen"]
    assert (contact["name"], contact["email"], contact["metadata"]) == ("Ada", ADA["email"], {"plan": "pro"})
    assert not any("token" in event for event in events)


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.usefixtures("ours")
async def test_ninety_events_at_once_all_arrive_in_spite_of_the_rate_limit(
    shop: Shop, sdk: str, monkeypatch: pytest.MonkeyPatch
):
    """A retry has headers of its own, for which the browser asks first."""
    page = await open_page(sdk, shop)
    stop_refills(monkeypatch)  # until the limit is reached, however slow the browser is
    limited, retried = list[str](), list[dict[str, str]]()
    page.on("response", lambda answer: limited.append(answer.url) if answer.status == 429 else None)
    page.on("request", lambda request: retried.append(request.headers))
    await page.evaluate("void Array.from({ length: 90 }, (_, index) => analytics.track(`Event ${index}`))")
    await wait_until(lambda: limited)
    monkeypatch.undo()
    events = await arrived(shop, 90)

    assert (len(events), len({event["visitorId"] for event in events})) == (90, 1)
    assert any({"x-retry-count", "rsa-retry-attempt"} & headers.keys() for headers in retried)


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.usefixtures("ours")
async def test_calls_without_a_network_arrive_afterwards(shop: Shop, sdk: str):
    page = await open_page(sdk, shop)
    await page.evaluate("void analytics.track('Before')")
    await shop.logged(1)
    await shop.context.set_offline(True)
    await page.evaluate("void Array.from({ length: 5 }, (_, index) => analytics.track(`Offline ${index}`))")
    await page.evaluate("void analytics.identify('u-1', { plan: 'pro' })")
    await page.wait_for_timeout(1500)  # the first attempts fail
    assert len(await shop.log()) == 1
    await shop.context.set_offline(False)

    assert len(await arrived(shop, 7)) == 7
    assert (await shop.folded("/v1/contacts", externalId="u-1"))["metadata"] == {"plan": "pro"}


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.usefixtures("ours")
async def test_calls_under_way_when_the_page_ends_arrive_from_the_next_page(shop: Shop, sdk: str):
    """RudderStack's SDK takes over what an earlier page has left after about 10 s."""
    page = await open_page(sdk, shop)
    await page.evaluate("void analytics.track('Before')")
    await shop.logged(1)
    held = list[Route]()

    async def hold(route: Route) -> None:
        held.append(route)

    await page.route("**/v1/t*", hold)  # a slow network
    await page.evaluate("void Array.from({ length: 10 }, (_, index) => analytics.track(`Last ${index}`))")
    await wait_until(lambda: len(held) == 10)
    await page.unroute("**/v1/t*")
    await page.reload()

    assert len(await arrived(shop, 11)) == 11


@pytest.mark.usefixtures("ours")
async def test_beacons_of_rudderstack_arrive(shop: Shop):
    """A beacon can have no header, so the key is in its URL."""
    page = await open_page("RudderStack", shop)
    await page.evaluate(
        """([key, url]) => {
            window.beacons = new RudderAnalytics();
            beacons.load(key, url, { configUrl: url, useBeacon: true, beaconQueueOptions: { flushQueueInterval: 100 } });
            beacons.page();
        }""",
        [shop.key, shop.gateway_url],
    )
    (seen,) = await arrived(shop, 1)

    assert (seen["type"], seen["context"]["url"]) == ("VisitorSeen", shop.url)
