"""Warnings about the log that several commands print on standard error."""

from collections.abc import Awaitable
from typing import cast

from kinfold_schemas.keys import DEFAULT_WORKSPACE, WORKSPACES, key
from kinfold_services.cli.output import say
from kinfold_services.connections import Client
from kinfold_services.history.moments import what_was_cut
from kinfold_services.log.pages import LogExtent
from kinfold_services.runtime.terminal import counted


async def warn_if_not_served(client: Client, workspace: str) -> bool:
    """Warn, and return True, if no projector serves the workspace.

    A projector serves `default`, the members of `kinfold:workspaces`, and the workspaces that it is given. For each of these
    it creates the consumer group.
    """
    if workspace == DEFAULT_WORKSPACE or await cast("Awaitable[int]", client.sismember(WORKSPACES, workspace)):
        return False
    log = key(workspace, "events")
    if await client.exists(log) and await client.xinfo_groups(log):
        return False
    say(
        f"workspace {workspace} is not in {WORKSPACES}: SADD it there, "
        f"or start kinfold up or kinfold projector with --workspace {workspace}"
    )
    return True


def warn_about_losses(extent: LogExtent) -> None:
    """Say where the log begins if it was cut, and warn if it has lost entries: what is made from it lacks them, too."""
    if extent.baseline is not None:
        say(what_was_cut(extent.baseline))
    if extent.lost:
        begins = f"it begins at {extent.first}" if extent.first else "nothing is left of it"
        say(f"the log has lost {counted(extent.lost, 'entry', 'entries')}: {begins}, and what is lost cannot be folded")
