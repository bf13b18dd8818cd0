"""Conflicts as an inbox: an event named an address for one person, and another one keeps it. Both stand side by side."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final, Literal, NamedTuple

import sqlalchemy as sa
from litestar import Request, Response, get
from litestar.exceptions import HTTPException
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from kinfold_schemas.contacts import Contact, Visitor
from kinfold_schemas.directory import Conflict
from kinfold_schemas.positions import position_key
from kinfold_services.directory.errors import DirectoryUnavailable, NoDirectory
from kinfold_services.directory.reading import Conflicts, count_conflicts, read_conflict, read_conflicts
from kinfold_services.gateway.changes.messages import Message
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.screen import words
from kinfold_services.gateway.screen.live import MAX_SHOWN, MISSED, Since, event, stream, wait_until_applied
from kinfold_services.gateway.screen.pages import html, is_fragment, page, render
from kinfold_services.gateway.screen.people import Cursor, chrome
from kinfold_services.gateway.screen.sessions import workspace_of
from kinfold_services.gateway.workspaces import GatewayWorkspace

ROWS: Final = 20
"""How many conflicts a page has."""
COUNTED: Final = 1000
"""Open conflicts are counted up to this number."""
MAX_DIFFERENCES: Final = 12
"""How many metadata keys that differ, and how many that agree, a conflict shows."""

_MAX_DEVICES: Final = 30

Shown = Literal["open", "all"]


class Difference(NamedTuple):
    """A field of both people. `None` is a field that one does not have.

    The head of a column shows what the person is called: the name, else the address or the external id. That value is `above`.
    """

    label: str
    one: Any
    other: Any
    is_one_above: bool = False
    is_other_above: bool = False

    @property
    def is_news(self) -> bool:
        """Whether it shows more than the heads of the columns."""
        return not ((self.one is None or self.is_one_above) and (self.other is None or self.is_other_above))


class Case(NamedTuple):
    """A conflict with both people as they are now: `one` was named with the address, and `other` holds it."""

    conflict: Conflict
    one: Contact | None
    other: Contact | None
    shared: list[tuple[str, Any]]
    differences: list[Difference]
    more: int
    """How many differences are left out."""
    devices: list[str]
    """Devices that belonged to both at some time."""

    @property
    def named(self) -> str:
        """What the person who was named with the address is called."""
        return self._called(self.one)

    @property
    def holder(self) -> str:
        """What the person who has the address is called."""
        return self._called(self.other)

    def _called(self, contact: Contact | None) -> str:
        if contact is None:
            return "somebody who no longer exists"
        title = words.title(contact)
        if title == self.conflict.email:  # the heading shows the address
            return contact.external_id or "a person without a name"
        return title

    @property
    def is_one_person(self) -> bool:
        """Whether the two were merged since."""
        return self.one is not None and self.other is not None and self.one.id == self.other.id


@get("/conflicts")
async def conflicts(
    request: Request[Any, Any, Any],
    status: Annotated[Shown, QueryParameter(name="status")] = "open",
    cursor: Cursor = None,
) -> Response[bytes]:
    """The open conflicts, or all of them, newest first."""
    workspace = workspace_of(request)

    def ask(connection: sa.Connection) -> tuple[Conflicts, int]:
        found = read_conflicts(connection, workspace.name, status, ROWS, cursor)
        return found, count_conflicts(connection, workspace.name, COUNTED)

    found, count = await workspace.directory.ask(ask)
    warning = None
    try:
        await workspace.check_directory(found.position)
    except NoDirectory as stopped:
        warning = str(stopped)
    cases = await _cases(workspace, found.conflicts)
    people = {each for conflict in found.conflicts for each in (conflict.contact_id, conflict.held_by)}
    shown: dict[str, Any] = {
        "cases": cases,
        "which": status,
        "count": count,
        "counted_up_to": COUNTED,
        "cursor": cursor,
        "next_cursor": found.next_cursor,
        "position": found.position,
        "people": ",".join(sorted(people)),
        "warning": warning,
    }
    return page(request, "conflicts.html", **chrome(request), **shown)


@get("/conflicts/{position:str}")
async def conflict(request: Request[Any, Any, Any], position: FromPath[str]) -> Response[bytes]:
    """One conflict: a page, or the card of the list when it has changed."""
    workspace = workspace_of(request)
    case = await find_case(workspace, position)
    if is_fragment(request):
        return html(request, render("_conflict.html", case=case, **chrome(request)))
    return page(request, "conflict.html", **chrome(request), case=case)


async def find_case(workspace: GatewayWorkspace, position: str) -> Case:
    """The conflict that a feed entry reported. Raises Problem (404)."""
    found = await workspace.directory.ask(lambda connection: read_conflict(connection, workspace.name, position))
    if found is None:
        raise Problem(404, f"No conflict has the position {position!r}.")
    return (await _cases(workspace, [found]))[0]


@get("/conflicts/live")
async def live_conflicts(
    request: Request[Any, Any, Any],
    since: Since,
    people: Annotated[str, QueryParameter(name="people", max_length=16_384, description="The ids of the people shown")] = "",
) -> Stream:
    """`of-{contact id}` when somebody in a conflict has changed, and `news`: how many conflicts are new."""
    shown = frozenset(each for each in people.split(",")[:MAX_SHOWN] if each)
    return await stream(request, _Inbox(workspace_of(request), shown, since), since)


class _Inbox:
    """What has happened to the list since the last events were sent."""

    missed = MISSED

    def __init__(self, workspace: GatewayWorkspace, people: frozenset[str], since: str) -> None:
        self._workspace: Final = workspace
        self._people: Final = people
        self._since: Final = since
        self._changed: Final = set[str]()
        self._newest: tuple[int, int] | None = None
        self._has_new = False

    def note(self, message: Message) -> None:
        """Remember a new conflict, and who of the people shown has changed."""
        if message.type == "ContactSeen":
            return
        changed = {message.contact_id, message.merged_contact_id} & self._people
        if message.type == "IdentityConflict":
            self._has_new = True
        elif not changed:
            return
        self._changed.update(each for each in changed if each is not None)
        self._newest = message.order

    async def events(self) -> AsyncGenerator[bytes]:
        """The events for what was noted, once the directory has it."""
        if self._newest is None:
            return
        newest, self._newest = self._newest, None
        changed, has_new = sorted(self._changed), self._has_new
        self._changed.clear()
        self._has_new = False
        await wait_until_applied(self._workspace, newest)
        for contact_id in changed:
            yield event(f"of-{contact_id}", "")
        if has_new and (count := await self._count_new()):
            yield event("news", f"Show {count} new {'conflict' if count == 1 else 'conflicts'}")

    @property
    def is_waiting(self) -> bool:
        """Whether something is noted that was not sent yet."""
        return self._newest is not None

    async def _count_new(self) -> int:
        name, since = self._workspace.name, position_key(self._since)
        try:
            found = await self._workspace.directory.ask(lambda connection: read_conflicts(connection, name, "open", ROWS))
        except (DirectoryUnavailable, HTTPException):
            return 0
        return sum(position_key(each.position) > since for each in found.conflicts)


async def _cases(workspace: GatewayWorkspace, found: list[Conflict]) -> list[Case]:
    """The conflicts with both people, each as they are now, and their devices."""
    people: dict[str, tuple[Contact | None, list[Visitor]]] = {}
    for contact_id in {each for one in found for each in (one.contact_id, one.held_by)}:
        contact = await workspace.queries.contact(contact_id)
        devices = [] if contact is None else await workspace.queries.visitors(contact.visitor_ids[:_MAX_DEVICES])
        people[contact_id] = contact, devices
    return [_case(each, people[each.contact_id], people[each.held_by]) for each in found]


def _case(conflict: Conflict, one: tuple[Contact | None, list[Visitor]], other: tuple[Contact | None, list[Visitor]]) -> Case:
    (left, left_devices), (right, right_devices) = one, other
    if left is None or right is None or left.id == right.id:
        return Case(conflict, left, right, [], [], 0, [])
    shared: list[tuple[str, Any]] = []
    differences: list[Difference] = []
    for label, here, there, is_metadata in _fields(left, right):
        if here == there and here.__class__ is there.__class__:
            shared.append((label, here))
            continue
        above = [not is_metadata and given == words.title(contact) for given, contact in ((here, left), (there, right))]
        difference = Difference(label, here, there, *above)
        if difference.is_news:
            differences.append(difference)
    devices = [each.id for each in left_devices if any(link.contact_id == right.id for link in each.links)]
    devices += [each.id for each in right_devices if any(link.contact_id == left.id for link in each.links)]
    shown = differences[:MAX_DIFFERENCES]
    return Case(conflict, left, right, shared[:MAX_DIFFERENCES], shown, len(differences) - len(shown), devices)


def _fields(one: Contact, other: Contact) -> list[tuple[str, Any, Any, bool]]:
    """The fields to compare: label and both values, with None for a metadata key that one does not have."""
    fields: list[tuple[str, Any, Any, bool]] = [
        ("Name", one.name, other.name, False),
        ("E-mail", one.email, other.email, False),
        ("External id", one.external_id, other.external_id, False),
    ]
    fields = [each for each in fields if each[1] is not None or each[2] is not None]
    keys = sorted(one.metadata.keys() | other.metadata.keys(), key=lambda key: (key not in one.metadata, key))
    return fields + [(key, one.metadata.get(key), other.metadata.get(key), True) for key in keys]
