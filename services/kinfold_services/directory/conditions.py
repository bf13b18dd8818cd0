"""Filters as SQL conditions on `contacts`, for SQLite and PostgreSQL.

Everything that a filter brings is a bound value. This includes the keys of metadata.

SQL has three truth values and filters have two. A condition may be NULL where it does not hold, which is as good as false in
WHERE. Under `not`, it is made false first.
"""

import re
from collections.abc import Callable, Hashable
from datetime import timedelta
from typing import Any, ClassVar, Final, Protocol, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql import operators
from sqlalchemy.sql.expression import UnaryExpression

from kinfold_projections.directory import fold_text
from kinfold_schemas.canonical import Primitive
from kinfold_schemas.filters import (
    TIME_PATTERN,
    Age,
    And,
    Comparison,
    Contains,
    Dated,
    Exists,
    Field,
    Filter,
    Moment,
    Not,
    OneOf,
    Operator,
    Or,
    Value,
    time_ms,
)
from kinfold_schemas.identifiers import email_key, id_key, stripped
from kinfold_schemas.times import EPOCH
from kinfold_services.directory.tables import Time, contacts

Leaf = Comparison | OneOf | Contains | Exists | Dated
Condition = sa.ColumnElement[bool]
Expression = sa.ColumnElement[Any]

DOUBLE: Final[sa.types.TypeEngine[float]] = sa.Double()

COLUMNS: Final[dict[str, sa.Column[Any]]] = {
    "id": contacts.c.id,
    "externalId": contacts.c.external_id,
    "email": contacts.c.email,
    "name": contacts.c.name,
    "image": contacts.c.image,
    "visitorCount": contacts.c.visitor_count,
    "firstSeenAt": contacts.c.first_seen_at,
    "lastSeenAt": contacts.c.last_seen_at,
    "createdAt": contacts.c.created_at,
    "updatedAt": contacts.c.updated_at,
    "version": contacts.c.version,
}
"""The column of each field of a contact."""

COMPARE: Final[dict[Operator, Callable[[Any, Any], Any]]] = {
    "=": operators.eq,
    "!=": operators.ne,
    "<": operators.lt,
    "<=": operators.le,
    ">": operators.gt,
    ">=": operators.ge,
}

_KEYS: Final[dict[str, tuple[str, Callable[[str], str]]]] = {
    "id": ("id", stripped),
    "externalId": ("external_id", id_key),
    "email": ("email_key", email_key),
}
"""An identifier's column, and the function that makes the key to compare (contract section 2)."""


class Sql(Hashable, Protocol):
    """What the two databases write differently."""

    knows_words: ClassVar[bool]
    """Whether the database can estimate how many contacts have a word, and choose its way by that."""

    def prefer_order(self, connection: sa.Connection) -> None:
        """Let the queries of this transaction walk an index in the order that they ask for."""
        ...

    def probed(self, conditions: list[Condition], probes: list[Condition]) -> list[Condition]:
        """The conditions for a walk, tested after `probes`, which hold where they do."""
        ...

    def unindexed(self, column: Expression) -> Expression:
        """The column, so that the database does not look for an index of it."""
        ...

    def is_set(self, key: str) -> Condition:
        """The metadata key is set."""
        ...

    def equals(self, key: str, value: Primitive) -> Condition:
        """The metadata key has this value, of this type."""
        ...

    def ordered(self, key: str, operator: Operator, value: float | str) -> Condition:
        """The metadata key has a value of the same type, and in this order."""
        ...

    def text(self, key: str) -> tuple[Condition, Expression]:
        """Whether the metadata key is a string, and that string."""
        ...

    def folded(self, name: str) -> Expression:
        """The string `name` in the column `folded`, or NULL."""
        ...

    def time(self, text: Expression, operator: Operator, ms: int) -> Condition:
        """The time in a string compares so with another time."""
        ...

    def has_part(self, text: Expression, part: str) -> Condition:
        """The string has this part, exactly so."""
        ...


class Conditions:
    """Makes conditions for one database and one moment.

    `indexed` is the column whose index a query walks; on SQLite the others are kept from the planner, which cannot know how
    many rows a value has.
    """

    def __init__(self, sql: Sql, now_ms: int, indexed: Expression | None = None) -> None:
        self._sql = sql
        self._now_ms = now_ms
        self._indexed = indexed

    def of(self, tree: Filter, *, negated: bool = False) -> Condition:
        """The condition that a filter is, or the opposite."""
        match tree:
            case Not():
                return self.of(tree.filter, negated=not negated)
            case And() | Or():
                parts = [self.of(part, negated=negated) for part in tree.filters]
                return sa.and_(*parts) if isinstance(tree, And) != negated else sa.or_(*parts)
            case Comparison(operator="!="):
                return self.of(Comparison(tree.field, "=", tree.value), negated=not negated)
            case _:
                leaf = self._in_metadata(tree) if tree.field.in_metadata else self._of_contact(tree)
                return sa.not_(sa.func.coalesce(leaf, sa.false(), type_=sa.Boolean)) if negated else leaf

    def _in_metadata(self, tree: Leaf) -> Condition:
        key = tree.field.name
        condition: Condition
        match tree:
            case Exists():
                condition = self._sql.is_set(key)
            case OneOf():
                condition = sa.or_(*[self._sql.equals(key, cast("Primitive", value)) for value in tree.values])
            case Comparison(operator="="):
                condition = self._sql.equals(key, cast("Primitive", tree.value))
            case Comparison():
                condition = self._sql.ordered(key, tree.operator, cast("float | str", tree.value))
            case Contains():
                condition = self._contains(tree, *self._sql.text(key))
            case Dated():
                is_text, text = self._sql.text(key)
                operator: Operator = "<" if tree.order == "before" else ">"
                condition = sa.and_(is_text, self._sql.time(text, operator, time_ms(tree.time, self._now_ms)))
        return condition

    def _of_contact(self, tree: Leaf) -> Condition:
        column = COLUMNS[tree.field.name]
        own = column if column is self._indexed else self._sql.unindexed(column)
        condition: Condition
        match tree:
            case Exists():
                condition = own.is_not(None)
            case OneOf():
                condition = sa.or_(*[self._equals(tree.field, own, value) for value in tree.values])
            case Comparison(operator="="):
                condition = self._equals(tree.field, own, tree.value)
            case Comparison():
                condition = self._compared(own, tree.operator, tree.value)
            case Contains():
                condition = self._contains(tree, sa.true(), own)
            case Dated():
                raise AssertionError("the parser compares a field of a contact with < and >")
        return condition

    def _equals(self, field: Field, column: Expression, value: Value) -> Condition:
        if value is None:
            return column.is_(None)
        if isinstance(value, str) and field.name in _KEYS:
            name, key = _KEYS[field.name]
            return self._sql.unindexed(contacts.c[name]) == key(value)
        return self._compared(column, "=", value)

    def _compared(self, column: Expression, operator: Operator, value: Value) -> Condition:
        result: Condition = COMPARE[operator](column, bound(value, self._now_ms))
        return result

    def _contains(self, tree: Contains, is_text: Condition, text: Expression) -> Condition:
        name = f"metadata.{tree.field.name}" if tree.field.in_metadata else tree.field.name
        folded = sa.func.coalesce(self._sql.folded(name), sa.func.lower(text))
        return sa.and_(is_text, self._sql.has_part(folded, fold_text(tree.part)))


def bound(value: Value, now_ms: int) -> Expression:
    """A bound value, of the type that it has."""
    match value:
        case Moment() | Age():
            return sa.literal(time_text(time_ms(value, now_ms)), Time())
        case float():  # as a bigint it would be rounded
            return sa.literal(value, DOUBLE)
        case int():
            return sa.literal(value, sa.BigInteger())
        case _:
            return sa.literal(value, sa.Text())


def time_text(ms: int) -> str:
    """A time as the contract writes it, even before 1970."""
    return (EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Sqlite:
    """SQLite's JSON functions.

    A path quotes its key, but knows no escapes: `$."any key"`. So it serves keys that need none, in the path and in JSON. The
    others are compared with each key of the object.
    """

    knows_words: ClassVar[bool] = False
    _is_plain: Final = re.compile(r"[ !#-\[\]-~]+").fullmatch  # printable ASCII except " and \

    def prefer_order(self, connection: sa.Connection) -> None:
        """Nothing: SQLite does."""

    def probed(self, conditions: list[Condition], probes: list[Condition]) -> list[Condition]:
        """One CASE. SQLite would test JSON first, and read each contact for it."""
        return [sa.case((sa.and_(*probes), sa.and_(*conditions)))] if probes else conditions

    def unindexed(self, column: Expression) -> Expression:
        """The column with a unary plus."""
        return UnaryExpression(column, operator=cast("Any", operators.custom_op("+")), type_=column.type)

    def is_set(self, key: str) -> Condition:
        """Its type is not NULL."""
        return self._type(contacts.c.metadata, key).is_not(None)

    def equals(self, key: str, value: Primitive) -> Condition:
        """A string is TEXT for SQLite, and nothing else is; booleans and numbers have to be told apart."""
        if isinstance(value, str):
            return self._value(contacts.c.metadata, key) == sa.literal(value, sa.Text())
        kind = self._type(contacts.c.metadata, key)
        if value is None or isinstance(value, bool):
            return kind == {None: "null", True: "true", False: "false"}[value]
        return self.ordered(key, "=", value)

    def ordered(self, key: str, operator: Operator, value: float | str) -> Condition:
        """The types are checked first, because SQLite orders values of different ones."""
        kind = self._type(contacts.c.metadata, key)
        is_same = kind == "text" if isinstance(value, str) else kind.in_(["integer", "real"])
        return sa.and_(is_same, COMPARE[operator](self._value(contacts.c.metadata, key), bound(value, 0)))

    def text(self, key: str) -> tuple[Condition, Expression]:
        """The type, and the value."""
        return self._type(contacts.c.metadata, key) == "text", self._value(contacts.c.metadata, key)

    def folded(self, name: str) -> Expression:
        """The value of that key."""
        return self._value(contacts.c.folded, name)

    def time(self, text: Expression, operator: Operator, ms: int) -> Condition:
        """By a function of ours (database.py): SQLite takes too much for a time."""
        result: Condition = COMPARE[operator](sa.func.kinfold_time_ms(text), sa.literal(ms, sa.BigInteger()))
        return result

    def has_part(self, text: Expression, part: str) -> Condition:
        """By `instr`, which knows no patterns."""
        return sa.func.instr(text, sa.literal(part, sa.Text())) > 0

    def _value(self, document: sa.Column[Any], key: str) -> Expression:
        if self._is_plain(key):
            return sa.func.json_extract(sa.type_coerce(document, sa.Text), f'$."{key}"', type_=sa.types.NullType())
        return self._each(document, key, "value")

    def _type(self, document: sa.Column[Any], key: str) -> Expression:
        if self._is_plain(key):
            return sa.func.json_type(sa.type_coerce(document, sa.Text), f'$."{key}"', type_=sa.Text())
        return self._each(document, key, "type")

    @staticmethod
    def _each(document: sa.Column[Any], key: str, column: str) -> Expression:
        each = sa.func.json_each(sa.type_coerce(document, sa.Text)).table_valued("key", "value", "type")
        found = sa.select(each.c[column]).where(each.c.key == sa.literal(key, sa.Text())).correlate(contacts)
        return found.scalar_subquery()


class Postgresql:
    """PostgreSQL's jsonb. Values compare as jsonb does: the type first, and numbers exactly."""

    knows_words: ClassVar[bool] = True

    def prefer_order(self, connection: sa.Connection) -> None:
        """PostgreSQL cannot know how many contacts match. It would expect a few, and sort all of them."""
        connection.execute(sa.select(sa.func.set_config("enable_sort", "off", sa.true())))

    def probed(self, conditions: list[Condition], probes: list[Condition]) -> list[Condition]:  # noqa: ARG002
        """The conditions alone: their order does not matter so much."""
        return conditions

    def unindexed(self, column: Expression) -> Expression:
        """The column itself: PostgreSQL knows how many rows a value has."""
        return column

    def is_set(self, key: str) -> Condition:
        """The value is not NULL."""
        return self._item(key).is_not(None)

    def equals(self, key: str, value: Primitive) -> Condition:
        """As jsonb: equal types and values."""
        return self._item(key) == self._json(value)

    def ordered(self, key: str, operator: Operator, value: float | str) -> Condition:
        """Numbers as jsonb, strings by code point."""
        if isinstance(value, str):
            is_text, text = self.text(key)
            return sa.and_(is_text, COMPARE[operator](text, sa.literal(value, sa.Text())))
        is_number = sa.func.jsonb_typeof(self._item(key)) == "number"
        return sa.and_(is_number, COMPARE[operator](self._item(key), self._json(value)))

    def text(self, key: str) -> tuple[Condition, Expression]:
        """The type, and the value in the collation of code points."""
        text = contacts.c.metadata.op("->>", return_type=sa.Text())(sa.literal(key, sa.Text()))
        return sa.func.jsonb_typeof(self._item(key)) == "string", sa.collate(text, "C")

    def folded(self, name: str) -> Expression:
        """The value of that key."""
        return sa.collate(contacts.c.folded.op("->>", return_type=sa.Text())(sa.literal(name, sa.Text())), "C")

    def time(self, text: Expression, operator: Operator, ms: int) -> Condition:
        """A string is converted only if it is a time, and without what follows the milliseconds."""
        long = sa.func.regexp_replace(sa.func.upper(text), r"(\.\d{3})\d+", r"\1")
        full = sa.case((sa.func.length(text) == len("2026-11-01"), text + "T00:00:00Z"), else_=long)
        moment = sa.case((text.regexp_match(TIME_PATTERN), sa.cast(full, postgresql.TIMESTAMP(timezone=True))))
        result: Condition = COMPARE[operator](moment, sa.literal(time_text(ms), Time()))
        return result

    def has_part(self, text: Expression, part: str) -> Condition:
        """By LIKE, which the index of trigrams serves."""
        escaped = re.sub(r"[\\%_]", r"\\\g<0>", part)
        return text.like(sa.literal(f"%{escaped}%", sa.Text()))

    @staticmethod
    def _item(key: str) -> Expression:
        return contacts.c.metadata.op("->", return_type=postgresql.JSONB())(sa.literal(key, sa.Text()))

    @staticmethod
    def _json(value: Primitive) -> Expression:
        return sa.cast(sa.literal(msgspec.json.encode(value).decode(), sa.Text()), postgresql.JSONB)


_SQLITE: Final = Sqlite()
_POSTGRESQL: Final = Postgresql()


def sql_of(connection: sa.Connection) -> Sql:
    """What the connection's database writes."""
    return _SQLITE if connection.dialect.name == "sqlite" else _POSTGRESQL
