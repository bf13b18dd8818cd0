"""The type of every public name. mypy and pyright check this file (`make lint`); nothing runs it."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import assert_type

import kinfold
from kinfold import asgi, django, testing, wsgi
from kinfold_schemas.changes import Change


def producer() -> None:
    with kinfold.Producer("redis://", workspace="acme", when_full="wait", wait_s=0.5, spool=None) as visitors:
        assert_type(visitors, kinfold.Producer)
        assert_type(visitors.flush(timeout_s=1), str | None)
        assert_type(visitors.counters, kinfold.Counters)
        assert_type(visitors.counters.sent, int)
        assert_type(visitors.never_waiting.seen("v-1"), None)
        assert_type(visitors.exit_timeout_s, float)
        visitors.seen("v-1", url="/", user_agent="x", context={"n": 1, "b": True, "f": 0.5, "none": None})
        visitors.identify("v-1", external_id="u-1", metadata={"plan": "pro"}, unset=["a"])
        visitors.set_metadata("v-1", {"mrr": 99})
        visitors.seen(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        visitors.seen("v-1", ulr="/")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        visitors.set_metadata("v-1", {"nested": {}})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    kinfold.Producer("redis://", when_full="explode")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def async_producer() -> None:
    async with kinfold.AsyncProducer("redis://") as visitors:
        assert_type(visitors, kinfold.AsyncProducer)
        assert_type(await visitors.flush(), str | None)
        assert_type(visitors.counters, kinfold.Counters)
        await visitors.seen("v-1", url="/")
        await visitors.identify("v-1", email="a@b.c")
        await visitors.set_metadata("v-1", {"mrr": 99})


def options() -> None:
    def on_error(failure: kinfold.Failure) -> None:
        assert_type(failure.error, Exception)
        assert_type(failure.events, int)
        assert_type(failure.lost, bool)

    chosen: kinfold.ProducerOptions = {"on_error": on_error, "spool": "/tmp/spool"}  # noqa: S108  nothing runs it
    kinfold.Producer("redis://", **chosen)
    page: kinfold.Page = {"url": "/"}
    kinfold.Producer("redis://").seen("v-1", **page)


def lookups() -> None:
    with kinfold.Contacts("redis://", wait_s=1) as contacts:
        assert_type(contacts, kinfold.Contacts)
        found = contacts.by_visitor("v-1", after="1-0")
        assert_type(found, kinfold.Contact | None)
        assert_type(contacts.by_external_id("u-1"), kinfold.Contact | None)
        assert_type(contacts.by_email("a@b.c"), kinfold.Contact | None)
        assert_type(contacts.get("ct_1"), kinfold.Contact | None)
        if found:
            assert_type(found.metadata, dict[str, str | int | float | bool | None])


async def async_lookups() -> None:
    async with kinfold.AsyncContacts("https://gateway", key="k") as contacts:
        assert_type(await contacts.by_visitor("v-1"), kinfold.Contact | None)
        assert_type(contacts.search("ada", where={"plan": "pro"}), AsyncIterator[kinfold.Contact])
        assert_type(await contacts.count(where="plan=pro"), kinfold.ContactCount)
        assert_type(await contacts.count(by="plan"), kinfold.ContactCounts)
        assert_type(contacts.timeline("ct_1"), AsyncIterator[kinfold.TimelineEntry])
        assert_type(contacts.conflicts(status="all"), AsyncIterator[kinfold.Conflict])


def searches() -> None:
    with kinfold.Contacts("https://gateway", key="k") as contacts:
        assert_type(contacts.search("ada", where={"plan": "pro", "mrr": {">=": 99}}, sort="-mrr"), Iterator[kinfold.Contact])
        assert_type(contacts.search(where={"plan": ["pro", "team", None], "trial": False}, limit=3), Iterator[kinfold.Contact])
        assert_type(contacts.count("ada").is_exact, bool)
        counts = contacts.count(by="plan", limit=5)
        assert_type(counts, kinfold.ContactCounts)
        assert_type(counts.values, list[kinfold.ValueCount])
        assert_type(contacts.timeline("ct_1", limit=1), Iterator[kinfold.TimelineEntry])
        assert_type(contacts.conflicts(), Iterator[kinfold.Conflict])
        contacts.conflicts(status="settled")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def signing() -> None:
    assert_type(kinfold.sign("secret", external_id="u-1", email="a@b.c", visitor_id="v-1", expires_in_s=60), str)


def changes() -> None:
    feed = kinfold.Feed("redis://", position=kinfold.FilePosition("position"))
    kinfold.Feed("redis://", position=(lambda: None, print))
    follow = feed.follow(since="0", snapshot=True, on_reset=lambda: None)
    assert_type(follow, kinfold.Follow)
    iterator: Iterator[Change] = follow
    asynchronous: AsyncIterator[Change] = follow
    for change in iterator:
        assert_type(change, Change)
    assert_type(follow.position, str | None)
    assert_type(asynchronous.__aiter__(), AsyncIterator[Change])
    with feed.contacts() as contacts:
        assert_type(contacts, kinfold.LiveContacts)
        assert_type(contacts["ct_1"], kinfold.Contact)
        assert_type(contacts.by_email("a@b.c"), kinfold.Contact | None)
        assert_type(contacts.by_external_id("u"), kinfold.Contact | None)
        assert_type(contacts.position, str | None)


def errors() -> None:
    base: list[type[kinfold.KinfoldError]] = [
        kinfold.BufferFull,
        kinfold.FeedTruncated,
        kinfold.NotFolded,
        kinfold.NotSent,
        kinfold.Refused,
        kinfold.Unreachable,
    ]
    value: type[ValueError] = kinfold.EventError
    assert_type(kinfold.NotSent("", 1).events, int)
    assert_type(kinfold.FeedTruncated("", "1-0").position, str)
    assert_type(kinfold.Unreachable("").retry_after_s, float | None)
    del base, value


def frameworks(request: object, response: object, secret: str) -> None:
    recorder = testing.Recorder()

    async def asgi_app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        del scope, receive, send

    asgi.VisitorMiddleware(asgi_app, recorder, secret=secret, cookie="visitor", consent=lambda _: True, ip=True)
    asgi.VisitorMiddleware(asgi_app, kinfold.Producer("redis://"), secret=secret)
    asgi.Lifespan(asgi_app, producer=kinfold.Producer("redis://"))
    django.VisitorMiddleware(lambda request: request)
    assert_type(asgi.identify(request, external_id="u-1"), bool)
    assert_type(wsgi.identify(request, email="a@b.c", metadata={"a": 1}), bool)
    assert_type(django.identify(request, external_id="u-1"), bool)
    assert_type(asgi.visitor_id(request), str | None)
    assert_type(wsgi.visitor_id(request), str | None)
    assert_type(django.visitor_id(request), str | None)
    resets: list[Callable[[object], None]] = [asgi.reset, wsgi.reset, django.reset]
    for reset in resets:
        reset(response)
    wsgi.VisitorMiddleware(lambda _, __: [b""], recorder, secret=secret, secure=False, query=True)


def kit() -> None:
    recorder = testing.Recorder("acme", suppress=False)
    assert_type(recorder.contact(external_id="u-1"), kinfold.Contact)
    assert_type(recorder.contacts, list[kinfold.Contact])
    assert_type(recorder.changes, list[Change])
    assert_type(testing.AsyncRecorder().recorder, testing.Recorder)
