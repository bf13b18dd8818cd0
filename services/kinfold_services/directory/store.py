"""Applies entries of the feed to a build: the rows and the new position in one transaction.

The transaction begins with the position. It is changed only if it is still the one that the entries follow, so of two
directories that apply the same entries one fails with `Overtaken`. On PostgreSQL the changed row makes the other one wait.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple, cast

import sqlalchemy as sa

from kinfold_projections.directory import Row
from kinfold_projections.directory_feed import FeedEntry
from kinfold_projections.directory_rows import (
    IDENTIFIER_COLUMNS,
    AddConflict,
    AddIdentifier,
    Dismiss,
    Erase,
    Merge,
    Settle,
    Step,
    Unmerge,
    fold_changes,
    link_rows,
    named_contacts,
)
from kinfold_schemas.contacts import Link
from kinfold_services.directory.bulk import Bulk, Values, bound, insert_into
from kinfold_services.directory.contact_writes import load_contacts, write_contacts
from kinfold_services.directory.erased_rows import erase
from kinfold_services.directory.tables import builds, conflicts, encode_json, identifiers, timeline, visitors


class Overtaken(Exception):
    """Another directory has moved the build's position, or removed the build."""


class Page(NamedTuple):
    """Entries of the feed, and the positions before the first and of the last."""

    before: str
    after: str
    entries: Sequence[FeedEntry]


def apply(  # noqa: PLR0913, PLR0917  a page, and what the state tells of it
    connection: sa.Connection,
    build: int,
    page: Page,
    links: Mapping[str, Sequence[Link]],
    now: str,
    visitors_gone: Sequence[str] = (),
) -> None:
    """Apply a page in the transaction of `connection`. `links` replace those of some visitors (`relinked_visitors`).

    `visitors_gone` are those that went with a person whom the page tells to be erased.

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
    _ADD_TO_TIMELINE.run(connection, [(build, *each[:-1], encode_json(each[-1])) for each in rows.timeline])
    _write_links(connection, build, rows.visitors)
    replace_links(connection, build, links)
    _take_steps(connection, build, rows.steps, visitors_gone)


_ADD_TO_TIMELINE: Final = insert_into(
    timeline, ["build", "position_ms", "position_seq", "contact_id", "type", "at", "cause", "rule", "details"]
)


# --- links ----------------------------------------------------------------------------------------------------------------


def _write_links(connection: sa.Connection, build: int, rows: Sequence[Row]) -> None:
    """Put links into the histories of their visitors. A link that is there already stays."""
    _END_LINK.run(connection, [(build, row["visitor_id"], row["since"]) for row in rows])
    _ADD_LINK.run(connection, [_link_values(build, row) for row in rows])


def add_links(connection: sa.Connection, build: int, links: Mapping[str, Sequence[Link]]) -> None:
    """Add the whole histories of visitors that have none yet, or the same."""
    rows = [row for each, history in links.items() for row in link_rows(each, history)]
    _ADD_HISTORY.run(connection, [_link_values(build, row) for row in rows])


def replace_links(connection: sa.Connection, build: int, links: Mapping[str, Sequence[Link]]) -> None:
    """Replace the histories of some visitors."""
    _REMOVE_LINKS.run(connection, [(build, visitor_id) for visitor_id in links])
    add_links(connection, build, links)


_LINK: Final = ("build", "visitor_id", "contact_id", "since", "until")


def _link_values(build: int, row: Row) -> Values:
    return build, row["visitor_id"], row["contact_id"], row["since"], row["until"]


def _add_link(insert: Any) -> sa.Executable:
    values: dict[str, Any] = dict(bound(visitors, _LINK))
    later = visitors.alias("later")
    next_since = sa.select(sa.func.min(later.c.since)).where(
        later.c.build == values["build"], later.c.visitor_id == values["visitor_id"], later.c.since > values["since"]
    )
    values["until"] = sa.func.coalesce(values["until"], next_since.scalar_subquery())
    added = insert(visitors).values(values)
    same = {"contact_id": added.excluded.contact_id}
    return cast("sa.Executable", added.on_conflict_do_update(index_elements=list(visitors.primary_key), set_=same))


def _end_link(_: Any) -> sa.Executable:
    since: sa.BindParameter[str] = sa.bindparam("s", type_=visitors.c.since.type)
    reaches = sa.or_(visitors.c.until.is_(None), visitors.c.until > since)
    return sa.update(visitors).where(_of_visitor, visitors.c.since < since, reaches).values(until=since)


_of_visitor: Final = sa.and_(visitors.c.build == sa.bindparam("b"), visitors.c.visitor_id == sa.bindparam("v"))
_END_LINK: Final = Bulk(["b", "v", "s"], _end_link)
_ADD_LINK: Final = Bulk(_LINK, _add_link)
_ADD_HISTORY: Final = Bulk(_LINK, lambda insert: insert(visitors).values(bound(visitors, _LINK)).on_conflict_do_nothing())
_REMOVE_LINKS: Final = Bulk(["b", "v"], lambda _: sa.delete(visitors).where(_of_visitor))


# --- identifiers and conflicts --------------------------------------------------------------------------------------------


def _take_steps(  # noqa: C901  a kind of step each
    connection: sa.Connection, build: int, steps: Sequence[Step], visitors_gone: Sequence[str]
) -> None:
    for kind, group in groupby(steps, type):
        for_kind = list(group)
        if kind is AddIdentifier:
            added = cast("list[AddIdentifier]", for_kind)
            rows = [(build, *(each.row[name] for name in IDENTIFIER_COLUMNS)) for each in added]
            _ADD_IDENTIFIER.run(connection, rows)
            continue
        if kind is Erase:
            told = cast("list[Erase]", for_kind)  # those of one contact say the same, but the first one knows what it was
            erase(connection, build, {each.contact_id: each.known for each in reversed(told)}, visitors_gone)
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
                case Dismiss():
                    _dismiss(connection, build, step)
                case AddIdentifier() | Erase():
                    pass


_one: Final[sa.BindParameter[str]] = sa.bindparam("one")
_other: Final[sa.BindParameter[str]] = sa.bindparam("other")
_IDENTIFIER: Final = ("build", *IDENTIFIER_COLUMNS)
_ADD_IDENTIFIER: Final = Bulk(
    _IDENTIFIER, lambda insert: insert(identifiers).values(bound(identifiers, _IDENTIFIER)).on_conflict_do_nothing()
)


def _merge(connection: sa.Connection, build: int, step: Merge) -> None:
    parameters = {"b": build, "one": step.merged, "other": step.into}
    connection.execute(_FORGET_MERGE, parameters)
    connection.execute(_MOVE_IDENTIFIERS, parameters)
    connection.execute(_MOVE_CONFLICT, parameters)
    connection.execute(_MOVE_HELD, parameters)


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


def _dismiss(connection: sa.Connection, build: int, step: Dismiss) -> None:
    its = conflicts.c
    is_it = its.contact_id == step.contact_id, its.email_key == step.email_key, its.held_by == step.held_by
    connection.execute(sa.update(conflicts).where(_open, *is_it).values(settled_at=step.at), {"b": build})


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
