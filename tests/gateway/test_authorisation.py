"""Authorisation: every route with every kind of caller, and the checks of a key (`services.access.keys`)."""

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast, get_args

import httpx
import pytest
import websockets
from litestar.handlers import HTTPRouteHandler, WebsocketRouteHandler
from redis.asyncio import Redis

from kinfold_schemas.keys import WORKSPACES, key
from kinfold_services.access import keys as keys_module
from kinfold_services.access.keys import Kind, create_key, list_keys, revoke_key
from kinfold_services.gateway.app import ROUTES
from kinfold_services.gateway.events.segment import BATCH_PATHS, CALL_PATHS
from kinfold_services.gateway.screen.app import ROUTES as SCREEN_ROUTES
from tests.support.gateways import PATIENCE_S, Gateway, serving, stop_refills

SEEN: Final = {"type": "VisitorSeen", "visitorId": "v-1"}
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
CALLERS: Final = ("anonymous", "garbage", "revoked", *KINDS, *(f"another's {kind}" for kind in KINDS))


class Route(NamedTuple):
    """A request and the status that callers get: without a valid key, publishable, read, another workspace's secret, secret.

    `expected` has the status of each caller. A development key gets `development`, or else what a publishable one gets. Another
    workspace's key gets what an own one gets, except where its secret key gets something else: there it finds nothing.
    """

    method: str
    path: str
    statuses: tuple[int, int, int, int, int]
    body: Any = None
    development: int | None = None

    @property
    def expected(self) -> dict[str, int]:
        """The status of each caller."""
        nobody, publishable, read, another, secret = self.statuses
        development = publishable if self.development is None else self.development
        # In this order: what a trusted key has said of a visitor, a page may say as well.
        own = {"publishable": publishable, "read": read, "development": development, "secret": secret}
        others = {kind: another if status == secret else status for kind, status in own.items()}
        none = dict.fromkeys(("anonymous", "garbage", "revoked"), nobody)
        return {**none, **own, **{f"another's {kind}": status for kind, status in others.items()}}


OPEN: Final = (200, 200, 200, 200, 200)
NO_DIRECTORY: Final = (401, 403, 503, 503, 503)
"""No directory runs in these tests. The key is checked first."""
# A key of another workspace gets 404: it reads its own workspace, which is empty.
TABLE: Final = [
    Route("GET", "/healthz", OPEN),
    Route("GET", "/readyz", OPEN),
    Route("HEAD", "/healthz", OPEN),
    Route("HEAD", "/readyz", OPEN),
    Route("GET", "/metrics", OPEN),
    Route("GET", "/docs", OPEN),
    Route("GET", "/kinfold.js", OPEN),
    Route("GET", "/kinfold-live.js", OPEN),
    Route("GET", "/openapi.json", OPEN),
    Route("GET", "/v1/projects/a-key/settings", OPEN),
    Route("GET", "/sourceConfig/?writeKey=a-key&v=9&what-comes-next=", OPEN),
    Route("POST", "/v1/events", (401, 202, 403, 202, 202), SEEN),
    Route(
        "POST",
        "/v1/events",
        (401, 403, 403, 202, 202),
        {"type": "IdentityCorrected", "contactId": "{contact}", "by": "Grace", "name": "A"},
    ),
    Route("POST", "/v1/events", (401, 202, 403, 202, 202), {"type": "MetadataSet", "visitorId": "v-1", "metadata": {}}),
    Route("POST", "/v1/events", (401, 403, 403, 202, 202), {"type": "MetadataSet", "externalId": "u-1", "metadata": {}}),
    Route("POST", "/v1/events", (401, 403, 403, 202, 202), {"type": "MetadataSet", "email": "a@b.org", "metadata": {}}),
    Route(
        "POST",
        "/v1/events",
        (401, 403, 403, 202, 202),
        {"type": "MetadataSet", "contactId": "{contact}", "metadata": {}},
    ),
    Route(
        "POST",
        "/v1/events",
        (401, 403, 403, 202, 202),
        {"type": "VisitorIdentified", "externalId": "u-1", "visitorId": "v-1"},
        development=202,
    ),
    Route("POST", "/v1/events", (401, 403, 403, 202, 202), {"type": "EventsExcluded", "entries": ["1-0"]}),
    Route("POST", "/v1/events", (401, 422, 403, 422, 422), {"type": "Erased", "contactId": "{contact}"}),
    Route("POST", "/v1/events", (401, 422, 403, 422, 422), {"type": "SubjectErased", "erasure": "er_1"}),
    *(Route("POST", path, (401, 200, 403, 200, 200), {"batch": []}) for path in BATCH_PATHS),
    *(
        Route(
            "POST",
            path,
            (401, 403 if path in {"/v1/identify", "/v1/i"} else 200, 403, 200, 200),
            {"userId": "u-2", "anonymousId": f"v{path}"},
            development=200,
        )
        for path in CALL_PATHS
    ),
    Route("GET", "/v1/contacts", (401, 403, 200, 200, 200)),
    Route("GET", "/v1/contacts?externalId=u-1", (401, 403, 200, 404, 200)),
    Route("GET", "/v1/contacts?email=a@b.org", (401, 403, 200, 404, 200)),
    Route("GET", "/v1/contacts?visitorId=v-1", (401, 403, 200, 404, 200)),
    Route("GET", "/v1/contacts/{contact}", (401, 403, 200, 404, 200)),
    Route("GET", "/v1/contacts/{contact}/visitors", (401, 403, 200, 404, 200)),
    Route("GET", "/v1/contacts?q=ada", NO_DIRECTORY),
    Route("GET", "/v1/contacts/count", NO_DIRECTORY),
    Route("GET", "/v1/contacts/{contact}/timeline", NO_DIRECTORY),
    Route("GET", "/v1/conflicts", NO_DIRECTORY),
    Route("POST", "/v1/corrections", (401, 403, 403, 404, 202), {"contactId": "{contact}", "by": "Grace", "name": "A"}),
    Route("POST", "/v1/corrections?preview=true", (401, 403, 403, 200, 200), {"contactId": "{contact}", "by": "G"}),
    Route("POST", "/v1/corrections/1-0/undo", (401, 403, 403, 404, 404), {"by": "Grace"}),
    Route("POST", "/v1/contacts/{contact}/unmerge", (401, 403, 403, 404, 404), {"by": "Grace"}),
    Route("GET", "/v1/visitors/v-1", (401, 200, 200, 404, 200)),
    Route("GET", "/v1/visitors/v-1?at=2026-01-01T00:00:00Z", (401, 403, 200, 404, 200)),
    Route("GET", f"/v1/own-contact?visitorId=v_{'0' * 22}", (401, 200, 403, 403, 403)),
    Route("GET", "/v1/changes", (401, 403, 200, 200, 200)),
    Route("GET", "/v1/subjects?externalId=u-1", (401, 403, 403, 404, 200)),
    Route("GET", "/v1/erasures", (401, 403, 403, 200, 200)),
    Route("GET", "/v1/erasures/none", (401, 403, 403, 404, 404)),
    Route("POST", "/v1/erasures", (401, 403, 403, 404, 202), {"contactId": "{contact}"}),  # last: it erases the contact
]


SOCKETS: Final = {"/v1/changes/ws": "/v1/changes"}
"""Each WebSocket, and the route of HTTP that is open to the same callers."""

SCREEN: Final = [
    (method, path)
    for route in SCREEN_ROUTES
    if isinstance(route, HTTPRouteHandler)
    for method in sorted(route.http_methods)
    for path in sorted(route.paths)
]
SCREEN_OPEN: Final = {("GET", "/sign-in"), ("POST", "/sign-in"), ("GET", "/static/{name:path}")}


@pytest.fixture
async def keys(redis: Redis, gateway: Gateway) -> dict[str, str]:
    """Give the key of each caller, and the id of a contact."""
    await cast("Any", redis).sadd(WORKSPACES, "other")
    position = await gateway.put(
        {"type": "VisitorIdentified", "externalId": "u-1", "email": "a@b.org", "visitorId": "v-1", "name": "Ada"}
    )
    contact = await gateway.get("/v1/contacts", externalId="u-1", after=position)
    revoked = await create_key(redis, "default", "secret")
    await revoke_key(redis, "default", revoked.split("_")[-2])
    return {
        "anonymous": "",
        "garbage": f"kf_sk_default_{'0' * 12}_{'0' * 64}",
        "revoked": revoked,
        **{kind: await create_key(redis, "default", kind) for kind in KINDS},
        **{f"another's {kind}": await create_key(redis, "other", kind) for kind in KINDS},
        "contact": contact["id"],
    }


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client without a key."""
    async with gateway.client_of(None) as stranger:
        yield stranger


async def ask(client: httpx.AsyncClient, route: Route, presented: str, contact: str, **headers: str) -> httpx.Response:
    """The response. The body of a stream is not read."""
    if presented:
        headers["Authorization"] = f"Bearer {presented}"
    body = None if route.body is None else json.dumps(route.body).replace("{contact}", contact).encode()
    async with client.stream(route.method, route.path.replace("{contact}", contact), content=body, headers=headers) as answer:
        if not answer.headers["Content-Type"].startswith("text/event-stream"):
            await answer.aread()
        return answer


async def test_each_caller_gets_the_status_in_the_table(client: httpx.AsyncClient, keys: dict[str, str]):
    """Every route, with every caller."""
    wrong = list[str]()

    async def check(route: Route, caller: str) -> None:
        answer, expected = await ask(client, route, keys[caller], keys["contact"]), route.expected[caller]
        if answer.status_code != expected:
            wrong.append(f"{route.method} {route.path} {route.body} by {caller}: {answer.status_code}, not {expected}")
        if answer.status_code == 401:
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        if answer.status_code >= 400:
            assert answer.json()["detail"]

    for route in sorted(TABLE, key=lambda route: route.method == "POST"):  # questions first, while the other workspace is empty
        assert route.expected.keys() == set(CALLERS)
        # One by one where a caller has written what counts for the next one, and where the gateway does one at a time.
        if route.method == "POST" or route.path.startswith("/v1/subjects"):
            for caller in route.expected:
                await check(route, caller)
        else:
            await asyncio.gather(*[check(route, caller) for caller in CALLERS])

    assert wrong == []


def test_table_lists_every_route():
    """A new route needs a row that says who may use it."""
    served = {
        (method, path)
        for route in ROUTES
        if isinstance(route, HTTPRouteHandler)
        for method in route.http_methods
        for path in route.paths
    }
    listed = {(route.method, _template(route.path)) for route in TABLE}
    sockets = {path for route in ROUTES if isinstance(route, WebsocketRouteHandler) for path in route.paths}

    assert served - listed == set()
    assert sockets == SOCKETS.keys()
    assert len(ROUTES) == len([route for route in ROUTES if isinstance(route, (HTTPRouteHandler, WebsocketRouteHandler))])


async def test_no_key_opens_the_screen(client: httpx.AsyncClient, keys: dict[str, str]):
    """Its pages need a session. Only the form to sign in and the files of the pages are open."""

    async def check(method: str, route: str, caller: str) -> None:
        path = re.sub(r"\{\w+:str\}", keys["contact"], route).replace("{name:path}", "screen.js")
        headers = {"Authorization": f"Bearer {keys[caller]}"} if keys[caller] else {}
        answer = await client.request(method, path, headers=headers)
        where = answer.headers.get("Location", "").partition("?")[0]
        is_open = (method, route) in SCREEN_OPEN
        expected = (400 if method == "POST" else 200, "") if is_open else (303, "/sign-in")  # 400: it is not a form
        assert (answer.status_code, where) == expected, (method, route, caller)

    assert {(method, path) for method, path in SCREEN} > SCREEN_OPEN
    for method, route in SCREEN:
        await asyncio.gather(*[check(method, route, caller) for caller in CALLERS])


async def test_key_in_the_query_may_do_the_same_or_less(client: httpx.AsyncClient, keys: dict[str, str]):
    """The feed takes any key there. Events take the keys of pages alone, because URLs are logged on the way."""
    feed = next(route for route in TABLE if route.path == "/v1/changes").expected
    for caller in CALLERS[1:]:
        is_page = caller.rpartition(" ")[2] in {"publishable", "development"}
        followed = Route("GET", f"/v1/changes?access_token={keys[caller]}", OPEN)
        sent = Route("POST", f"/v1/events?writeKey={keys[caller]}", OPEN, SEEN)
        statuses = [(await ask(client, route, "", "")).status_code for route in (followed, sent)]
        assert statuses == [feed[caller], 202 if is_page else 401 if feed[caller] == 401 else 403], caller


def _template(path: str) -> str:
    path = path.partition("?")[0].replace("/v-1", "/{visitor_id:path}").replace("{contact}", "{contact_id:str}")
    path = path.replace("/1-0/", "/{entry:str}/")
    path = path.replace("/none", "/{erasure:str}")
    return path.rstrip("/").replace("/a-key/", "/{write_key:str}/")


async def test_kinfold_workspace_header_of_another_workspace_is_rejected(
    gateway: Gateway, client: httpx.AsyncClient, keys: dict[str, str]
):
    """403 on every route that needs a key, if `Kinfold-Workspace` is not the key's workspace."""
    for route in (each for each in TABLE if each.statuses != OPEN):
        answer = await ask(client, route, keys["another's secret"], keys["contact"], **{"Kinfold-Workspace": "default"})
        assert answer.status_code == 403, route
    own = await ask(client, TABLE[-4], keys["secret"], keys["contact"], **{"Kinfold-Workspace": "default"})
    assert own.status_code == 200
    assert await gateway.redis.xlen(key("other", "events")) == 0


async def test_publishable_key_reads_only_a_name_and_an_opaque_hash(gateway: Gateway, keys: dict[str, str]):
    """The hash lets a page skip metadata that has not changed. Nobody can test a guess of the metadata with it."""
    contact = await gateway.get(f"/v1/contacts/{keys['contact']}")
    guess = {"If-None-Match": f'"{contact["metadataHash"]}"'}
    answer = await gateway.browser.get("/v1/visitors/v-1", headers=guess)
    hashed = answer.json()["contact"]["metadataHash"]

    assert (answer.status_code, answer.json()) == (200, {"id": "v-1", "contact": {"name": "Ada", "metadataHash": hashed}})
    assert answer.headers["ETag"] == f'"{hashed}"'
    assert contact["metadataHash"] not in str(answer.headers) + answer.text
    assert (await gateway.browser.get("/v1/visitors/v-1", headers={"If-None-Match": f'"{hashed}"'})).status_code == 304


async def test_opaque_hash_changes_with_the_metadata_and_the_contact(gateway: Gateway):
    """The same metadata of two contacts has two hashes: else somebody could try guesses on a contact of their own."""

    async def hash_of(visitor: str, client: httpx.AsyncClient, **params: str) -> str:
        answer = await client.get(f"/v1/visitors/{visitor}", params=params)
        return str(answer.json()["contact"]["metadataHash"])

    people = [{"externalId": f"u-{each}", "visitorId": f"v-{each}", "metadata": {"plan": "pro"}} for each in "12"]
    position = await gateway.put(*[{"type": "VisitorIdentified", **each} for each in people])
    one, two, again = [await hash_of(each, gateway.browser, after=position) for each in ("v-1", "v-2", "v-1")]
    position = await gateway.put({"type": "MetadataSet", "externalId": "u-1", "metadata": {"plan": "free"}})
    changed = await hash_of("v-1", gateway.browser, after=position)

    assert one == again
    assert len({one, two, changed}) == 3


@pytest.mark.parametrize("change", ["kind", "workspace", "id", "secret", "case", "cut", "space"])
async def test_key_with_one_wrong_part_is_rejected(redis: Redis, gateway: Gateway, change: str):
    """Changing the prefix does not turn a publishable key into a secret one."""
    await create_key(redis, "other", "secret")
    prefix, mark, workspace, key_id, secret = gateway.publishable.split("_")
    almost = {
        "kind": [prefix, "sk", workspace, key_id, secret],
        "workspace": [prefix, mark, "other", key_id, secret],
        "id": [prefix, mark, workspace, "0" * 12, secret],
        "secret": [prefix, mark, workspace, key_id, "0" * 64],
        "case": [prefix, mark, workspace, key_id, secret.upper()],
        "cut": [prefix, mark, workspace, key_id, secret[:-1]],
        "space": [prefix, mark, workspace, key_id, secret + "_"],
    }[change]

    async with gateway.client_of("_".join(almost)) as client:
        assert (await client.post("/v1/events", json=SEEN)).status_code == 401


@pytest.mark.parametrize("header", ["", "Bearer", "Basic !!", "Digest x", "bearer kf_sk_default"])
async def test_authorization_header_without_a_valid_key_is_rejected(gateway: Gateway, header: str):
    """401, also on Segment's paths."""
    async with httpx.AsyncClient(base_url=gateway.url, headers={"Authorization": header}, timeout=PATIENCE_S) as client:
        assert (await client.get("/v1/contacts")).status_code == 401
        assert (await client.post("/v1/batch", json={"batch": []})).status_code == 401
        assert (await client.post("/v1/batch", content=b"no json")).status_code == 401


@pytest.mark.parametrize(("header", "expected"), [("", "Authorization: Bearer KEY"), ("Bearer kf_sk_default", "revoked")])
async def test_rejected_caller_hears_what_to_do_next(gateway: Gateway, header: str, expected: str):
    async with httpx.AsyncClient(base_url=gateway.url, headers={"Authorization": header}, timeout=PATIENCE_S) as client:
        detail = (await client.get("/v1/contacts")).json()["detail"]

    assert expected in detail
    assert "`kinfold keys list`" in detail
    assert "`kinfold keys create`" in detail


async def test_redis_stores_only_the_hash_of_a_key(redis: Redis, gateway: Gateway):
    """A reader of Redis cannot use the keys."""
    stored = await redis.hgetall(key("default", "api-keys"))

    assert len(stored) == 2
    for presented in (gateway.secret, gateway.publishable):
        assert presented.rpartition("_")[2].encode() not in b"".join(cast("list[bytes]", list(stored.values())))
    assert [(each.kind, each.revoked_at) for each in await list_keys(redis, "default")] == [
        ("secret", None),
        ("publishable", None),
    ]


async def test_revoked_key_is_rejected_within_a_second(redis: Redis, gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    """Even if the gateway accepted it a moment ago."""
    clock = [1000.0]
    monkeypatch.setattr(keys_module, "time", SimpleNamespace(monotonic=lambda: clock[0], time_ns=time.time_ns))
    assert (await gateway.client.get("/v1/contacts")).status_code == 200
    await revoke_key(redis, "default", gateway.secret.split("_")[-2])
    clock[0] += 1.0
    assert (await gateway.client.get("/v1/contacts")).status_code == 401


async def test_segment_paths_accept_the_key_in_three_places(gateway: Gateway):
    """As the user of Basic authentication, as a bearer token, and in the body, where a browser's beacon puts it."""
    basic = base64.b64encode(f"{gateway.secret}:".encode()).decode()
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S) as client:
        for headers, body in (
            ({"Authorization": f"Basic {basic}"}, {}),
            ({"Authorization": f"Bearer {gateway.secret}"}, {}),
            ({"Content-Type": "text/plain"}, {"writeKey": gateway.secret}),
        ):
            answer = await client.post("/v1/track", content=json.dumps({"anonymousId": "v-1", **body}), headers=headers)
            assert (answer.status_code, answer.json()["appended"]) == (200, 1), answer.text


async def test_rate_limit_answers_429_with_retry_after(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch):
    """Each key and address has its own limit. Requests with an unknown key are limited, too."""
    stop_refills(monkeypatch)
    async with serving(redis_url, redis, gateway_requests_per_s=1, gateway_browser_requests_per_s=0.5) as gateway:
        secret = [await gateway.client.get("/v1/contacts") for _ in range(4)]
        browser = [await gateway.browser.get("/v1/visitors/v") for _ in range(3)]
        async with gateway.client_of("nonsense") as stranger:
            strangers = [await stranger.get("/v1/contacts") for _ in range(6)]

    assert [each.status_code for each in secret] == [200, 200, 429, 429]
    assert [each.status_code for each in browser] == [404, 429, 429]
    assert [each.status_code for each in strangers] == [401] * 5 + [429]
    for each in (secret[-1], browser[-1], strangers[-1]):
        assert 1 <= int(each.headers["Retry-After"]) <= 3
        assert each.json()["error"] == "rate-limited"


async def test_cors_allows_only_listed_origins(redis: Redis, redis_url: str):
    """Without a list, no page of another origin can use the gateway."""
    ask = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "Authorization",
    }
    async with serving(redis_url, redis, gateway_origins="https://shop.example, https://x.example") as gateway:
        allowed = await gateway.client.options("/v1/events", headers=ask)
        foreign = await gateway.client.options("/v1/events", headers={**ask, "Origin": "https://evil.example"})
        answer = await gateway.browser.post("/v1/events", json=SEEN, headers={"Origin": "https://shop.example"})
        async with gateway.client_of(None) as anonymous:
            refused = await anonymous.post("/v1/events", json=SEEN, headers={"Origin": "https://shop.example"})
    async with serving(redis_url, redis) as gateway:
        closed = await gateway.browser.post("/v1/events", json=SEEN, headers={"Origin": "https://shop.example"})

    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (204, "https://shop.example")
    assert "Access-Control-Allow-Origin" not in foreign.headers
    assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, "https://shop.example")
    assert "Access-Control-Allow-Origin" not in closed.headers


@pytest.mark.parametrize(
    ("asked", "expected", "got"),
    [
        (
            {"Origin": "https://evil.example"},
            "Origin: expected one of KINFOLD_GATEWAY_ORIGINS, ",
            "got 'https://evil.example'",
        ),
        ({"Access-Control-Request-Method": "PUT"}, "Access-Control-Request-Method: expected GET, POST", "got 'PUT'"),
    ],
)
async def test_rejected_preflight_says_why(redis: Redis, redis_url: str, asked: dict[str, str], expected: str, got: str):
    follows = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "GET",
    }
    async with serving(redis_url, redis, gateway_origins="https://shop.example") as gateway:
        refused = await gateway.client.options("/v1/changes", headers={**follows, **asked})

    assert (refused.status_code, refused.headers["Content-Type"]) == (400, "application/json")
    assert refused.json()["detail"].startswith(expected)
    assert refused.json()["detail"].endswith(got)
    assert (refused.json()["error"], refused.json()["requestId"]) == ("bad-request", refused.headers["X-Request-Id"])


async def test_page_may_send_every_header_that_it_asks_for(redis: Redis, redis_url: str):
    """SDKs add headers of their own, the next one others. Without them, a browser does not send the event."""
    asked = ["accept", "authorization", "last-event-id", "rsa-retry-attempt", "x-retry-count", "x-the-next-one"]
    headers = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": ",".join(asked),
    }
    async with serving(redis_url, redis, gateway_origins="https://shop.example") as gateway:
        allowed = await gateway.client.options("/v1/t", headers=headers)

    assert allowed.status_code == 204, allowed.text
    assert set(asked) <= set(allowed.headers["Access-Control-Allow-Headers"].split(", "))
    assert "Access-Control-Allow-Credentials" not in allowed.headers


@pytest.mark.parametrize("in_query", [False, True], ids=["header", "query"])
@pytest.mark.parametrize("path", SOCKETS)
async def test_websocket_gets_the_same_statuses(gateway: Gateway, keys: dict[str, str], path: str, *, in_query: bool):
    """It is rejected before the upgrade, with the status that an HTTP request would get."""
    url = gateway.url.replace("http", "ws") + path
    got: dict[str, int] = {}
    for caller in CALLERS:
        query, headers = (
            (f"?access_token={keys[caller]}", {}) if in_query else ("", {"Authorization": f"Bearer {keys[caller]}"})
        )
        try:
            async with websockets.connect(url + query, additional_headers=headers):
                got[caller] = 200
        except websockets.InvalidStatus as refused:
            got[caller] = refused.response.status_code

    assert got == next(route for route in TABLE if route.path == SOCKETS[path]).expected
