"""A person as they were: at any time of their life, from the log."""

import time
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NamedTuple

import sqlalchemy as sa
from litestar import Request, Response, get
from litestar.params import FromPath, QueryParameter

from kinfold_projections.records import public_contact, public_visitor
from kinfold_schemas.contacts import Contact, Visitor
from kinfold_schemas.directory import TimelineEntry
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_schemas.times import to_ms, to_text
from kinfold_services.connections import Client
from kinfold_services.directory.errors import DirectoryUnavailable
from kinfold_services.directory.lineage import read_lineage
from kinfold_services.directory.reading import NoContact, read_timeline
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.screen.facts import compared
from kinfold_services.gateway.screen.folding import fold_log
from kinfold_services.gateway.screen.pages import page
from kinfold_services.gateway.screen.people import chrome
from kinfold_services.gateway.screen.person import MAX_DEVICES, MAX_SOURCES, living, value_chars
from kinfold_services.gateway.screen.sessions import workspace_of
from kinfold_services.gateway.screen.stories import Event, told
from kinfold_services.gateway.workspaces import GatewayWorkspace, shared
from kinfold_services.history.moments import NoMoment, check_moment, parse_moment
from kinfold_services.history.past import Past
from kinfold_services.log.pages import NoLog, log_extent
from kinfold_services.settings import Settings
from kinfold_services.state.reader import StateReader

MAX_TICKS: Final = 100
"""How many changes the slider has marks for, the newest."""

_STEPS: Final = 500
"""The most steps of a slider: with more, a key press would hardly move it."""


class Life(NamedTuple):
    """What the directory knows of a person's life: the log entries that changed them, oldest first, in words, and their ids."""

    causes: list[str]
    events: dict[str, Event]
    ids: list[str]


class Then(NamedTuple):
    """The contacts that a person was at a moment, with their devices, and the last entry of the log at that moment."""

    contacts: list[tuple[Contact, list[Visitor]]]
    entry: str


class Slider(NamedTuple):
    """The range of the slider, in ms since 1970, and its marks."""

    least: int
    most: int
    step: int
    value: int
    ticks: list[int]


@get("/people/{contact_id:str}/at")
async def as_of(
    request: Request[Any, Any, Any],
    contact_id: FromPath[str],
    at: Annotated[str | None, QueryParameter(name="at", max_length=64, description="A time, or an entry of the log")] = None,
) -> Response[bytes]:
    """The person at a moment, beside what they are now. Without one: just before their newest change."""
    workspace = workspace_of(request)
    contact = await living(workspace, contact_id)
    life = await _life(workspace, contact)
    now_ms = time.time_ns() // 1_000_000
    moment = _moment(at, life, now_ms)
    settings = shared(request).settings.model_copy(update={"workspace": workspace.name})
    try:
        then = await fold_log(settings, lambda client, settings: _then(client, settings, moment, life.ids))
    except (NoMoment, NoLog) as error:
        raise Problem(400, str(error)) from error
    at_ms = min(position_key(moment)[0], now_ms)
    before = [each for each in life.causes if position_key(each) <= position_key(moment)]
    slider = _slider(life, contact, at_ms, now_ms)
    shown: dict[str, Any] = {
        "contact": contact,
        "then": [(each, devices, compared(each, contact)) for each, devices in then.contacts],
        "entry": then.entry,
        "value_chars": value_chars(contact) // 2,
        "at": to_text(at_ms),
        "slider": slider,
        "number": len(before),
        "count": len(life.causes),
        "last": life.events.get(before[-1]) if before else None,
        "earlier": before[-2] if len(before) > 1 else None,
        "later": life.causes[len(before)] if len(before) < len(life.causes) else None,
    }
    return page(request, "as_of.html", **chrome(request), **shown)


async def _life(workspace: GatewayWorkspace, contact: Contact) -> Life:
    def ask(connection: sa.Connection) -> tuple[list[TimelineEntry], list[str]]:
        entries = read_timeline(connection, workspace.name, contact.id, MAX_SOURCES).timeline
        former = read_lineage(connection, workspace.name, contact.id).former
        return entries, [each.value for each in former if each.kind == "contact_id"]

    try:
        entries, merged = await workspace.directory.ask(ask)
    except (NoContact, DirectoryUnavailable):
        return Life([], {}, [contact.id])  # the slider has no marks then
    events: dict[str, Event] = {}
    for event in told(entries, contact.id):
        if event.cause[:1].isdecimal():  # a replay has no entry in the log
            events.setdefault(event.cause, event)
    return Life(sorted(events, key=position_key), events, [contact.id, *merged])


def _moment(at: str | None, life: Life, now_ms: int) -> str:
    """The position that was asked for. Raises Problem (400) if it is none."""
    if not at:
        return life.causes[-2] if len(life.causes) > 1 else parse_moment(str(now_ms))
    if at.isdecimal() and int(at) > now_ms:  # the end of the slider
        at = str(now_ms)
    try:
        return parse_moment(at)
    except ValueError as error:
        raise Problem(400, f"at: {error}") from error


async def _then(client: Client, settings: Settings, moment: str, ids: list[str]) -> Then:
    extent = await log_extent(client, settings.workspace)
    check_moment(moment, extent, time.time_ns() // 1_000_000)
    rules = IdentifierRules(await StateReader(client, settings.workspace).blocked_identifiers())
    state = await Past(client, settings, rules).state_at(moment)
    found: dict[str, tuple[Contact, list[Visitor]]] = {}
    for each in ids:
        if each in state.contacts:
            contact = public_contact(state.contact(each))
            devices = [public_visitor(name, state.visitors[name]) for name in contact.visitor_ids[:MAX_DEVICES]]
            found[contact.id] = contact, devices
    newest: Any = await client.xrevrange(key(settings.workspace, "events"), max=moment, count=1)
    return Then(list(found.values()), newest[0][0].decode() if newest else "")


def _slider(life: Life, contact: Contact, at_ms: int, now_ms: int) -> Slider:
    ticks = [position_key(each)[0] for each in life.causes]
    least = min([at_ms, *(ticks or [to_ms(datetime.fromisoformat(contact.created_at).astimezone(UTC))])])
    # Nothing moves after the newest change. The lives of people who were imported lie within a second of the log.
    end = max(ticks, default=now_ms)
    end = now_ms if end == least else end
    step = max(1, (end - least) // _STEPS)
    most = least + -(-(end - least) // step) * step
    return Slider(least, most, step, min(at_ms, most), sorted(set(ticks))[-MAX_TICKS:])
