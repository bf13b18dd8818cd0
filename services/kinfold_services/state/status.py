"""The status of workspaces: how far they are folded, what became of their entries, and how far their directory is."""

import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.log.streams import is_missing
from kinfold_services.state.group import known_lag, waiting_entries
from kinfold_services.state.position import read_position

_TOGETHER: Final = 100
"""How many workspaces are read in one round trip."""
_COMMANDS: Final = 7
"""How many replies there are for each of them."""


class DirectoryStatus(msgspec.Struct, rename="camel"):
    """The status of a workspace's directory, as it last reported."""

    state: str
    """`building` until its tables are complete, then `current`."""
    position: str
    """The feed entry that it applied last."""
    lag_ms: int
    """The age of the oldest change that it has not applied; 0 if there is none."""


class Status(msgspec.Struct, rename="camel"):
    """The status of a workspace. `lag` is the number of log entries that are not folded yet."""

    workspace: str
    entries: int
    position: str | None
    lag: int
    contacts: int
    visitors: int
    folded: int
    no_op: int = msgspec.field(name="no-op")
    stale: int
    duplicate: int
    rejected: int
    blocked_identifiers: int
    id_reused: int = msgspec.field(name="id-reused")
    untrusted: int
    """Values, removals and links from pages that were dropped (contract section 4, Trust)."""
    entries_lost: int
    """Log entries that were trimmed or deleted before they were folded."""
    rebuilds: int
    """How often the projector rebuilt the state from the log."""
    rebuild_reason: str | None
    """The reason for the last rebuild."""
    damage: str | None
    """Why no projector serves the workspace; null if nothing is wrong."""
    directory: DirectoryStatus | None
    """Null if no directory has ever followed the workspace."""


class WorkspaceReport(msgspec.Struct):
    """A workspace's status, and the projector's figures for metrics (`projector` in `kinfold_schemas.keys`)."""

    status: Status
    committed_at_ms: int | None
    """The time of the last commit, in Unix milliseconds; None if nothing was ever folded."""
    batches: int
    batch_s: float
    """The time that all batches took together, in seconds."""


async def read_reports(client: Client, workspaces: Sequence[str]) -> list[WorkspaceReport]:
    """Read the reports of workspaces, in two round trips for each hundred. They are not atomic. Raises RedisError."""
    reports: list[WorkspaceReport] = []
    for first in range(0, len(workspaces), _TOGETHER):
        names = workspaces[first : first + _TOGETHER]
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(key(name, "position"))
            pipeline.xlen(key(name, "events"))
            pipeline.hlen(key(name, "contacts"))
            pipeline.hlen(key(name, "visitors"))
            pipeline.hgetall(key(name, "projector"))
            pipeline.hmget(key(name, "directory"), ["state", "position"])
            pipeline.xinfo_groups(key(name, "events"))
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception) and not is_missing(reply):
                raise reply
        found = [replies[index : index + _COMMANDS] for index in range(0, len(replies), _COMMANDS)]
        directories = await _directories(client, {name: each[5] for name, each in zip(names, found, strict=True)})
        for name, each in zip(names, found, strict=True):
            reports.append(await _report(client, name, each, directories.get(name)))
    return reports


async def _report(client: Client, name: str, replies: Sequence[Any], directory: DirectoryStatus | None) -> WorkspaceReport:
    stored, entries, contacts, visitors, projector, _, groups = replies
    position = read_position(stored)
    if is_missing(groups):
        lag = 0
    elif (known := known_lag(groups, position)) is not None:
        lag = known
    else:
        lag = await waiting_entries(client, name, position)
    figures: dict[str, str] = {field.decode(): value.decode(errors="replace") for field, value in projector.items()}
    counts, committed = position.counts, figures.get("committed_at_ms")
    status = Status(
        workspace=name,
        entries=entries,
        position=position.stream_id or None,
        lag=lag,
        contacts=contacts - counts.merged,
        visitors=visitors,
        folded=counts.folded,
        no_op=counts.no_op,
        stale=counts.stale,
        duplicate=counts.duplicate,
        rejected=counts.rejected,
        blocked_identifiers=counts.blocked,
        id_reused=counts.id_reused,
        untrusted=counts.untrusted,
        entries_lost=counts.lost,
        rebuilds=int(figures.get("rebuilds", 0)),
        rebuild_reason=figures.get("rebuild_reason"),
        damage=figures.get("damage"),
        directory=directory,
    )
    batch_s = float(figures.get("batch_ms", 0)) / 1000
    return WorkspaceReport(status, None if committed is None else int(committed), int(figures.get("batches", 0)), batch_s)


async def _directories(client: Client, stored: dict[str, list[bytes | None]]) -> dict[str, DirectoryStatus]:
    """The statuses of the directories, by workspace. A workspace without one is left out."""
    known = {name: ((state or b"").decode(), position.decode()) for name, (state, position) in stored.items() if position}
    pipeline = client.pipeline(transaction=False)
    for name, (_, position) in known.items():
        pipeline.xrange(key(name, "changes"), min=f"({position}", count=1)
    now_ms = time.time_ns() // 1_000_000
    found: dict[str, DirectoryStatus] = {}
    for (name, (state, position)), later in zip(known.items(), await pipeline.execute(), strict=True):
        written_ms = position_key(later[0][0].decode())[0] if later else now_ms
        found[name] = DirectoryStatus(state, position, max(0, now_ms - written_ms))
    return found
