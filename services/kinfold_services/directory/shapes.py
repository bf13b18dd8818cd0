"""Creates the directory's tables and public views, and replaces those of another shape (`tables.SHAPE`)."""

import re
from typing import Any, Final

import sqlalchemy as sa

from kinfold_services.directory.tables import (
    POSTGRESQL_SCHEMA,
    PREFIX,
    SHAPE,
    builds,
    conflicts,
    contacts,
    identifiers,
    schema,
    search,
    timeline,
    visitors,
)

_ANY_CONTACTS: Final = re.compile(r"directory(\d+)_contacts")
_CREATION_LOCK: Final = int.from_bytes(b"kinfold")
"""The key of PostgreSQL's advisory lock, so that two processes do not create the tables at once."""


def _position(table: sa.Table) -> sa.ColumnElement[str]:
    return (sa.cast(table.c.position_ms, sa.Text) + "-" + sa.cast(table.c.position_seq, sa.Text)).label("position")


def _view(table: sa.Table, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    current = sa.and_(builds.c.id == table.c.build, builds.c.shape == SHAPE, builds.c.state == "current")
    return sa.select(builds.c.workspace, *columns).select_from(sa.join(builds, table, current))


def _living_view(table: sa.Table, *columns: sa.ColumnElement[Any]) -> sa.CompoundSelect[Any]:
    """A view that shows what merged contacts had as the living contact's. Both parts can use an index on `contact_id`."""
    merged = identifiers.alias("merged")
    became = sa.and_(
        merged.c.build == table.c.build,
        merged.c.kind == "contact_id",
        merged.c.value_key == table.c.contact_id,
    )
    original = table.c.contact_id.label("original_contact_id")
    living = _view(table, table.c.contact_id, *columns, original).where(~sa.exists().where(became))
    return living.union_all(_view(table, merged.c.contact_id, *columns, original).where(became))


views: Final[dict[str, sa.Select[Any] | sa.CompoundSelect[Any]]] = {
    "contacts": _view(
        contacts,
        *(contacts.c[name] for name in ("id", "external_id", "email", "name", "image", "metadata", "visitor_count")),
        *(contacts.c[name] for name in ("first_seen_at", "last_seen_at", "created_at", "updated_at", "version")),
    ),
    "contact_timeline": _living_view(
        timeline,
        *(timeline.c[name] for name in ("at", "type", "rule", "details", "cause", "position_ms", "position_seq")),
        _position(timeline),
    ),
    "contact_visitors": _living_view(visitors, visitors.c.visitor_id, visitors.c.since, visitors.c.until),
    "contact_identifiers": _view(
        identifiers,
        *(identifiers.c[name] for name in ("contact_id", "kind", "value", "held_by", "until", "cause")),
    ),
    "identity_conflicts": _view(
        conflicts,
        *(conflicts.c[name] for name in ("contact_id", "email", "held_by", "reason", "at", "settled_at")),
        _position(conflicts),
    ),
}
"""The public views, by name: the current builds of all workspaces."""


def earlier_table(connection: sa.Connection, table: sa.Table, shape: int) -> sa.Table | None:
    """A table as another shape had it; None if that had no such table, or not all of the columns."""
    if shape == SHAPE:
        return table
    name = f"directory{shape}_{table.name.removeprefix(PREFIX)}"
    if not sa.inspect(connection).has_table(name):
        return None
    earlier = sa.Table(name, sa.MetaData(), autoload_with=connection)
    return earlier if {column.name for column in table.columns} <= set(earlier.columns.keys()) else None


def drop_older_tables(connection: sa.Connection) -> None:
    """Drop the tables of older shapes without a current build, and forget their builds. Needs a write transaction."""
    for name in sa.inspect(connection).get_table_names():
        match = _ANY_CONTACTS.fullmatch(name)
        if match is None or (shape := int(match[1])) >= SHAPE:
            continue
        used = sa.select(builds.c.id).where(builds.c.shape == shape, builds.c.state == "current").limit(1)
        if connection.execute(used).first() is not None:
            continue
        for table in (search.name, *(each.name for each in schema.sorted_tables if each is not builds)):
            connection.execute(sa.text(f"DROP TABLE IF EXISTS directory{shape}_{table.removeprefix(PREFIX)}"))
        connection.execute(sa.delete(builds).where(builds.c.shape == shape))


def create_tables(connection: sa.Connection) -> None:
    """Create what is missing of the tables and views.

    Views of another shape stay, as long as it has a current build. Needs a write transaction. On PostgreSQL, the user needs the
    right to create the schema `kinfold` and the extension pg_trgm in the database, unless both exist.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATION_LOCK)))
        # IF NOT EXISTS alone would need the right to create schemas even if the schema exists.
        if not sa.inspect(connection).has_schema(POSTGRESQL_SCHEMA):
            connection.execute(sa.schema.CreateSchema(POSTGRESQL_SCHEMA))
        connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
    schema.create_all(connection)
    show_shape(connection)


def show_shape(connection: sa.Connection) -> None:
    """Make the public views show this shape, unless another one has a current build. Needs a write transaction.

    So readers see either all old views or all new ones.
    """
    others = sa.select(builds.c.id).where(builds.c.shape != SHAPE, builds.c.state == "current").limit(1)
    # Replacing a view waits for everybody who reads it, so it is done only if it has to be.
    if connection.execute(others).first() is None and not _views_are_ours(connection):
        _replace_views(connection)


def _views_are_ours(connection: sa.Connection) -> bool:
    """Whether all views exist and show this shape."""
    inspector = sa.inspect(connection)
    if not set(views) <= set(inspector.get_view_names()):
        return False
    return all(PREFIX in (inspector.get_view_definition(name) or "") for name in views)


def _replace_views(connection: sa.Connection) -> None:
    is_sqlite = connection.dialect.name == "sqlite"
    for name, query in views.items():
        view = sa.schema.CreateView(query, name, or_replace=not is_sqlite)
        if is_sqlite:
            connection.execute(sa.text(f"DROP VIEW IF EXISTS {name}"))
        connection.execute(view)
