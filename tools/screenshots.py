"""Takes the pictures of the documentation (`make screenshots`): the demo's history with a few people on top, in Chromium.

    python -m tools.screenshots [--into DIRECTORY] [--all]

It starts a gateway, a projector and a directory of its own, on a server and a data dir of its own. `--all` takes every page at
390, 1280 and 1920 pixels, light and dark, for those who work on the screen.
"""

import argparse
import asyncio
import gzip
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.server.embedded import EmbeddedServer
from kinfold_services.settings import Settings
from tests.support.browser import PROGRAMS
from tests.support.directories import following, wait_until_current
from tests.support.gateways import Gateway, serving
from tests.support.projecting import newest_entry, projecting, wait_until_folded

ROOT: Final = Path(__file__).parents[1]
IMAGES: Final = ROOT / "docs/images"
HISTORY: Final = ROOT / "examples/swift-history.ndjson.gz"

_WIDTHS: Final = (390, 1280, 1920)
_PATIENCE_S: Final = 120.0

_MAC: Final = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
)
_IPHONE: Final = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 "
    "Mobile/15E148 Safari/604.1"
)
_WINDOWS: Final = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0"
_PIXEL: Final = (
    "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36"
)
_PEOPLE: Final = (
    ("Grace Hopper", "grace@flowmatic.example", "pro", "New York", 12, "America/New_York", _MAC),
    ("Alan Turing", "alan@bombe.example", "team", "London", 4, "Europe/London", _WINDOWS),
    ("Katherine Johnson", "katherine@orbit.example", "pro", "Hampton", 1, "America/New_York", _IPHONE),
    ("Edsger Dijkstra", "edsger@semaphore.example", "free", "Eindhoven", 1, "Europe/Amsterdam", _WINDOWS),
    ("Radia Perlman", "radia@bridges.example", "team", "Boston", 8, "America/New_York", _MAC),
    ("Donald Knuth", "don@literate.example", "free", "Stanford", 1, "America/Los_Angeles", _WINDOWS),
    ("Margaret Hamilton", "margaret@lunar.example", "enterprise", "Cambridge", 40, "America/New_York", _MAC),
    ("Dennis Ritchie", "dmr@unix.example", "pro", "Murray Hill", 6, "America/New_York", _WINDOWS),
    ("Barbara Liskov", "barbara@clu.example", "enterprise", "Cambridge", 25, "America/New_York", _PIXEL),
    ("Niklaus Wirth", "niklaus@oberon.example", "free", "Zürich", 1, "Europe/Zurich", _MAC),
    ("Frances Allen", "fran@compilers.example", "pro", "Peru", 3, "America/New_York", _IPHONE),
    ("Tony Hoare", "tony@csp.example", "team", "Oxford", 5, "Europe/London", _WINDOWS),
)


MakesEvent = Callable[..., dict[str, Any]]
"""Makes an event from its type, its age in minutes, and its fields."""


def story(now: datetime) -> Iterator[dict[str, Any]]:
    """The events of the people on top of the history, ending now."""
    numbers = iter(range(1_000_000))

    def event(kind: str, minutes: float, **fields: Any) -> dict[str, Any]:
        at = (now - timedelta(minutes=minutes)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"type": kind, "id": f"story-{next(numbers)}", "at": at, **fields}

    yield from _customers(event)
    yield from _ada(event)


def _customers(event: MakesEvent) -> Iterator[dict[str, Any]]:
    """Visits and identities of the people on the list."""
    for number, (name, email, plan, city, seats, timezone, agent) in enumerate(_PEOPLE):
        visitor = f"v-{1000 + number}"
        joined = 60 * 24 * (3 + 5 * number)
        context = {
            "url": "https://shop.example/pricing",
            "referrer": "https://news.example/",
            "userAgent": agent,
            "timezone": timezone,
        }
        yield event("VisitorSeen", joined, visitorId=visitor, context=context)
        metadata = {"plan": plan, "city": city, "seats": seats}
        yield event(
            "VisitorIdentified",
            joined - 2,
            visitorId=visitor,
            externalId=f"u-{1000 + number}",
            email=email,
            name=name,
            metadata=metadata,
        )
        yield event("VisitorSeen", 1 + number**2 * 3, visitorId=visitor, context={**context, "url": "https://shop.example/app"})


def _ada(event: MakesEvent) -> Iterator[dict[str, Any]]:
    """Somebody with two devices, who were two people at first, and a conflict about an address."""
    week = 60 * 24 * 7
    laptop = {"userAgent": _MAC, "timezone": "Europe/London", "locale": "en-GB"}
    phone = {"userAgent": _IPHONE, "timezone": "Europe/London", "locale": "en-GB"}
    yield event(
        "VisitorSeen",
        6 * week,
        visitorId="laptop",
        context={**laptop, "url": "https://shop.example/", "referrer": "https://search.example/"},
    )
    yield event("MetadataSet", 6 * week - 1, visitorId="laptop", metadata={"campaign": "spring"})
    yield event(
        "VisitorIdentified",
        6 * week - 9,
        visitorId="laptop",
        email="ada@analytical.example",
        name="Ada Byron",
        metadata={"plan": "free", "city": "London"},
    )
    yield event("VisitorSeen", 3 * week, visitorId="phone", context={**phone, "url": "https://shop.example/pricing"})
    yield event(
        "VisitorIdentified",
        3 * week - 3,
        visitorId="phone",
        externalId="u-1815",
        name="Ada Lovelace",
        metadata={"plan": "pro", "seats": 5},
    )
    yield event("VisitorIdentified", 2 * week, visitorId="phone", externalId="u-1815", email="ada@analytical.example")
    yield event("MetadataSet", 2 * week - 50, externalId="u-1815", metadata={"plan": "team", "seats": 12, "newsletter": True})
    yield event("VisitorIdentified", 60 * 30, visitorId="laptop", externalId="u-1815", email="grace@flowmatic.example")
    yield event("MetadataSet", 60 * 5, externalId="u-1815", metadata={"seats": 20, "mrr": 240.5})
    yield event(
        "VisitorSeen",
        40,
        visitorId="laptop",
        context={**laptop, "url": "https://shop.example/team/members", "referrer": "https://shop.example/"},
    )
    yield event(
        "VisitorSeen",
        0.2,
        visitorId="phone",
        context={**phone, "url": "https://shop.example/checkout?step=2", "referrer": "https://shop.example/cart"},
    )


@asynccontextmanager
async def staging(*, with_history: bool) -> AsyncGenerator[Gateway]:
    """Start everything, append the events and wait until the directory has them."""
    with tempfile.TemporaryDirectory() as directory, EmbeddedServer.start(Path(directory) / "data", fsync="everysec") as server:
        events = [line for line in gzip.decompress(HISTORY.read_bytes()).splitlines() if line] if with_history else []
        events += [json.dumps(each).encode() for each in story(datetime.now(UTC))]  # noqa: TID251  a script has a clock
        settings = Settings(data_dir=Path(directory) / "directory")
        async with Redis.from_url(server.url, decode_responses=False) as redis:
            for first in range(0, len(events), 1000):
                pipeline = redis.pipeline(transaction=False)
                for each in events[first : first + 1000]:
                    pipeline.xadd(key("default", "events"), {"event": each})
                await pipeline.execute()
            last = await newest_entry(redis, "default", "events")
            async with (
                projecting(server.url),
                following(settings, server.url),
                serving(server.url, redis, data_dir=settings.data_dir) as gateway,
            ):
                await wait_until_folded(redis, "default", last, _PATIENCE_S)
                await wait_until_current(redis, settings, "default", _PATIENCE_S)
                yield gateway


@asynccontextmanager
async def browsing() -> AsyncGenerator[Browser]:
    """Start the browser that is on PATH."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise SystemExit(f"make screenshots: expected one of {', '.join(PROGRAMS)} on PATH, got none")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        await browser.close()


async def sign_in(context: BrowserContext, gateway: Gateway, by: str = "Sam") -> Page:
    """Sign in, and return the tab with the list of people."""
    tab = await context.new_page()
    await tab.goto(f"{gateway.url}/sign-in")
    await tab.fill("#key", gateway.secret)
    await tab.fill("#by", by)
    await tab.press("#by", "Enter")
    await tab.wait_for_url("**/people*")
    return tab


async def take_few(gateway: Gateway, browser: Browser, directory: Path) -> None:
    """Take the pictures that the README and the documentation show."""
    context = await browser.new_context(viewport={"width": 1280, "height": 860}, device_scale_factor=1.5, color_scheme="light")
    tab = await sign_in(context, gateway)
    await tab.goto(f"{gateway.url}/people/{await ada(gateway)}")
    await tab.wait_for_selector(".story li")
    await tab.screenshot(path=directory / "person.png")
    for name in ("conflicts", "live"):
        await tab.goto(f"{gateway.url}/{name}")
        await tab.wait_for_selector("main .card")
        await tab.screenshot(path=directory / f"{name}.png")
    await context.close()


async def take_all(gateway: Gateway, browser: Browser, directory: Path) -> None:
    """Take every page in every width and both schemes."""
    person = f"/people/{await ada(gateway)}"
    pages = {
        "people": "/people",
        "filtered": "/people?where=plan+%3D+pro&where=seats+%3E%3D+3",
        "nobody": "/people?q=nobody+at+all",
        "person": person,
        "why": f"{person}/why",
        "as-of": f"{person}/at",
        "correct": f"{person}/correct",
        "merge": f"{person}/merge?q=a",
        "conflicts": "/conflicts",
        "rejects": "/rejects",
        "live": "/live",
        "health": "/health",
        "missing": "/people/ct_none",
    }
    for scheme in ("light", "dark"):
        for width in _WIDTHS:
            context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            door = await context.new_page()
            await door.goto(f"{gateway.url}/sign-in")
            await door.screenshot(path=directory / f"sign-in-{width}-{scheme}.png")
            tab = await sign_in(context, gateway)
            for name, path in pages.items():
                await tab.goto(gateway.url + path)
                await tab.screenshot(path=directory / f"{name}-{width}-{scheme}.png", full_page=name == "person")
            await context.close()


async def ada(gateway: Gateway) -> str:
    """The id of the person in the picture."""
    return str((await gateway.get("/v1/contacts", externalId="u-1815"))["id"])


async def _main(directory: Path, *, everything: bool) -> None:
    async with staging(with_history=True) as gateway, browsing() as browser:
        await (take_all if everything else take_few)(gateway, browser, directory)


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=IMAGES)
    parser.add_argument("--all", action="store_true", help="every page in every width, light and dark")
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    asyncio.run(_main(options.into, everything=options.all))
    return 0


if __name__ == "__main__":
    sys.exit(main())
