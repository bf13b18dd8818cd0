"""The change feed for whoever does not speak Redis: server-sent events at `/v1/changes`, WebSocket at `/v1/changes/ws`.

`data` is the change (contract section 6), `id` its entry on the feed; no event name, so that `EventSource.onmessage` sees
every change. `event: snapshot-end` says that all contacts have been sent. `event: reset` says that what the reader holds is
worth nothing: with `?snapshot=true` all contacts follow at once, without it the stream ends.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final, get_args

from litestar import Request, WebSocket, get, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream
from redis.exceptions import RedisError

from kinfold_schemas.changes import Change
from kinfold_schemas.positions import position_key
from kinfold_services.gateway.callers import caller_of, presented_key, secret_key_or_token
from kinfold_services.gateway.following import IsAllowed, Wish, follow
from kinfold_services.gateway.hub import FeedHub
from kinfold_services.gateway.messages import HALF_A_SNAPSHOT
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.problems import Connection, Problem
from kinfold_services.gateway.workspaces import shared

_TYPES: Final = [str(each.__struct_config__.tag) for each in get_args(Change)]
_MAX_ID: Final = 2**64
_RESTART: Final = 1012
_POLICY: Final = 1008
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Since = Annotated[
    str | None, QueryParameter(name="since", description="The feed entry to go on behind; `0` is the beginning", max_length=64)
]
WithSnapshot = Annotated[
    bool, QueryParameter(name="snapshot", description="First every contact, then the changes from exactly there")
]
OfContacts = Annotated[list[str] | None, QueryParameter(name="contactId", description="Only changes of these contacts")]
OfTypes = Annotated[list[str] | None, QueryParameter(name="type", description="Only changes of these types")]
Token = Annotated[str | None, QueryParameter(name="access_token", description="The key, where headers cannot be set")]


@get(
    "/v1/changes",
    guards=[secret_key_or_token],
    responses=answers(str, 400, 401, 403, 429, 503, media_type="text/event-stream"),
    tags=["changes"],
    summary="The change feed, as server-sent events",
)
async def changes(  # noqa: PLR0913, PLR0917  each is a query parameter
    request: Request[Any, Any, Any],
    since: Since = None,
    snapshot: WithSnapshot = False,  # noqa: FBT002  a query parameter
    contact_id: OfContacts = None,
    change_type: OfTypes = None,
    access_token: Token = None,  # noqa: ARG001  the guard has read it
    last_event_id: Annotated[
        str | None, HeaderParameter(name="Last-Event-ID", description="As `since`, and goes first")
    ] = None,
) -> Stream:
    """Follows the feed. Resumable: the last `id` goes into `Last-Event-ID` (EventSource does so itself) or `since`.

    A change has no event name, so `onmessage` sees it. `event: snapshot-end`: all contacts have been sent. `event: reset`: what
    you hold is worth nothing; with `snapshot=true` all contacts follow at once, else the stream ends. An EventSource comes back
    by itself when a stream ends, but gives up at an answer other than 200, such as a 503: make another one then.

    The same over WebSocket, a message each (`{"id": …, "event": …, "data": …}`), at `/v1/changes/ws`.
    """
    wish = _wish(last_event_id or since, contact_id, change_type, snapshot=snapshot)
    hub = _hub(request)
    await hub.start()
    stream = _server_sent(hub, wish, _still_allowed(request))
    return Stream(stream, media_type="text/event-stream", headers=_HEADERS)


@websocket("/v1/changes/ws", guards=[secret_key_or_token])
async def changes_socket(  # noqa: PLR0913, PLR0917  each is a query parameter
    socket: WebSocket[Any, Any, Any],
    since: Since = None,
    snapshot: WithSnapshot = False,  # noqa: FBT002  a query parameter
    contact_id: OfContacts = None,
    change_type: OfTypes = None,
    access_token: Token = None,  # noqa: ARG001  the guard has read it
) -> None:
    """The same over WebSocket, a message each: `{"id": …, "event": …, "data": …}`, what is not there left out."""
    wish = _wish(since, contact_id, change_type, snapshot=snapshot)
    hub = _hub(socket)
    await hub.start()
    await socket.accept()
    sending = asyncio.create_task(_send(socket, hub, wish))
    listening = asyncio.create_task(_until_gone(socket))
    await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
    for task in (sending, listening):
        task.cancel()
    ended = await asyncio.gather(sending, listening, return_exceptions=True)
    if isinstance(ended[0], int):
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(code=ended[0])


async def _server_sent(hub: FeedHub, wish: Wish, is_allowed: IsAllowed) -> AsyncGenerator[bytes]:
    async with contextlib.aclosing(follow(hub, wish, is_allowed)) as stream:
        async for messages in stream:
            yield b"".join([message.sse() for message in messages])


async def _send(socket: WebSocket[Any, Any, Any], hub: FeedHub, wish: Wish) -> int:
    """Sends until the end; the code to close with."""
    is_restart = False
    async with contextlib.aclosing(follow(hub, wish, _still_allowed(socket))) as stream:
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


def _still_allowed(connection: Connection) -> IsAllowed:
    keys, key = shared(connection).keys, presented_key(connection)

    async def is_allowed() -> bool:
        try:
            return await keys.recognise(key) is not None
        except (RedisError, OSError):
            return True  # nobody can say so now: asked again at the next comment

    return is_allowed


def _wish(after: str | None, contacts: list[str] | None, types: list[str] | None, *, snapshot: bool) -> Wish:
    after = after or None
    if after is not None and after != HALF_A_SNAPSHOT:
        try:
            milliseconds, number = position_key(after)
        except ValueError as error:
            raise Problem(400, f"since: {error}") from error
        if max(milliseconds, number) >= _MAX_ID:
            raise Problem(400, f"since: expected the id of an entry of the feed, got {after!r}")
        after = f"{milliseconds}-{number}"
    if unknown := [each for each in types or () if each not in _TYPES]:
        raise Problem(400, f"type: expected one of {', '.join(_TYPES)} (repeat the parameter for several), got {unknown[0]!r}")
    return Wish(after, snapshot, frozenset(contacts or ()), frozenset(types or ()))
