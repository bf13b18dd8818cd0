"""Directories with given contacts, written without a projector; and what a search has to find, in plain Python."""

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from kinfold_projections import directory_rows
from kinfold_projections.directory import fold_text, index_value
from kinfold_projections.directory_rows import Living
from kinfold_schemas.contacts import Contact
from kinfold_schemas.filters import (
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
    Or,
    text_time_ms,
    time_ms,
)
from kinfold_schemas.identifiers import email_key, id_key
from kinfold_services.directory import tables


def insert_contacts(connection: sa.Connection, workspace: str, contacts: Iterable[Contact], position: str = "1-0") -> int:
    """Make a current build of these contacts. Returns its id."""
    rows = [contact_row(contact) for contact in contacts]
    build: int = connection.execute(
        sa.insert(tables.builds)
        .values(workspace=workspace, shape=tables.SHAPE, state="current", position=position, contacts=len(rows))
        .values(updated_at="2026-11-01T00:00:00.000Z")
        .returning(tables.builds.c.id)
    ).scalar_one()
    add_contacts(connection, build, rows)
    counted: dict[tuple[Any, ...], int] = {}
    for row in rows:
        for key, value in row["values"].items():
            indexed = (key, *index_value(value))
            counted[indexed] = counted.get(indexed, 0) + 1
    names = ("key", "kind", "number", "text")
    _insert(
        connection,
        tables.counts,
        [{"build": build, **dict(zip(names, indexed, strict=True)), "contacts": times} for indexed, times in counted.items()],
    )
    return build


def add_contacts(connection: sa.Connection, build: int, rows: list[dict[str, Any]]) -> None:
    """Insert rows of contacts, with their index of metadata and of words."""
    _insert(connection, tables.contacts, [{"build": build, **{k: v for k, v in row.items() if k != "values"}} for row in rows])
    its = ("key", "kind", "number", "text")
    _insert(
        connection,
        tables.metadata,
        [
            {"build": build, "contact_id": row["id"], **dict(zip(its, (key, *index_value(value)), strict=True))}
            for row in rows
            for key, value in row["values"].items()
        ],
    )
    if connection.dialect.name == "sqlite":
        written = sa.select(tables.contacts.c.n, tables.contacts.c.search_text)
        written = written.where(tables.contacts.c.build == build, tables.contacts.c.id.in_([row["id"] for row in rows]))
        _insert(connection, tables.search, [{"rowid": n, "search_text": text} for n, text in connection.execute(written)])


def _insert(connection: sa.Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(sa.insert(table), rows)


def contact_row(contact: Contact) -> dict[str, Any]:
    """The row of a contact, with its metadata under `values`."""
    row = directory_rows.contact_row(Living(contact, msgspec.json.encode(contact).decode()))
    return {**row, "values": contact.metadata}


# --- by definition ------------------------------------------------------------------------------------------------------

_ABSENT = object()


def matches(contact: Contact, q: str | None, where: Filter | None, now_ms: int) -> bool:
    """Whether a contact matches, by definition."""
    lines = fold_text(
        "\n".join(part for part in (contact.name, contact.email, contact.external_id, contact.id) if part is not None)
    )
    return all(word in lines for word in fold_text(q or "").split()) and (where is None or _holds(where, contact, now_ms))


def _holds(tree: Filter, contact: Contact, now_ms: int) -> bool:
    match tree:
        case Not():
            holds = not _holds(tree.filter, contact, now_ms)
        case And():
            holds = all(_holds(part, contact, now_ms) for part in tree.filters)
        case Or():
            holds = any(_holds(part, contact, now_ms) for part in tree.filters)
        case Comparison(operator="!="):
            holds = not _equal(tree.field, value_of(contact, tree.field), tree.value, now_ms)
        case _:
            value = value_of(contact, tree.field)
            holds = value is not _ABSENT and _compares(tree, value, now_ms)
    return holds


def _compares(tree: Comparison | OneOf | Contains | Exists | Dated, value: Any, now_ms: int) -> bool:
    match tree:
        case Exists():
            return tree.field.in_metadata or value is not None
        case OneOf():
            return any(_equal(tree.field, value, each, now_ms) for each in tree.values)
        case Contains():
            return isinstance(value, str) and fold_text(tree.part) in fold_text(value)
        case Dated():
            ms, bound = text_time_ms(value) if isinstance(value, str) else None, time_ms(tree.time, now_ms)
            return ms is not None and (ms < bound if tree.order == "before" else ms > bound)
        case Comparison():
            return _ordered(tree, value, now_ms)


def _ordered(tree: Comparison, value: Any, now_ms: int) -> bool:
    if tree.operator == "=":
        return _equal(tree.field, value, tree.value, now_ms)
    other = tree.value
    if isinstance(other, Moment | Age):
        value, other = text_time_ms(value), time_ms(other, now_ms)
    if _kind(value) != _kind(other) or _kind(value) not in ("number", "string"):
        return False
    return bool({"<": value < other, "<=": value <= other, ">": value > other, ">=": value >= other}[tree.operator])


def _equal(field: Field, value: Any, other: Any, now_ms: int) -> bool:
    if isinstance(other, Moment | Age):
        return text_time_ms(value) == time_ms(other, now_ms)
    if not field.in_metadata and isinstance(value, str) and isinstance(other, str) and field.name in ("email", "externalId"):
        key = email_key if field.name == "email" else id_key
        return key(value) == key(other)
    if field == Field("id", in_metadata=False):
        return bool(value == (other.strip() if isinstance(other, str) else other))
    return _kind(value) == _kind(other) and bool(value == other)


def _kind(value: Any) -> str:
    if value is None or value is _ABSENT:
        return "null" if value is None else "absent"
    return "boolean" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"


def value_of(contact: Contact, field: Field) -> Any:
    """The value of a field; `_ABSENT` for a key that is not set."""
    if field.in_metadata:
        return contact.metadata.get(field.name, _ABSENT)
    public: dict[str, Any] = msgspec.to_builtins(contact)
    return public[field.name]


def in_order(contacts: Iterable[Contact], field: Field, *, descending: bool) -> list[Contact]:
    """The contacts in the order of a field; those without a value last."""
    with_value: list[tuple[Any, str, Contact]] = []
    without: list[tuple[str, Contact]] = []
    for contact in contacts:
        value = value_of(contact, field)
        if value is _ABSENT or (value is None and not field.in_metadata):
            without.append((contact.id, contact))
        elif not field.in_metadata:
            with_value.append((value, contact.id, contact))
        else:
            order = ["null", "boolean", "number", "string"].index(_kind(value))
            with_value.append(((order, 0 if value is None else value), contact.id, contact))
    with_value.sort(key=lambda each: each[:2], reverse=descending)
    without.sort(key=lambda each: each[0], reverse=descending)
    return [each[-1] for each in with_value] + [each[-1] for each in without]
