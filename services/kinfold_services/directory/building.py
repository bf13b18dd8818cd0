"""The life of a build: it begins, becomes current in the place of another one, gets old, and is removed.

A build that has the state `building` and a position can be continued by any directory. Without a position it belongs to the
directory that fills it from a snapshot.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from kinfold_services.directory.contact_writes import forget_texts
from kinfold_services.directory.shapes import drop_older_tables, show_shape
from kinfold_services.directory.store import Overtaken
from kinfold_services.directory.tables import SHAPE, builds, contacts, schema

NO_POSITION: Final = ""
"""The position of a build that is filled from a snapshot."""
BEGINNING: Final = "0-0"

_SOME_ROWS: Final = 500


class OpenBuild(msgspec.Struct, frozen=True):
    """A build that is not old."""

    id: int
    state: str
    position: str
    contacts: int
    updated_at: str


_FIELDS: Final = [builds.c[name] for name in OpenBuild.__struct_fields__]


def open_builds(connection: sa.Connection, workspace: str) -> list[OpenBuild]:
    """The builds of a workspace in this shape that are not old, the current one first."""
    query = sa.select(*_FIELDS).where(builds.c.workspace == workspace, builds.c.shape == SHAPE, builds.c.state != "old")
    found = [OpenBuild(*row) for row in connection.execute(query.order_by(builds.c.id))]
    return sorted(found, key=lambda build: build.state != "current")


def unfinished_builds(connection: sa.Connection) -> list[tuple[str, OpenBuild]]:
    """The builds of all workspaces in this shape that are not finished, each with its workspace."""
    unfinished = builds.c.shape == SHAPE, builds.c.state == "building"
    rows = connection.execute(sa.select(builds.c.workspace, *_FIELDS).where(*unfinished).order_by(builds.c.id))
    return [(workspace, OpenBuild(*row)) for workspace, *row in rows]


def has_newer_shape(connection: sa.Connection, workspace: str) -> bool:
    """Whether a newer kinfold keeps the workspace's directory."""
    newer = builds.c.workspace == workspace, builds.c.shape > SHAPE, builds.c.state == "current"
    return connection.scalar(sa.select(sa.exists().where(*newer))) is True


def read_build(connection: sa.Connection, build: int) -> OpenBuild:
    """A build as it is now. Raises Overtaken if it is old or was removed."""
    row = connection.execute(sa.select(*_FIELDS).where(builds.c.id == build, builds.c.state != "old")).first()
    if row is None:
        raise Overtaken(f"build {build} was replaced or removed")
    return OpenBuild(*row)


def begin_build(connection: sa.Connection, workspace: str, position: str, now: str) -> OpenBuild:
    """Begin an empty build."""
    values = {
        "workspace": workspace,
        "shape": SHAPE,
        "state": "building",
        "position": position,
        "contacts": 0,
        "updated_at": now,
    }
    row = connection.execute(sa.insert(builds).values(values).returning(*_FIELDS)).one()
    return OpenBuild(*row)


def touch_build(connection: sa.Connection, build: int, now: str, **values: Any) -> None:
    """Show that a build is being filled. Raises Overtaken if it is old or was removed."""
    is_ours = builds.c.id == build, builds.c.state == "building", builds.c.position == NO_POSITION
    touched = connection.execute(sa.update(builds).where(*is_ours).values(updated_at=now, **values))
    if touched.rowcount != 1:
        raise Overtaken(f"build {build} was removed")


def make_current(connection: sa.Connection, workspace: str, build: int, replaced: int | None, now: str) -> None:
    """Put a build in the place of the current one of this shape, which has to be `replaced`, if there is one.

    Raises Overtaken if another build became current meanwhile, or if this one was removed.
    """
    others = builds.c.workspace == workspace, builds.c.state == "current", builds.c.shape == SHAPE, builds.c.id != build
    if (current := connection.scalar(sa.select(builds.c.id).where(*others))) not in {None, replaced}:
        raise Overtaken(f"build {current} is current already")
    connection.execute(sa.update(builds).where(*others).values(state="old", updated_at=now))
    made = connection.execute(
        sa.update(builds).where(builds.c.id == build, builds.c.state != "old").values(state="current", updated_at=now)
    )
    if made.rowcount != 1:
        raise Overtaken(f"build {build} was removed")


def retire_older_shapes(connection: sa.Connection, served: Collection[str], now: str) -> None:
    """Put this shape in the place of older ones, in the views too, when every served workspace has a current build of it."""
    is_older = sa.and_(builds.c.shape < SHAPE, builds.c.state == "current")
    older = set(connection.scalars(sa.select(builds.c.workspace).where(is_older)))
    if not older:
        return
    ours = sa.select(builds.c.workspace).where(builds.c.shape == SHAPE, builds.c.state == "current")
    if (older & set(served)) <= set(connection.scalars(ours)):
        connection.execute(sa.update(builds).where(is_older).values(state="old", updated_at=now))
        show_shape(connection)
        drop_older_tables(connection)


def give_up(connection: sa.Connection, build: int, now: str) -> None:
    """Let a build be removed, unless another directory has finished it meanwhile."""
    unfinished = builds.c.id == build, builds.c.state == "building"
    connection.execute(sa.update(builds).where(*unfinished).values(state="old", updated_at=now))


# --- removal --------------------------------------------------------------------------------------------------------------


def old_builds(connection: sa.Connection) -> list[int]:
    """The builds of this shape that are to be removed."""
    return list(connection.scalars(sa.select(builds.c.id).where(builds.c.shape == SHAPE, builds.c.state == "old")))


def remove_some(connection: sa.Connection, build: int) -> bool:
    """Delete some rows of an old build, and at last the build itself. Returns whether it is gone."""
    for table in _build_tables():
        if _delete_some(connection, table, build):
            return False
    connection.execute(sa.delete(builds).where(builds.c.id == build, builds.c.state == "old"))
    return True


def _build_tables() -> Sequence[sa.Table]:
    return [table for table in schema.sorted_tables if table is not builds]


def _delete_some(connection: sa.Connection, table: sa.Table, build: int) -> int:
    key = list(table.primary_key)
    some = sa.select(*key).where(table.c.build == build).limit(_SOME_ROWS)
    rows = [tuple(row) for row in connection.execute(some)]
    if not rows:
        return 0
    if table is contacts and connection.dialect.name == "sqlite":
        texts = sa.select(contacts.c.n, contacts.c.search_text).where(contacts.c.n.in_([row[0] for row in rows]))
        forget_texts(connection, [(n, text) for n, text in connection.execute(texts)])
    is_among = key[0].in_([row[0] for row in rows]) if len(key) == 1 else sa.tuple_(*key).in_(rows)
    connection.execute(sa.delete(table).where(table.c.build == build, is_among))
    return len(rows)
