"""What the middlewares have in common, for an application of each kind."""

import time
from collections.abc import Callable
from typing import Annotated, Any, Final

import flask
import pytest
from litestar import Litestar, MediaType, get
from litestar.middleware import DefineMiddleware
from litestar.params import PathParameter
from litestar.testing import TestClient

import kinfold
from kinfold import asgi, wsgi
from kinfold.testing import Recorder
from tests.support.waiting import wait_until_sync

BASE: Final = "http://example.local"
HTML: Final = "<h1>Hello</h1>"


def visit_asgi(producer: Any, path: str) -> None:
    """A page of an ASGI application."""

    @get("/pages/{_name:path}", media_type=MediaType.HTML)
    async def page(_name: Annotated[str, PathParameter()]) -> str:
        return HTML

    middleware = DefineMiddleware(asgi.VisitorMiddleware, producer=producer)
    with TestClient(Litestar([page], middleware=[middleware]), base_url=BASE) as browser:
        assert browser.get(path).status_code == 200


def visit_wsgi(producer: Any, path: str) -> None:
    """A page of a WSGI application."""
    app = flask.Flask(__name__)

    def page(_name: str) -> str:
        return HTML

    app.add_url_rule("/pages/<path:_name>", view_func=page)
    app.wsgi_app = wsgi.VisitorMiddleware(app.wsgi_app, producer=producer)  # type: ignore[method-assign]
    assert app.test_client().get(path, base_url=BASE).status_code == 200


Visit = Callable[[Any, str], None]
kinds: Final = pytest.mark.parametrize("visit", [visit_asgi, visit_wsgi])


@kinds
def test_the_address_of_a_page_is_the_browsers(visit: Visit):
    """Quoted as it was asked for: what a path holds is no fragment and no query, whose beginning would be cut off with it."""
    recorder = Recorder()
    visit(recorder, "/pages/m%C3%BCsli%23x%3Fy%00;a=b?token=secret")
    (event,) = recorder.events
    assert event["context"]["url"] == f"{BASE}/pages/m%C3%BCsli%23x%3Fy%00;a=b"


@kinds
def test_a_producer_whose_calls_are_to_be_awaited_is_refused(visit: Visit):
    """Nobody would: every page would be answered, and nothing published."""
    with pytest.raises(TypeError, match=r"producer: expected a Producer .*, got an AsyncProducer"):
        visit(kinfold.AsyncProducer("redis://localhost:1/0"), "/pages/1")


@kinds
def test_no_page_waits_because_the_server_is_gone(visit: Visit, workspace: str):
    """The buffer is full and the producer's own calls would wait for ten minutes: the page view is dropped and counted."""
    options: kinfold.ProducerOptions = {"buffer_events": 1, "batch_events": 1, "wait_s": 600, "exit_timeout_s": 0}
    producer = kinfold.Producer("redis://127.0.0.1:1/0", workspace=workspace, **options)
    producer.seen("v-1")
    wait_until_sync(lambda: producer.counters.retries)  # that one is under way
    producer.seen("v-2")
    started = time.monotonic()
    visit(producer, "/pages/1")
    assert time.monotonic() - started < 60
    assert producer.counters.dropped == 1
    producer.close(timeout_s=0)


@kinds
def test_an_address_is_no_producer(visit: Visit):
    """Said when the application starts, and not at its first page view."""
    with pytest.raises(TypeError, match="producer: found 'redis://localhost:1/0', allowed is a Producer"):
        visit("redis://localhost:1/0", "/pages/1")


@kinds
def test_a_visit_ends_with_its_request(visit: Visit):
    """What this thread does next is nobody's: a reset would give the last visitor's cookie away."""
    visit(Recorder(), "/pages/1")
    with pytest.raises(LookupError, match="reset: found no visit"):
        wsgi.reset(flask.Response())
