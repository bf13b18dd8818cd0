"""Changes as they happen, as server-sent events for htmx: rows of a list, and a person.

A page names the people that it shows, and the feed entry that its data came from, so no change in between is missed. Changes
are collected for a moment, and the newest one of a person counts. So a screen costs little however many changes there are, and
what it holds is bounded by the rows that it shows.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final, Protocol

import msgspec
from litestar import Request, get
from litestar.exceptions import HTTPException
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream
from litestar.response.sse import ServerSentEventMessage
from redis.exceptions import RedisError

from kinfold_schemas.contacts import Contact
from kinfold_schemas.filters import And, Field, OneOf
from kinfold_schemas.positions import position_key
from kinfold_services.directory.errors import DirectoryUnavailable
from kinfold_services.directory.search import search
from kinfold_services.gateway.changes.following import IsAllowed, Subscription, follow
from kinfold_services.gateway.changes.hub import FeedHub
from kinfold_services.gateway.changes.messages import Message
from kinfold_services.gateway.problems import Connection, Problem
from kinfold_services.gateway.screen.listing import Listing, values_of
from kinfold_services.gateway.screen.pages import SECURE, render
from kinfold_services.gateway.screen.people import Columns, SortBy, Where, Words
from kinfold_services.gateway.screen.presence import devices_seen
from kinfold_services.gateway.screen.sessions import COOKIE, cookie_of, workspace_of
from kinfold_services.gateway.workspaces import GatewayWorkspace, shared
from kinfold_services.runtime.tasks import end_tasks

COLLECT_S: Final = 0.25
"""How long changes are collected before they are shown."""
NEWS_S: Final = 1.0
"""How often a list is asked whether people have come to match it."""
MAX_NEWS: Final = 30
"""How many people a list looks at; if there are more, it says `30 or more`."""

STREAM_HEADERS: Final = {**SECURE, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""The headers of a stream of events."""
MAX_SHOWN: Final = 200
"""How many ids a page may name."""

_APPLIED_S: Final = 3.0
_LOOK_AGAIN_S: Final = 0.05

Since = Annotated[str, QueryParameter(name="since", max_length=64, description="The feed entry that the page has")]


def event(name: str, text: str) -> bytes:
    """A server-sent event."""
    return ServerSentEventMessage(data=text, event=name).encode()


def position_after(request: Request[Any, Any, Any], since: str) -> str:
    """The entry after which a stream goes on: the last one that a browser got before it reconnects, else `since`.

    Raises Problem (400) if that is not a position.
    """
    after = request.headers.get("last-event-id") or since
    try:
        position_key(after)
    except ValueError as error:
        raise Problem(400, f"since: {error}") from error
    return after


class Watched(Protocol):
    """What a screen shows: it notes changes, and tells them as events."""

    missed: bytes
    """The event for a reader that has missed changes."""

    def note(self, message: Message) -> None:
        """Remember a change, if it concerns the screen."""
        ...

    def events(self) -> AsyncGenerator[bytes]:
        """The events for what was noted."""
        ...

    @property
    def is_waiting(self) -> bool:
        """Whether something is noted that was not sent yet."""
        ...


class _Change(msgspec.Struct, rename="camel", gc=False):
    contact: Contact | None = None


_decode: Final = msgspec.json.Decoder(_Change).decode


@get("/people/live")
async def live_people(  # noqa: PLR0913, PLR0917  each is a query parameter
    request: Request[Any, Any, Any],
    since: Since,
    shown: Annotated[str, QueryParameter(name="shown", max_length=16_384, description="The ids of the rows")] = "",
    q: Words = None,
    where: Where = None,
    sort: SortBy = None,
    column: Columns = None,
) -> Stream:
    """The rows that change, each as an event with the contact's id for a name, and `news`: how many more people match."""
    ids = frozenset(each for each in shown.split(",")[:MAX_SHOWN] if each)
    listing = Listing.of(q, where, sort, column, None)
    return await stream(request, _People(workspace_of(request), listing, ids), since)


@get("/people/{contact_id:str}/live")
async def live_person(request: Request[Any, Any, Any], contact_id: FromPath[str], since: Since) -> Stream:
    """`changed`, when a person or somebody who was merged into them has changed and the directory knows it."""
    return await stream(request, _Person(workspace_of(request)), since, frozenset({contact_id}))


def _contact_of(message: Message) -> Contact | None:
    """The contact after a change."""
    return _decode(message.data or b"{}").contact


def _row_event(contact_id: str, message: Message, keys: tuple[str, ...], seen_at: str) -> bytes:
    """The row of a person after a change, as an event. Screens with the same columns share it.

    It is kept with the change. So it goes with that from memory, when a person is erased.
    """
    made_of = contact_id, keys, seen_at
    if message.shown is not None and message.shown[0] == made_of:
        return message.shown[1]
    contact = _contact_of(message)
    is_merged = contact is not None and contact.id != contact_id
    seen = {} if contact is None else {contact.id: seen_at}
    shown: dict[str, Any] = {"column_keys": list(keys), "values_of": values_of, "seen": seen}
    row = event(contact_id, render("_row.html", contact=contact, is_merged=is_merged, **shown))
    message.shown = made_of, row
    return row


MISSED: Final = event("news", "Changes were missed. Show the list again")


class _People:
    """What has happened to a list since the last events were sent."""

    missed = MISSED

    def __init__(self, workspace: GatewayWorkspace, listing: Listing, shown: frozenset[str]) -> None:
        self._workspace: Final = workspace
        self._listing: Final = listing
        self._shown: Final = shown
        self._rows: Final[dict[str, Message]] = {}
        self._others: Final[dict[str, Message]] = {}
        self._news: Final[set[str]] = set()
        self._asked_at = 0.0

    def note(self, message: Message) -> None:
        """Remember a change, if the list shows or may come to show the contact."""
        if message.contact_id in self._shown:
            self._rows[message.contact_id] = message
        elif self._may_match(message) and len(self._others) < MAX_NEWS:
            self._others[message.contact_id] = message
        if message.merged_contact_id is not None and message.merged_contact_id in self._shown:
            self._rows[message.merged_contact_id] = message

    def _may_match(self, message: Message) -> bool:
        """Whether the change can bring somebody onto the list. A visit brings nobody, nor an update if everybody is on it."""
        return message.type == "ContactCreated" or (message.type != "ContactSeen" and not self._listing.is_everybody)

    async def events(self) -> AsyncGenerator[bytes]:
        """The events for what was noted."""
        rows = dict(self._rows)
        self._rows.clear()
        keys = self._listing.columns or ()
        seen = await self._devices_seen(rows)
        for contact_id, message in rows.items():
            yield _row_event(contact_id, message, keys, seen.get(contact_id, ""))
        if self._others and time.monotonic() - self._asked_at >= NEWS_S:
            self._asked_at = time.monotonic()
            before = len(self._news)
            await self._look_for_news()
            if len(self._news) > before:
                count = f"{MAX_NEWS} or more" if len(self._news) >= MAX_NEWS else str(len(self._news))
                yield event("news", f"Show {count} new {'person' if count == '1' else 'people'}")

    @property
    def is_waiting(self) -> bool:
        """Whether something is noted that was not sent yet."""
        return bool(self._rows or self._others)

    async def _devices_seen(self, rows: dict[str, Message]) -> dict[str, str]:
        """When a device of each was last seen. A visit says it itself; for other changes, the devices are looked up."""
        changed = {contact_id: _contact_of(message) for contact_id, message in rows.items()}
        living = {contact_id: contact for contact_id, contact in changed.items() if contact is not None}
        visits = {each: contact.last_seen_at for each, contact in living.items() if rows[each].type == "ContactSeen"}
        try:
            return visits | await devices_seen(
                self._workspace, [contact for each, contact in living.items() if each not in visits]
            )
        except (RedisError, OSError):
            return visits  # the dot moves with the next change

    async def _look_for_news(self) -> None:
        """Find who of the others matches: everybody matches a list of everybody."""
        if self._listing.is_everybody:
            self._news.update(list(self._others)[: MAX_NEWS - len(self._news)])
            self._others.clear()
            return
        asked = dict(self._others)
        among = OneOf(Field("id", in_metadata=False), tuple(asked))
        given = self._listing.filter()
        where = among if given is None else And((given, among))
        query = msgspec.structs.replace(self._listing.query(MAX_NEWS), where=where)
        name, now_ms = self._workspace.name, time.time_ns() // 1_000_000
        try:
            found = await self._workspace.directory.ask(lambda connection: search(connection, name, query, now_ms))
        except (DirectoryUnavailable, HTTPException):
            return  # asked again later
        applied = position_key(found.position)
        for contact_id, message in asked.items():
            if message.order <= applied and self._others.get(contact_id) is message:
                del self._others[contact_id]
        self._news.update(contact.id for record in found.records if (contact := _contact(record)).id in asked)


class _Person:
    """Whether a person has changed since the last event was sent."""

    missed = event("changed", "")

    def __init__(self, workspace: GatewayWorkspace) -> None:
        self._workspace: Final = workspace
        self._newest: Message | None = None

    def note(self, message: Message) -> None:
        """Remember the newest change."""
        self._newest = message

    async def events(self) -> AsyncGenerator[bytes]:
        """The event for what was noted, once the directory has it, or after a while without it."""
        message, self._newest = self._newest, None
        if message is None:
            return
        await wait_until_applied(self._workspace, message.order)
        yield event("changed", message.type)

    @property
    def is_waiting(self) -> bool:
        """Whether something is noted that was not sent yet."""
        return self._newest is not None


async def wait_until_applied(workspace: GatewayWorkspace, order: tuple[int, int]) -> None:
    """Wait until the directory has applied a change, for at most 3 s."""
    deadline = time.monotonic() + _APPLIED_S
    while time.monotonic() < deadline:
        with contextlib.suppress(DirectoryUnavailable):
            if position_key(await workspace.directory.position(workspace.name)) >= order:
                return
        await asyncio.sleep(_LOOK_AGAIN_S)


async def stream(
    request: Request[Any, Any, Any], watched: Watched, since: str, contacts: frozenset[str] = frozenset()
) -> Stream:
    """The events of a screen, from the feed entry `since` on. Raises Problem (400) if that is not a position."""
    after = position_after(request, since)
    workspace = workspace_of(request)
    await workspace.hub.start()
    subscription = Subscription(after, snapshot=False, contacts=contacts, types=frozenset())
    feed = follow(workspace.hub, subscription, still_signed_in(request))
    return Stream(_events(workspace.hub, feed, watched), media_type="text/event-stream", headers=STREAM_HEADERS)


async def _events(hub: FeedHub, feed: AsyncGenerator[list[Message]], watched: Watched) -> AsyncGenerator[bytes]:
    """The events of a stream. Changes are read all the time, even while nobody reads what is sent."""
    state = _Reading()
    reading = asyncio.create_task(_read(feed, watched, state))
    try:
        yield b": connected\n\n"
        while not state.has_ended:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NEWS_S if watched.is_waiting else None):
                    await state.wake.wait()
            await asyncio.sleep(COLLECT_S)
            state.wake.clear()
            position = state.position
            events = b"".join([event async for event in watched.events()])
            if state.has_missed:
                state.has_missed = False
                events += watched.missed
                position = state.position = hub.last
            if position is not None:
                yield events + ServerSentEventMessage(id=position, comment="so far").encode()
    finally:
        await end_tasks([reading])


class _Reading:
    """How far a stream has read the feed."""

    def __init__(self) -> None:
        self.wake: Final = asyncio.Event()
        self.position: str | None = None
        self.has_missed = False
        self.has_ended = False


async def _read(feed: AsyncGenerator[list[Message]], watched: Watched, state: _Reading) -> None:
    try:
        async with contextlib.aclosing(feed):
            async for messages in feed:
                for message in messages:
                    if message.data is not None and message.event is None:
                        watched.note(message)
                    elif message.event == "reset":
                        state.has_missed = True
                    state.position = message.id or state.position
                state.wake.set()
    finally:
        state.has_ended = True
        state.wake.set()


def _contact(record: bytes) -> Contact:
    return msgspec.json.decode(record, type=Contact)


def still_signed_in(connection: Connection) -> IsAllowed:
    """Whether the session of a request goes on. A stream asks this now and then."""
    sessions, text = shared(connection).sessions, cookie_of(connection, COOKIE)

    async def is_allowed() -> bool:
        try:
            return await sessions.read(text) is not None
        except (RedisError, OSError):
            return True  # not known now; the next comment checks again

    return is_allowed
