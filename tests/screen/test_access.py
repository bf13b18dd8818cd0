"""Who may do what on the screen: every route, without a session, with a read key and with a secret key."""

import random
import re
from string import ascii_letters
from typing import Any, Final, NamedTuple, cast

import httpx
import pytest
from litestar.handlers import HTTPRouteHandler

from kinfold_services.gateway.screen.app import ROUTES
from kinfold_services.gateway.screen.pages import CONTENT_SECURITY_POLICY
from tests.support.screen import BY, Agent, person

pytestmark = pytest.mark.asyncio(loop_scope="package")

TO_SIGN_IN: Final = 303


class Route(NamedTuple):
    """A request, and the status without a session, with a read key, and with a secret key."""

    method: str
    path: str
    statuses: tuple[int, int, int]


SEEN: Final = (TO_SIGN_IN, 200, 200)
CHANGED: Final = (TO_SIGN_IN, 403, 404)
"""A read key may not, and a secret key is told that there is nothing of this id."""
STREAM: Final = SEEN
TABLE: Final = [
    Route("GET", "/", (TO_SIGN_IN, 303, 303)),
    Route("GET", "/people", SEEN),
    Route("GET", "/people.csv", SEEN),
    Route("GET", "/people/values?field=plan", SEEN),
    Route("GET", "/people/newest", (TO_SIGN_IN, 303, 303)),
    Route("GET", "/people/live?since=0-0", STREAM),
    Route("GET", "/people/{contact}", SEEN),
    Route("GET", "/people/{contact}/live?since=0-0", STREAM),
    Route("GET", "/people/{contact}/why", SEEN),
    Route("GET", "/people/{contact}/at", SEEN),
    Route("GET", "/people/{contact}/correct", (TO_SIGN_IN, 403, 200)),
    Route("GET", "/people/{contact}/merge", (TO_SIGN_IN, 403, 200)),
    Route("POST", "/people/{contact}/preview", (TO_SIGN_IN, 403, 400)),
    Route("POST", "/people/{contact}/unmerge", (TO_SIGN_IN, 403, 409)),
    Route("GET", "/people/{contact}/erase", (TO_SIGN_IN, 403, 200)),
    Route("POST", "/people/{contact}/erase", (TO_SIGN_IN, 403, 422)),
    Route("GET", "/erasures/1-1", (TO_SIGN_IN, 403, 404)),
    Route("POST", "/corrections", (TO_SIGN_IN, 403, 400)),
    Route("POST", "/corrections/take", (TO_SIGN_IN, 403, 400)),
    Route("POST", "/corrections/edit", (TO_SIGN_IN, 403, 400)),
    Route("GET", "/corrections/1-1", (TO_SIGN_IN, 404, 404)),
    Route("POST", "/corrections/1-1/undo", (TO_SIGN_IN, 403, 409)),
    Route("GET", "/conflicts", SEEN),
    Route("GET", "/conflicts/live?since=0-0", STREAM),
    Route("GET", "/conflicts/1-1", (TO_SIGN_IN, 404, 404)),
    Route("GET", "/rejects", SEEN),
    Route("GET", "/rejects/1-1", (TO_SIGN_IN, 404, 404)),
    Route("POST", "/rejects/1-1/retry", CHANGED),
    Route("GET", "/live", SEEN),
    Route("GET", "/live/events?since=0-0", STREAM),
    Route("GET", "/live/1-1", (TO_SIGN_IN, 404, 404)),
    Route("GET", "/health", SEEN),
    Route("GET", "/sign-in", (200, 200, 200)),
    Route("POST", "/sign-in", (401, 401, 401)),
    Route("GET", "/static/kinfold.css", (200, 200, 200)),
    Route("POST", "/sign-out", (TO_SIGN_IN, 303, 303)),
]


async def test_each_caller_gets_the_status_in_the_table(agent: Agent):
    await agent.publish(person("Ada", plan="pro"))
    wrong = list[str]()
    for number, kind in enumerate((None, "read", "secret")):
        async with agent.client() as client:
            csrf = contact = ""
            if kind is not None:
                await client.post("/sign-in", data={"key": await agent.key(cast("Any", kind)), "by": BY})
                page = (await client.get("/people")).text
                csrf = cast("re.Match[str]", re.search(r'name="csrf" value="([0-9a-f]{64})"', page))[1]
                contact = cast("re.Match[str]", re.search(r'href="/people/(ct_\w+)"', page))[1]
            for route in TABLE:
                answer = await ask(client, route, contact or "ct_any", csrf)
                if answer.status_code != route.statuses[number]:
                    wrong.append(f"{route.method} {route.path} with {kind}: {answer.status_code}, not {route.statuses[number]}")
                assert answer.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY, route
                assert answer.headers["X-Content-Type-Options"] == "nosniff", route

    assert wrong == []


async def ask(client: httpx.AsyncClient, route: Route, contact: str, csrf: str) -> httpx.Response:
    """The response. The body of a stream is not read."""
    data = {"csrf": csrf} if route.method == "POST" and route.path != "/sign-in" else None
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    path = route.path.replace("{contact}", contact)
    async with client.stream(route.method, path, data=data, headers=headers if route.method == "POST" else None) as answer:
        return answer


async def test_file_that_a_browser_has_is_not_sent_again(agent: Agent):
    """With its version in the address, a browser does not even ask."""
    async with agent.client() as client:
        page = (await client.get("/sign-in")).text
        path = cast("re.Match[str]", re.search(r"/static/kinfold\.css\?v=\w+", page))[0]
        fresh = await client.get(path)
        bare = await client.get("/static/kinfold.css")
        again = await client.get("/static/kinfold.css", headers={"If-None-Match": bare.headers["ETag"]})

    assert fresh.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert bare.headers["Cache-Control"] == "no-cache"
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", bare.headers["ETag"])


async def test_controls_in_a_name_or_a_reason_do_no_harm(agent: Agent):
    """A program that gets them as arguments would end with an error."""
    await agent.publish(person("Ada"))
    async with agent.client() as client:
        await client.post("/sign-in", data={"key": await agent.key(), "by": "S\0a\x1bm"})
        page = (await client.get("/people")).text
        assert "<strong>Sam</strong>" in page
        csrf = cast("re.Match[str]", re.search(r'name="csrf" value="([0-9a-f]{64})"', page))[1]
        answer = await client.post("/corrections/1-1/undo", data={"csrf": csrf, "reason": "a\0b"})

    assert answer.status_code == 409
    assert "1-1" in answer.text


async def test_pages_are_small(agent: Agent):
    """At most 100 KB compressed, with text that hardly compresses: the issue's limit."""
    dice = random.Random(0)  # noqa: S311  the same pages in every run

    def text(length: int) -> str:
        return "".join(dice.choices(ascii_letters, k=length))

    ada = {**person("Ada"), "metadata": {f"key {number}": text(200) for number in range(250)}}
    changes = [
        {"type": "MetadataSet", "externalId": "u-ada", "metadata": {f"key {number}": text(2000) for number in range(20)}}
        for _ in range(60)
    ]
    people = [{**person(f"Person {text(40)}"), "metadata": {f"key {key}": text(200) for key in range(20)}} for _ in range(60)]
    await agent.publish(*people, ada, *changes, *[{"type": text(40), "text": text(2000)} for _ in range(60)])
    async with agent.client() as client:
        await client.post("/sign-in", data={"key": await agent.key(), "by": BY})
        found = cast("re.Match[str]", re.search(r'href="/people/(ct_\w+)"', (await client.get("/people?q=u-ada")).text))[1]
        its = [f"/people/{found}{page}" for page in ("", "/why", "/at", "/correct", "/merge?q=person", "/erase")]
        for path in ("/people", "/live", "/rejects", "/conflicts", "/health", *its):
            async with client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
                body = b"".join([chunk async for chunk in answer.aiter_raw()])
            assert (answer.status_code, answer.headers["Content-Encoding"]) == (200, "gzip"), path
            assert len(body) <= 100_000, path


async def test_table_has_every_route() -> None:
    there = {(route.method, re.sub(r"\?.*|1-1|\{contact\}|kinfold\.css", "", route.path)) for route in TABLE}
    for handler in ROUTES:
        assert isinstance(handler, HTTPRouteHandler)
        for path in handler.paths:
            bare = re.sub(r"\{[^}]*\}", "", path)
            assert {(method, bare) for method in handler.http_methods} & there, path
