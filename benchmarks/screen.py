"""Measure the screen in a real browser, and with many screens open.

    python benchmarks/screen.py [--contacts 100000] [--screens 200] [--per-second 200] [--seconds 10]

**First paint**: the browser's first contentful paint of the list of people, loaded again and again.

**Typing**: from a key in the search box to the new rows. 30 ms of it are the wait for the next key.

**Weight**: all that a page loads at first, compressed.

**Open screens**: each shows 50 of 500 people, and reads its events as a browser does. People change, drawn evenly, and each
change carries the time at which it was appended. A screen is current when the row arrives. The gateway's memory is looked at
all the time.

Server, projector, directory, gateway and browser are processes of their own. The readers are in this process, on the same
cores.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from harness.population import Population
from harness.results import environment, show, write
from harness.servers import precise_cpu_s
from playwright.async_api import Page, async_playwright
from redis.asyncio import Redis

sys.path.insert(0, str(Path(__file__).parents[1]))

from kinfold_schemas.keys import key
from kinfold_services.access.keys import create_key
from kinfold_services.server.embedded import EmbeddedServer
from kinfold_services.settings import Settings
from tests.support.directories import DirectoryProcess, wait_until_current
from tests.support.gateways import GatewayProcess
from tests.support.projecting import ProjectorProcess, newest_entry, wait_until_folded
from tests.support.visits import FLAGS, chromium

WORKSPACE: Final = "default"
SHOWN: Final = 50
WATCHED: Final = 500
LOADS: Final = 20
WORDS: Final = ("anna", "smith", "lopez", "u-12", "jones", "maria")

_PATIENCE_S: Final = 1800.0
_STAMP: Final = re.compile(rb"sent-(\d+)")
_PAINT: Final = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
_WEIGHT: Final = """[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
    .reduce((sum, each) => sum + each.encodedBodySize, 0)"""
_WATCH: Final = """() => {
  window.typed = [];
  let at = 0;
  document.getElementById('q').addEventListener('input', () => { at = performance.now(); });
  const arrive = () => { window.typed.push(performance.now() - at); };
  document.addEventListener('htmx:afterSwap', () => requestAnimationFrame(arrive));
}"""


@asynccontextmanager
async def running(contacts: int) -> AsyncGenerator[tuple[Redis, GatewayProcess]]:
    """Everything with a population, as soon as the directory has it."""
    with tempfile.TemporaryDirectory() as name, EmbeddedServer.start(Path(name) / "data", fsync="everysec") as server:
        place = Path(name)
        settings: dict[str, Any] = {"data_dir": place / "directory", "gateway_requests_per_s": 100_000.0}
        async with Redis.from_url(server.url, decode_responses=False) as redis:
            last = await _append(redis, contacts)
            with (
                ProjectorProcess(server.url, WORKSPACE, place / "projector.log"),
                DirectoryProcess(server.url, place / "directory.log", {"data_dir": settings["data_dir"]}),
            ):
                await wait_until_folded(redis, WORKSPACE, last, _PATIENCE_S)
                await wait_until_current(redis, Settings(data_dir=settings["data_dir"]), WORKSPACE, _PATIENCE_S)
                with GatewayProcess(server.url, _free_port(), place / "gateway.log", **settings) as gateway:
                    yield redis, gateway


async def _append(redis: Redis, contacts: int) -> bytes | str:
    log, batch = key(WORKSPACE, "events"), redis.pipeline(transaction=False)
    for number, (entry, event) in enumerate(Population(contacts).entries()):
        batch.xadd(log, {"event": event}, id=entry)
        if number % 2000 == 0:
            await batch.execute()
    await batch.execute()
    return await newest_entry(redis, WORKSPACE, "events")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# --- in the browser -----------------------------------------------------------------------------------------------------


async def browse(redis: Redis, gateway: GatewayProcess) -> dict[str, Any]:
    """First paint and typing in ms, and the weight of each page in bytes."""
    presented = await create_key(redis, WORKSPACE, "secret")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        tab = await browser.new_page(bypass_csp=True)  # Playwright waits by `eval`
        await tab.goto(f"{gateway.url}/sign-in")
        await tab.fill("#key", presented)
        await tab.fill("#by", "Bench")
        await tab.press("#by", "Enter")
        await tab.wait_for_url("**/people*")
        paints = [await _paint(tab, f"{gateway.url}/people") for _ in range(LOADS)]
        typed = await _type(tab)
        weights = await _weigh(tab, gateway.url)
        await browser.close()
    return {
        "first_paint_ms": statistics.median(paints),
        "first_paint_p95_ms": _p(95, paints),
        "typing_ms": statistics.median(typed),
        "typing_p95_ms": _p(95, typed),
        "keys": len(typed),
        "weights": weights,
    }


async def _paint(tab: Page, url: str) -> float:
    await tab.goto(url)
    await tab.wait_for_function(_PAINT)
    return float(await tab.evaluate(_PAINT))


async def _type(tab: Page) -> list[float]:
    await tab.evaluate(_WATCH)
    count = 0
    for word in WORDS:
        if count:
            await tab.fill("#q", "")
            count += 1
            await tab.wait_for_function("count => window.typed.length >= count", arg=count)
        for letter in word:
            await tab.press("#q", letter)
            count += 1
            await tab.wait_for_function("count => window.typed.length >= count", arg=count)
    typed: list[float] = await tab.evaluate("window.typed")
    return typed


async def _weigh(tab: Page, url: str) -> dict[str, int]:
    """The bytes of each page with all its files, as at the first visit."""
    weights: dict[str, int] = {}
    session = await tab.context.new_cdp_session(tab)
    await session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    await tab.goto(f"{url}/people")
    person = await tab.locator("#rows a.person").first.get_attribute("href")
    for name, path in {"people": "/people", "person": str(person), "conflicts": "/conflicts", "rejects": "/rejects"}.items():
        await tab.goto(url + path)
        weights[name] = await tab.evaluate(_WEIGHT)
    for name in ("live", "health"):
        await tab.goto(f"{url}/{name}")
        weights[name] = await tab.evaluate(_WEIGHT)
    return weights


# --- many screens -------------------------------------------------------------------------------------------------------


class Screens:
    """The open screens, and when each row arrived."""

    def __init__(self) -> None:
        self.latencies_ms: list[float] = []
        self.open = 0
        self.ended = 0

    async def watch(self, url: str, cookie: str, shown: list[str], since: str) -> None:
        """Open a screen, and read until cancelled."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        path = f"/people/live?since={since}&column=stamp&shown={','.join(shown)}"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nCookie: {cookie}\r\n\r\n".encode())
        rest, is_open = b"", False
        try:
            while data := await reader.read(1 << 16):
                now_ms = time.time() * 1000
                if not is_open and b"connected" in data:
                    is_open = True
                    self.open += 1
                data = rest + data
                for found in _STAMP.finditer(data):
                    self.latencies_ms.append(now_ms - int(found[1]))
                rest = data[-24:] if not _STAMP.search(data[-24:]) else b""
        finally:
            self.ended += 1
            writer.close()


async def crowd(redis: Redis, gateway: GatewayProcess, screens: int, per_s: int, seconds: int) -> dict[str, Any]:
    """How current the screens are, in ms, and the gateway's memory in MiB."""
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        await client.post("/sign-in", data={"key": await create_key(redis, WORKSPACE, "read"), "by": "Bench"})
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    fields: Any = await redis.hscan(key(WORKSPACE, "external-ids"), 0, None, 2 * WATCHED)
    people = [(name.decode(), contact.decode()) for name, contact in list(fields[1].items())[:WATCHED]]
    since: Any = await redis.xinfo_stream(key(WORKSPACE, "changes"))
    dice, crowded = random.Random(0), Screens()  # noqa: S311  the same screens in every run
    before_mib = _resident_mib(gateway)
    tasks = [
        asyncio.create_task(
            crowded.watch(
                gateway.url,
                cookie,
                [contact for _, contact in dice.sample(people, SHOWN)],
                since["last-generated-id"].decode(),
            )
        )
        for _ in range(screens)
    ]
    while crowded.open < screens:
        await asyncio.sleep(0.05)
    open_mib = _resident_mib(gateway)
    most_mib = open_mib
    begun, cpu_begun_s = time.monotonic(), precise_cpu_s(_family(gateway.process.pid))
    for number in range(per_s * seconds):
        event = {
            "type": "MetadataSet",
            "externalId": dice.choice(people)[0],
            "metadata": {"stamp": f"sent-{time.time_ns() // 10**6}"},
        }
        await redis.xadd(key(WORKSPACE, "events"), {"event": json.dumps(event)})
        if number % per_s == 0:
            most_mib = max(most_mib, _resident_mib(gateway))
        await asyncio.sleep(max(0.0, begun + number / per_s - time.monotonic()))
    cores = (precise_cpu_s(_family(gateway.process.pid)) - cpu_begun_s) / (time.monotonic() - begun)
    await asyncio.sleep(2.0)
    most_mib = max(most_mib, _resident_mib(gateway))
    ended = crowded.ended
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "screens": screens,
        "changes_per_s": per_s,
        "rows": len(crowded.latencies_ms),
        "current_p50_ms": _p(50, crowded.latencies_ms),
        "current_p99_ms": _p(99, crowded.latencies_ms),
        "current_max_ms": max(crowded.latencies_ms),
        "cut_off": ended,
        "gateway_cores": cores,
        "memory_before_mib": before_mib,
        "memory_open_mib": open_mib,
        "memory_most_mib": most_mib,
    }


def _resident_mib(gateway: GatewayProcess) -> float:
    """The memory of the gateway and of its children."""
    return sum(_resident_kib(each) for each in _family(gateway.process.pid)) / 1024


def _family(pid: int) -> Iterator[int]:
    yield pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for child in children.read_text().split() if children.exists() else ():
        yield from _family(int(child))


def _resident_kib(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0


def _p(percent: int, values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


async def _run(options: argparse.Namespace) -> dict[str, Any]:
    begun = time.monotonic()
    async with running(options.contacts) as (redis, gateway):
        built_s = time.monotonic() - begun
        found = await browse(redis, gateway)
        crowded = await crowd(redis, gateway, options.screens, options.per_second, options.seconds)
    return {"contacts": options.contacts, "built_s": built_s, "browser": found, "crowd": crowded}


def main() -> None:
    """Print tables and write `benchmarks/results/screen.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contacts", type=int, default=100_000)
    parser.add_argument("--screens", type=int, default=200)
    parser.add_argument("--per-second", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=10)
    result = asyncio.run(_run(parser.parse_args()))
    weights: dict[str, int] = result["browser"].pop("weights")
    rows = {**result["browser"], **{f"{name}, bytes": weight for name, weight in weights.items()}, **result["crowd"]}
    show(
        f"the screen at {result['contacts']:,} contacts",
        ["what", "found"],
        [[name, round(value, 2)] for name, value in rows.items()],
    )
    write("screen", {"environment": environment("embedded"), **result, "weights": weights})


if __name__ == "__main__":
    main()
