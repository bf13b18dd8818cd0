"""`@kinfold/react` in an application of Next's app router. Its packages have 340 MB, so this runs with KINFOLD_NEXT=1 only."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.support.applications import build, install
from tests.support.node import need_node
from tests.support.visits import staging

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.environ.get("KINFOLD_NEXT") != "1", reason="set KINFOLD_NEXT=1 to install and build with Next"),
]


async def test_server_component_renders_the_components(redis_url: str, workspace: str, tmp_path: Path):
    """They are marked as components of the client, so the application needs no directive for them. A date passes, too."""
    need_node()
    async with staging(redis_url, tmp_path / "out") as stage, stage.shop(workspace) as shop:
        await asyncio.to_thread(install, "next_app", tmp_path)
        settings = {"KINFOLD_HOST": stage.gateway_url, "KINFOLD_KEY": shop.key, "NEXT_TELEMETRY_DISABLED": "1"}
        await asyncio.to_thread(build, tmp_path, "next", "build", **settings)
        shop.stage.site.pages["/"] = (tmp_path / "out/index.html").read_text()
        page = await shop.context.new_page()
        page.on("pageerror", lambda error: shop.errors.append(str(error)))
        sent = list[str]()
        page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
        await page.goto(stage.site.url)
        for _ in range(2):  # the second render sends nothing
            await page.get_by_role("button", name="free").wait_for()
            assert await page.evaluate("kinfold.flush()")
            assert len(sent) == 1
            await page.reload()
        await page.get_by_role("button", name="free").click()
        await page.get_by_role("button", name="pro").wait_for()
        assert await page.evaluate("kinfold.flush()")
        assert len(sent) == 2
        contact = await shop.folded("/v1/contacts", externalId="u-1")

    assert (contact["name"], contact["email"]) == ("Ada", "ada@example.org")
    assert contact["metadata"] == {"plan": "pro", "signupDate": "1970-01-01T00:00:00.000Z"}
