"""The gateway used by pages in a real browser."""

from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.support.browser import Page, browsing
from tests.support.engines import free_port
from tests.support.gateways import Gateway, serving
from tests.support.projecting import projecting
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

DASHBOARD = """
contacts = {}; ids = []; controls = []
source = new EventSource('URL')
source.onmessage = ({ data, lastEventId }) => {
  const change = JSON.parse(data)
  contacts[change.contactId] = change.contact
  delete contacts[change.mergedContactId]
  if (change.cause !== 'snapshot') ids.push(lastEventId)
}
source.addEventListener('reset', () => { contacts = {}; controls.push('reset') })
source.addEventListener('snapshot-end', () => controls.push('snapshot-end'))
0
"""


def identified(external_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "VisitorIdentified", "externalId": external_id, **fields}


async def names_on(page: Page) -> dict[str, str | None]:
    """The contacts that the dashboard shows."""
    found: dict[str, str | None] = await page.run(
        "Object.fromEntries(Object.values(contacts).map(({ externalId, name }) => [externalId, name]))"
    )
    return found


async def answer_of(page: Page, url: str, key: str) -> Any:
    """The result of posting an event with `fetch`: a status, or the name of the error."""
    body = "JSON.stringify({ type: 'VisitorSeen', visitorId: 'v-1' })"
    headers = f"{{ Authorization: 'Bearer {key}', 'Kinfold-Workspace': 'default' }}"
    options = f"{{ method: 'POST', headers: {headers}, body: {body} }}"
    return await page.run(f"fetch('{url}/v1/events', {options}).then(({{ status }}) => status, ({{ name }}) => name)")


async def followed_by(page: Page, url: str, key: str) -> str:
    """The first event of an EventSource: `open` or `error`."""
    source = f"const source = new EventSource('{url}/v1/changes?access_token={key}')"
    outcomes = "source.onopen = source.onerror = ({ type }) => { source.close(); done(type) }"
    return str(await page.run(f"new Promise((done) => {{ {source}; {outcomes} }})"))


async def test_dashboard_follows_contacts_with_an_event_source(redis: Redis, redis_url: str, tmp_path: Path):
    """The key is in the URL, `onmessage` gets every change, and the source reconnects after the gateway was restarted."""
    port = free_port()
    async with projecting(redis_url), browsing(tmp_path) as page:

        async def shows(expected: dict[str, str | None]) -> bool:
            return await names_on(page) == expected

        async with serving(redis_url, redis, gateway_port=port) as gateway:
            await gateway.put({"type": "VisitorIdentified", "email": "a@b.org", "name": "Ada"}, identified("u-1"))
            await page.open(f"{gateway.url}/docs", obeys_policy=False)
            await page.run(DASHBOARD.replace("URL", f"/v1/changes?snapshot=true&access_token={gateway.secret}"))
            await wait_until(lambda: page.run("controls.length"))
            await gateway.put(identified("u-1", email="a@b.org"), identified("u-2"))
            await wait_until(lambda: shows({"u-1": "Ada", "u-2": None}))
            before = await page.run("ids")
        async with serving(redis_url, redis, gateway_port=port) as gateway:
            await gateway.put(identified("u-2", name="Lin"), identified("u-3"))
            await wait_until(lambda: shows({"u-1": "Ada", "u-2": "Lin", "u-3": None}))
            seen, feed = await page.run("ids"), [entry for entry, _ in await gateway.entries("changes")]

    assert len(seen) > len(before) > 0
    assert seen == feed[-len(seen) :]


async def test_only_pages_of_listed_origins_can_use_the_gateway(redis: Redis, redis_url: str, tmp_path: Path):
    """`localhost` and `127.0.0.1` are two origins. The one that is listed can post events and follow the feed."""
    port = free_port()
    listed, other = f"http://localhost:{port}", f"http://127.0.0.1:{port}"
    async with (
        serving(redis_url, redis, gateway_port=port, gateway_origins=listed) as gateway,
        browsing(tmp_path) as page,
    ):
        await page.open(f"{listed}/docs", obeys_policy=False)
        allowed = await answer_of(page, other, gateway.publishable), await followed_by(page, other, gateway.secret)
        await page.open(f"{other}/docs", obeys_policy=False)
        refused = await answer_of(page, listed, gateway.publishable), await followed_by(page, listed, gateway.secret)

    assert allowed == (202, "open")
    assert refused == ("TypeError", "error")


async def test_docs_page_loads_nothing_else(unfolded: Gateway, tmp_path: Path):
    """It works without internet access: one request loads the whole page."""
    async with browsing(tmp_path) as page:
        await page.open(f"{unfolded.url}/docs")
        text = await page.run("document.body.innerText")

    assert page.requests == [f"{unfolded.url}/docs"]
    assert {"GET /v1/contacts", "POST /v1/events", "VisitorIdentified"} <= set(text.splitlines())
