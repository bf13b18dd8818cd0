"""`@kinfold/react` in an application of Next's app router.

Its packages have 340 MB, so this runs with KINFOLD_NEXT=1 alone, and in `make test-long`.
"""

import asyncio
import os
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.support.applications import build, install
from tests.support.node import need_node
from tests.support.visits import Shop, staging

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.environ.get("KINFOLD_NEXT") != "1", reason="set KINFOLD_NEXT=1 to install and build with Next"),
]


async def test_examples_in_server_and_client_components(redis_url: str, workspace: str, tmp_path: Path):
    """They are marked as components of the client, so a page needs no directive for them. A date passes, too."""
    need_node()
    async with staging(redis_url, tmp_path / "out") as stage, stage.shop(workspace) as shop:
        await asyncio.to_thread(install, "next_app", tmp_path)
        settings = {"KINFOLD_HOST": stage.gateway_url, "KINFOLD_KEY": shop.key, "NEXT_TELEMETRY_DISABLED": "1"}
        await asyncio.to_thread(build, tmp_path, "next", "build", **settings)
        pages = stage.site.pages
        pages["/"], pages["/hook"] = [(tmp_path / "out" / name).read_text() for name in ("index.html", "hook.html")]

        async with await stage.browser.new_context() as phone:
            await upgrade(shop, await shop.context.new_page(), "/")
            first = await shop.folded("/v1/contacts", externalId="u-1")
            await upgrade(shop, await phone.new_page(), "/hook")
        both = await shop.folded("/v1/contacts", externalId="u-1")

    person = {"name": "Ada", "email": "ada@example.org", "image": "https://img.example/ada.png"}
    assert {name: first[name] for name in person} == person
    upgraded_at = first["metadata"].pop("upgradedAt")
    told = {"signupDate": "1970-01-01T00:00:00.000Z", "company": "Analytical Engines"}
    assert first["metadata"] == {"plan": "pro", "mrr": 99, **told}
    assert both["metadata"].pop("upgradedAt") > upgraded_at
    assert both["metadata"] == first["metadata"]
    assert (first["visitorCount"], both["visitorCount"]) == (1, 2)


async def upgrade(shop: Shop, page: Page, path: str) -> None:
    """Open a page, render it twice, and press its button. The second render sends nothing."""
    page.on("pageerror", lambda error: shop.errors.append(str(error)))
    sent = list[str]()
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    await page.goto(shop.stage.site.url + path)
    for _ in range(2):
        await page.get_by_role("button", name="free").wait_for()
        assert await page.evaluate("kinfold.flush()")
        assert len(sent) == 1
        await page.reload()
    await page.get_by_role("button", name="free").click()
    await page.get_by_role("button", name="pro").wait_for()
    assert await page.evaluate("kinfold.flush()")
    assert len(sent) == 2
