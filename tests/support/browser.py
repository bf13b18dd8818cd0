"""A real headless browser, driven by the DevTools protocol: Chromium, if it is on PATH."""

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest
import websockets

from tests.support.waiting import wait_until

PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome")
START_S: Final = 120.0

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",  # root cannot use the sandbox, and only the test's pages are opened
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",  # like a machine without internet access
    "--remote-debugging-port=0",
)


class Page:
    """A browser tab."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.requests = list[str]()
        """The URLs requested since the page was opened."""
        self._socket = socket
        self._calls = 0

    async def open(self, url: str, *, obeys_policy: bool = True) -> None:
        """Open a page and wait until it is complete.

        `obeys_policy=False` ignores its Content-Security-Policy: scripts run as in another page of that origin.
        """
        await self._call("Network.enable")
        await self._call("Page.enable")
        await self._call("Page.setBypassCSP", enabled=not obeys_policy)
        self.requests.clear()
        await self._call("Page.navigate", url=url)

        async def is_complete() -> bool:
            return bool(await self.run("document.readyState === 'complete'"))

        await wait_until(is_complete)

    async def run(self, script: str) -> Any:
        """Evaluate an expression, await it if it is a promise, and return its value. Fails if it throws."""
        found = await self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        await self._socket.send(json.dumps({"id": self._calls, "method": method, "params": params}))
        while True:
            message: dict[str, Any] = json.loads(await self._socket.recv())
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            elif message.get("id") == self._calls:
                assert "error" not in message, message
                return cast("dict[str, Any]", message["result"])


@asynccontextmanager
async def browsing(directory: Path) -> AsyncGenerator[Page]:
    """Open a browser with one tab and its profile in a directory. Skips the test if there is no browser."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no browser on PATH: expected one of {', '.join(PROGRAMS)}")
    process = await asyncio.create_subprocess_exec(
        program, *_FLAGS, f"--user-data-dir={directory}", "about:blank", stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    draining: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(START_S):
            while b"DevTools listening on " not in (line := await process.stderr.readline()):
                assert line, "the browser ended before it listened"
        draining = asyncio.create_task(process.stderr.read())
        address = line.decode().split()[-1]
        async with websockets.connect(address, max_size=None, open_timeout=START_S) as socket:
            await socket.send(json.dumps({"id": 0, "method": "Target.getTargets"}))
            targets = json.loads(await socket.recv())["result"]["targetInfos"]
        tab = next(target["targetId"] for target in targets if target["type"] == "page")
        origin = address.partition("/devtools/")[0]
        async with websockets.connect(f"{origin}/devtools/page/{tab}", max_size=None, open_timeout=START_S) as socket:
            yield Page(socket)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        if draining is not None:
            await draining
