"""Putting people right by hand: a form, a preview of what will change, and the correction with a way back.

Every step is a page, so it works without JavaScript. The preview's form carries the event that will be appended and the version
of the contact that it was made for, so nobody confirms what they have not seen.
"""

import contextlib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import sqlalchemy as sa
from litestar import Request, Response, get, post
from litestar.params import FromPath, QueryParameter

from kinfold_schemas.codec import decode_event, encode_event
from kinfold_schemas.contacts import Contact
from kinfold_schemas.events import Event, EventsExcluded, IdentityCorrected
from kinfold_schemas.positions import position_key
from kinfold_schemas.rejections import Rejection
from kinfold_schemas.times import LAST_MS, to_text
from kinfold_services.corrections.appending import Moved, Refused, append
from kinfold_services.corrections.preview import ContactChange, Preview
from kinfold_services.corrections.preview import preview as preview_of
from kinfold_services.corrections.undoing import TakenBack
from kinfold_services.directory.errors import DirectoryUnavailable
from kinfold_services.directory.query import Query
from kinfold_services.directory.reading import NoContact, read_timeline
from kinfold_services.directory.search import search
from kinfold_services.gateway.correcting import taken_back
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.screen.correction_forms import MAX_FIELDS, MAX_REASON_CHARS, checked, event_of, filled, typed_of
from kinfold_services.gateway.screen.events import logged_event
from kinfold_services.gateway.screen.facts import Fact, compared
from kinfold_services.gateway.screen.pages import page, redirect
from kinfold_services.gateway.screen.people import Words, chrome, now_ms
from kinfold_services.gateway.screen.person import living
from kinfold_services.gateway.screen.sessions import form_of, reason_of, require_secret, session_of, workspace_of
from kinfold_services.gateway.screen.stories import told
from kinfold_services.gateway.workspaces import GatewayWorkspace, shared
from kinfold_services.state.queries import NotFolded

CANDIDATES: Final = 10
"""How many people a search for somebody to merge with shows."""
MAX_SHOWN: Final = 10
"""How many people a preview shows."""
MAX_FACTS: Final = 30
"""How many facts of each it shows."""

_MAX_FORM_BYTES: Final = 512 * 1024
_SEARCHED: Final = 500
_TAKEN_BACK_DEPTH: Final = 3
"""An undo of an undo of an undo still names the people whom the first event named."""
_decode_contact: Final = msgspec.json.Decoder(Contact).decode
_decode_taken_back: Final = msgspec.json.Decoder(TakenBack).decode


class Shown(NamedTuple):
    """A person in a preview: who, and what changes of them."""

    contact: Contact
    facts: list[Fact]
    more: int
    """How many facts are left out."""
    merged_into: str | None
    is_new: bool
    is_gone: bool


@get("/people/{contact_id:str}/correct")
async def correct(request: Request[Any, Any, Any], contact_id: FromPath[str]) -> Response[bytes]:
    """The form with the name, the identifiers and the metadata of a person."""
    require_secret(request)
    return _form(request, await living(workspace_of(request), contact_id))


@get("/people/{contact_id:str}/merge")
async def merge(request: Request[Any, Any, Any], contact_id: FromPath[str], q: Words = None) -> Response[bytes]:
    """Search for the person to merge with."""
    require_secret(request)
    workspace = workspace_of(request)
    contact = await living(workspace, contact_id)
    found: list[Contact] = []
    if q and q.strip():
        query, name, at = Query(q=q.strip(), limit=CANDIDATES + 1), workspace.name, now_ms()
        answer = await workspace.directory.ask(lambda connection: search(connection, name, query, at))
        found = [each for each in map(_decode_contact, answer.records) if each.id != contact.id][:CANDIDATES]
    return page(request, "merge.html", **chrome(request), contact=contact, q=(q or "").strip(), found=found)


@post("/people/{contact_id:str}/preview")
async def preview(request: Request[Any, Any, Any], contact_id: FromPath[str]) -> Response[bytes]:
    """What a correction would change, before it is done."""
    require_secret(request)
    fields = await form_of(request, _MAX_FORM_BYTES, MAX_FIELDS)
    workspace = workspace_of(request)
    contact = await living(workspace, contact_id)
    version = fields.get("version")
    if version is not None and version != str(contact.version):
        return _form(request, contact, "Somebody has changed this person meanwhile. This is how they are now: correct that.")
    try:
        event = event_of(fields, contact, session_of(request).session.by)
    except Problem as problem:
        if fields.get("action") != "set":
            raise
        return _form(request, contact, str(problem.detail), fields)
    found = await preview_of(workspace.client, workspace.name, await workspace.rules(), event)
    if fields.get("action") == "set" and found.rejection is not None and found.rejection.reason != "held-by-another":
        return _form(request, contact, f"This cannot be done. {found.rejection.detail}", fields)
    return await _preview(request, workspace, event, found, is_inbox=_is_inbox(fields))


@post("/corrections")
async def confirm(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Append the correction that was previewed, unless the person has changed since."""
    require_secret(request)
    fields = await form_of(request, _MAX_FORM_BYTES)
    workspace = workspace_of(request)
    event = checked(fields.get("event", "").encode(errors="replace"), session_of(request).session.by)
    version = fields.get("version", "")
    if not version.isdecimal():
        raise Problem(400, f"version: expected that of the preview, got {version!r}")
    try:
        done = await append(workspace.client, workspace.name, await workspace.rules(), event, if_version=int(version))
    except Refused:
        return await _preview(request, workspace, event, is_inbox=_is_inbox(fields))
    except Moved:
        warning = "This person has changed since the preview, so nothing was done. This is what it would change now."
        return await _preview(request, workspace, event, warning=warning, is_inbox=_is_inbox(fields))
    if done.position is None:
        return redirect(f"/people/{event.contact_id}")
    shared(request).metrics.events.labels(workspace.name, IdentityCorrected.__name__).inc()
    with contextlib.suppress(NotFolded):  # the page says so
        await workspace.wait_until_in_directory(done.position)
    return redirect(f"/corrections/{done.position}{'?from=conflicts' if _is_inbox(fields) else ''}")


@get("/corrections/{entry:str}")
async def correction(
    request: Request[Any, Any, Any],
    entry: FromPath[str],
    came_from: Annotated[Literal["", "conflicts"], QueryParameter(name="from")] = "",
) -> Response[bytes]:
    """A correction in the log: who made it, why, what it did, and the way back."""
    workspace = workspace_of(request)
    data = await logged_event(workspace, entry)
    event = decode_event(data)
    if not isinstance(event, IdentityCorrected | EventsExcluded):
        raise Problem(404, f"The entry {entry!r} of the log is not a correction.")
    contact = None if isinstance(event, EventsExcluded) else await workspace.queries.contact(event.contact_id)
    shown: dict[str, Any] = {
        "entry": entry,
        "at": to_text(min(position_key(entry)[0], LAST_MS)),
        "who": event.by,
        "reason": event.reason,
        "is_undo": isinstance(event, EventsExcluded),
        "entries": event.entries if isinstance(event, EventsExcluded) else [],
        "contact": contact,
        "changes": [] if contact is None else await _changes_of(workspace, contact.id, entry),
        "event": msgspec.json.format(data, indent=2).decode(),
        "people": list((await _named(workspace, event)).values()) if isinstance(event, EventsExcluded) else [],
        "is_inbox": came_from == "conflicts",
    }
    return page(request, "correction.html", **chrome(request), **shown)


@post("/corrections/{entry:str}/undo")
async def undo(request: Request[Any, Any, Any], entry: FromPath[str]) -> Response[bytes]:
    """Take a correction back: first what that would change, and then, with `confirm`, do it."""
    return await _take_back(request, "undo", entry, f"/corrections/{entry}")


@post("/people/{contact_id:str}/unmerge")
async def unmerge(request: Request[Any, Any, Any], contact_id: FromPath[str]) -> Response[bytes]:
    """Take back the events that merged somebody into another person. The id is that of the merged one."""
    return await _take_back(request, "unmerge", contact_id, f"/people/{contact_id}")


async def _named(workspace: GatewayWorkspace, event: Event | Rejection, depth: int = _TAKEN_BACK_DEPTH) -> dict[str, Contact]:
    """The people whom an event names, as they are now. For an event that takes entries back: those whom the entries name."""
    found: dict[str, Contact] = {}
    if isinstance(event, EventsExcluded):
        for entry in event.entries[:MAX_SHOWN] if depth else ():
            with contextlib.suppress(Problem):  # a retention may have trimmed it
                found |= await _named(workspace, decode_event(await logged_event(workspace, entry)), depth - 1)
        return found
    queries = workspace.queries
    for field, find in (
        ("contact_id", queries.contact),
        ("merge_contact_id", queries.contact),
        ("external_id", queries.contact_by_external_id),
        ("email", queries.contact_by_email),
        ("visitor_id", queries.contact_by_visitor),
        ("unlink_visitor_id", queries.contact_by_visitor),
    ):
        given = getattr(event, field, None)
        if isinstance(given, str) and (contact := await find(given)) is not None:
            found[contact.id] = contact
    return found


async def _changes_of(workspace: GatewayWorkspace, contact_id: str, entry: str) -> list[Any]:
    """What an entry did to a person, in the words of the timeline."""

    def ask(connection: sa.Connection) -> list[Any]:
        entries = read_timeline(connection, workspace.name, contact_id, _SEARCHED).timeline
        return [change for event in told(entries, contact_id) if event.cause == entry for change in event.changes]

    try:
        return await workspace.directory.ask(ask)
    except (DirectoryUnavailable, NoContact):
        return []


def _form(
    request: Request[Any, Any, Any], contact: Contact, error: str | None = None, typed: Mapping[str, str] | None = None
) -> Response[bytes]:
    """The form of a contact: as they are, or with what was typed. An error that comes with what was typed is about that."""
    status = 200 if error is None else 409 if typed is None else 422
    return page(
        request,
        "correct.html",
        status=status,
        **chrome(request),
        contact=contact,
        form=filled(contact, typed or {}),
        error=error,
    )


def _is_inbox(fields: Mapping[str, str]) -> bool:
    """Whether a form comes from the conflicts, where the person who corrects goes on afterwards."""
    return fields.get("from") == "conflicts"


async def _preview(  # noqa: PLR0913  what differs from page to page, by name
    request: Request[Any, Any, Any],
    workspace: GatewayWorkspace,
    event: IdentityCorrected,
    found: Preview | None = None,
    *,
    warning: str | None = None,
    is_inbox: bool = False,
) -> Response[bytes]:
    if found is None:
        found = await preview_of(workspace.client, workspace.name, await workspace.rules(), event)
    rejection = found.rejection
    contact = await workspace.queries.contact(event.contact_id)
    taker: bytes | None = None
    if rejection is not None and rejection.reason == "held-by-another":
        taker = encode_event(msgspec.structs.replace(event, take=True))
    other = None
    if event.merge_contact_id is not None:
        other = await workspace.queries.contact(event.merge_contact_id)
    shown: dict[str, Any] = {
        "contact": contact,
        "contact_id": event.contact_id,
        "other": other,
        "found": found,
        "people": _people(found.contacts),
        "more": max(0, len(found.contacts) - MAX_SHOWN),
        "title": _title(event),
        "event": encode_event(event).decode(),
        "version": found.version,
        "reason": event.reason,
        "rejection": rejection,
        "taker": None if taker is None else taker.decode(),
        "holder": await _holder(workspace, event, found),
        "warning": warning,
        "is_inbox": is_inbox,
        "dismissed": event.dismiss_conflict,
    }
    status = 409 if warning is not None else 200 if rejection is None else 422
    return page(request, "correction_preview.html", status=status, **chrome(request), **shown)


async def _holder(workspace: GatewayWorkspace, event: IdentityCorrected, found: Preview) -> Contact | None:
    """Who has the address or the external id that the correction is refused for."""
    if found.rejection is None or found.rejection.reason != "held-by-another":
        return None
    for value, find in (
        (event.email, workspace.queries.contact_by_email),
        (event.external_id, workspace.queries.contact_by_external_id),
    ):
        if isinstance(value, str) and (holder := await find(value)) is not None and holder.id != found.contact_id:
            return holder
    return None


@post("/corrections/take")
async def take(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The preview again, now of taking the address or the external id from the person who has it."""
    require_secret(request)
    fields = await form_of(request, _MAX_FORM_BYTES)
    event = checked(fields.get("event", "").encode(errors="replace"), session_of(request).session.by)
    return await _preview(request, workspace_of(request), event)


@post("/corrections/edit")
async def edit(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The form again that made a correction, with what was typed into it."""
    require_secret(request)
    fields = await form_of(request, _MAX_FORM_BYTES)
    event = checked(fields.get("event", "").encode(errors="replace"), session_of(request).session.by)
    contact = await living(workspace_of(request), event.contact_id)
    return _form(request, contact, typed=typed_of(event, contact))


def _title(event: IdentityCorrected) -> str:
    if event.merge_contact_id is not None:
        return "Merge two people"
    if event.unlink_visitor_id is not None:
        return "Unlink a device"
    return "Dismiss the conflict" if event.dismiss_conflict is not None else "Correct a person"


def _people(changes: list[ContactChange]) -> list[Shown]:
    shown: list[Shown] = []
    for change in changes[:MAX_SHOWN]:
        contact = change.before or change.after  # called what they are called when somebody reads it
        if contact is None:
            continue
        facts = [] if change.after is None else [each for each in compared(change.before, change.after) if not each.is_same]
        if change.before and change.after and change.before.visitor_count != change.after.visitor_count:
            facts.append(Fact("Devices", change.before.visitor_count, change.after.visitor_count, is_same=False))
        is_gone = change.after is None and change.merged_into is None
        more = max(0, len(facts) - MAX_FACTS)
        shown.append(Shown(contact, facts[:MAX_FACTS], more, change.merged_into, change.before is None, is_gone))
    return shown


async def _take_back(request: Request[Any, Any, Any], command: str, subject: str, back: str) -> Response[bytes]:
    require_secret(request)
    fields = await form_of(request)
    workspace, by = workspace_of(request), session_of(request).session.by
    is_confirmed = bool(fields.get("confirm"))
    reason = reason_of(fields, MAX_REASON_CHARS)
    settings = shared(request).settings.model_copy(update={"workspace": workspace.name})
    answer = await taken_back(settings, command, subject, by=by, reason=reason, dry_run=not is_confirmed)
    taken = _decode_taken_back(answer)
    if is_confirmed and taken.excluded_by is not None:
        with contextlib.suppress(NotFolded):
            await workspace.wait_until_in_directory(taken.excluded_by)
        return redirect(f"/corrections/{taken.excluded_by}")
    if is_confirmed:
        return redirect(back)
    shown: dict[str, Any] = {
        "command": command,
        "subject": subject,
        "back": back,
        "taken": taken,
        "people": _people(taken.contacts),
        "more": max(0, len(taken.contacts) - MAX_SHOWN),
    }
    return page(request, "undo_preview.html", **chrome(request), **shown)
