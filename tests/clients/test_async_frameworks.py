"""The middlewares in asynchronous applications: Litestar, and Django under an ASGI server."""

import http.client
import json
import signal
import socket
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple
from unittest import mock

import pytest
from litestar import Litestar, MediaType, Request, Response, get
from litestar.middleware import DefineMiddleware
from litestar.params import PathParameter
from litestar.testing import TestClient
from redis import Redis

import kinfold
from kinfold.asgi import VisitorMiddleware, identify, reset, visitor_id
from kinfold.testing import Recorder
from tests.clients.applications import PATIENCE_S, running
from tests.support.engines import free_port
from tests.support.logs import Log
from tests.support.waiting import wait_until_sync

COOKIE: Final = "__Host-kinfold_visitor"
SECRET: Final = "the application's"  # noqa: S105  invented here

AnyRequest = Request[Any, Any, Any]


@get("/", media_type=MediaType.HTML)
async def home() -> str:
    """A page."""
    return "<h1>Hello</h1>"


@get("/log-in/{user:str}", sync_to_thread=True)
def log_in(request: AnyRequest, user: Annotated[str, PathParameter()]) -> dict[str, bool]:
    """A blocking handler, which runs in another thread."""
    return {"followed": identify(request, external_id=user, metadata={"plan": "pro"})}


@get("/log-out")
async def log_out() -> Response[None]:
    """Forget the visitor."""
    response: Response[None] = Response(None)
    reset(response)
    return response


@get("/me")
async def me(request: AnyRequest) -> dict[str, str | None]:
    """Data."""
    return {"visitor": visitor_id(request)}


def visitor_in(cookie: str) -> str:
    """The visitor id in a cookie's value."""
    return cookie.strip('"').partition(".")[0]


def litestar(producer: Any) -> Litestar:
    """The application."""
    return Litestar(
        [home, log_in, log_out, me], middleware=[DefineMiddleware(VisitorMiddleware, producer=producer, secret=SECRET)]
    )


def test_litestar_follows_a_visitor_until_the_log_out():
    """The visitor views a page, logs in and logs out. The next user of the browser is another visitor."""
    recorder = Recorder()
    with TestClient(litestar(recorder), base_url="https://testserver.local") as browser:
        answer = browser.get("/", headers={"Referer": "https://example.org/?q=secret"})
        for attribute in ("HttpOnly", "Secure", "SameSite=Lax", "Path=/", "Max-Age=34560000"):
            assert attribute in answer.headers["Set-Cookie"]
        ada = visitor_in(browser.cookies[COOKIE])
        assert browser.get("/log-in/u-1").json() == {"followed": True}
        logged_in = visitor_in(browser.cookies[COOKIE])
        assert browser.get("/me").json() == {"visitor": logged_in}
        answer = browser.get("/log-out")
        assert "httponly" in answer.headers["Set-Cookie"].lower()
        stranger = visitor_in(browser.cookies[COOKIE])
        browser.get("/")
    assert len({ada, logged_in, stranger}) == 3
    assert [(event["type"], event["visitorId"]) for event in recorder.events] == [
        ("VisitorSeen", ada),
        ("VisitorIdentified", ada),
        ("VisitorIdentified", logged_in),
        ("VisitorSeen", stranger),
    ]
    assert recorder.visitor(ada).context["referrer"] == "https://example.org/"
    contact = recorder.contact(visitor_id=ada)
    assert (contact.metadata, contact) == ({"plan": "pro"}, recorder.contact(visitor_id=logged_in))


@pytest.mark.parametrize("header", ["DNT", "Sec-GPC"])
def test_litestar_does_not_follow_visitors_who_opt_out(header: str):
    recorder = Recorder()
    with TestClient(litestar(recorder), base_url="https://testserver.local") as browser:
        for path in ("/", "/log-in/u-1", "/log-out", "/me"):
            assert "Set-Cookie" not in browser.get(path, headers={header: "1"}).headers
    assert not recorder.events


def test_middleware_flushes_at_the_end_of_the_lifespan(folding_url: str, client: Redis, workspace: str):
    """The lifespan may start again, as with a test client."""
    visitors = kinfold.Producer(folding_url, workspace=workspace, batch_age_s=600)
    app: Any = VisitorMiddleware(Litestar([home]), visitors, secret=SECRET)
    for number in range(2):
        with TestClient(app, base_url="https://testserver.local") as browser:
            browser.get("/")
        assert len(Log(client, workspace).events) == number + 1
    visitors.close()


LITESTAR: Final = """
import os
import kinfold
from litestar import Litestar, get
from litestar.middleware import DefineMiddleware
from kinfold.asgi import VisitorMiddleware

visitors = kinfold.Producer(os.environ["LOG"], workspace=os.environ["WORKSPACE"], batch_age_s=600)

@get("/{number:int}")
async def home(number: int) -> str:
    visitors.seen(f"v-{number}")
    return "{}"

application = Litestar(
    [home],
    middleware=[DefineMiddleware(VisitorMiddleware, producer=visitors, secret="the application's")],
    on_shutdown=[lambda: visitors.close()],
)
"""

DJANGO: Final = """
import asyncio
import os
import threading

from django.conf import settings

import kinfold

visitors = kinfold.Producer(os.environ["LOG"], workspace=os.environ["WORKSPACE"], batch_age_s=600)
settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY="the application's",
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["kinfold.django.VisitorMiddleware"],
    KINFOLD={"producer": visitors},
)

from django.core.asgi import get_asgi_application
from django.http import HttpResponse, JsonResponse
from django.urls import path

from kinfold.asgi import Lifespan
from kinfold.django import identify, reset, visitor_id

all_are_here = asyncio.Barrier(8)

async def together(request):
    async with asyncio.timeout(120):
        await all_are_here.wait()  # all eight requests must be in their views at the same time
    is_on_the_loop = threading.current_thread() is threading.main_thread()
    return JsonResponse({"visitor": visitor_id(request), "isOnTheLoop": is_on_the_loop})

async def page(request, number):
    visitors.seen(f"v-{number}")
    return HttpResponse("<h1>Hello</h1>")

async def log_in(request):
    return JsonResponse({"followed": identify(request, external_id="u-1")})

def blocking(request):
    return JsonResponse({"followed": identify(request, external_id="u-1", metadata={"plan": "pro"})})

async def log_out(request):
    response = JsonResponse({})
    reset(response)
    return response

urlpatterns = [
    path("together", together), path("log-in", log_in), path("blocking", blocking), path("log-out", log_out),
    path("<int:number>", page),
]
application = Lifespan(get_asgi_application(), producer=visitors)
"""


class Answer(NamedTuple):
    """A response."""

    status: int
    cookie: str
    body: Any


def ask(port: int, path: str, **headers: str) -> Answer:
    """Send one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    is_json = answer.getheader("Content-Type", "").startswith("application/json")
    return Answer(answer.status, answer.getheader("Set-Cookie", ""), json.loads(body) if is_json else body)


@contextmanager
def uvicorn(directory: Path, source: str, url: str, workspace: str) -> Generator[int]:
    """Run an application under uvicorn, which ends by the signal that it gets. Yield its port."""
    port = free_port()
    command = ["uvicorn", "--port", str(port), "application:application"]
    with running(directory, source, command, {"LOG": url, "WORKSPACE": workspace}, -signal.SIGTERM):
        wait_until_sync(lambda: _listens(port), PATIENCE_S)
        yield port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("source", [pytest.param(LITESTAR, id="litestar"), pytest.param(DJANGO, id="django")])
def test_uvicorn_that_ends_by_a_signal_loses_nothing(
    folding_url: str, client: Redis, workspace: str, tmp_path: Path, source: str
):
    """`atexit` does not run, and nothing was sent before: only the end of the lifespan sends the events."""
    with uvicorn(tmp_path, source, folding_url, workspace) as port:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, repeat(port), [f"/{number}" for number in range(100)]))
        assert {answer.status for answer in answers} == {200}
        assert not Log(client, workspace).events
    events = Counter(visitor for visitor in Log(client, workspace).visitors.elements() if visitor.startswith("v-"))
    assert events == Counter(f"v-{number}" for number in range(100))


def test_django_with_asynchronous_views_follows_visitors(folding_url: str, client: Redis, workspace: str, tmp_path: Path):
    """Eight requests wait for each other in their views, so a blocked event loop would block them all."""
    with uvicorn(tmp_path, DJANGO, folding_url, workspace) as port:
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(ask, repeat(port, 8), repeat("/together")))
        assert all(answer.body["isOnTheLoop"] for answer in together)
        assert len({answer.body["visitor"] for answer in together}) == 8
        assert all(f"kinfold_visitor={answer.body['visitor']}." in answer.cookie for answer in together)

        first = ask(port, "/1").cookie.partition(";")[0]
        logged_in = ask(port, "/log-in", Cookie=first)
        assert logged_in.body == {"followed": True}
        known = logged_in.cookie.partition(";")[0]
        assert ask(port, "/blocking", Cookie=known) == Answer(200, "", {"followed": True})
        assert ask(port, "/log-in", Cookie=known, DNT="1") == Answer(200, mock.ANY, {"followed": False})
        second = ask(port, "/log-out", Cookie=known).cookie.partition(";")[0]
        assert len({"", first, known, second}) == 4
        ask(port, "/2", Cookie=second)
    ada, identified, stranger = [visitor_in(each.partition("=")[2]) for each in (first, known, second)]
    events = [(event["type"], event["visitorId"]) for event in Log(client, workspace).events]
    assert events == [
        ("VisitorSeen", "v-1"),
        ("VisitorSeen", ada),
        ("VisitorIdentified", ada),
        ("VisitorIdentified", identified),
        ("VisitorIdentified", identified),
        ("VisitorSeen", "v-2"),
        ("VisitorSeen", stranger),
    ]
