"""The screen in a real browser, with a real gateway, projector and directory behind it."""

import itertools
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import httpx
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect
from redis.asyncio import Redis

from kinfold_schemas.keys import WORKSPACES, key
from kinfold_services.access.keys import Kind, create_key
from kinfold_services.settings import Settings
from tests.support.directories import following, wait_until_current
from tests.support.gateways import serving
from tests.support.node import need_node
from tests.support.projecting import projecting, wait_until_folded
from tests.support.visits import FLAGS, chromium
from tools import web

PATIENCE_MS: Final = 120_000
BY: Final = "Sam Agent"


class Stage:
    """What the tests of a module share."""

    def __init__(self, browser: Browser, redis: Redis, url: str, settings: Settings) -> None:
        self.browser = browser
        self.redis = redis
        self.url = url
        self.settings = settings
        self._numbers = itertools.count()

    @asynccontextmanager
    async def agent(self, workspace: str, **context: Any) -> AsyncGenerator["Agent"]:
        """Give an agent with a fresh browser profile and a workspace. Fails if a page broke the policy or threw an error."""
        workspace = f"{workspace[:50]}-{next(self._numbers)}"  # the cases of a test have one name
        await self.redis.sadd(WORKSPACES, workspace)
        async with await self.browser.new_context(**context) as fresh:
            fresh.set_default_timeout(PATIENCE_MS)
            agent = Agent(self, workspace, fresh)
            yield agent
        assert agent.complaints == []


class Agent:
    """Somebody with a browser, and a workspace of their own."""

    def __init__(self, stage: Stage, workspace: str, context: BrowserContext) -> None:
        self.stage = stage
        self.workspace = workspace
        self.context = context
        self.complaints = list[str]()
        """Errors of pages, and what the Content-Security-Policy has blocked."""

    async def tab(self) -> Page:
        """Open a tab."""
        tab = await self.context.new_page()
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("console", lambda said: self.complaints.append(said.text) if "Security Policy" in said.text else None)
        return tab

    async def key(self, kind: Kind = "secret") -> str:
        """Create a key of the workspace."""
        return await create_key(self.stage.redis, self.workspace, kind)

    async def sign_in(self, kind: Kind = "secret", path: str = "/") -> Page:
        """Sign in through the form, and return the tab with the whole page, whose scripts have run."""
        tab = await self.tab()
        await tab.goto(self.stage.url + path)
        await tab.get_by_label("Key", exact=True).fill(await self.key(kind))
        await tab.get_by_label("Your name").fill(BY)
        await tab.get_by_role("button", name="Sign in").click()
        await tab.get_by_role("button", name="Sign out").wait_for()
        await tab.wait_for_load_state()
        return tab

    async def publish(self, *events: Mapping[str, Any]) -> None:
        """Append events, and return when they are folded and in the directory."""
        last: str | bytes = b""
        for event in events:
            last = await self.stage.redis.xadd(key(self.workspace, "events"), {"event": json.dumps(event)})
        await wait_until_folded(self.stage.redis, self.workspace, last)
        await wait_until_current(self.stage.redis, self.stage.settings, self.workspace)

    async def people(self, *names: str, **metadata: Any) -> None:
        """Publish one identified person for each name."""
        await self.publish(*[person(name, **metadata) for name in names])

    def client(self) -> httpx.AsyncClient:
        """An HTTP client without a browser's help."""
        return httpx.AsyncClient(base_url=self.stage.url, timeout=PATIENCE_MS / 1000)


def person(name: str, **metadata: Any) -> dict[str, Any]:
    """The event that makes a person known, with ids that come from the name."""
    handle = name.lower().replace(" ", ".")
    return {
        "type": "VisitorIdentified",
        "visitorId": f"v-{handle}",
        "externalId": f"u-{handle}",
        "email": f"{handle}@example.org",
        "name": name,
        "metadata": metadata,
    }


async def names(tab: Page) -> list[str]:
    """The names in the list, from top to bottom, once the page is complete."""
    await tab.wait_for_load_state()
    return await tab.locator("#rows a.person").all_inner_texts()


@cache
def _axe() -> str:
    need_node()
    return (web.CLIENTS / "node_modules/axe-core/axe.min.js").read_text("utf-8")


async def violations(tab: Page) -> list[str]:
    """What axe-core finds wrong on the page (WCAG 2.2 AA and best practices), in the light and in the dark scheme.

    Only colours depend on the scheme, so the dark one is checked for those.
    """
    found: list[str] = []
    await tab.wait_for_load_state()  # half a page has no headings, and no colours before its styles
    await tab.evaluate(_axe())
    schemes: tuple[Literal["light", "dark"], ...] = "light", "dark"
    for scheme in schemes:
        await tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        if scheme == "dark":
            options["runOnly"] = ["color-contrast", "link-in-text-block"]
        result = await tab.evaluate("options => axe.run(document, options)", options)
        found += [f"{scheme}: {each['id']} at {each['nodes'][0]['target']}: {each['help']}" for each in result["violations"]]
    return found


@asynccontextmanager
async def staging(redis_url: str, directory: Path) -> AsyncGenerator[Stage]:
    """Start a browser, a gateway, a projector and a directory. Skips the test if there is no browser."""
    program = chromium()
    settings = Settings(data_dir=directory)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(redis_url, decode_responses=False))
        await redis.flushdb()
        await stack.enter_async_context(projecting(redis_url))
        await stack.enter_async_context(following(settings, redis_url))
        gateway = await stack.enter_async_context(
            serving(redis_url, redis, data_dir=directory, gateway_trusted_proxies="127.0.0.1")
        )
        playwright = await stack.enter_async_context(async_playwright())
        expect.set_options(timeout=PATIENCE_MS)
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        stack.push_async_callback(browser.close)
        yield Stage(browser, redis, gateway.url, settings)
