"""The metadata keys of a workspace's contacts."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from kinfold_schemas.filters import Field
from kinfold_services.directory.builds import current_build
from kinfold_services.directory.tables import contacts, counts

MAX_KEYS: Final = 200
_SAMPLE: Final = 20
_HAS_KEY: Final = (
    sa.select(counts.c.key).where(counts.c.build == sa.bindparam("build"), counts.c.key == sa.bindparam("key")).limit(1)
)


class MetadataKeys(msgspec.Struct, frozen=True):
    """The keys in order of their names, at most 200; and the same in order of how many of the contacts seen last have them."""

    names: list[str]
    frequent: list[str]


def metadata_keys(connection: sa.Connection, workspace: str) -> MetadataKeys:
    """List the keys, in two queries. It takes one look into an index for each, however many contacts there are.

    Raises:
        NoDirectory: the workspace has no current build.

    """
    build = current_build(connection, workspace).id
    least: sa.Select[Any] = sa.select(counts.c.key).where(counts.c.build == build).order_by(counts.c.key).limit(1)
    walk = sa.select(least.scalar_subquery().label("key")).cte("walk", recursive=True)
    following = least.where(counts.c.key > walk.c.key).scalar_subquery()
    walk = walk.union_all(sa.select(following).where(walk.c.key.is_not(None)))
    all_names = sa.select(walk.c.key).where(walk.c.key.is_not(None)).limit(MAX_KEYS)
    names: list[str] = list(connection.execute(all_names).scalars())
    newest = (
        sa.select(contacts.c.metadata)
        .where(contacts.c.build == build)
        .order_by(contacts.c.last_seen_at.desc(), contacts.c.id.desc())
    )
    found: Counter[str] = Counter()
    for values in connection.execute(newest.limit(_SAMPLE)).scalars():
        found.update(values.keys())
    return MetadataKeys(names, sorted(names, key=lambda name: (-found[name], name)))


def unknown_keys(connection: sa.Connection, workspace: str, fields: Iterable[Field]) -> list[str]:
    """The metadata keys among `fields` that no contact has, sorted. Most are misspellings of a field or of another key.

    Raises:
        NoDirectory: the workspace has no current build.

    """
    build = current_build(connection, workspace).id
    names = sorted({field.name for field in fields if field.in_metadata})
    return [name for name in names if connection.execute(_HAS_KEY, {"build": build, "key": name}).first() is None]
