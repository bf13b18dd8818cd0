"""The contact of a page's own visitor, live: `GET /v1/own-contact` as server-sent events.

What proves that a page is a visitor's own is the visitor's id: 128 random bits that kinfold.js keeps in the browser, and that
no other visitor is shown. A backend may use ids that can be guessed, such as numbers, so only ids of that shape are served.
"""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final

import msgspec
import structlog
from litestar import Request, get
from litestar.params import QueryParameter
from litestar.response import Stream
from redis.exceptions import RedisError

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.contacts import Contact
from kinfold_schemas.rejections import found
from kinfold_services.access.keys import Caller
from kinfold_services.gateway.callers import READING, WRITE_KEY, any_key_or_write_key, caller_of
from kinfold_services.gateway.changes import following
from kinfold_services.gateway.changes.feed import STREAM_HEADERS, still_allowed
from kinfold_services.gateway.changes.following import IsAllowed
from kinfold_services.gateway.changes.messages import PING, Message, reconnect
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.workspaces import GatewayWorkspace, shared

_SECRET_ID: Final = re.compile(r"v_[A-Za-z0-9_-]{22}\Z")
_LEAST_S: Final = 0.1
"""The least time between two reads for a page, so that a contact that changes all the time costs no more."""


class LiveContact(msgspec.Struct, frozen=True, rename="camel"):
    """The part of a contact that its own page may read. `metadata` is there if the key shows it."""

    name: str | None
    image: str | None
    metadata: dict[str, Primitive] | msgspec.UnsetType = msgspec.UNSET


class LiveVisitor(msgspec.Struct, frozen=True, rename="camel"):
    """The data of each event. `contact` is null until the visitor is identified."""

    contact: LiveContact | None


_encode: Final = msgspec.json.Encoder().encode


@get(
    "/v1/own-contact",
    guards=[any_key_or_write_key],
    responses=answers(str, 400, 401, 403, 429, 503, media_type="text/event-stream"),
    tags=["visitors"],
    summary="The contact of a page's own visitor as server-sent events",
)
async def own_contact(
    request: Request[Any, Any, Any],
    visitor_id: Annotated[
        str, QueryParameter(name="visitorId", description="The id that kinfold.js has made, which is a secret", max_length=255)
    ],
    write_key: Annotated[  # noqa: ARG001  the guard reads it
        str | None, QueryParameter(name=WRITE_KEY, description="The key, because an EventSource cannot set headers")
    ] = None,
) -> Stream:
    """Send `{"contact": {"name": …, "image": …}}` now and after each change.

    `contact` is null until the visitor is identified. It has its `metadata` with a key that `kinfold keys create
    --shows-metadata` made.

    An EventSource reconnects when a stream ends. It gives up after a status other than 200: then create a new one.
    """
    caller = caller_of(request)
    if caller.kind in READING:
        raise Problem(403, f"key: expected a publishable or development key, got a {caller.kind} one; use /v1/changes")
    if not _SECRET_ID.match(visitor_id):
        raise Problem(400, f"visitorId: expected an id of kinfold.js (v_ and 22 characters), got {found(visitor_id)}")
    workspace = shared(request).workspace(caller.workspace)
    await workspace.hub.start()  # a 503, if there is no Redis
    stream = _events(workspace, visitor_id, caller, still_allowed(request))
    return Stream(stream, media_type="text/event-stream", headers=STREAM_HEADERS)


async def _events(workspace: GatewayWorkspace, visitor_id: str, caller: Caller, is_allowed: IsAllowed) -> AsyncGenerator[bytes]:
    """Yield what the page may read, now and whenever it has changed.

    Ends when the page leaves or its key is revoked, when the gateway stops, and when Redis does not answer.
    """
    shown = b""
    ping_at = time.monotonic() + following.PING_EVERY_S
    try:
        with workspace.watchers.watching(visitor_id) as watcher:
            while not watcher.is_over:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ping_at - time.monotonic()):
                        await watcher.wake.wait()
                if time.monotonic() >= ping_at:
                    ping_at = time.monotonic() + following.PING_EVERY_S
                    yield PING.sse()
                    if not await is_allowed():
                        return
                if watcher.wake.is_set():
                    watcher.wake.clear()
                    async with workspace.watchers.reading:
                        contact = await workspace.queries.contact_by_visitor(visitor_id)
                    workspace.watchers.concern(watcher, None if contact is None else contact.id)
                    if (data := _data(contact, caller)) != shown:
                        shown = data
                        yield Message(data=data).sse()
                    await asyncio.sleep(max(_LEAST_S, workspace.watchers.pause_s(watcher)))
            yield reconnect(random.randint(*following.RECONNECT_MS)).sse()  # noqa: S311  not a secret
    except (RedisError, OSError) as error:
        # The response has begun, so it cannot become an error any more. The page gets one when it reconnects.
        structlog.get_logger().warning("stream ended", error=str(error))


def _data(contact: Contact | None, caller: Caller) -> bytes:
    if contact is None:
        return _encode(LiveVisitor(None))
    metadata = contact.metadata if caller.shows_metadata else msgspec.UNSET
    return _encode(LiveVisitor(LiveContact(contact.name, contact.image, metadata)))
