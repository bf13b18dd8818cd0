"""Rejects: events that could not be folded, why, and how to put them right."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, Literal, NamedTuple

from litestar import Request, Response, get, post
from litestar.params import FromPath, QueryParameter

from kinfold_projections.entries import EVENT_FIELD
from kinfold_schemas.positions import position_key
from kinfold_schemas.rejections import Rejection
from kinfold_schemas.times import LAST_MS, to_text
from kinfold_services.connections import Client, connect
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.screen.pages import page, redirect
from kinfold_services.gateway.screen.people import chrome
from kinfold_services.gateway.screen.sessions import form_of, require_secret, session_of, workspace_of
from kinfold_services.gateway.workspaces import ANSWER_S, shared
from kinfold_services.rejects.browsing import Found, RejectReader
from kinfold_services.rejects.retry import RejectedEntry, Rejects, compact, editable_text
from kinfold_services.server.choice import server_url

ROWS: Final = 30
"""How many rejects a page has."""
PREVIEW_CHARS: Final = 300
SHOWN_BYTES: Final = 64 * 1024
"""The page of one reject shows this much of each field."""

_MAX_FORM_BYTES: Final = 4 * SHOWN_BYTES
"""A form encodes every character of JSON that is not a letter as three."""

REASONS: Final = {
    "not-json": ("Not JSON", "The bytes of the event are not valid JSON."),
    "no-event-field": ("No event", "The entry of the log has no field `event`."),
    "unknown-type": ("Unknown type", "No event has this type. The type may be misspelt, or the projector too old for it."),
    "invalid": ("Invalid", "A field of the event is missing or has a wrong value."),
    "too-large": ("Too large", "An event has at most 64 KiB. Send less metadata, or several events."),
    "blocked-identifier": ("Blocked identifier", "All identifiers are placeholders, or this workspace blocks them."),
    "no-identifier": ("No identifier", "The event names nobody: no visitor, no external id and no e-mail."),
    "unknown-contact": ("Unknown contact", "The event names a person who did not exist when it came."),
    "hash-mismatch": ("Hash mismatch", "The event's hash is not that of its metadata, so it was changed on its way."),
    "not-allowed": ("Not allowed", "A page sent a correction. Only a secret key or the command line may."),
    "held-by-another": ("Held by another", "The correction sets an address or external id that another contact has."),
    "refused-by-server": ("Refused by the server", "Redis did not accept what the event would store, because of its size."),
}
"""The reasons of the contract (section 7) as people call them, and what each means."""

_HOPELESS: Final = frozenset({"not-json", "too-large"})
"""No event with this reason is ever accepted as it is."""

Identifier = Literal["open", "all"]


class Shown(NamedTuple):
    """A reject on a page."""

    id: str
    entry: str
    at: str
    reason: str
    label: str
    detail: str
    preview: str
    size: int
    is_cut: bool
    settled: str | None
    may_pass: bool
    """Whether the event may be accepted as it is, under other rules or in another state."""


class Field(NamedTuple):
    """A field of a rejected entry as text. Bytes that are not UTF-8 are escaped."""

    name: str
    text: str
    size: int
    is_cut: bool


@get("/rejects")
async def rejects(  # noqa: PLR0913, PLR0917  each is a query parameter
    request: Request[Any, Any, Any],
    status: Annotated[Identifier, QueryParameter(name="status")] = "open",
    reason: Annotated[str | None, QueryParameter(name="reason", max_length=64)] = None,
    before: Annotated[str | None, QueryParameter(name="before", max_length=64)] = None,
    done: Annotated[str | None, QueryParameter(name="done", max_length=64)] = None,
    position: Annotated[str | None, QueryParameter(name="position", max_length=64)] = None,
) -> Response[bytes]:
    """The rejects that are not settled, or all, newest first, with the number of each reason."""
    workspace = workspace_of(request)
    async with _raw_client(request) as client:
        reader = RejectReader(client, workspace.name)
        try:
            found = await reader.page(before, reason or None, ROWS, settled=status == "all")
        except ValueError as error:
            raise Problem(400, f"before: {error}") from error
        counted = await reader.reasons(settled=status == "all")
    shown: dict[str, Any] = {
        "rejects": [_shown(each) for each in found.found],
        "next_id": found.next_id,
        "reasons": [(name, *reason_words(name), count) for name, count in counted.counts],
        "total": sum(count for _, count in counted.counts),
        "counted": counted,
        "reason": reason or None,
        "which": status,
        "before": before,
        "done": done,
        "done_as": position,
    }
    return page(request, "rejects.html", **chrome(request), **shown)


@get("/rejects/{reject_id:str}")
async def reject(request: Request[Any, Any, Any], reject_id: FromPath[str]) -> Response[bytes]:
    """One reject in full, with its event to edit."""
    async with _raw_client(request) as client:
        found = await _find(RejectReader(client, workspace_of(request).name), reject_id)
    return _page_of(request, found)


@post("/rejects/{reject_id:str}/retry")
async def retry(request: Request[Any, Any, Any], reject_id: FromPath[str]) -> Response[bytes]:
    """Append the event again, as it was or as it was edited. The event records who did it (`by`)."""
    require_secret(request)
    fields = await form_of(request, _MAX_FORM_BYTES)
    workspace, by = workspace_of(request), session_of(request).session.by
    edited = fields.get("event")
    async with _raw_client(request) as client:
        found = await _find(RejectReader(client, workspace.name), reject_id)
        event = found.reject.event if edited is None else compact(edited.encode(errors="replace"))
        if event is None:
            raise Problem(400, "The entry has no event to append. Write one on the page of the reject.")
        outcome = await Rejects(client, workspace.name).retry(found.reject, event, by)
    if isinstance(outcome, Rejection):
        return _page_of(request, found, outcome, edited)
    return redirect(f"/rejects?done={found.reject.entry}&position={outcome}")


@asynccontextmanager
async def _raw_client(request: Request[Any, Any, Any]) -> AsyncGenerator[Client]:
    """A connection of its own: readers of rejects change how replies are parsed, which would confuse other users of it."""
    async with connect(server_url(shared(request).settings), ANSWER_S) as client:
        yield client


async def _find(reader: RejectReader, reject_id: str) -> Found:
    try:
        found = await reader.one(reject_id)
    except ValueError:
        found = None
    if found is None:
        raise Problem(
            404, f"No reject has the id {reject_id!r}. A replay may have given it another one: look at the list again."
        )
    return found


def _page_of(
    request: Request[Any, Any, Any], found: Found, rejection: Rejection | None = None, edited: str | None = None
) -> Response[bytes]:
    event = found.reject.event
    text = edited
    if text is None and (event is None or len(event) <= SHOWN_BYTES):
        text = editable_text(event)
    shown: dict[str, Any] = {
        "reject": _shown(found),
        "meaning": reason_words(found.reject.reason)[1],
        "fields": [_field(name, value) for name, value in found.reject.fields],
        "text": text,
        "rejection": rejection,
        "rejected_as": None if rejection is None else reason_words(rejection.reason)[0],
    }
    return page(request, "reject.html", status=200 if rejection is None else 422, **chrome(request), **shown)


def reason_words(reason: str) -> tuple[str, str]:
    """The name of a reason and what it means."""
    return REASONS.get(reason, (reason, ""))


def _shown(found: Found) -> Shown:
    reject: RejectedEntry = found.reject
    data = reject.event if reject.event is not None else b" ".join(name + b"=" + value for name, value in reject.fields)
    text = _text(data[:PREVIEW_CHARS])
    ms = min(position_key(reject.entry)[0], LAST_MS)
    return Shown(
        id=found.id,
        entry=reject.entry,
        at=to_text(ms),
        reason=reject.reason,
        label=reason_words(reject.reason)[0],
        detail=reject.detail,
        preview=text,
        size=len(data),
        is_cut=len(data) > PREVIEW_CHARS,
        settled=reject.settled,
        may_pass=reject.event is not None and reject.reason not in _HOPELESS,
    )


def _field(name: bytes, value: bytes) -> Field:
    shown = value[:SHOWN_BYTES]
    text = editable_text(shown) if name == EVENT_FIELD and len(shown) == len(value) else _text(shown)
    return Field(_text(name[:PREVIEW_CHARS]), text, len(value), len(value) > SHOWN_BYTES)


def _text(data: bytes) -> str:
    """Bytes as text. What is not UTF-8, and controls except line breaks and tabs, are written as escapes."""
    text = data.decode(errors="backslashreplace")
    return "".join(each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode() for each in text)
