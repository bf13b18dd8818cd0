"""A person: who they are, their devices and metadata, what happened to them, and why."""

import asyncio
from collections import deque
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from litestar import Request, Response, get
from litestar.params import FromPath, QueryParameter

from kinfold_schemas.contacts import Contact, Visitor
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_services.connections import connect
from kinfold_services.directory.errors import DirectoryUnavailable, NoDirectory
from kinfold_services.directory.lineage import Lineage, read_lineage
from kinfold_services.directory.reading import NoContact, Timeline, read_timeline
from kinfold_services.gateway.problems import Problem, unavailable
from kinfold_services.gateway.screen.pages import html, is_fragment, page, redirect, render
from kinfold_services.gateway.screen.people import chrome
from kinfold_services.gateway.screen.sessions import workspace_of
from kinfold_services.gateway.screen.stories import sources, told
from kinfold_services.gateway.workspaces import ANSWER_S, GatewayWorkspace, shared
from kinfold_services.history.explanation import Step, Story
from kinfold_services.history.past import Past
from kinfold_services.log.pages import log_extent
from kinfold_services.server.choice import server_url
from kinfold_services.settings import Settings
from kinfold_services.state.queries import StateQueries, Which
from kinfold_services.state.reader import StateReader

MAX_DEVICES: Final = 30
"""How many devices a page shows, those linked most recently."""
ENTRIES: Final = 100
"""How many changes a page of the timeline has."""
MAX_STEPS: Final = 500
"""How many events an explanation shows, the newest."""

_EXPLAIN_S: Final = 30.0
_explaining: Final = asyncio.Semaphore(1)
"""An explanation folds the whole log: one at a time."""


class Known(NamedTuple):
    """What the directory knows of a person, or why it cannot be asked."""

    timeline: Timeline | None
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
    contact = await workspace.queries.contact(contact_id)
    if contact is None:
        raise Problem(404, f"No person has the id {contact_id!r}.")
    if contact.id != contact_id:
        path = f"/people/{contact.id}?merged={contact_id}"
        return html(request, "", headers={"HX-Redirect": path}) if is_fragment(request) else redirect(path)
    known = await _known(workspace, contact_id, cursor)
    devices = await workspace.queries.visitors(contact.visitor_ids[:MAX_DEVICES])
    shown = _shown_values(contact, devices, known)
    shown["merged"] = merged
    if is_fragment(request):
        return html(request, render("_person.html", **shown))
    return page(request, "person.html", **chrome(request), **shown)


@get("/people/{contact_id:str}/why")
async def why(request: Request[Any, Any, Any], contact_id: FromPath[str]) -> Response[bytes]:
    """Every event that shaped a person, what it did, and the rule for it: `kinfold explain` as a page."""
    workspace = workspace_of(request)
    contact = await workspace.queries.contact(contact_id)
    if contact is None:
        raise Problem(404, f"No person has the id {contact_id!r}.")
    settings = shared(request).settings.model_copy(update={"workspace": workspace.name, "snapshot_entries": 0})
    if _explaining.locked():
        raise unavailable("Another explanation is being made; it folds the whole log. Try again in a moment.")
    async with _explaining:
        try:
            steps = await asyncio.to_thread(_explain, settings, contact.id)
        except TimeoutError:
            detail = f"The log is too long to explain here within {_EXPLAIN_S:g} s. `kinfold explain` has no limit."
            raise unavailable(detail) from None
    shown: dict[str, Any] = {"contact": contact, "steps": steps[::-1], "is_cut": len(steps) == MAX_STEPS}
    return page(request, "why.html", **chrome(request), **shown)


async def _known(workspace: GatewayWorkspace, contact_id: str, cursor: str | None) -> Known:
    def ask(connection: sa.Connection) -> Known:
        timeline = read_timeline(connection, workspace.name, contact_id, ENTRIES, cursor)
        return Known(timeline, read_lineage(connection, workspace.name, contact_id), None)

    nothing = Known(None, Lineage([], []), None)
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


def _shown_values(contact: Contact, devices: list[Visitor], known: Known) -> dict[str, Any]:
    entries = known.timeline.timeline if known.timeline is not None else []
    newest = max(devices, key=lambda device: device.last_seen_at, default=None)
    timeline = known.timeline
    return {
        "contact": contact,
        "devices": devices,
        "newest": newest,
        "timezone": None if newest is None else newest.context.get("timezone"),
        "events": told(entries),
        "sources": sources(entries),
        "next_cursor": None if timeline is None else timeline.next_cursor,
        "complete_since": None if timeline is None else timeline.complete_since,
        "position": "0-0" if timeline is None else timeline.position,
        "merges": [each for each in known.lineage.former if each.kind == "contact_id"],
        "former": [each for each in known.lineage.former if each.kind != "contact_id"],
        "conflicts": known.lineage.conflicts,
        "warning": known.warning,
    }


def _explain(settings: Settings, contact_id: str) -> list[dict[str, Any]]:
    """The steps of a contact's story, the newest last. Runs in a thread, with an event loop and a connection of its own."""

    async def steps() -> list[dict[str, Any]]:
        async with asyncio.timeout(_EXPLAIN_S), connect(server_url(settings), ANSWER_S) as client:
            queries = StateQueries(client, settings.workspace)
            position, extent = (await queries.position()).stream_id, await log_extent(client, settings.workspace)
            rules = IdentifierRules(await StateReader(client, settings.workspace).blocked_identifiers())
            story = Story(Past(client, settings, rules), position, extent.last)
            kept: deque[Step] = deque(maxlen=MAX_STEPS)
            if position and await story.open(Which(contact=contact_id)):
                async for step in story.steps():
                    kept.append(step)
        return [_shown_step(step) for step in kept]

    return asyncio.run(steps())


def _shown_step(step: Step) -> dict[str, Any]:
    event = msgspec.json.format(bytes(step.event), indent=2).decode()
    return {"entry": step.entry, "at": step.at, "outcome": step.outcome, "did": step.did, "event": event}
