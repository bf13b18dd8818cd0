"""The change feed over HTTP: server-sent events at `/v1/changes`, WebSocket at `/v1/changes/ws`.

`data` is a change (contract section 6), and `id` its entry in the feed. A change has no event name, so `EventSource.onmessage`
gets every change. `event: snapshot-end` follows the last contact of a snapshot. `event: reset` tells the reader to discard what
it has: with `?snapshot=true` all contacts follow, without it the stream ends.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final, get_args

from litestar import Request, WebSocket, get, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream

from kinfold_schemas.changes import Change
from kinfold_schemas.positions import position_key
from kinfold_services.connections import SERVER_ERRORS
from kinfold_services.gateway.callers import caller_of, presented_key, reading_key_or_token
from kinfold_services.gateway.changes.following import IsAllowed, Subscription, follow
from kinfold_services.gateway.changes.hub import FeedHub
from kinfold_services.gateway.changes.messages import PARTIAL_SNAPSHOT
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.problems import Connection, Problem
from kinfold_services.gateway.workspaces import shared
from kinfold_services.runtime.tasks import end_tasks

_TYPES: Final = [str(each.__struct_config__.tag) for each in get_args(Change)]
_RESTART: Final = 1012
_POLICY: Final = 1008
STREAM_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Since = Annotated[
    str | None, QueryParameter(name="since", description="Resume after this feed entry; `0` is the beginning", max_length=64)
]
WithSnapshot = Annotated[
    bool, QueryParameter(name="snapshot", description="Send every contact first, then the changes that follow")
]
OfContacts = Annotated[list[str] | None, QueryParameter(name="contactId", description="Only changes of these contacts")]
OfTypes = Annotated[list[str] | None, QueryParameter(name="type", description="Only changes of these types")]
Token = Annotated[str | None, QueryParameter(name="access_token", description="The key, for clients that cannot set headers")]


@get(
    "/v1/changes",
    guards=[reading_key_or_token],
    responses=answers(str, 400, 401, 403, 429, 503, media_type="text/event-stream"),
    tags=["changes"],
    summary="The change feed as server-sent events",
)
async def changes(  # noqa: PLR0913, PLR0917  each is a query parameter
    request: Request[Any, Any, Any],
    since: Since = None,
    snapshot: WithSnapshot = False,  # noqa: FBT002  a query parameter
    contact_id: OfContacts = None,
    change_type: OfTypes = None,
    access_token: Token = None,  # noqa: ARG001  the guard reads it
    last_event_id: Annotated[
        str | None, HeaderParameter(name="Last-Event-ID", description="As `since`; takes precedence")
    ] = None,
) -> Stream:
    """Follow the feed. To resume, send the last `id` as `Last-Event-ID` (EventSource does this itself) or as `since`.

    A change has no event name, so `onmessage` gets it. `event: snapshot-end`: all contacts have been sent. `event: reset`:
    discard the contacts that you have; with `snapshot=true` all contacts follow, otherwise the stream ends. An EventSource
    reconnects when a stream ends. It gives up after a status other than 200, such as 503: then create a new one.

    `/v1/changes/ws` is the same over WebSocket: each message is `{"id": …, "event": …, "data": …}`.
    """
    subscription = _subscription(last_event_id or since, contact_id, change_type, snapshot=snapshot)
    hub = _hub(request)
    await hub.start()
    stream = _server_sent(hub, subscription, still_allowed(request))
    return Stream(stream, media_type="text/event-stream", headers=STREAM_HEADERS)


@websocket("/v1/changes/ws", guards=[reading_key_or_token])
async def changes_socket(  # noqa: PLR0913, PLR0917  each is a query parameter
    socket: WebSocket[Any, Any, Any],
    since: Since = None,
    snapshot: WithSnapshot = False,  # noqa: FBT002  a query parameter
    contact_id: OfContacts = None,
    change_type: OfTypes = None,
    access_token: Token = None,  # noqa: ARG001  the guard reads it
) -> None:
    """The same over WebSocket. A message is `{"id": …, "event": …, "data": …}`, without the members that it does not have."""
    subscription = _subscription(since, contact_id, change_type, snapshot=snapshot)
    hub = _hub(socket)
    await hub.start()
    await socket.accept()
    sending = asyncio.create_task(_send(socket, hub, subscription))
    listening = asyncio.create_task(_until_gone(socket))
    try:
        await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks([sending, listening])
    if not sending.cancelled() and sending.exception() is None:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(code=sending.result())


async def _server_sent(hub: FeedHub, subscription: Subscription, is_allowed: IsAllowed) -> AsyncGenerator[bytes]:
    async with contextlib.aclosing(follow(hub, subscription, is_allowed)) as stream:
        async for messages in stream:
            yield b"".join([message.sse() for message in messages])


async def _send(socket: WebSocket[Any, Any, Any], hub: FeedHub, subscription: Subscription) -> int:
    """Send until the feed ends. Returns the code to close the WebSocket with."""
    is_restart = False
    async with contextlib.aclosing(follow(hub, subscription, still_allowed(socket))) as stream:
        async for messages in stream:
            for message in messages:
                is_restart = message.retry_ms is not None
                if not is_restart:
                    await socket.send_data(message.ws(), mode="text")
    return _RESTART if is_restart else _POLICY


async def _until_gone(socket: WebSocket[Any, Any, Any]) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await socket.receive_data(mode="text")


def _hub(connection: Connection) -> FeedHub:
    return shared(connection).workspace(caller_of(connection).workspace).hub


def still_allowed(connection: Connection) -> IsAllowed:
    """Whether the key of a connection is still valid, to be asked from time to time."""
    keys, key = shared(connection).keys, presented_key(connection)

    async def is_allowed() -> bool:
        try:
            return await keys.recognise(key) is not None
        except SERVER_ERRORS:
            return True  # not known now; the next comment checks again

    return is_allowed


def _subscription(after: str | None, contacts: list[str] | None, types: list[str] | None, *, snapshot: bool) -> Subscription:
    after = after or None
    if after is not None and after != PARTIAL_SNAPSHOT:
        try:
            milliseconds, number = position_key(after)
        except ValueError as error:
            raise Problem(400, f"since: {str(error).removeprefix('position: ')}") from error
        after = f"{milliseconds}-{number}"
    if unknown := [each for each in types or () if each not in _TYPES]:
        raise Problem(400, f"type: expected one of {', '.join(_TYPES)} (repeat the parameter for several), got {unknown[0]!r}")
    return Subscription(after, snapshot, frozenset(contacts or ()), frozenset(types or ()))
