"""The attacks: what somebody without a key, with a page's key, or with a support agent's key can send (docs/security.md).

Each is bounded: `scale` is the share of its full size, which the short form in the tests reduces. They run in a process of
their own (`run`), so that building their bytes does not delay what is measured.
"""

import asyncio
import gzip
import json
import secrets
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, NamedTuple

import kinfold
from tests.attack.peers import ADDRESS, Account, browser, flood, half_open, raw, send

SEEN: Final = b'{"type":"VisitorSeen","visitorId":"v-evil"}'
COMPRESSED: Final = {"Content-Encoding": "gzip"}
_VALUE: Final = "x" * 8000


class Target(NamedTuple):
    """What an attacker knows: the gateway, the keys, and what the genuine backend sends."""

    url: str
    publishable: str
    read: str
    identity_secret: str
    """For tokens that the backend would sign for an attacker who is a customer."""
    genuine_visitors: list[str]
    genuine_ids: list[str]
    """The ids that the genuine backend is about to use."""


Run = Callable[[Target, Account, float], Coroutine[Any, Any, None]]


class Attack(NamedTuple):
    """An attack, and the answers that it may get."""

    name: str
    run: Run
    answers: frozenset[str]


ATTACKS: Final[list[Attack]] = []


def attack(name: str, *answers: str) -> Callable[[Run], Run]:
    """Add an attack to the list."""

    def add(run: Run) -> Run:
        ATTACKS.append(Attack(name, run, frozenset(answers)))
        return run

    return add


def run(name: str, target: Target, scale: float) -> Account:
    """Run one attack to its end."""
    account = Account()
    number, chosen = next((number, each) for number, each in enumerate(ATTACKS) if each.name == name)
    ADDRESS.set(f"127.0.1.{number + 1}")
    asyncio.run(chosen.run(target, account, scale))
    return account


def some(count: int, scale: float) -> int:
    """A share of a number, and at least one."""
    return max(1, int(count * scale))


def times(count: int, scale: float, path: str, **request: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same request many times."""
    return iter([(path, request)] * some(count, scale))


# --- without a key ------------------------------------------------------------------------------------------------------


@attack("48 MB of headers on one connection", "431", "closed or silent")
async def _headers(target: Target, account: Account, scale: float) -> None:
    lines = b"a: b\r\n" * 10_000
    pieces = [b"GET /healthz HTTP/1.1\r\nHost: x\r\n", *[lines] * some(800, scale)]
    await asyncio.gather(*[raw(target.url, account, pieces) for _ in range(8)])


@attack("1,100 requests without an end to their headers", "closed", "refused", "open after 12 s", "open after 0.3 s")
async def _half_headers(target: Target, account: Account, scale: float) -> None:
    await half_open(target.url, account, some(1100, scale), b"GET /healthz HTTP/1.1\r\nHost: x\r\n", 12 if scale == 1 else 0.3)


@attack("1,100 requests without an end to their body", "closed", "refused", "open after 32 s", "open after 0.3 s")
async def _half_bodies(target: Target, account: Account, scale: float) -> None:
    head = (
        f"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\nAuthorization: Bearer {target.publishable}\r\n\r\n{{"
    )
    await half_open(target.url, account, some(1100, scale), head.encode(), 32 if scale == 1 else 0.3)


@attack("10,000 requests in a pipeline", "400", "200", "closed", "closed or silent")
async def _pipeline(target: Target, account: Account, scale: float) -> None:
    request = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n" * 100
    await asyncio.gather(*[raw(target.url, account, [request] * some(100, scale)) for _ in range(4)])


@attack("52,000 empty gzip members without a key", "400", "401", "413", "429")
async def _strangers_members(target: Target, account: Account, scale: float) -> None:
    bomb = gzip.compress(b'{"batch":[]}') + gzip.compress(b"") * some(52_000, scale)
    async with browser(target.url) as client:
        await flood(client, account, "POST", times(50, scale, "/v1/batch", content=bomb, headers=COMPRESSED))


@attack("350,000 arrays in a body that has an unknown key in it", "401", "429")
async def _strangers_arrays(target: Target, account: Account, scale: float) -> None:
    bomb = gzip.compress(b'{"writeKey":"kf_pk_none","batch":[%b]}' % b",".join([b"[]"] * 340_000))
    async with browser(target.url) as client:
        await flood(client, account, "POST", times(200, scale, "/v1/batch", content=bomb, headers=COMPRESSED))


@attack("cookies and queries that are slow to read and large to keep", "303", "400", "401", "429")
async def _cookies_and_queries(target: Target, account: Account, scale: float) -> None:
    def requests() -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(some(300, scale)):
            pairs = [f"{number * 10_000 + each:x}=1" for each in range(3000)]
            yield "/people", {"headers": {"Cookie": 'kinfold_session="' + "\\\\" * 6000 + f'{number}"'}}
            yield "/people", {"headers": {"Cookie": ";".join(pairs)}}
            yield f"/v1/contacts?{'&'.join(pairs)}", {}

    async with browser(target.url) as client:
        await flood(client, account, "GET", requests())


@attack("requests for a WebSocket with a body", "closed", "refused", "open after 32 s", "open after 0.3 s")
async def _half_websockets(target: Target, account: Account, scale: float) -> None:
    head = (
        b"GET /v1/changes/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    )
    body = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 1\r\n\r\nx"
    await half_open(target.url, account, some(1100, scale), head + body, 32 if scale == 1 else 0.3)


@attack("requests to what needs no key", "200", "404", "405", "429", "503")  # 503: /readyz, if Redis does not answer within 2 s
async def _keyless(target: Target, account: Account, scale: float) -> None:
    paths = ["/metrics", "/readyz", "/docs", "/none", "/" + "x" * 20_000, "/kinfold.js", "/sign-in"]
    async with browser(target.url) as client:
        nothing: dict[str, Any] = {}
        await flood(client, account, "GET", iter([(path, nothing) for path in paths] * some(300, scale)))


@attack("unknown keys, each from a forged X-Forwarded-For", "401", "429")
async def _unknown_keys(target: Target, account: Account, scale: float) -> None:
    def requests() -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(some(2000, scale)):
            forged = f"kf_sk_default_{number:012x}_{'0' * 64}"
            headers = {"Authorization": f"Bearer {forged}", "X-Forwarded-For": f"192.0.2.{number % 250}"}
            yield "/v1/events", {"content": SEEN, "headers": headers}

    async with browser(target.url) as client:
        await flood(client, account, "POST", requests())


@attack("clients that leave in mid-body", "closed", "closed or silent", "401", "429", "400")
async def _leaving(target: Target, account: Account, scale: float) -> None:
    head = (
        f"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\nAuthorization: Bearer {target.publishable}\r\n\r\n{{"
    )
    for _ in range(some(500, scale)):
        await raw(target.url, account, [head.encode()], patience_s=0.01)


# --- with the key of a page ---------------------------------------------------------------------------------------------


@attack("52,000 empty gzip members with a page's key", "400", "413", "429")
async def _members(target: Target, account: Account, scale: float) -> None:
    bomb = gzip.compress(SEEN) + gzip.compress(b"") * some(3000, scale)
    async with browser(target.url, target.publishable) as client:
        for path in ("/v1/events", "/v1/batch", "/v1/track"):
            await flood(client, account, "POST", times(40, scale, path, content=bomb, headers=COMPRESSED))


@attack("bodies that decompress to a gigabyte", "413", "429")
async def _bomb(target: Target, account: Account, scale: float) -> None:
    bomb = gzip.compress(b" " * some(60 << 20, max(scale, 0.1)))
    async with browser(target.url, target.publishable) as client:
        await flood(client, account, "POST", times(60, scale, "/v1/events", content=bomb, headers=COMPRESSED))


@attack("thousands of events in a request", "413", "429", "202")
async def _many_events(target: Target, account: Account, scale: float) -> None:
    compressed = gzip.compress(b"\n".join([SEEN] * 1400))
    fits = b"\n".join([SEEN] * 100)
    async with browser(target.url, target.publishable) as client:
        await flood(client, account, "POST", times(60, scale, "/v1/events", content=compressed, headers=COMPRESSED))
        await flood(client, account, "POST", times(60, scale, "/v1/events", content=fits))


@attack("350,000 arrays in a body that has the key in it", "413", "429")
async def _arrays(target: Target, account: Account, scale: float) -> None:
    bomb = gzip.compress(b'{"writeKey":"%b","batch":[%b]}' % (target.publishable.encode(), b",".join([b"[]"] * 340_000)))
    async with browser(target.url) as client:
        await flood(client, account, "POST", times(200, scale, "/v1/batch", content=bomb, headers=COMPRESSED))


@attack("bursts of bodies with 32,000 items", "413", "429")
async def _items(target: Target, account: Account, scale: float) -> None:
    async with browser(target.url, target.publishable) as client:
        for path, body in (
            ("/v1/events", b"[" + b",".join([b"1"] * 32_000) + b"]"),
            ("/v1/batch", b'{"batch":[' + b",".join([b"[]"] * 21_000) + b"]}"),
        ):
            await flood(client, account, "POST", times(100, scale, path, content=body))


@attack(
    "pages that show one contact, which changes all the time",
    "202",
    "429",
    "closed",
    "refused",
    "open after 20 s",
    "open after 0.3 s",
)
async def _pages(target: Target, account: Account, scale: float) -> None:
    visitor = f"v_{secrets.token_urlsafe(16)}"
    token = kinfold.sign(target.identity_secret, external_id=visitor, visitor_id=visitor)
    identify = {"type": "VisitorIdentified", "externalId": visitor, "visitorId": visitor, "token": token}
    head = f"GET /v1/own-contact?visitorId={visitor}&writeKey={target.publishable} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    async with browser(target.url, target.publishable) as client:
        await send(client, account, "POST", "/v1/events", json=identify)
        pages: list[asyncio.Task[None]] = []
        for _ in range(some(30, scale)):  # as many at once as the limit of requests refills in the meantime
            pages += [
                asyncio.create_task(half_open(target.url, account, 1, head, 20 if scale == 1 else 0.3)) for _ in range(20)
            ]
            await asyncio.sleep(scale)
        for turn in range(some(60, scale)):
            events = [{**identify, "name": f"{turn}-{number}"} for number in range(5)]
            await send(client, account, "POST", "/v1/events", json=events)
        await asyncio.gather(*pages)


@attack("invalid events with ?partial=true", "202", "413", "429")
async def _partial(target: Target, account: Account, scale: float) -> None:
    async with browser(target.url, target.publishable) as client:
        body = gzip.compress(b"[" + b",".join([b"{}"] * 100) + b"]")
        await flood(client, account, "POST", times(100, scale, "/v1/events?partial=true", content=body, headers=COMPRESSED))


@attack("calls that share a context of thousands of keys", "200", "413", "429", "400")
async def _context(target: Target, account: Account, scale: float) -> None:
    context = {f"k{number}": number for number in range(4000)}
    calls = [{"type": "track", "anonymousId": f"v-{number}", "event": "x"} for number in range(100)]
    body = json.dumps({"batch": calls, "context": context}).encode()[: 64 * 1024]
    whole = gzip.compress(json.dumps({"batch": calls, "context": dict(list(context.items())[:3500])}).encode())
    async with browser(target.url, target.publishable) as client:
        await flood(client, account, "POST", times(20, scale, "/v1/batch", content=body))
        await flood(client, account, "POST", times(40, scale, "/v1/batch", content=whole, headers=COMPRESSED))


@attack("a NUL under thousands of keys, and deep nesting", "422", "429")
async def _odd_json(target: Target, account: Account, scale: float) -> None:
    path = b"".join(b'{"%d":' % number for number in range(250)) + b'"\\u0000"' + b"}" * 250
    bodies = [
        b'{"type":"VisitorSeen","visitorId":"v","context":' + path + b"}",
        b'{"type":"VisitorSeen","visitorId":"v","context":' + b'{"a":' * 9000 + b"1" + b"}" * 9000 + b"}",
        b'{"type":"VisitorSeen","visitorId":"v","x":{%b}}' % b",".join(b'"%d":"\\u0000"' % each for each in range(3500)),
    ]
    async with browser(target.url, target.publishable) as client:
        await flood(client, account, "POST", iter([("/v1/events", {"content": body}) for body in bodies] * some(50, scale)))


@attack("identifiers that make patterns backtrack", "202", "422", "429", "413")
async def _patterns(target: Target, account: Account, scale: float) -> None:
    r"""The workspace blocks `/^(.+)+@test\.example$/`."""
    ids = ["a@" * 100 + "b", "a" * 255, "x" * 60_000]
    async with browser(target.url, target.publishable) as client:
        for each in ids:
            body = json.dumps({"type": "VisitorSeen", "visitorId": each}).encode()
            await flood(client, account, "POST", times(60, scale, "/v1/events", content=body))


@attack("forged and huge identity tokens", "403", "429", "202")
async def _tokens(target: Target, account: Account, scale: float) -> None:
    good = kinfold.sign(target.identity_secret, external_id="mallory")
    tokens = [good[:-4] + "AAAA", "a." * 4000, "e30." * 30, f"{'[' * 5000}.x.x", good.rpartition(".")[0] + "."]
    async with browser(target.url, target.publishable) as client:
        for token in tokens:
            event = {"type": "VisitorIdentified", "externalId": "u", "visitorId": "v-evil", "token": token}
            await flood(client, account, "POST", times(30, scale, "/v1/events", json=event))


@attack("claims about genuine visitors, under genuine ids", "202", "403", "429")
async def _claims(target: Target, account: Account, scale: float) -> None:
    """It knows the visitor ids, and which event ids the backend uses next."""
    token = kinfold.sign(target.identity_secret, external_id="mallory")
    async with browser(target.url, target.publishable) as client:
        for number, visitor in enumerate(target.genuine_visitors * some(6, scale)):
            event_id = target.genuine_ids[number % len(target.genuine_ids)]
            said = {"visitorId": visitor, "metadata": {"n": "evil", "plan": "evil"}, "name": "Evil"}
            for event in (
                {"type": "VisitorSeen", "id": event_id, "visitorId": visitor},
                {"type": "MetadataSet", "id": event_id, **said},
                {"type": "MetadataSet", **said, "at": "2038-01-01T00:00:00Z"},
                {"type": "VisitorIdentified", "externalId": "mallory", "token": token, **said},
            ):
                await send(client, account, "POST", "/v1/events", json=event)


@attack("metadata of megabytes, and changes of it", "202", "422", "429", "413", "403")
async def _heavy_contact(target: Target, account: Account, scale: float) -> None:
    """A customer fills the own contact, and then changes it again and again: the feed has the whole contact each time."""
    visitor = f"v-heavy-{secrets.token_hex(4)}"
    token = kinfold.sign(target.identity_secret, external_id=visitor, visitor_id=visitor)
    identify = {"type": "VisitorIdentified", "externalId": visitor, "visitorId": visitor, "token": token}
    async with browser(target.url, target.publishable) as client:
        await send(client, account, "POST", "/v1/events", json=identify)
        for start in range(0, some(128, scale), 7):
            metadata = {f"k{number}": _VALUE for number in range(start, start + 7)}
            await send(
                client, account, "POST", "/v1/events", json={"type": "MetadataSet", "visitorId": visitor, "metadata": metadata}
            )
        for turn in range(some(6, scale)):
            events = [
                {"type": "MetadataSet", "visitorId": visitor, "metadata": {"k0": f"{turn}-{number}"}}
                for number in range(some(100, scale))
            ]
            await send(client, account, "POST", "/v1/events", json=events)
            await asyncio.sleep(scale)  # its budget of events refills


@attack("metadata of megabytes of an anonymous visitor", "202", "422", "429", "413")
async def _heavy_visitor(target: Target, account: Account, scale: float) -> None:
    async with browser(target.url, target.publishable) as client:
        for visitor in range(some(20, scale)):
            for start in range(0, 128, 7):
                metadata = {f"k{number}": _VALUE for number in range(start, start + 7)}
                event = {"type": "MetadataSet", "visitorId": f"v-full-{visitor}", "metadata": metadata}
                await send(client, account, "POST", "/v1/events", json=event)


@attack("a new visitor with every event", "202", "429")
async def _new_visitors(target: Target, account: Account, scale: float) -> None:
    def requests() -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(some(60, scale)):
            context = {"url": "https://x.example/" + "y" * 400, "userAgent": "z" * 100}
            seen = [{"type": "VisitorSeen", "visitorId": f"v-{number}-{each}", "context": context} for each in range(90)]
            yield "/v1/events", {"json": seen}

    async with browser(target.url, target.publishable) as client:
        await flood(client, account, "POST", requests())


# --- with the key of a support agent ------------------------------------------------------------------------------------


@attack("readers of the feed that never read", "200", "429", "closed or silent")
async def _stalled(target: Target, account: Account, scale: float) -> None:
    head = f"GET /v1/changes?snapshot=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target.read}\r\n\r\n"
    streams = [raw(target.url, account, [head.encode()], patience_s=10 * scale) for _ in range(some(200, scale))]
    await asyncio.gather(*streams)


@attack("questions of the greatest size", "200", "400", "404", "429", "431", "503")
async def _questions(target: Target, account: Account, scale: float) -> None:
    deep = "(" * 1500 + "plan=pro" + ")" * 1500
    wide = " or ".join(f"k{number}=~x" for number in range(300))
    asked = [
        {"where": deep},
        {"where": wide},
        {"q": "a " * 2000},
        {"cursor": "A" * 4000},
        {"after": "9" * 60},
        {"at": "2" * 60},
    ]
    async with browser(target.url, target.read) as client:
        paths = ["/v1/contacts", "/v1/contacts/count", "/v1/visitors/v-evil", "/v1/conflicts"]
        await flood(
            client, account, "GET", iter([(path, {"params": each}) for path in paths for each in asked] * some(20, scale))
        )
