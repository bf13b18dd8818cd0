"""Applies entries of the feed to a build: the rows and the new position in one transaction.

The transaction begins with the position. It is changed only if it is still the one that the entries follow, so of two
directories that apply the same entries one fails with `Overtaken`. On PostgreSQL the changed row makes the other one wait.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from kinfold_projections.directory import search_text
from kinfold_projections.directory_rows import (
    AddConflict,
    AddIdentifier,
    FeedEntry,
    Living,
    Merge,
    MetadataRows,
    Row,
    Rows,
    Settle,
    Step,
    Unmerge,
    Value,
    changed_columns,
    contact_row,
    decode_contact,
    fold_changes,
    link_rows,
    named_contacts,
)
from kinfold_schemas.contacts import Link
from kinfold_services.directory.tables import (
    builds,
    conflicts,
    contacts,
    counts,
    identifiers,
    metadata,
    search,
    timeline,
    visitors,
)

_AT_ONCE: Final = 1000
"""How many values a query lists: SQLite takes at most 32,766."""


class Overtaken(Exception):
    """Another directory has moved the build's position, or removed the build."""


class Numbered(Living, gc=False):
    """A contact with its row's number."""

    n: int


class Page(NamedTuple):
    """Entries of the feed, and the positions before the first and of the last."""

    before: str
    after: str
    entries: Sequence[FeedEntry]


def apply(connection: sa.Connection, build: int, page: Page, links: Mapping[str, Sequence[Link]], now: str) -> None:
    """Apply a page in the transaction of `connection`. `links` replace those of some visitors (`relinked_visitors`).

    Raises:
        Overtaken: the build is not at the position before.

    """
    values = {"position": page.after, "updated_at": now}
    is_ours = builds.c.id == build, builds.c.position == page.before, builds.c.state != "old"
    if connection.execute(sa.update(builds).where(*is_ours).values(values)).rowcount != 1:
        raise Overtaken(f"build {build} is not at {page.before} any more")
    known = load_contacts(connection, build, named_contacts(page.entries))
    rows = fold_changes(page.entries, known)
    write_contacts(connection, build, rows, known)
    _insert(connection, timeline, build, rows.timeline)
    _write_links(connection, build, rows.visitors)
    replace_links(connection, build, links)
    _take_steps(connection, build, rows.steps)


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


# --- contacts, metadata and counts ----------------------------------------------------------------------------------------


class _ContactRows(NamedTuple):
    """What is to be done to the table of contacts."""

    added: list[Row]
    changed: dict[tuple[str, ...], list[Row]]
    """The new values by the columns that differ."""
    removed: list[Numbered]
    texts: list[tuple[int, str, str]]
    """The numbers of rows with another text to search in, with the old text and the new one."""


def write_contacts(connection: sa.Connection, build: int, rows: Rows, known: Mapping[str, Numbered]) -> None:
    """Write the contacts, their metadata, the text to search in, and all counts."""
    work = _contact_rows(build, rows, known)
    if connection.dialect.name == "sqlite":
        _write_search(connection, work)
    for columns, changes in work.changed.items():
        connection.execute(_update_contacts(columns), changes)
    if work.removed:
        connection.execute(_REMOVE_CONTACT, [{"row": each.n} for each in work.removed])
    if work.added:
        connection.execute(sa.insert(contacts), work.added)
    _write_metadata(connection, build, rows.metadata())
    if difference := len(work.added) - len(work.removed):
        connection.execute(sa.update(builds).where(builds.c.id == build).values(contacts=builds.c.contacts + difference))


def _contact_rows(build: int, rows: Rows, known: Mapping[str, Numbered]) -> _ContactRows:
    work = _ContactRows([], {}, [], [])
    for contact_id, now in rows.contacts.items():
        old = known.get(contact_id)
        if now is None:
            if old is not None:
                work.removed.append(old)
        elif old is None:
            work.added.append({"build": build, **contact_row(now)})
        else:
            columns = changed_columns(old.contact, now.contact)
            row = contact_row(now)
            work.changed.setdefault(columns, []).append({"row": old.n, **{name: row[name] for name in columns}})
            if "search_text" in columns:
                work.texts.append((old.n, search_text(old.contact), row["search_text"]))
    return work


_REMOVE_CONTACT: Final = sa.delete(contacts).where(contacts.c.n == sa.bindparam("row"))
_updates: Final[dict[tuple[str, ...], sa.Update]] = {}


def _update_contacts(columns: tuple[str, ...]) -> sa.Update:
    if (statement := _updates.get(columns)) is None:
        values: dict[str, Any] = {name: sa.bindparam(name) for name in columns}
        statement = _updates[columns] = sa.update(contacts).where(contacts.c.n == sa.bindparam("row")).values(values)
    return statement


def _write_search(connection: sa.Connection, work: _ContactRows) -> None:
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


def _write_metadata(connection: sa.Connection, build: int, rows: MetadataRows) -> None:
    if rows.removed:
        connection.execute(_REMOVE_VALUE, [{"contact": contact, **_bound(build, value)} for contact, value in rows.removed])
    if rows.added:
        added = [{"build": build, **_columns(value), "contact_id": contact} for contact, value in rows.added]
        connection.execute(sa.insert(metadata), added)
    # In one order everywhere: so two builds never wait for each other.
    more = [{**_bound(build, value), "more": by} for value, by in sorted(rows.counts.items()) if by]
    if more:
        connection.execute(_upsert_counts(connection), more)
        fewer = [each for each in more if each["more"] < 0]
        if fewer:
            connection.execute(_REMOVE_COUNT, [{name: each[name] for name in each if name != "more"} for each in fewer])


def _columns(value: Value) -> Row:
    key, kind, number, text = value
    return {"key": key, "kind": kind, "number": number, "text": text}


def _bound(build: int, value: Value) -> Row:
    key, kind, number, text = value
    return {"b": build, "k": key, "kd": kind, "nr": number, "tx": text}


def _is_value(table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(
        table.c.build == sa.bindparam("b"),
        table.c.key == sa.bindparam("k"),
        table.c.kind == sa.bindparam("kd"),
        table.c.number == sa.bindparam("nr"),
        table.c.text == sa.bindparam("tx"),
    )


_REMOVE_VALUE: Final = sa.delete(metadata).where(_is_value(metadata), metadata.c.contact_id == sa.bindparam("contact"))
_REMOVE_COUNT: Final = sa.delete(counts).where(_is_value(counts), counts.c.contacts == 0)
_COUNT_COLUMNS: Final = {"build": "b", "key": "k", "kind": "kd", "number": "nr", "text": "tx", "contacts": "more"}


def _upsert_counts(connection: sa.Connection) -> Any:
    insert: Any = _insert_of(connection)(counts)
    values = {column: sa.bindparam(name, type_=counts.c[column].type) for column, name in _COUNT_COLUMNS.items()}
    key = [column.name for column in counts.primary_key]
    return insert.values(values).on_conflict_do_update(
        index_elements=key, set_={"contacts": counts.c.contacts + insert.excluded.contacts}
    )


def _insert_of(connection: sa.Connection) -> Any:
    return sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert


def _insert(connection: sa.Connection, table: sa.Table, build: int, rows: Sequence[Row]) -> None:
    if rows:
        connection.execute(sa.insert(table), [{"build": build, **row} for row in rows])


# --- links ----------------------------------------------------------------------------------------------------------------


def _write_links(connection: sa.Connection, build: int, rows: Sequence[Row]) -> None:
    """Put links into the histories of their visitors. A link that is there already stays."""
    if not rows:
        return
    connection.execute(_END_LINK, [{"b": build, "v": row["visitor_id"], "s": row["since"]} for row in rows])
    connection.execute(_upsert_links(connection), [{"build": build, **row} for row in rows])


def add_links(connection: sa.Connection, build: int, rows: Sequence[Row]) -> None:
    """Add whole histories of visitors that have none yet, or the same."""
    if rows:
        insert = _insert_of(connection)(visitors).on_conflict_do_nothing()
        connection.execute(insert, [{"build": build, **row} for row in rows])


def replace_links(connection: sa.Connection, build: int, links: Mapping[str, Sequence[Link]]) -> None:
    """Replace the histories of some visitors."""
    if links:
        connection.execute(_REMOVE_LINKS, [{"b": build, "v": visitor_id} for visitor_id in links])
        add_links(connection, build, [row for each, history in links.items() for row in link_rows(each, history)])


_REMOVE_LINKS: Final = sa.delete(visitors).where(
    visitors.c.build == sa.bindparam("b"), visitors.c.visitor_id == sa.bindparam("v")
)
_since: Final = sa.bindparam("s", type_=visitors.c.since.type)
_END_LINK: Final = (
    sa.update(visitors)
    .where(
        visitors.c.build == sa.bindparam("b"),
        visitors.c.visitor_id == sa.bindparam("v"),
        visitors.c.since < _since,
        sa.or_(visitors.c.until.is_(None), visitors.c.until > _since),
    )
    .values(until=_since)
)


def _upsert_links(connection: sa.Connection) -> Any:
    insert: Any = _insert_of(connection)(visitors)
    later = visitors.alias("later")
    bound = {
        name: sa.bindparam(name, type_=visitors.c[name].type)
        for name in ("build", "visitor_id", "contact_id", "since", "until")
    }
    next_since = sa.select(sa.func.min(later.c.since)).where(
        later.c.build == bound["build"], later.c.visitor_id == bound["visitor_id"], later.c.since > bound["since"]
    )
    values = {**bound, "until": sa.func.coalesce(bound["until"], next_since.scalar_subquery())}
    key = [column.name for column in visitors.primary_key]
    return insert.values(values).on_conflict_do_update(index_elements=key, set_={"contact_id": insert.excluded.contact_id})


# --- identifiers and conflicts --------------------------------------------------------------------------------------------


def _take_steps(connection: sa.Connection, build: int, steps: Sequence[Step]) -> None:
    for kind, group in groupby(steps, type):
        for_kind = list(group)
        if kind is AddIdentifier:
            added = cast("list[AddIdentifier]", for_kind)
            connection.execute(_add_identifiers(connection), [{"build": build, **each.row} for each in added])
            continue
        for step in for_kind:
            match step:
                case Merge():
                    _merge(connection, build, step)
                case Unmerge():
                    _unmerge(connection, build, step.contact_id)
                case AddConflict():
                    connection.execute(_ADD_CONFLICT, {"build": build, **step.row})
                case Settle():
                    _settle(connection, build, step)
                case AddIdentifier():
                    pass


def _add_identifiers(connection: sa.Connection) -> Any:
    return _insert_of(connection)(identifiers).on_conflict_do_nothing()


def _merge(connection: sa.Connection, build: int, step: Merge) -> None:
    parameters = {"b": build, "one": step.merged, "other": step.into}
    connection.execute(_FORGET_MERGE, parameters)
    connection.execute(_MOVE_IDENTIFIERS, parameters)
    connection.execute(_MOVE_CONFLICT, parameters)
    connection.execute(_MOVE_HELD, parameters)


_one: Final[sa.BindParameter[str]] = sa.bindparam("one")
_other: Final[sa.BindParameter[str]] = sa.bindparam("other")
_open: Final = sa.and_(conflicts.c.build == sa.bindparam("b"), conflicts.c.settled_at.is_(None))
_FORGET_MERGE: Final = sa.delete(identifiers).where(
    identifiers.c.build == sa.bindparam("b"), identifiers.c.kind == "contact_id", identifiers.c.value_key == _one
)
_MOVE_IDENTIFIERS: Final = (
    sa.update(identifiers)
    .where(identifiers.c.build == sa.bindparam("b"), identifiers.c.contact_id == _one)
    .values(contact_id=_other)
)
_MOVE_CONFLICT: Final = sa.update(conflicts).where(_open, conflicts.c.contact_id == _one).values(contact_id=_other)
_MOVE_HELD: Final = sa.update(conflicts).where(_open, conflicts.c.held_by == _one).values(held_by=_other)


def _unmerge(connection: sa.Connection, build: int, contact_id: str) -> None:
    """Give a contact back what it had, and what those had that were merged into it."""
    table = identifiers
    is_merged = sa.and_(table.c.build == build, table.c.kind == "contact_id")
    holder = connection.scalar(sa.select(table.c.contact_id).where(is_merged, table.c.value_key == contact_id).limit(1))
    if holder is None:
        return
    merges = sa.select(table.c.value_key, table.c.merged_into).where(is_merged, table.c.contact_id == holder)
    parents: dict[str, str] = {row.value_key: row.merged_into for row in connection.execute(merges)}
    del parents[contact_id]
    theirs = [contact_id, *(each for each in parents if _root(each, parents) == contact_id)]
    connection.execute(sa.delete(table).where(is_merged, table.c.value_key == contact_id))
    moved = sa.and_(table.c.build == build, table.c.contact_id == holder, table.c.held_by.in_(theirs))
    connection.execute(sa.update(table).where(moved).values(contact_id=contact_id))


def _root(contact_id: str, parents: Mapping[str, str]) -> str:
    while (parent := parents.get(contact_id)) is not None:
        contact_id = parent
    return contact_id


def _settle(connection: sa.Connection, build: int, step: Settle) -> None:
    holds_another = conflicts.c.held_by == step.contact_id
    if step.email_key is not None:
        holds_another = sa.and_(holds_another, conflicts.c.email_key != step.email_key)
    is_over = sa.or_(holds_another, conflicts.c.contact_id == conflicts.c.held_by)
    if step.is_gone:
        is_over = sa.or_(is_over, conflicts.c.contact_id == step.contact_id)
    about = sa.or_(conflicts.c.held_by == step.contact_id, conflicts.c.contact_id == step.contact_id)
    connection.execute(sa.update(conflicts).where(_open, about, is_over).values(settled_at=step.at), {"b": build})


_same: Final = conflicts.alias("same")
_ADD_CONFLICT: Final = sa.insert(conflicts).from_select(
    [column.name for column in conflicts.columns],
    sa.select(*(sa.bindparam(column.name, type_=column.type) for column in conflicts.columns)).where(
        ~sa.exists().where(
            _same.c.build == sa.bindparam("build"),
            _same.c.contact_id == sa.bindparam("contact_id"),
            _same.c.email_key == sa.bindparam("email_key"),
            _same.c.held_by == sa.bindparam("held_by"),
            _same.c.settled_at.is_(None),
        )
    ),
)
