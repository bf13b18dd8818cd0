"""Measure the size and the time of SDKs for pages: kinfold's, Segment's, RudderStack's and PostHog's, in one run.

    python benchmarks/browser_sdks.py [ROUNDS]

Each SDK comes as its npm package, in the version of `browser_sdks/package.json`, bundled with esbuild. npm installs them into a
temporary directory. A server on this machine accepts what they send. All of them do the same: they load, and send page views,
without recordings and other extras. The SDKs take turns, each in a new browser context.

| | |
|---|---|
| KB gzip | the bundle after gzip |
| load | CPU time of the page's main thread until a second after the SDK is ready, less that of a page without an SDK |
| 100 calls | its CPU time for 100 page views, and for storing and sending them within 8 s |
| the loop alone | how long the page waits for the 100 calls |
"""

import asyncio
import gzip
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.results import show, significant
from playwright.async_api import Browser, async_playwright

from tools import web

SDKS: Final = ("kinfold", "segment", "rudderstack", "posthog")
ROUNDS: Final = 7
PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome")
LOADED_MS: Final = 1_000
SENT_MS: Final = 8_000

_SOURCES: Final = Path(__file__).parent / "browser_sdks"
_CALLS: Final = (
    "(() => { const from = performance.now(); for (let i = 0; i < 100; i++) page(); return performance.now() - from })()"
)


class Turn(NamedTuple):
    """What one SDK took in one round, in milliseconds."""

    load: float
    calls: float
    loop: float


def bundles(directory: Path) -> dict[str, bytes]:
    """Install the packages into a directory, and bundle each SDK. Raises NoNode and CalledProcessError."""
    shutil.copytree(_SOURCES, directory, dirs_exist_ok=True)
    web.install()
    web.build_packages()
    package = json.loads((directory / "package.json").read_text())
    package["dependencies"]["kinfold"] = f"file:{web.npm_pack(web.CLIENTS / 'browser', directory)}"
    (directory / "package.json").write_text(json.dumps(package))
    web.npm_install(directory)
    made = dict[str, bytes]()
    for name in SDKS:
        options = ("--bundle", "--minify", "--charset=utf8", "--target=es2022", "--format=iife", "--log-level=warning")
        command = [directory / "node_modules/.bin/esbuild", f"{name}.js", f"--outfile=dist/{name}.js", *options]
        subprocess.run(command, cwd=directory, env=web.environment(), check=True)
        made[name] = (directory / f"dist/{name}.js").read_bytes()
    return made


@contextmanager
def serving(scripts: dict[str, bytes]) -> Iterator[str]:
    """Serve a page for each SDK, its settings, and accept all that it sends. Gives the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            name = path.rpartition("/")[2].removesuffix(".js")
            if path.endswith(".js"):
                self.answer(scripts.get(name, b""), "text/javascript")
            elif path.startswith("/page/"):
                script = f'<script src="/{name}.js"></script>' if name in scripts else ""
                self.answer(f"<!doctype html><title>Shop</title>{script}".encode(), "text/html")
            else:
                self.answer(json.dumps(_settings(path, self.headers["Host"])).encode(), "application/json")

        def do_POST(self) -> None:
            events = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            status = 202 if self.path.startswith("/v1/events") else 200
            accepted = {"success": True, "status": 1, "appended": events.count(b"visitorId"), "rejected": []}
            self.answer(json.dumps(accepted).encode(), "application/json", status)

        def answer(self, body: bytes, kind: str, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _settings(path: str, host: str) -> dict[str, Any]:
    """What kinfold's gateway answers to Segment's and RudderStack's SDKs, and an empty answer for PostHog's."""
    if path.startswith("/v1/projects/"):
        segment = {"apiKey": "key", "apiHost": f"{host}/v1", "protocol": "http", "addBundledMetadata": False}
        return {"integrations": {"Segment.io": segment}, "metrics": {"sampleRate": 0}}
    if path.startswith("/sourceConfig"):
        nothing = {"enabled": False}
        source = {"id": "key", "name": "key", "writeKey": "key", "enabled": True, "destinations": []}
        return {"source": {**source, "config": {"statsCollection": {"errors": nothing, "metrics": nothing}}}}
    return {}


async def turn(browser: Browser, url: str, name: str) -> tuple[Turn, int]:
    """One turn of an SDK in a fresh profile, and how many page views it has sent."""
    context = await browser.new_context()
    page = await context.new_page()
    session = await context.new_cdp_session(page)
    await session.send("Performance.enable", {"timeDomain": "threadTicks"})
    sent = 0

    async def busy_ms() -> float:
        metrics = (await session.send("Performance.getMetrics"))["metrics"]
        return next(each["value"] for each in metrics if each["name"] == "TaskDuration") * 1000

    def count(body: bytes | None) -> None:
        nonlocal sent
        text = gzip.decompress(body) if body and body[:2] == b"\x1f\x8b" else body or b""
        sent += sum(text.count(mark) for mark in (b'"VisitorSeen"', b'"type":"page"', b'"$pageview"'))

    page.on("request", lambda request: count(request.post_data_buffer) if request.method == "POST" else None)
    before = await busy_ms()
    await page.goto(f"{url}/page/{name}")
    if name in SDKS:
        await page.wait_for_function("!!window.page")
    await page.wait_for_timeout(LOADED_MS)
    loaded = await busy_ms()
    if name not in SDKS:
        await context.close()
        return Turn(loaded - before, 0, 0), 0
    loop = await page.evaluate(_CALLS)
    await page.wait_for_timeout(SENT_MS)
    done = await busy_ms()
    await context.close()
    return Turn(loaded - before, done - loaded, loop), sent


async def measure(scripts: dict[str, bytes], rounds: int) -> None:
    """Take turns, and print the table."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        sys.exit(f"expected a browser on PATH, one of {', '.join(PROGRAMS)}, got none")
    turns: dict[str, list[Turn]] = {name: [] for name in ("empty", *SDKS)}
    sent = dict[str, int]()
    with serving(scripts) as url:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
            for _ in range(rounds):
                for name, taken in turns.items():
                    one, sent[name] = await turn(browser, url, name)
                    taken.append(one)
            print(f"Chromium {browser.version}, {rounds} rounds")
            await browser.close()
    empty = statistics.median(each.load for each in turns["empty"])
    medians = {name: Turn(*(statistics.median(part) for part in zip(*turns[name], strict=True))) for name in SDKS}
    medians = {name: one._replace(load=max(0.1, one.load - empty)) for name, one in medians.items()}
    sizes = {name: len(gzip.compress(scripts[name], mtime=0)) / 1000 for name in SDKS}
    own = (sizes["kinfold"], *medians["kinfold"])
    rows = []
    for name in SDKS:
        figures = (sizes[name], *medians[name])
        cells = [f"{significant(each)} (× {significant(each / mine)})" for each, mine in zip(figures, own, strict=True)]
        rows.append((name, *cells, sent[name]))
    show("SDKs for pages", ("SDK", "KB gzip", "load, ms", "100 calls, ms", "the loop alone, ms", "page views sent"), rows)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(measure(bundles(Path(temporary)), int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
