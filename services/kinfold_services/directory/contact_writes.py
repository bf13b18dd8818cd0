"""Writes contacts, their metadata, the counts of metadata values, and on SQLite the text index."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, cast

import sqlalchemy as sa

from kinfold_projections.directory import Row, search_text
from kinfold_projections.directory_feed import decode_contact
from kinfold_projections.directory_rows import (
    CONTACT_COLUMNS,
    Living,
    MetadataRows,
    Rows,
    changed_columns,
    contact_row,
)
from kinfold_services.directory.bulk import Bulk, Values, bound, insert_into
from kinfold_services.directory.tables import builds, contacts, counts, encode_json, metadata, search

_AT_ONCE: Final = 1000
"""How many values a query lists: SQLite takes at most 32,766."""


class Numbered(Living, gc=False):
    """A contact with its row's number."""

    n: int


class _Work(NamedTuple):
    """What is to be done to the table of contacts."""

    added: list[Row]
    changed: dict[tuple[str, ...], list[Values]]
    """The new values by the columns that differ, each with the row's number at the end."""
    removed: list[Numbered]
    texts: list[tuple[int, str, str]]
    """The numbers of rows with another text to search in, with the old text and the new one."""


def load_contacts(connection: sa.Connection, build: int, ids: Iterable[str]) -> dict[str, Numbered]:
    """The living contacts among these ids."""
    ordered = sorted(ids)
    found: dict[str, Numbered] = {}
    for first in range(0, len(ordered), _AT_ONCE):
        parameters = {"b": build, "ids": ordered[first : first + _AT_ONCE]}
        for contact_id, n, record in connection.execute(_KNOWN, parameters):
            found[contact_id] = Numbered(decode_contact(record), record, n)
    return found


_KNOWN: Final = sa.select(contacts.c.id, contacts.c.n, contacts.c.record).where(
    contacts.c.build == sa.bindparam("b"), contacts.c.id.in_(sa.bindparam("ids", expanding=True))
)


def write_contacts(connection: sa.Connection, build: int, rows: Rows, known: Mapping[str, Numbered]) -> None:
    """Write the contacts, their metadata, the text to search in, and all counts."""
    work = _to_do(rows, known)
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:
        _write_search(connection, work)
    for columns, changes in work.changed.items():
        _update_of(columns).run(connection, changes)
    _REMOVE_CONTACT.run(connection, [(each.n,) for each in work.removed])
    if is_sqlite:
        _ADD_NUMBERED.run(connection, [(row.pop("n"), build, *row.values()) for row in work.added])
    else:
        _ADD_CONTACT.run(connection, [(build, *row.values()) for row in work.added])
    _write_metadata(connection, build, rows.metadata())
    if difference := len(work.added) - len(work.removed):
        connection.execute(sa.update(builds).where(builds.c.id == build).values(contacts=builds.c.contacts + difference))


def _to_do(rows: Rows, known: Mapping[str, Numbered]) -> _Work:
    work = _Work([], {}, [], [])
    for contact_id, now in rows.contacts.items():
        old = known.get(contact_id)
        if now is None:
            if old is not None:
                work.removed.append(old)
            continue
        row = contact_row(now)
        row["metadata"] = encode_json(row["metadata"])
        if row["folded"] is not None:
            row["folded"] = encode_json(row["folded"])
        if old is None:
            work.added.append(row)
            continue
        columns = changed_columns(old.contact, now.contact)
        work.changed.setdefault(columns, []).append((*(row[name] for name in columns), old.n))
        if "search_text" in columns:
            work.texts.append((old.n, search_text(old.contact), row["search_text"]))
    return work


_ADD_CONTACT: Final = insert_into(contacts, ["build", *CONTACT_COLUMNS])
_ADD_NUMBERED: Final = insert_into(contacts, ["n", "build", *CONTACT_COLUMNS])
_REMOVE_CONTACT: Final = Bulk(["row"], lambda _: sa.delete(contacts).where(contacts.c.n == sa.bindparam("row")))
_updates: Final[dict[tuple[str, ...], Bulk]] = {}


def _update_of(columns: tuple[str, ...]) -> Bulk:
    if (statement := _updates.get(columns)) is None:
        this_row = contacts.c.n == sa.bindparam("row")
        statement = _updates[columns] = Bulk(
            [*columns, "row"], lambda _: sa.update(contacts).where(this_row).values(bound(contacts, columns))
        )
    return statement


# --- the text index -------------------------------------------------------------------------------------------------------


def _write_search(connection: sa.Connection, work: _Work) -> None:
    """Keep SQLite's text index in step, and number the rows to be added: the index has to know the numbers."""
    old = [(n, text) for n, text, _ in work.texts] + [(each.n, search_text(each.contact)) for each in work.removed]
    if old:
        forget_texts(connection, old)
    if work.added:
        last = connection.scalar(sa.select(sa.func.coalesce(sa.func.max(contacts.c.n), 0)))
        for number, row in enumerate(work.added, cast("int", last) + 1):
            row["n"] = number
    new = [(n, text) for n, _, text in work.texts] + [(row["n"], row["search_text"]) for row in work.added]
    if new:
        connection.exec_driver_sql(_ADD_TEXT, new)


def forget_texts(connection: sa.Connection, texts: list[tuple[int, str]]) -> None:
    """Remove rows of contacts, each with its text, from SQLite's text index."""
    connection.exec_driver_sql(_FORGET_TEXT, texts)


_FORGET_TEXT: Final = f"INSERT INTO {search.name} ({search.name}, rowid, search_text) VALUES ('delete', ?, ?)"  # noqa: S608  a name of ours
_ADD_TEXT: Final = f"INSERT INTO {search.name} (rowid, search_text) VALUES (?, ?)"  # noqa: S608  as above


# --- metadata and counts --------------------------------------------------------------------------------------------------


def _write_metadata(connection: sa.Connection, build: int, rows: MetadataRows) -> None:
    _REMOVE_VALUE.run(connection, [(build, *value, contact) for contact, value in rows.removed])
    _ADD_VALUE.run(connection, [(build, *value, contact) for contact, value in rows.added])
    # In one order everywhere, so that two transactions never wait for each other.
    more = [(build, *value, by) for value, by in sorted(rows.counts.items()) if by]
    _ADD_COUNT.run(connection, more)
    _REMOVE_COUNT.run(connection, [row[:-1] for row in more if row[-1] < 0])


_VALUE: Final = ("b", "k", "kd", "nr", "tx")


def _is_value(table: sa.Table) -> sa.ColumnElement[bool]:
    columns = (table.c[name] for name in ("build", "key", "kind", "number", "text"))
    return sa.and_(*(column == sa.bindparam(name) for column, name in zip(columns, _VALUE, strict=True)))


_REMOVE_VALUE: Final = Bulk(
    [*_VALUE, "contact"],
    lambda _: sa.delete(metadata).where(_is_value(metadata), metadata.c.contact_id == sa.bindparam("contact")),
)
_ADD_VALUE: Final = insert_into(metadata, ["build", "key", "kind", "number", "text", "contact_id"])
_COUNT: Final = ("build", "key", "kind", "number", "text", "contacts")


def _add_count(insert: Any) -> sa.Executable:
    added = insert(counts).values(bound(counts, _COUNT))
    more = {"contacts": counts.c.contacts + added.excluded.contacts}
    return cast("sa.Executable", added.on_conflict_do_update(index_elements=list(counts.primary_key), set_=more))


_ADD_COUNT: Final = Bulk(_COUNT, _add_count)
_REMOVE_COUNT: Final = Bulk(
    _VALUE, lambda _: sa.delete(counts).where(_is_value(counts), counts.c.contacts == sa.literal_column("0"))
)
