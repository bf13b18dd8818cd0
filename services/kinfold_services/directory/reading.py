"""Timelines, conflicts and former identifiers: what the directory knows besides what search.py searches.

Call these in a transaction of `Database.reading`. Pages are newest first. A cursor holds the last entry of a page, so no entry
appears twice or is left out when others are added between two pages, or when contacts are merged.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from kinfold_projections.directory_rows import NO_CONTACT
from kinfold_schemas.directory import Conflict, TimelineEntry
from kinfold_schemas.filters import text_time_ms
from kinfold_schemas.identifiers import email_key, id_key, stripped
from kinfold_schemas.positions import position_key
from kinfold_services.directory.builds import current_build
from kinfold_services.directory.errors import WrongQuery
from kinfold_services.directory.tables import Time, conflicts, contacts, identifiers, timeline, visitors

MAX_LIMIT: Final = 1000

By = Literal["contact_id", "email", "external_id", "visitor_id"]
"""The kind of an identifier."""

Status = Literal["open", "all"]
"""Which conflicts: those that are not settled, or all."""

_MAX_INTEGER: Final = 2**63 - 1
_MAX_CURSOR_CHARS: Final = 256
_is_time: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII).fullmatch
_is_unfit: Final = re.compile("[\0\ud800-\udfff]").search
"""Text that no identifier contains, and that a database may refuse."""

_KEYS: Final[Mapping[By, Callable[[str], str]]] = {
    "contact_id": stripped,
    "email": email_key,
    "external_id": id_key,
    "visitor_id": id_key,
}
"""How the contract compares an identifier (section 2)."""


class NoContact(LookupError):
    """No contact has or had this id."""


class Holder(msgspec.Struct, frozen=True):
    """The contact that has an identifier, or had it last."""

    contact_id: str
    """The living contact."""
    until: str | None = None
    """When the contact lost the identifier; None if it has it."""


class Timeline(msgspec.Struct, frozen=True, rename="camel"):
    """A page of a contact's timeline, newest first, with the changes of the contacts that were merged into it.

    `contactId` is the living contact. `completeSince` is null if the timeline has every change from the beginning, and else the
    time from which on it is complete. `nextCursor` is null on the last page. `position` is the feed entry that the directory
    has applied.
    """

    contact_id: str
    timeline: list[TimelineEntry]
    next_cursor: str | None
    complete_since: str | None
    position: str


class Conflicts(msgspec.Struct, frozen=True, rename="camel"):
    """A page of conflicts, newest first. `nextCursor` is null on the last page."""

    conflicts: list[Conflict]
    next_cursor: str | None
    position: str


def find_holder(connection: sa.Connection, workspace: str, by: By, value: str) -> Holder | None:
    """Find the living contact that has an identifier, or had it last. None if no contact ever had it.

    A contact that was merged has lost its id to the living one.

    Raises:
        NoDirectory: the workspace has no current build.

    """
    build = current_build(connection, workspace).id
    if _is_unfit(value) is not None:
        return None
    key = _KEYS[by](value)
    if by == "visitor_id":
        return _visitors_holder(connection, build, key)
    column = {"contact_id": contacts.c.id, "email": contacts.c.email_key, "external_id": contacts.c.external_id}[by]
    has_it = sa.select(contacts.c.id).where(contacts.c.build == build, column == sa.literal(key, sa.Text())).limit(1)
    if (row := connection.execute(has_it).first()) is not None:
        return Holder(row[0])
    its = identifiers.c
    had_it = (
        sa.select(its.contact_id, its.until)
        .where(its.build == build, its.kind == by, its.value_key == sa.literal(key, sa.Text()))
        .order_by(its.position_ms.desc(), its.position_seq.desc())
        .limit(1)
    )
    row = connection.execute(had_it).first()
    return None if row is None else Holder(*row)


def read_timeline(
    connection: sa.Connection, workspace: str, contact_id: str, limit: int, cursor: str | None = None
) -> Timeline:
    """Read a page of a contact's timeline. `contact_id` may be that of a merged contact.

    Raises:
        NoDirectory: the workspace has no current build.
        NoContact: no contact has or had this id.
        WrongQuery: the cursor or `limit` is wrong.

    """
    build = current_build(connection, workspace)
    place = None if cursor is None else _read_cursor(cursor, "timeline")
    _check_limit(limit)
    holder = find_holder(connection, workspace, "contact_id", contact_id)
    if holder is None:
        raise NoContact(contact_id)
    its = identifiers.c
    merged = sa.select(its.value_key).where(
        its.build == build.id, its.contact_id == sa.literal(holder.contact_id, sa.Text()), its.kind == "contact_id"
    )
    lineage = [holder.contact_id, *connection.execute(merged).scalars()]
    rows: list[tuple[_Place, TimelineEntry]] = []
    for each in lineage:  # one by one, each in the order of its index: at most 26 (the fuse, contract section 5)
        of_contact = (timeline.c.build == build.id, timeline.c.contact_id == sa.literal(each, sa.Text()))
        columns = (timeline.c.type, timeline.c.contact_id, timeline.c.cause, timeline.c.rule, timeline.c.details)
        found = _rows(connection, "timeline", _newest(timeline, columns, place, limit).where(*of_contact))
        rows += [(at, TimelineEntry(at.position, at.at, *rest)) for at, rest in found]
    rows.sort(key=lambda row: row[0].key, reverse=True)
    entries = [entry for _, entry in rows[:limit]]
    next_cursor = _write_cursor(rows[limit - 1][0]) if len(rows) > limit else None
    return Timeline(holder.contact_id, entries, next_cursor, build.timeline_since, build.position)


def read_conflicts(
    connection: sa.Connection, workspace: str, status: Status, limit: int, cursor: str | None = None
) -> Conflicts:
    """Read a page of a workspace's conflicts.

    Raises:
        NoDirectory: the workspace has no current build.
        WrongQuery: the cursor or `limit` is wrong.

    """
    build = current_build(connection, workspace)
    place = None if cursor is None else _read_cursor(cursor, "conflicts")
    _check_limit(limit)
    its = conflicts.c
    columns = (its.contact_id, its.email, its.held_by, its.reason, its.settled_at)
    select = _newest(conflicts, columns, place, limit).where(its.build == build.id)
    if status == "open":
        select = select.where(its.settled_at.is_(None))
    rows = _rows(connection, "conflicts", select)
    found = [Conflict(at.position, at.at, *rest) for at, rest in rows[:limit]]
    return Conflicts(found, _write_cursor(rows[limit - 1][0]) if len(rows) > limit else None, build.position)


def read_conflict(connection: sa.Connection, workspace: str, position: str) -> Conflict | None:
    """Read the conflict that a feed entry reported; None if there is none.

    Raises:
        NoDirectory: the workspace has no current build.

    """
    build = current_build(connection, workspace)
    try:
        ms, seq = position_key(position)
    except ValueError:
        return None
    if max(ms, seq) > _MAX_INTEGER:
        return None
    its = conflicts.c
    columns = (its.at, its.contact_id, its.email, its.held_by, its.reason, its.settled_at)
    here = (its.build == build.id, its.position_ms == ms, its.position_seq == seq)
    row = connection.execute(sa.select(*columns).where(*here)).first()
    return None if row is None else Conflict(position, *row)


def count_conflicts(connection: sa.Connection, workspace: str, upto: int) -> int:
    """Count the open conflicts, up to `upto`.

    Raises:
        NoDirectory: the workspace has no current build.

    """
    build = current_build(connection, workspace)
    some = sa.select(conflicts.c.at).where(conflicts.c.build == build.id, conflicts.c.settled_at.is_(None)).limit(upto)
    return connection.scalar(sa.select(sa.func.count()).select_from(some.subquery())) or 0


def _visitors_holder(connection: sa.Connection, build: int, visitor_id: str) -> Holder | None:
    its = visitors.c
    newest = (
        sa.select(its.contact_id)
        .where(its.build == build, its.visitor_id == sa.literal(visitor_id, sa.Text()))
        .order_by(its.since.desc())
        .limit(1)
    )
    contact_id = connection.execute(newest).scalar()
    if contact_id is None or contact_id == NO_CONTACT:
        return None
    merged = sa.select(identifiers.c.contact_id).where(
        identifiers.c.build == build, identifiers.c.kind == "contact_id", identifiers.c.value_key == contact_id
    )
    return Holder(connection.execute(merged).scalar() or contact_id)


# --- pages --------------------------------------------------------------------------------------------------------------


_Kind = Literal["timeline", "conflicts"]


class _Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended."""

    kind: _Kind
    at: str
    ms: int
    seq: int

    @property
    def key(self) -> tuple[str, int, int]:
        """What entries are sorted by."""
        return self.at, self.ms, self.seq

    @property
    def position(self) -> str:
        """The feed entry."""
        return f"{self.ms}-{self.seq}"


def _newest(table: sa.Table, columns: tuple[sa.Column[Any], ...], place: _Place | None, limit: int) -> sa.Select[Any]:
    """The newest rows after a place, one more than the page has."""
    order = (table.c.at, table.c.position_ms, table.c.position_seq)
    select = sa.select(*order, *columns).order_by(*[each.desc() for each in order]).limit(limit + 1)
    if place is None:
        return select
    integer = sa.BigInteger()
    given = sa.tuple_(sa.literal(place.at, Time()), sa.literal(place.ms, integer), sa.literal(place.seq, integer))
    return select.where(sa.tuple_(*order) < given)


def _rows(connection: sa.Connection, kind: _Kind, select: sa.Select[Any]) -> list[tuple[_Place, tuple[Any, ...]]]:
    """The rows of `_newest`, each with its place."""
    rows: list[tuple[Any, ...]] = [tuple(row) for row in connection.execute(select)]
    return [(_Place(kind, *row[:3]), row[3:]) for row in rows]


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise WrongQuery(f"limit: expected 1 to {MAX_LIMIT}, got {limit}")


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Place).decode


def _write_cursor(place: _Place) -> str:
    return base64.urlsafe_b64encode(_encode(place)).rstrip(b"=").decode()


def _read_cursor(text: str, kind: str) -> _Place:
    place: _Place | None = None
    if len(text) <= _MAX_CURSOR_CHARS:
        try:
            place = _decode(base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True))
        except (UnicodeEncodeError, binascii.Error, msgspec.DecodeError):
            place = None
    if place is None or place.kind != kind or not _is_place(place):
        raise WrongQuery(f"cursor: expected the nextCursor of a page of the same list, got {text[:60]!r}")
    return place


def _is_place(place: _Place) -> bool:
    is_time = _is_time(place.at) is not None and text_time_ms(place.at) is not None
    return is_time and all(0 <= each <= _MAX_INTEGER for each in (place.ms, place.seq))
