"""What the ASGI and WSGI middlewares have in common."""

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import flask
import pytest
from django.conf import settings
from django.http import HttpResponse
from django.test import RequestFactory
from django.test.utils import override_settings
from litestar import Litestar, MediaType, get
from litestar.middleware import DefineMiddleware
from litestar.params import PathParameter
from litestar.testing import TestClient

import kinfold
from kinfold import asgi, wsgi
from kinfold.django import VisitorMiddleware
from kinfold.testing import Recorder
from tests.support.waiting import wait_until_sync

BASE: Final = "http://example.local"
SECRET: Final = "the application's"  # noqa: S105  invented here
HTML: Final = "<h1>Hello</h1>"


def visit_asgi(producer: Any, path: str, headers: Mapping[str, str] | None = None) -> None:
    """A page of an ASGI application."""

    @get("/pages/{_name:path}", media_type=MediaType.HTML)
    async def page(_name: Annotated[str, PathParameter()]) -> str:
        return HTML

    middleware = DefineMiddleware(asgi.VisitorMiddleware, producer=producer, secret=SECRET)
    with TestClient(Litestar([page], middleware=[middleware]), base_url=BASE) as browser:
        assert browser.get(path, headers=headers).status_code == 200


def visit_wsgi(producer: Any, path: str, headers: Mapping[str, str] | None = None) -> None:
    """A page of a WSGI application."""
    app = flask.Flask(__name__)

    def page(_name: str) -> str:
        return HTML

    app.add_url_rule("/pages/<path:_name>", view_func=page)
    app.wsgi_app = wsgi.VisitorMiddleware(app.wsgi_app, producer=producer, secret=SECRET)  # type: ignore[method-assign]
    assert app.test_client().get(path, base_url=BASE, headers=headers).status_code == 200


def visit_django(producer: Any, path: str, headers: Mapping[str, str] | None = None) -> None:
    """A page of a Django application."""
    if not settings.configured:
        settings.configure(SECRET_KEY=SECRET)
    with override_settings(KINFOLD={"producer": producer}, SECRET_KEY=SECRET, ALLOWED_HOSTS=["*"], DEFAULT_CHARSET="utf-8"):
        view = VisitorMiddleware(lambda _: HttpResponse(HTML.encode()))
        assert view(RequestFactory().get(path, headers=headers)).status_code == 200


Visit = Callable[..., None]
kinds: Final = pytest.mark.parametrize("visit", [visit_asgi, visit_wsgi])


@kinds
def test_url_of_a_page_view_is_quoted_as_the_browser_sent_it(visit: Visit):
    """An encoded `#` or `?` in the path does not become a fragment or a query, which would be removed."""
    recorder = Recorder()
    visit(recorder, "/pages/m%C3%BCsli%23x%3Fy%00;a=b?token=secret")
    (event,) = recorder.events
    assert event["context"]["url"] == f"{BASE}/pages/m%C3%BCsli%23x%3Fy%00;a=b"


@kinds
def test_async_producer_is_rejected(visit: Visit):
    """Nothing would await its calls, so nothing would be published."""
    with pytest.raises(TypeError, match=r"producer: expected a Producer .*, got an AsyncProducer"):
        visit(kinfold.AsyncProducer("redis://localhost:1/0"), "/pages/1")


@kinds
def test_page_does_not_wait_when_the_server_is_unreachable(visit: Visit, workspace: str):
    """The buffer is full and a call of the producer would wait for ten minutes: the page view is dropped and counted."""
    options: kinfold.ProducerOptions = {"buffer_events": 1, "batch_events": 1, "wait_s": 600, "exit_timeout_s": 0}
    producer = kinfold.Producer("redis://127.0.0.1:1/0", workspace=workspace, **options)
    producer.seen("v-1")
    wait_until_sync(lambda: producer.counters.retries)  # it is in flight
    producer.seen("v-2")
    started = time.monotonic()
    visit(producer, "/pages/1")
    assert time.monotonic() - started < 60
    assert producer.counters.dropped == 1
    producer.close(timeout_s=0)


@kinds
def test_url_in_place_of_a_producer_is_rejected(visit: Visit):
    """When the application starts, not at its first page view."""
    with pytest.raises(TypeError, match="producer: expected a Producer, got 'redis://localhost:1/0'"):
        visit("redis://localhost:1/0", "/pages/1")


@kinds
def test_visit_ends_with_its_request(visit: Visit):
    """A reset after the request would affect the last visitor."""
    visit(Recorder(), "/pages/1")
    with pytest.raises(LookupError, match="reset: expected a request that passed through"):
        wsgi.reset(flask.Response())


@pytest.mark.parametrize("visit", [visit_asgi, visit_wsgi, visit_django])
def test_identity_token_in_a_request_identifies_nobody(visit: Visit):
    """Only the application says who a visitor is. A token that an attacker copied or planted is ignored."""
    token = kinfold.sign(f"kf_is_{'0' * 12}_{'0' * 64}", external_id="u-1", visitor_id="v-1")
    headers = {"Authorization": f"Bearer {token}", "Cookie": f"kinfold_visitor={token}; token={token}", "token": token}
    recorder = Recorder()
    visit(recorder, f"/pages/1?token={token}", headers)

    assert [event["type"] for event in recorder.events] == ["VisitorSeen"]
    assert token not in str(recorder.events)
    assert recorder.contacts == []
