"""Watches the log of a workspace: the newest entries, and what each of them did, for people who look at them.

The log, the feed and the rejects are read in one transaction with the position, so what an entry did is known as soon as the
entry is folded. One reader serves everybody who watches a workspace. It reads only while somebody does. What it reads and holds
is bounded: of many entries at once it shows the newest, and counts the others.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextvars import Context
from typing import Any, Final, Literal, NamedTuple

import msgspec
from redis.exceptions import ResponseError

from kinfold_projections.entries import EVENT_FIELD, Entry, read_entry
from kinfold_schemas.events import MAX_EVENT_BYTES
from kinfold_schemas.identifiers import id_key
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_schemas.times import LAST_MS, to_text
from kinfold_services.connections import Client
from kinfold_services.gateway.failures import report_failure
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.state.queries import StateQueries

RING: Final = 200
"""How many entries a watch holds."""
KEPT_BYTES: Final = 8 * 1024
"""How much of an event a watch holds."""

_POLL_S: Final = 0.4
_RETRY_S: Final = 1.0
_AT_ONCE: Final = 60
"""How many entries of the log one read returns."""
_CHANGES: Final = 400
_REJECTS: Final = 60


class Person(msgspec.Struct, rename="camel", gc=False):
    """Who was changed."""

    id: str
    name: str | None = None
    email: str | None = None
    external_id: str | None = None


class Change(msgspec.Struct, rename="camel", gc=False):
    """What the feed says about an entry."""

    type: str
    contact_id: str
    cause: str
    changed: list[str] = []
    visitor_id: str | None = None
    merged_contact_id: str | None = None
    email: str | None = None
    contact: Person | None = None


OnlyDevice = Literal["first-seen", "seen", "kept", ""]
"""What an entry did to its device, where no contact changed and the feed tells nothing. first-seen: it is the first event of
the device. seen: the device was known. kept: its metadata stay with the device until an event identifies it."""


class Did(NamedTuple):
    """What an entry did. `is_known` is False if the feed no longer tells."""

    changes: list[Change]
    rejection: tuple[str, str] | None
    """The reason and the detail."""
    is_known: bool = True
    only_device: OnlyDevice = ""


class Said(msgspec.Struct, rename="camel", gc=False):
    """What an event says, as far as it is shown. It may be anything, since nobody has checked it."""

    type: Any = None
    visitor_id: Any = None
    external_id: Any = None
    email: Any = None
    contact_id: Any = None
    source: Any = None
    by: Any = None
    name: Any = None
    metadata: Any = None
    unset: Any = None
    context: Any = None
    entries: Any = None


class Seen:
    """An entry of the log. `did` is None until the projector has folded it."""

    __slots__ = ("added", "did", "entry", "event", "gap", "said", "settled", "size")

    def __init__(self, entry: str, event: bytes | None) -> None:
        self.entry = entry
        self.event = None if event is None else event[:KEPT_BYTES]
        """The beginning of the event; None if the entry has none."""
        self.size = 0 if event is None else len(event)
        self.said = _said(event) if event is not None and self.size <= MAX_EVENT_BYTES else Said()
        self.did: Did | None = None
        self.gap = 0
        """How many entries before this one are left out."""
        self.added = self.settled = 0
        """The numbers of the reads that found the entry, and what it did."""


class Look(NamedTuple):
    """The newest entries, oldest first, and how far the streams were read."""

    entries: list[Seen]
    changes: dict[str, list[Change]]
    rejects: dict[str, tuple[str, str]]
    only_devices: dict[str, OnlyDevice]
    folded: tuple[int, int]
    """The position of the projector."""
    told_from: tuple[int, int]
    """What earlier entries did is not known."""
    reached: "Reached"
    log: bytes | None
    """Which rewriting of the log this is: an erasure makes another one."""


class Reached(NamedTuple):
    """The last entry read of the log, of the feed and of the rejects, and how many entries the log ever had."""

    event: str = ""
    change: str = ""
    reject: str = ""
    added: int = 0


_decode: Final = msgspec.json.Decoder(Change).decode
_decode_event: Final = msgspec.json.Decoder(Said).decode


async def look(client: Client, workspace: str, since: Reached, count: int, waiting: Iterable[Seen] = ()) -> Look:
    """Read the newest entries after `since`, up to `count`, and what they and those that wait did. Raises RedisError."""
    log, feed, rejects = (key(workspace, name) for name in ("events", "changes", "rejects"))
    pipeline = client.pipeline(transaction=True)
    pipeline.xrevrange(log, min=f"({since.event}" if since.event else "-", count=count)
    pipeline.xrevrange(feed, min=f"({since.change}" if since.change else "-", count=_CHANGES)
    pipeline.xrevrange(rejects, min=f"({since.reject}" if since.reject else "-", count=_REJECTS)
    pipeline.hmget(key(workspace, "position"), "stream_id", "log")
    pipeline.xinfo_stream(log)
    events, changed, rejected, position, info = await pipeline.execute(raise_on_error=False)
    for reply in (events, changed, rejected, position):
        if isinstance(reply, Exception):
            raise reply
    folded, rewriting = position
    added = 0 if isinstance(info, ResponseError) else info["entries-added"]
    entries = [Seen(entry.decode(), fields.get(EVENT_FIELD)) for entry, fields in reversed(events)]
    if entries and since.event:
        entries[0].gap = max(0, added - since.added - len(entries))
    changes: dict[str, list[Change]] = {}
    for _, fields in reversed(changed):
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            change = _decode(fields.get(b"change", b""))
            changes.setdefault(change.cause, []).append(change)
    found: dict[str, tuple[str, str]] = {}
    for _, fields in rejected:
        entry, reason, detail = (fields.get(name, b"").decode(errors="replace") for name in (b"entry", b"reason", b"detail"))
        found[entry] = reason, detail
    oldest = next(iter(changes), "")
    told_from = _position(oldest) if len(changed) == _CHANGES else (-1, 0)
    reached = Reached(
        entries[-1].entry if entries else since.event,
        changed[0][0].decode() if changed else since.change,
        rejected[0][0].decode() if rejected else since.reject,
        added,
    )
    folded_to = _position((folded or b"").decode())
    silent = [
        each
        for each in (*waiting, *entries)
        if told_from < position_key(each.entry) <= folded_to and each.entry not in changes and each.entry not in found
    ]
    only_devices = await _only_devices(client, workspace, silent)
    return Look(entries, changes, found, only_devices, folded_to, told_from, reached, rewriting)


async def _only_devices(client: Client, workspace: str, silent: Iterable[Seen]) -> dict[str, OnlyDevice]:
    """What entries without a change on the feed did to their devices, by entry."""
    named = {
        each.entry: (each, id_key(each.said.visitor_id))
        for each in silent
        if each.said.type in {"VisitorSeen", "MetadataSet"} and isinstance(each.said.visitor_id, str)
    }
    ids = list(dict.fromkeys(visitor_id for _, visitor_id in named.values()))
    visitors = {each.id: each for each in await StateQueries(client, workspace).visitors(ids)}
    found: dict[str, OnlyDevice] = {}
    begun = set[str]()
    for entry, (seen, visitor_id) in named.items():
        visitor, at = visitors.get(visitor_id), _seen_at(seen)
        if visitor is None:
            continue
        if seen.said.type == "MetadataSet":
            found[entry] = "" if any(each.since < at for each in visitor.links) else "kept"
        elif visitor_id not in begun and at == visitor.first_seen_at:
            begun.add(visitor_id)  # another event in the same millisecond is not the first
            found[entry] = "first-seen"
        else:
            found[entry] = "seen"
    return found


def _seen_at(seen: Seen) -> str:
    """The effective time of an event; that of its entry if the event is too long to be held."""
    if seen.event is not None and len(seen.event) == seen.size:
        entry = read_entry(seen.entry.encode(), {EVENT_FIELD: seen.event})
        if isinstance(entry, Entry):
            return entry.seen_at
    return to_text(min(position_key(seen.entry)[0], LAST_MS))


def settle(entry: Seen, found: Look) -> bool:
    """Note what an entry did, if it is folded. Returns whether it is."""
    at = position_key(entry.entry)
    if at > found.folded:
        return False
    changes, rejection = found.changes.get(entry.entry, []), found.rejects.get(entry.entry)
    is_known = bool(changes or rejection or at > found.told_from)
    entry.did = Did(changes, rejection, is_known, found.only_devices.get(entry.entry, ""))
    return True


class LogWatch:
    """One workspace's watch in this process."""

    def __init__(self, client: Client, workspace: str) -> None:
        self._client: Final = client
        self._workspace: Final = workspace
        self._ring: Final[deque[Seen]] = deque(maxlen=RING)
        self._waiting: Final[dict[str, Seen]] = {}
        self._reached = Reached()
        self._log: bytes | None = None
        self._number = 0
        self._watchers: Final[set[asyncio.Event]] = set()
        self._reader: asyncio.Task[None] | None = None

    @property
    def is_reading(self) -> bool:
        """Whether the log is being read, because somebody watches."""
        return self._reader is not None and not self._reader.done()

    async def watch(self, since: str) -> AsyncGenerator[tuple[list[Seen], list[Seen]]]:
        """Yield the entries after `since`, oldest first, and earlier ones that are folded now. Nothing for a while: empty."""
        wake = asyncio.Event()
        self._watchers.add(wake)
        try:
            if not self.is_reading:
                await self._begin()
            after, number = position_key(since), self._number
            recent = list(self._ring)
            yield (
                [each for each in recent if position_key(each.entry) > after],
                [each for each in recent[-_AT_ONCE:] if each.did is not None and position_key(each.entry) <= after],
            )
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(15):
                        await wake.wait()
                wake.clear()
                recent, seen, number = list(self._ring), number, self._number
                new = [each for each in recent if each.added > seen]
                yield new, [each for each in recent if each.settled > seen >= each.added]
        finally:
            self._watchers.discard(wake)

    async def stop(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            await end_tasks([self._reader])

    async def _begin(self) -> None:
        self._ring.clear()
        self._waiting.clear()
        found = await look(self._client, self._workspace, Reached(), _AT_ONCE)
        if not self.is_reading:  # nobody else has begun meanwhile
            self._take(found)
            self._reader = asyncio.create_task(self._read(), name=f"watch of {self._workspace}", context=Context())

    async def _read(self) -> None:
        while self._watchers:
            try:
                await asyncio.sleep(_POLL_S)
                waiting = list(self._waiting.values())
                self._take(await look(self._client, self._workspace, self._reached, _AT_ONCE, waiting))
            except Exception as error:  # noqa: BLE001  the watchers would wait for a task that has ended
                report_failure("log cannot be watched", error, workspace=self._workspace)
                await asyncio.sleep(_RETRY_S)
        self._ring.clear()  # nothing of anybody stays in memory when nobody watches
        self._waiting.clear()

    def _take(self, found: Look) -> None:
        if found.log != self._log:  # people may be erased
            self._ring.clear()
            self._waiting.clear()
        self._log, self._reached = found.log, found.reached
        self._number += 1
        for each in found.entries:
            each.added = self._number
            self._ring.append(each)
            self._waiting[each.entry] = each
        settled = [each for each in self._waiting.values() if settle(each, found)]
        for each in settled:
            each.settled = self._number
            del self._waiting[each.entry]
        while len(self._waiting) > RING:
            del self._waiting[next(iter(self._waiting))]
        if found.entries or settled:
            for wake in self._watchers:
                wake.set()


def _said(event: bytes) -> Said:
    try:
        return _decode_event(event)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Said()


def _position(text: str) -> tuple[int, int]:
    try:
        return position_key(text)
    except ValueError:
        return -1, 0  # `replay` as a cause
