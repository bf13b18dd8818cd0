"""What the routes share: the Redis connection, keys, limits and metrics, and the state of each workspace."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextvars import Context
from importlib.resources import files
from typing import Any, Final, cast

import msgspec
import structlog
from redis.exceptions import ResponseError

import kinfold_services.gateway
from kinfold_schemas.identifiers import BadPattern, IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.access.identity_tokens import identity_secrets
from kinfold_services.access.keys import KeyRing
from kinfold_services.access.sessions import Sessions
from kinfold_services.connections import Client, RawEntry
from kinfold_services.directory.waiting import check_running, last_change, not_applied
from kinfold_services.gateway.changes.hub import FeedHub
from kinfold_services.gateway.changes.watchers import Watchers
from kinfold_services.gateway.directory import Directory
from kinfold_services.gateway.log_watch import LogWatch
from kinfold_services.gateway.metrics import Metrics
from kinfold_services.gateway.preflights import cors_config
from kinfold_services.gateway.problems import Problem, unavailable
from kinfold_services.gateway.progress import Progress
from kinfold_services.gateway.rate_limits import RateLimit
from kinfold_services.gateway.turns import Turns
from kinfold_services.gateway.vitals import Vitals
from kinfold_services.settings import Settings
from kinfold_services.state.queries import NotFolded, StateQueries
from kinfold_services.state.reader import StateReader

ANSWER_S: Final = 5.0
"""Timeout of a Redis command, and how long `?after=` waits."""

MAX_BROWSER_EVENTS: Final = 100
"""The most events in a request with a publishable key."""

_FRESH_S: Final = 5.0
_REMIND_EVERY_S: Final = 60.0
_LOOK_AGAIN_S: Final = 0.004
_APPENDING: Final = 256

_encode: Final = msgspec.msgpack.Encoder().encode
_APPEND: Final = files(kinfold_services.gateway).joinpath("append.lua").read_text()


class GatewayWorkspace:
    """One workspace in this process."""

    def __init__(self, client: Client, name: str, settings: Settings, metrics: Metrics, directory: Directory) -> None:
        self.name: Final = name
        self.client: Final = client
        self.queries: Final = StateQueries(client, name)
        self.hub: Final = FeedHub(client, name, settings.gateway_buffer_entries, metrics)
        self.watchers: Final = Watchers(self.hub)
        self.watch: Final = LogWatch(client, name)
        self.vitals: Final = Vitals(client, name, self.queries, self.hub)
        self.ignored: Final[Counter[str]] = Counter()
        """How many parts of Segment's calls this gateway has ignored, by reason."""
        self.last_ignored = ""
        """The newest of them, as a sentence."""
        self._append: Final = client.register_script(_APPEND)
        self._rules = IdentifierRules()
        self._secrets: dict[str, str] = {}
        self._fresh_until = 0.0
        self._reading: asyncio.Task[None] | None = None
        self.directory: Final = directory
        self._folded: Final = Progress(self._folded_position, _LOOK_AGAIN_S)
        self._applied: Final = Progress(self._applied_position, _LOOK_AGAIN_S)

    async def rules(self) -> IdentifierRules:
        """The workspace's rules for identifiers, at most 5 s old."""
        await self._refresh()
        return self._rules

    async def secrets(self) -> Mapping[str, str]:
        """The identity secrets by kid, at most 5 s old."""
        await self._refresh()
        return self._secrets

    async def append(self, events: list[bytes]) -> str:
        """Append events, all or none. Returns the position of the last."""
        texts = list(map(bytes.decode, events))  # the server's MessagePack knows text, but no bytes
        return cast("bytes", await self._append(keys=[key(self.name, "events")], args=[_encode(texts)])).decode()

    async def wait_until_folded(self, position: str) -> None:
        """Wait until the projector has folded the log up to `position`.

        Raises Problem (400) if `position` is not in this log, and NotFolded after `ANSWER_S`.
        """
        target = _position(position)
        if target == (0, 0) or self._folded.has_reached(target):  # 0-0 comes before every entry
            return
        if target > position_key(last := await self.last_entry()):
            raise Problem(400, f"after: expected a position of this log, which ends at {last or 'no entry'}, got {position!r}")
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._folded.wait_for(target)
        except TimeoutError:
            raise NotFolded(f"position {position} was not folded within {ANSWER_S:g} s; is a projector running?") from None

    async def wait_until_in_directory(self, position: str) -> None:
        """Wait until the log is folded up to `position`, and the directory has every change that the feed has by then.

        Raises as `wait_until_folded`; `ANSWER_S` is for both.
        """
        deadline = asyncio.get_running_loop().time() + ANSWER_S
        await self.wait_until_folded(position)
        last = await last_change(self.client, self.name)
        try:
            async with asyncio.timeout_at(deadline):
                await self._applied.wait_for(position_key(last))
        except TimeoutError:
            raise NotFolded(not_applied(self.name, last, ANSWER_S)) from None

    async def check_directory(self, position: str) -> None:
        """Raise NoDirectory if an answer as of `position` of the feed is old, because no directory runs any more."""
        await check_running(self.client, self.directory.database, self.name, position)

    async def _folded_position(self) -> str:
        return (await self.queries.position()).stream_id

    async def _applied_position(self) -> str:
        return await self.directory.position(self.name)

    async def last_entry(self) -> str:
        """The position of the newest event in the log; empty if there is none."""
        try:
            info = cast("dict[str, bytes]", await self.client.xinfo_stream(key(self.name, "events")))
        except ResponseError:  # no log yet
            return ""
        return info["last-generated-id"].decode()

    async def entry(self, entry_id: str) -> Mapping[bytes, bytes] | None:
        """The fields of a log entry; None if the log has no entry with this id."""
        try:
            ms, seq = position_key(entry_id)
        except ValueError:
            return None
        found = cast("list[RawEntry]", await self.client.xrange(key(self.name, "events"), f"{ms}-{seq}", f"{ms}-{seq}"))
        return found[0][1] if found else None

    async def _refresh(self) -> None:
        """Read what is too old. Requests that come meanwhile wait for the same answer."""
        if time.monotonic() <= self._fresh_until:
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), context=Context())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        try:
            self._rules = IdentifierRules(await StateReader(self.client, self.name).blocked_identifiers())
        except BadPattern as error:  # the projector serves no such workspace either
            raise unavailable(str(error)) from error
        self._secrets = {each.kid: each.identity_secret for each in await identity_secrets(self.client, self.name)}
        self._fresh_until = time.monotonic() + _FRESH_S


class Gateway:
    """What the routes of one process share."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self.settings: Final = settings
        self.client: Final = client
        self.cors: Final = cors_config(settings)
        self.keys: Final = KeyRing(client)
        self.sessions: Final = Sessions(client, self.keys)
        self.metrics: Final = Metrics()
        self.directory: Final = Directory(settings)
        secret_per_s, browser_per_s = settings.gateway_requests_per_s, settings.gateway_browser_requests_per_s
        self.limits: Final = {
            "secret": RateLimit(secret_per_s, max(1, int(secret_per_s * 2))),
            "read": RateLimit(secret_per_s, max(1, int(secret_per_s * 2))),
            "publishable": RateLimit(browser_per_s, max(1, int(browser_per_s * 3))),
            "development": RateLimit(browser_per_s, max(1, int(browser_per_s * 3))),
            "unknown": RateLimit(browser_per_s, max(1, int(browser_per_s * 10))),
        }
        events_per_s = settings.gateway_browser_events_per_s
        self.event_limit: Final = RateLimit(events_per_s, max(MAX_BROWSER_EVENTS, int(events_per_s * 3)), "events")
        """The budget of events of a publishable key."""
        self.turns: Final = Turns()
        self._workspaces: Final[dict[str, GatewayWorkspace]] = {}
        self._warned_at: Final[dict[str, float]] = {}
        self._appending = 0

    def workspace(self, name: str) -> GatewayWorkspace:
        """The workspace with this name, created on first use."""
        if (workspace := self._workspaces.get(name)) is None:
            workspace = self._workspaces[name] = GatewayWorkspace(
                self.client, name, self.settings, self.metrics, self.directory
            )
        return workspace

    def warn_of_development_key(self, workspace: str) -> None:
        """Say in the log, at most once a minute, that a workspace believes what pages claim."""
        now = time.monotonic()
        if now >= self._warned_at.get(workspace, 0.0):
            self._warned_at[workspace] = now + _REMIND_EVERY_S
            structlog.get_logger().warning("a development key is in use: identities are not proven", workspace=workspace)

    async def append(self, workspace: GatewayWorkspace, events: list[bytes]) -> str:
        """Append events. Returns the position of the last. Raises Problem (503) if too many requests wait for Redis.

        After an error the events may be in the log all the same, so an event that is sent again needs an id.
        """
        if self._appending >= _APPENDING:
            raise unavailable(f"{_APPENDING} requests already wait for Redis; try again")
        self._appending += 1
        try:
            async with asyncio.timeout(ANSWER_S):
                return await workspace.append(events)
        finally:
            self._appending -= 1

    def end_streams(self) -> None:
        """End all streams, and ask their readers to reconnect."""
        for workspace in self._workspaces.values():
            workspace.watchers.end()
            workspace.hub.close()

    async def close(self) -> None:
        """Stop the background tasks and close the connection."""
        for workspace in self._workspaces.values():
            await workspace.hub.stop()
            await workspace.watch.stop()
            await workspace.vitals.stop()
        self.directory.close()
        await self.client.aclose()


def shared(request: Any) -> Gateway:
    """The gateway that serves a request or WebSocket."""
    return cast("Gateway", request.app.state.gateway)


def _position(text: str) -> tuple[int, int]:
    try:
        return position_key(text)
    except ValueError as error:
        raise Problem(400, f"after: {str(error).removeprefix('position: ')}") from error
