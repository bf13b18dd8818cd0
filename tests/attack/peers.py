"""How the attackers speak: HTTP from an address of their own, and raw bytes on many connections."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextvars import ContextVar
from typing import Any, Final

import httpx

ADDRESS: Final = ContextVar("address", default="127.0.0.9")
"""The attacker's address. Every attack has its own, and so has the genuine backend: none uses up the limits of another."""
_AT_ONCE: Final = 20
_SILENCE_S: Final = 40.0


class Account:
    """What an attack cost the attacker, and what it was answered."""

    def __init__(self) -> None:
        self.requests = 0
        self.sent_bytes = 0
        self.answers: Counter[str] = Counter()

    def note(self, sent_bytes: int, answer: str) -> None:
        """Count a request."""
        self.requests += 1
        self.sent_bytes += sent_bytes
        self.answers[answer] += 1


@contextlib.asynccontextmanager
async def browser(url: str, key: str | None = None) -> AsyncGenerator[httpx.AsyncClient]:
    """An HTTP client at the attackers' address."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    transport = httpx.AsyncHTTPTransport(local_address=ADDRESS.get(), limits=httpx.Limits(max_connections=_AT_ONCE))
    async with httpx.AsyncClient(base_url=url, headers=headers, transport=transport, timeout=_SILENCE_S) as client:
        yield client


async def send(client: httpx.AsyncClient, account: Account, method: str, path: str, **request: Any) -> httpx.Response | None:
    """Send one request, and account for it. A connection that the gateway closes is an answer too."""
    built = client.build_request(method, path, **request)
    sent = len(built.content) + sum(len(name) + len(value) + 4 for name, value in built.headers.raw)
    try:
        answer = await client.send(built)
    except httpx.HTTPError as error:
        account.note(sent, f"closed ({type(error).__name__})")
        return None
    account.note(sent, str(answer.status_code))
    return answer


async def flood(
    client: httpx.AsyncClient, account: Account, method: str, requests: Iterable[tuple[str, dict[str, Any]]]
) -> None:
    """Send many requests, some of them at once."""
    waiting = iter(requests)

    async def work() -> None:
        for path, request in waiting:
            await send(client, account, method, path, **request)

    await asyncio.gather(*[work() for _ in range(_AT_ONCE)])


async def raw(url: str, account: Account, pieces: Iterable[bytes], *, patience_s: float = _SILENCE_S) -> None:
    """Send bytes on one connection until it is closed, and account for the status that comes back."""
    host, port = url.removeprefix("http://").rsplit(":", 1)
    sent = 0
    try:
        reader, writer = await asyncio.open_connection(host, int(port), local_addr=(ADDRESS.get(), 0))
    except OSError:
        account.note(0, "refused")
        return
    try:
        with contextlib.suppress(OSError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
        with contextlib.suppress(OSError):
            async with asyncio.timeout(patience_s):
                head = await reader.read(64)
                account.note(sent, head.split(b" ")[1].decode() if head.startswith(b"HTTP/1.1 ") else "closed")
                return
        account.note(sent, "closed or silent")
    finally:
        writer.close()


async def half_open(url: str, account: Account, count: int, start: bytes, hold_s: float) -> None:
    """Open many connections that begin a request and never end it, hold them for a time, and count those that were closed."""
    host, port = url.removeprefix("http://").rsplit(":", 1)
    held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    for _ in range(count):
        try:
            held.append(await asyncio.open_connection(host, int(port), local_addr=(ADDRESS.get(), 0)))
        except OSError:
            account.note(0, "refused")
            continue
        with contextlib.suppress(OSError):
            held[-1][1].write(start)

    async def is_closed(reader: asyncio.StreamReader) -> bool:
        try:
            async with asyncio.timeout(hold_s):
                while await reader.read(4096):
                    pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    for closed in await asyncio.gather(*[is_closed(reader) for reader, _ in held]):
        account.note(len(start), "closed" if closed else f"open after {hold_s:g} s")
    for _, writer in held:
        writer.close()
