"""A web site with kinfold.js on its pages, visited in a real browser, with a real gateway and projector behind it."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Playwright, async_playwright, expect
from redis.asyncio import Redis

from kinfold_schemas.keys import WORKSPACES
from kinfold_services.access.keys import Kind, create_key
from tests.support.browser import PROGRAMS
from tests.support.gateways import serving, stream_of
from tests.support.projecting import projecting, wait_until_folded
from tests.support.site import Site
from tests.support.waiting import wait_until

FLAGS: Final = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
PATIENCE_S: Final = 120.0
CLOSE_S: Final = 20.0

_DOCS: Final = Path(__file__).parents[2] / "docs/how-to/browsers.md"

Json = dict[str, Any]


def snippet() -> str:
    """The snippet that docs/how-to/browsers.md shows: it keeps the calls that are made before the script is loaded."""
    found = re.search(r"^```html\n(<script>.*?</script>)", _DOCS.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


class Shop:
    """A site for one test, with its own workspace and development key."""

    def __init__(self, stage: "Stage", workspace: str, key: str, context: BrowserContext) -> None:
        self.stage = stage
        self.workspace = workspace
        self.key = key
        self.context = context
        self.gateway_url = stage.gateway_url
        self.errors = list[str]()
        """Errors that reached a page."""
        self.warnings = list[str]()
        """What kinfold wrote to the console."""

    def element(self, script: str = "kinfold.js", **attributes: str) -> str:
        """The element that loads the script."""
        given = {"key": self.key, "automated": "", **attributes}
        data = " ".join(f'data-{name.replace("_", "-")}="{value}"' for name, value in given.items())
        return f'<script async src="{self.gateway_url}/{script}" {data}></script>'

    async def open(self, before: str = "", context: BrowserContext | None = None, **attributes: str) -> Page:
        """Open a tab with the snippet, the element and `before` between them. Waits until the script has run."""
        page = await self.open_html(f"{snippet()}{before}{self.element(**attributes)}", context)
        await page.wait_for_function("window.kinfold && !kinfold.q")
        return page

    async def open_html(self, html: str, context: BrowserContext | None = None) -> Page:
        """Open a tab with these elements."""
        self.stage.site.pages[f"/{self.workspace}"] = f"<!doctype html><title>Shop</title>{html}"
        page = await (context or self.context).new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.warnings.append(message.text) if "kinfold" in message.text else None)
        await page.goto(self.url)
        return page

    @property
    def url(self) -> str:
        """The URL of the site."""
        return f"{self.stage.site.url}/{self.workspace}"

    async def log(self) -> list[Json]:
        """The events in the log."""
        return [json.loads(data) for _, data in await stream_of(self.stage.redis, self.workspace, "events")]

    async def logged(self, count: int) -> list[Json]:
        """The events in the log, as soon as there are `count`."""

        async def enough() -> list[Json] | None:
            events = await self.log()
            return events if len(events) >= count else None

        return cast("list[Json]", await wait_until(enough, PATIENCE_S))

    async def logged_once(self, count: int) -> list[Json]:
        """The different events in the log, as soon as there are `count`.

        An event whose answer was lost is in the log twice, with the same id. The fold drops the second one.
        """

        def different(events: list[Json]) -> list[Json]:
            by_id = dict[str, Json]()
            for event in events:
                first = by_id.setdefault(event["id"], event)
                assert first | {"sentAt": None} == event | {"sentAt": None}
            return list(by_id.values())

        async def enough() -> list[Json] | None:
            events = different(await self.log())
            return events if len(events) >= count else None

        return cast("list[Json]", await wait_until(enough, PATIENCE_S))

    async def folded(self, path: str, **params: str) -> Json:
        """The gateway's answer, once everything in the log is folded."""
        entries = await stream_of(self.stage.redis, self.workspace, "events")
        await wait_until_folded(self.stage.redis, self.workspace, entries[-1][0])
        return await self.stage.ask(self.workspace, path, **params)


class Stage:
    """What the tests of a module share: a browser, a gateway, a projector and a site."""

    def __init__(self, playwright: Playwright, browser: Browser, site: Site, redis: Redis, gateway_url: str) -> None:
        self.playwright = playwright
        self.browser = browser
        self.site = site
        self.redis = redis
        self.gateway_url = gateway_url
        self._secrets = dict[str, str]()

    @asynccontextmanager
    async def shop(self, workspace: str, kind: Kind = "development", **context: Any) -> AsyncGenerator[Shop]:
        """Open a site and a fresh browser profile for one test. Fails if an error reached a page."""
        workspace = f"{workspace[:50]}-{len(self._secrets)}"  # the cases of a test have one name
        await self.redis.sadd(WORKSPACES, workspace)
        self._secrets[workspace] = await create_key(self.redis, workspace, "secret")
        key = await create_key(self.redis, workspace, kind)
        fresh = await self.browser.new_context(**context)
        shop = Shop(self, workspace, key, fresh)
        try:
            yield shop
        finally:
            with suppress(TimeoutError):  # Chromium does not always close a profile whose storage is full
                await asyncio.wait_for(fresh.close(), CLOSE_S)
        assert shop.errors == []

    async def ask(self, workspace: str, path: str, **params: str) -> Json:
        """The JSON of a GET with the workspace's secret key."""
        request = await self.playwright.request.new_context()
        try:
            headers = {"Authorization": f"Bearer {self._secrets[workspace]}"}
            answer = await request.get(f"{self.gateway_url}{path}", headers=headers, params=cast("Any", params))
            assert answer.ok, await answer.text()
            return cast("Json", await answer.json())
        finally:
            await request.dispose()


def chromium() -> str:
    """The path of the browser. Skips the test if there is none."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no browser on PATH: expected one of {', '.join(PROGRAMS)}")
    return program


@asynccontextmanager
async def staging(redis_url: str, directory: Path | None = None, **settings: Any) -> AsyncGenerator[Stage]:
    """Start a browser, a gateway with these settings, a projector and a site. Skips the test if there is no browser."""
    program = chromium()
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(redis_url, decode_responses=False))
        await redis.flushdb()
        site = stack.enter_context(Site({"/": "<!doctype html>"}, directory))
        await stack.enter_async_context(projecting(redis_url))
        gateway = await stack.enter_async_context(serving(redis_url, redis, gateway_origins=site.url, **settings))
        playwright = await stack.enter_async_context(async_playwright())
        expect.set_options(timeout=PATIENCE_S * 1000)
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        stack.push_async_callback(browser.close)
        yield Stage(playwright, browser, site, redis, gateway.url)
