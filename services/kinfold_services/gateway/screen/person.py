"""A person: who they are, their devices and metadata, what happened to them, and why."""

from collections import deque
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import sqlalchemy as sa
from litestar import Request, Response, get
from litestar.params import FromPath, QueryParameter

from kinfold_projections.entries import EVENT_FIELD
from kinfold_schemas.contacts import Contact, Visitor
from kinfold_schemas.directory import TimelineEntry
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.positions import is_entry_id, position_key
from kinfold_services.connections import Client
from kinfold_services.directory.errors import DirectoryUnavailable, NoDirectory
from kinfold_services.directory.lineage import Former, Lineage, read_lineage
from kinfold_services.directory.reading import NoContact, Timeline, read_timeline
from kinfold_services.gateway.erasures import eraser_of, pending_erasure
from kinfold_services.gateway.log_watch import Seen
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.screen.folding import fold_log
from kinfold_services.gateway.screen.pages import html, is_fragment, page, redirect, render
from kinfold_services.gateway.screen.people import chrome
from kinfold_services.gateway.screen.sessions import workspace_of
from kinfold_services.gateway.screen.stories import Source, origin, sources, told
from kinfold_services.gateway.workspaces import GatewayWorkspace, shared
from kinfold_services.history.explanation import SEEN, Step, Story
from kinfold_services.history.past import Past
from kinfold_services.log.pages import log_extent
from kinfold_services.settings import Settings
from kinfold_services.state.queries import Identifier, StateQueries
from kinfold_services.state.reader import StateReader

MAX_DEVICES: Final = 30
"""How many devices a page shows, those linked most recently."""
ENTRIES: Final = 50
"""How many changes a page of the timeline has."""
STEPS: Final = 25
"""How many events a page of an explanation has."""
MAX_SOURCES: Final = 1000
"""How many changes are searched for the sources of what a page shows, the newest."""
MAX_ORIGINS: Final = 60
"""How many events are read for who sent them."""


_EVENT_CHARS: Final = 1500
"""How much of an event an explanation shows; the page of the event has all."""
_VALUES_CHARS: Final = 30_000
"""How much of all values of the metadata a page shows."""
_FACTS: Final = ("name", "image", "email", "externalId")


class Known(NamedTuple):
    """What the directory knows of a person, or why it cannot be asked."""

    timeline: Timeline | None
    newest: list[TimelineEntry]
    """The newest changes, even if the page shows older ones."""
    lineage: Lineage
    warning: str | None


@get("/people/{contact_id:str}")
async def person(
    request: Request[Any, Any, Any],
    contact_id: FromPath[str],
    cursor: Annotated[str | None, QueryParameter(name="cursor", max_length=4096)] = None,
    merged: Annotated[str | None, QueryParameter(name="merged", max_length=64)] = None,
) -> Response[bytes]:
    """The page of a person. The id of somebody who was merged leads to the living contact."""
    workspace = workspace_of(request)
    contact = await living(workspace, contact_id)
    if contact.id != contact_id:
        path = f"/people/{contact.id}?merged={contact_id}"
        return html(request, "", headers={"HX-Redirect": path}) if is_fragment(request) else redirect(path)
    known = await _known(workspace, contact_id, cursor)
    devices = await workspace.queries.visitors(contact.visitor_ids[:MAX_DEVICES])
    shown = _shown_values(contact, devices, known)
    merges = [each.value for each in shown["merges"]]
    shown["erasure"] = await pending_erasure(eraser_of(request, workspace), contact, merges)
    shown["sources"] = await _sources(workspace, contact, known.newest)
    shown.update(chrome(request), merged=merged)
    if is_fragment(request):
        return html(request, render("_person.html", **shown))
    return page(request, "person.html", **shown)


@get("/people/{contact_id:str}/why")
async def why(
    request: Request[Any, Any, Any],
    contact_id: FromPath[str],
    entry: Annotated[str | None, QueryParameter(name="entry", max_length=64, description="The newest event to show")] = None,
    show: Annotated[
        Literal["all", "changes"], QueryParameter(name="show", description="Leave out what changed nothing")
    ] = "all",
) -> Response[bytes]:
    """Every event that shaped a person, what it did, and the rule for it: `kinfold explain` as pages, newest first."""
    workspace = workspace_of(request)
    contact = await living(workspace, contact_id)
    try:
        upto = None if entry is None else position_key(entry)
    except ValueError as error:
        raise Problem(400, f"entry: {error}") from error
    settings = shared(request).settings.model_copy(update={"workspace": workspace.name})
    steps = await fold_log(
        settings, lambda client, settings: _explain(client, settings, contact.id, upto, changes_only=show == "changes")
    )
    shown: dict[str, Any] = {
        "contact": contact,
        "steps": [_shown_step(step) for step in steps[:STEPS]],
        "older": steps[STEPS].entry if len(steps) > STEPS else None,
        "is_first": entry is None,
        "which": show,
        "event_chars": _EVENT_CHARS,
    }
    return page(request, "why.html", **chrome(request), **shown)


async def living(workspace: GatewayWorkspace, contact_id: str) -> Contact:
    """The contact with this id, or the one that it was merged into. Raises Problem: 410 if it was erased, and 404."""
    contact = await workspace.queries.contact(contact_id)
    if contact is not None:
        return contact
    if await workspace.queries.is_erased(contact_id):
        raise Problem(410, "This person was erased.")
    raise Problem(404, f"No person has the id {contact_id!r}.")


async def _known(workspace: GatewayWorkspace, contact_id: str, cursor: str | None) -> Known:
    def ask(connection: sa.Connection) -> Known:
        timeline = read_timeline(connection, workspace.name, contact_id, ENTRIES, cursor)
        newest = timeline.timeline
        if cursor is not None or timeline.next_cursor is not None:
            newest = read_timeline(connection, workspace.name, contact_id, MAX_SOURCES).timeline
        return Known(timeline, newest, read_lineage(connection, workspace.name, contact_id), None)

    nothing = Known(None, [], Lineage([], []), None)
    try:
        known = await workspace.directory.ask(ask)
        await workspace.check_directory(known.timeline.position if known.timeline is not None else "0-0")
    except NoContact:  # the directory is behind; the page says so until the change arrives
        return nothing._replace(warning="The timeline of this person is not there yet.")
    except NoDirectory as stopped:
        return nothing._replace(warning=f"The timeline is not available: {stopped}")
    except DirectoryUnavailable as error:
        return nothing._replace(warning=f"The timeline is not available: {error}")
    return known


async def _sources(workspace: GatewayWorkspace, contact: Contact, newest: list[TimelineEntry]) -> dict[str, Source]:
    """The event behind each fact of a person, and who sent it, if the log still has it."""
    found = sources(newest, contact.id)
    shown = {*_FACTS, *(f"metadata.{name}" for name in contact.metadata), *(f"device {each}" for each in contact.visitor_ids)}
    found = {field: source for field, source in found.items() if field in shown}
    causes = list(dict.fromkeys(source.cause for source in found.values() if is_entry_id(source.cause)))[:MAX_ORIGINS]
    pipeline = workspace.client.pipeline(transaction=False)
    for cause in causes:
        pipeline.xrange(key(workspace.name, "events"), min=cause, max=cause)
    origins: dict[str, str] = {}
    for cause, entries in zip(causes, await pipeline.execute() if causes else [], strict=True):
        for entry, fields in entries:
            origins[cause] = origin(Seen(entry.decode(), fields.get(EVENT_FIELD)).said)
    return {
        field: source._replace(origin=origins.get(source.cause, "") if is_entry_id(source.cause) else source.cause)
        for field, source in found.items()
    }


def value_chars(contact: Contact) -> int:
    """How much of each value of the metadata a page shows, so that the page stays small."""
    return max(120, _VALUES_CHARS // max(1, len(contact.metadata)))


def _shown_values(contact: Contact, devices: list[Visitor], known: Known) -> dict[str, Any]:
    entries = known.timeline.timeline if known.timeline is not None else []
    newest = max(devices, key=lambda device: device.last_seen_at, default=None)
    timeline = known.timeline
    return {
        "contact": contact,
        "devices": devices,
        "value_chars": value_chars(contact),
        "newest": newest,
        "timezone": None if newest is None else newest.context.get("timezone"),
        "events": told(entries, contact.id),
        "next_cursor": None if timeline is None else timeline.next_cursor,
        "complete_since": None if timeline is None else timeline.complete_since,
        "position": "0-0" if timeline is None else timeline.position,
        "merges": [each for each in known.lineage.former if each.kind == "contact_id"],
        "former": former_of(contact, known.lineage.former),
        "conflicts": known.lineage.conflicts,
        "warning": known.warning,
    }


def former_of(contact: Contact, former: list[Former]) -> list[Former]:
    """The addresses and external ids that a person had and has no longer, each once: when it went the last time."""
    has = {("email", contact.email), ("external_id", contact.external_id)}
    newest: dict[tuple[str, str | None], Former] = {
        (each.kind, each.value): each for each in reversed(former) if each.kind != "contact_id"
    }
    return [each for each in former if newest.get((each.kind, each.value)) is each and (each.kind, each.value) not in has]


async def _explain(
    client: Client, settings: Settings, contact_id: str, upto: tuple[int, int] | None, *, changes_only: bool
) -> list[Step]:
    """The steps of a contact's story up to an entry, the newest first: those of a page, and one more."""
    queries = StateQueries(client, settings.workspace)
    position, extent = (await queries.position()).stream_id, await log_extent(client, settings.workspace)
    rules = IdentifierRules(await StateReader(client, settings.workspace).blocked_identifiers())
    story = Story(Past(client, settings, rules), position, extent.last)
    kept: deque[Step] = deque(maxlen=STEPS + 1)
    if position and await story.open(Identifier(contact=contact_id)):
        async with aclosing(story.steps()) as steps:
            async for step in steps:
                if upto is not None and position_key(step.entry) > upto:
                    break
                if not changes_only or _is_change(step):
                    kept.append(step)
    return list(reversed(kept))


def _is_change(step: Step) -> bool:
    """Whether an event did more than a visit does: it changed more than when the person was last seen."""
    return step.outcome in {"folded", "baseline"} and any(deed != SEEN for deed in step.did)


def _shown_step(step: Step) -> dict[str, Any]:
    event = msgspec.json.format(bytes(step.event), indent=2).decode()
    return {"entry": step.entry, "at": step.at, "outcome": step.outcome, "did": step.did, "event": event}
