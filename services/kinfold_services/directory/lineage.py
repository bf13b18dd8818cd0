"""What the directory knows of one person besides their timeline: identifiers that they had, and open conflicts."""

from typing import Final, Literal

import msgspec
import sqlalchemy as sa

from kinfold_schemas.directory import Conflict
from kinfold_services.directory.builds import current_build
from kinfold_services.directory.tables import conflicts, identifiers

_LIMIT: Final = 100


class Former(msgspec.Struct, frozen=True):
    """An identifier that a person had. For a contact id: the contact that was merged into them."""

    kind: Literal["contact_id", "email", "external_id"]
    value: str
    held_by: str
    """The contact that had it."""
    until: str
    cause: str
    """The log entry that took it away."""


class Lineage(msgspec.Struct, frozen=True):
    """Former identifiers and open conflicts, the newest first, at most 100 of each."""

    former: list[Former]
    conflicts: list[Conflict]


def read_lineage(connection: sa.Connection, workspace: str, contact_id: str) -> Lineage:
    """Read what belongs to a living contact, and to those that were merged into it.

    Raises:
        NoDirectory: the workspace has no current build.

    """
    build = current_build(connection, workspace).id
    its = identifiers.c
    newest = (its.position_ms.desc(), its.position_seq.desc())
    had = sa.select(its.kind, its.value, its.held_by, its.until, its.cause).where(
        its.build == build, its.contact_id == sa.literal(contact_id, sa.Text())
    )
    former = [Former(*row) for row in connection.execute(had.order_by(*newest).limit(_LIMIT))]
    everybody = [contact_id, *[each.value for each in former if each.kind == "contact_id"]]
    of = conflicts.c
    ids = [sa.literal(each, sa.Text()) for each in everybody]
    select = (
        sa.select(of.position_ms, of.position_seq, of.at, of.contact_id, of.email, of.held_by, of.reason, of.settled_at)
        .where(of.build == build, of.settled_at.is_(None), sa.or_(of.contact_id.in_(ids), of.held_by.in_(ids)))
        .order_by(of.at.desc(), of.position_ms.desc(), of.position_seq.desc())
        .limit(_LIMIT)
    )
    found = [Conflict(f"{ms}-{seq}", *rest) for ms, seq, *rest in connection.execute(select)]
    return Lineage(former, found)
