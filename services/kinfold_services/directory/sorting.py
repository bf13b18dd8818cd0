"""The orders in which contacts are listed, and cursors: where a page ended.

Every order ends with the contact's id, in the same direction. A missing value sorts last in both directions. Values of metadata
sort nulls < booleans < numbers < strings. Strings of more than 200 characters sort by the first 200.

An order consists of one or two segments: the contacts that have the value, and those that lack it. In each, an index has the
order's columns, so a page begins where the one before ended, at any depth.
"""

import base64
import binascii
import math
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from kinfold_schemas.filters import Field, WrongFilter, field, text_time_ms
from kinfold_schemas.times import LAST_MS
from kinfold_services.directory.conditions import COLUMNS, Condition, Expression, Sql
from kinfold_services.directory.errors import WrongQuery
from kinfold_services.directory.tables import Time, contacts, metadata

_KEPT: Final = 256
"""Of how many orders the statements are kept; metadata keys come from requests."""
_GIVEN: Final = ("key_1", "key_2", "key_3", "key_4")
_NULLABLE: Final = frozenset({"externalId", "email", "name", "image"})
_MAX_INTEGER: Final = 2**63 - 1
_MAX_CURSOR_CHARS: Final = 4096
_is_unfit: Final = re.compile("[\0\ud800-\udfff]").search


Select = sa.Select[*tuple[Any, ...]]


class Sort(msgspec.Struct, frozen=True):
    """The field to sort by, and the direction."""

    field: Field
    descending: bool


DEFAULT_SORT: Final = Sort(Field("createdAt", in_metadata=False), descending=True)


def parse_sort(text: str) -> Sort:
    """Parse a sort: a field as in filters, with `-` in front for descending. Raises WrongQuery."""
    if _is_unfit(text) is not None:
        raise WrongQuery(f"sort: expected Unicode text without NUL, got {text!r}")
    try:
        return Sort(field(text.removeprefix("-")), descending=text.startswith("-"))
    except WrongFilter as wrong:
        raise WrongQuery(f"sort: expected a field, with - in front for descending, got {text!r} ({wrong})") from None


class Segment(msgspec.Struct, frozen=True):
    """A part of an order: the contacts under a condition, in the order of some columns."""

    keys: tuple[sa.Column[Any], ...]
    condition: Condition
    from_metadata: bool = False

    def select(self) -> Select:
        """The values of the keys, and the records, in no order."""
        select: Select = sa.select(*self.keys, contacts.c.record).where(self.condition)
        if not self.from_metadata:
            return select.select_from(contacts)
        its = metadata.c
        joined = metadata.join(contacts, sa.and_(contacts.c.build == its.build, contacts.c.id == its.contact_id))
        return select.select_from(joined)

    def page_of(self, select: Select, keys: Iterable[Expression], *, descending: bool, goes_on: bool) -> Select:
        """A page of a select in an order, with the parameters of `page_values`. With `goes_on`, not the first page."""
        if goes_on:
            after = [sa.bindparam(name, type_=key.type) for name, key in zip(_GIVEN, self.keys, strict=False)]
            key, bound = (sa.tuple_(*self.keys), sa.tuple_(*after)) if len(after) > 1 else (self.keys[0], after[0])
            select = select.where(key < bound if descending else key > bound)
        return select.order_by(*[key.desc() if descending else key for key in keys]).limit(sa.bindparam("rows"))


def page_values(limit: int, after: tuple[Any, ...] | None) -> dict[str, Any]:
    """The parameters of `Segment.page_of`: how many rows, and the values of the keys where the page before ended."""
    return {"rows": limit, **dict(zip(_GIVEN, after or (), strict=False))}


@lru_cache(maxsize=_KEPT)
def walk_of_everybody(sql: Sql, sort: Sort, build: int, number: int, *, goes_on: bool) -> Select:
    """The walk through one segment of all contacts.

    It is kept, because SQLAlchemy takes longer to put a statement together than a database to answer it.
    """
    segment = segments(sort, sql, build)[number]
    select = segment.select().where(contacts.c.build == build)
    return segment.page_of(select, segment.keys, descending=sort.descending, goes_on=goes_on)


@lru_cache(maxsize=_KEPT)
def segments(sort: Sort, sql: Sql, build: int) -> tuple[Segment, ...]:
    """The segments of an order, in their order."""
    name = sort.field.name
    if sort.field.in_metadata:
        its = metadata.c
        of_key = sa.and_(its.build == build, its.key == sa.literal(name, sa.Text()))
        present = Segment((its.kind, its.number, its.text, its.contact_id), of_key, from_metadata=True)
        return present, Segment((contacts.c.id,), sa.not_(sql.is_set(name)))
    if name == "id":
        return (Segment((contacts.c.id,), sa.true()),)
    column = _column(name)
    if name not in _NULLABLE:
        return (Segment((column, contacts.c.id), sa.true()),)
    return (
        Segment((column, contacts.c.id), column.is_not(None)),
        Segment((contacts.c.id,), column.is_(None)),
    )


def indexed_column(sort: Sort) -> sa.Column[Any] | None:
    """The column of `contacts` that holds the order, or None for metadata."""
    return None if sort.field.in_metadata else _column(sort.field.name)


def _column(name: str) -> sa.Column[Any]:
    return contacts.c.name_key if name == "name" else COLUMNS[name]


# --- cursors ------------------------------------------------------------------------------------------------------------


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended. Ages in the filter are relative to `now_ms`, so that they stay the same on all pages."""

    query: str
    """A hash of the query, so that a cursor of another query is refused."""
    now_ms: int
    segment: int
    values: tuple[str | int | float, ...]


_decode: Final = msgspec.json.Decoder(Cursor).decode
_encode: Final = msgspec.json.Encoder().encode


def write_cursor(cursor: Cursor) -> str:
    """Write a cursor as text for URLs."""
    return base64.urlsafe_b64encode(_encode(cursor)).rstrip(b"=").decode()


def read_cursor(text: str, query_hash: str, its_segments: tuple[Segment, ...]) -> Cursor:
    """Read the cursor of a query. Raises WrongQuery."""
    cursor = _decoded(text)
    if cursor is None or not 0 <= cursor.now_ms <= LAST_MS or not 0 <= cursor.segment < len(its_segments):
        raise WrongQuery(_NO_CURSOR)
    if cursor.query != query_hash:
        raise WrongQuery("cursor: expected a cursor of the same search, filter and sort, got one of another query")
    keys = its_segments[cursor.segment].keys
    if len(keys) != len(cursor.values) or not all(map(_fits, keys, cursor.values)):
        raise WrongQuery(_NO_CURSOR)
    return cursor


_NO_CURSOR: Final = "cursor: expected a cursor from a page of results, got other text"


def _decoded(text: str) -> Cursor | None:
    if len(text) > _MAX_CURSOR_CHARS:
        return None
    try:
        return _decode(base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (UnicodeEncodeError, binascii.Error, msgspec.DecodeError):
        return None


def _fits(key: Expression, value: str | float) -> bool:
    """Whether the database can compare the column with the value."""
    if isinstance(key.type, Time):
        return isinstance(value, str) and text_time_ms(value) is not None
    if isinstance(key.type, sa.Integer):
        return isinstance(value, int) and abs(value) <= _MAX_INTEGER
    if isinstance(key.type, sa.Double):
        return not isinstance(value, str) and math.isfinite(value)
    return isinstance(value, str) and _is_unfit(value) is None
