"""Live: the events of the log as they come in, and what each did."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Annotated, Any, Final, NamedTuple, cast

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream
from litestar.response.sse import ServerSentEventMessage

from kinfold_projections.entries import EVENT_FIELD
from kinfold_schemas.events import BROWSER, EVENT_TYPES
from kinfold_schemas.positions import position_key
from kinfold_schemas.times import LAST_MS, to_text
from kinfold_services.gateway.changes.following import PING_EVERY_S
from kinfold_services.gateway.log_watch import Change, Did, OnlyDevice, Reached, Said, Seen, look, settle
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.screen import words
from kinfold_services.gateway.screen.live import STREAM_HEADERS, Since, event, position_after, still_signed_in
from kinfold_services.gateway.screen.pages import page, render
from kinfold_services.gateway.screen.people import chrome
from kinfold_services.gateway.screen.rejects import reason_words
from kinfold_services.gateway.screen.sessions import workspace_of
from kinfold_services.gateway.workspaces import GatewayWorkspace
from kinfold_services.rejects.retry import editable_text

ROWS: Final = 50
"""How many events a page has at first."""
LOOKS_AT: Final = 500
"""How many events a page with a filter looks at."""

_COLLECT_S: Final = 0.25
_EVENT_BYTES: Final = 1000
"""How much of an event the list shows; the page of the event has all."""
_WHOLE_BYTES: Final = 64 * 1024
_MAX_CHARS: Final = 80
_MAX_PARTS: Final = 4
_NAMES: Final = {"email": "e-mail", "externalId": "external id"}
_ONLY_DEVICE: Final[dict[OnlyDevice, str]] = {
    "first-seen": "First seen",
    "seen": "Seen again",
    "kept": "Kept with the device until it is identified",
    "": "",
}

Type = Annotated[str | None, QueryParameter(name="type", max_length=64)]
Who = Annotated[str | None, QueryParameter(name="who", max_length=320)]
Text = Annotated[str | None, QueryParameter(name="text", max_length=200)]


class Wanted(NamedTuple):
    """Which events to show. Case does not matter."""

    type: str = ""
    who: str = ""
    """A part of an identifier that the event names."""
    text: str = ""
    """A part of the event as it is written."""

    @classmethod
    def of(cls, kind: str | None, who: str | None, text: str | None) -> "Wanted":
        """The filter that the parameters describe."""
        return cls((kind or "").strip(), (who or "").strip().casefold(), (text or "").strip().casefold())

    def wants(self, seen: Seen) -> bool:
        """Whether to show an event."""
        if self.type and seen.said.type != self.type:
            return False
        if self.who and not any(self.who in name.casefold() for _, name in _names(seen)):
            return False
        return not self.text or self.text in (seen.event or b"").decode(errors="replace").casefold()


class Row(NamedTuple):
    """An event on the page. `mood` is `good` if it changed somebody, `bad` if it was rejected, `quiet` or `waiting`."""

    entry: str
    at: str
    type: str
    names: list[tuple[str, str]]
    said: list[str]
    source: str
    mood: str
    did: list[str]
    person: tuple[str, str] | None
    """The id and the title of the contact."""
    event: str
    is_cut: bool
    gap: int


@get("/live")
async def events(request: Request[Any, Any, Any], kind: Type = None, who: Who = None, text: Text = None) -> Response[bytes]:
    """The last events, newest first. With JavaScript, new ones come in above."""
    wanted = Wanted.of(kind, who, text)
    workspace = workspace_of(request)
    found = await look(workspace.client, workspace.name, Reached(), LOOKS_AT if any(wanted) else ROWS)
    for each in found.entries:
        settle(each, found)
    shown: dict[str, Any] = {
        "rows": [_row(each) for each in reversed(found.entries) if wanted.wants(each)][:ROWS],
        "since": found.reached.event or "0-0",
        "has_events": bool(found.entries),
        "looked_at": len(found.entries),
        "wanted": Wanted(kind or "", who or "", text or ""),
        "types": EVENT_TYPES,
    }
    return page(request, "events.html", **chrome(request), **shown)


async def logged_event(workspace: GatewayWorkspace, entry: str) -> bytes:
    """The event of a log entry, as it is in the log; empty if the entry has none. Raises Problem (404)."""
    fields = await workspace.entry(entry)
    if fields is None:
        raise Problem(404, f"The log has no entry {entry!r}.")
    return fields.get(EVENT_FIELD, b"")


@get("/live/{entry:str}")
async def one_event(request: Request[Any, Any, Any], entry: FromPath[str]) -> Response[bytes]:
    """One event in full."""
    event = await logged_event(workspace_of(request), entry)
    shown: dict[str, Any] = {
        "entry": entry,
        "at": to_text(min(position_key(entry)[0], LAST_MS)),
        "event": editable_text(event[:_WHOLE_BYTES]),
        "size": len(event),
        "is_cut": len(event) > _WHOLE_BYTES,
    }
    return page(request, "event.html", **chrome(request), **shown)


@get("/live/events")
async def live_events(
    request: Request[Any, Any, Any], since: Since, kind: Type = None, who: Who = None, text: Text = None
) -> Stream:
    """`entries`: new events, as rows. An event with an entry's id for a name: its row, now that it is folded."""
    stream = _events(request, workspace_of(request), Wanted.of(kind, who, text), position_after(request, since))
    return Stream(stream, media_type="text/event-stream", headers=STREAM_HEADERS)


async def _events(
    request: Request[Any, Any, Any], workspace: GatewayWorkspace, wanted: Wanted, after: str
) -> AsyncGenerator[bytes]:
    is_allowed, asked_at = still_signed_in(request), time.monotonic()
    async with contextlib.aclosing(workspace.watch.watch(after)) as watched:
        yield b": connected\n\n"
        async for new, settled in watched:
            if workspace.hub.is_closing:
                return
            gap = sum(each.gap for each in new)
            shown = [each for each in new if wanted.wants(each)]
            said = b""
            if shown or gap:
                rows = "".join(render("_event_row.html", row=_row(each)) for each in reversed(shown))
                said += event("entries", rows + (render("_event_gap.html", gap=gap) if gap else ""))
            for each in settled:
                if wanted.wants(each):
                    said += event(each.entry, render("_event.html", row=_row(each)))
            if new:
                said += ServerSentEventMessage(id=new[-1].entry, comment="so far").encode()
            yield said or b": still here\n\n"
            if time.monotonic() - asked_at > PING_EVERY_S:
                asked_at = time.monotonic()
                if not await is_allowed():
                    return
            await asyncio.sleep(_COLLECT_S)


def _row(seen: Seen) -> Row:
    said, did = seen.said, seen.did
    mood, sentences, person = "waiting", ["Not folded yet"], None
    if did is not None and did.rejection is not None:
        reason, detail = did.rejection
        named = reason_words(reason)[0]
        mood, sentences = "bad", [f"Rejected, {named[:1].lower()}{named[1:]}: {detail}"]
    elif did is not None and did.changes:
        is_visit = all(each.type == "ContactSeen" for each in did.changes)
        mood, sentences = "quiet" if is_visit else "good", list(dict.fromkeys(_sentences(did.changes)))
        newest = did.changes[-1].contact
        if newest is not None:
            person = newest.id, newest.name or newest.email or newest.external_id or newest.id
    elif did is not None:
        mood, sentences = "good" if did.only_device == "first-seen" else "quiet", [_without_change(said, did)]
    ms = min(position_key(seen.entry)[0], LAST_MS)
    is_text = isinstance(said.type, str)
    return Row(
        entry=seen.entry,
        at=to_text(ms),
        type=said.type[:_MAX_CHARS] if is_text else "Unreadable event" if seen.event is not None else "No event",
        names=[(label, name[:_MAX_CHARS]) for label, name in _names(seen)],
        said=list(_parts(seen)),
        source="page" if said.source == BROWSER else f"by {said.by[:_MAX_CHARS]}" if isinstance(said.by, str) else "",
        mood=mood,
        did=sentences,
        person=person,
        event=_pretty(seen),
        is_cut=seen.size > _EVENT_BYTES,
        gap=seen.gap,
    )


def _names(seen: Seen) -> Iterator[tuple[str, str]]:
    said = seen.said
    named = (
        ("e-mail", said.email),
        ("external id", said.external_id),
        ("contact", said.contact_id),
        ("device", said.visitor_id),
    )
    return ((label, name) for label, name in named if isinstance(name, str) and name)


def _parts(seen: Seen) -> Iterator[str]:
    """What the event says besides names, in short."""
    said = seen.said
    url = _members(said.context).get("url")
    if isinstance(url, str):
        yield url[:_MAX_CHARS]
    if isinstance(said.name, str):
        yield f"name = {said.name[:_MAX_CHARS]}"
    pairs = list(_members(said.metadata).items())
    for name, value in pairs[:_MAX_PARTS]:
        yield f"{name[:_MAX_CHARS]} = {words.value(value)[:_MAX_CHARS]}"
    if len(pairs) > _MAX_PARTS:
        yield f"and {len(pairs) - _MAX_PARTS} more"
    if isinstance(said.unset, list):
        yield from (f"{str(name)[:_MAX_CHARS]} removed" for name in cast("list[object]", said.unset)[:_MAX_PARTS])


def _members(given: object) -> dict[str, Any]:
    """The members of an object; none if it is something else."""
    return cast("dict[str, Any]", given) if isinstance(given, dict) else {}


def _sentences(changes: Iterable[Change]) -> Iterator[str]:  # noqa: C901  one for each type of change
    for change in changes:
        match change.type:
            case "ContactCreated":
                yield "Created the contact"
            case "ContactUpdated":
                names = [_NAMES.get(each, each.removeprefix("metadata.")) for each in change.changed]
                shown = [name for name in names if name not in {"visitorIds", "visitorCount", "metadataHash"}]
                listed = ", ".join(shown[:_MAX_PARTS]) + (f" and {len(shown) - _MAX_PARTS} more" if shown[_MAX_PARTS:] else "")
                yield f"Changed {listed}" if shown else "Changed the order of the devices"
            case "VisitorLinked":
                yield f"Linked {words.short(change.visitor_id or 'a device')}"
            case "VisitorUnlinked":
                yield f"Unlinked {words.short(change.visitor_id or 'a device')}"
            case "ContactsMerged":
                yield "Merged two people into one"
            case "IdentityConflict":
                yield f"Conflict: somebody else has {change.email}"
            case "ConflictDismissed":
                yield f"Dismissed the conflict about {change.email}"
            case "ContactSeen":
                yield "Seen"
            case "ContactGone":
                yield "Removed the contact"
            case "ContactErased":
                yield "Erased the contact"
            case other:
                yield other


def _without_change(said: Said, did: Did) -> str:
    """What an entry did that changed no contact, so the feed tells nothing about it."""
    match said.type:
        case "EventsExcluded":
            entries = cast("list[object]", said.entries) if isinstance(said.entries, list) else []
            shown = ", ".join(str(each)[:_MAX_CHARS] for each in entries[:_MAX_PARTS])
            more = f" and {len(entries) - _MAX_PARTS} more" if len(entries) > _MAX_PARTS else ""
            return f"Events excluded: {shown}{more}. The next replay leaves them out" if entries else "No events excluded"
        case "SubjectErased":
            return "Recorded that a person was erased"
        case "Erased":
            return "Erased"
        case _:
            return _ONLY_DEVICE[did.only_device] or ("Nothing new" if did.is_known else "Folded")


def _pretty(seen: Seen) -> str:
    event = (seen.event or b"")[:_EVENT_BYTES]
    with contextlib.suppress(ValueError):
        if len(event) == seen.size:
            return msgspec.json.format(event.decode(), indent=2)
    return event.decode(errors="backslashreplace")
