"""Which build of a workspace to read."""

import msgspec
import sqlalchemy as sa

from kinfold_services.directory.errors import NoDirectory
from kinfold_services.directory.tables import SHAPE, builds


class Build(msgspec.Struct, frozen=True):
    """A build of a workspace; the fields are the columns of `directory_builds`."""

    id: int
    position: str
    contacts: int
    timeline_since: str | None


_CURRENT = sa.select(builds.c.id, builds.c.position, builds.c.contacts, builds.c.timeline_since).where(
    builds.c.workspace == sa.bindparam("workspace"), builds.c.shape == SHAPE, builds.c.state == "current"
)


def current_build(connection: sa.Connection, workspace: str) -> Build:
    """Return the build to read in this transaction. Its rows stay while the transaction of `Database.reading` lasts.

    Raises:
        NoDirectory: the workspace has no current build.

    """
    row = connection.execute(_CURRENT, {"workspace": workspace}).first()
    if row is None:
        raise NoDirectory(f"workspace {workspace} has no directory yet; `kinfold directory` builds it")
    return Build(*row)
