"""The consumer group that shows the lag in `XINFO GROUPS`. It reads nothing: its position follows the projector's."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from redis.exceptions import ResponseError

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.state.position import Position

GROUP: Final = "kinfold"
_PAGE_ENTRIES: Final = 500


async def make_group(client: Client, workspace: str) -> None:
    """Create the consumer group that shows the lag, if it is missing. Also creates an empty log if there is none."""
    try:
        await client.xgroup_create(key(workspace, "events"), GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


async def set_group(client: Client, workspace: str, position: Position) -> None:
    """Move the group to the state's position, which a replay may have changed. Every commit moves it as well."""
    read = position.counts.entries + position.counts.lost
    await client.xgroup_setid(key(workspace, "events"), GROUP, position.stream_id or "0-0", entries_read=read)


def known_lag(groups: Sequence[Mapping[str, Any]], position: Position) -> int | None:
    """How many entries of the log are not folded yet, by the reply to XINFO GROUPS; None if it does not say.

    A group that is behind the position, which was read before, was not moved yet: a state was rebuilt, and no projector has
    opened it since. And Redis does not know the lag once entries were deleted.
    """
    for group in groups:
        at: bytes = group["last-delivered-id"]
        if group["name"] == GROUP.encode() and position_key(at.decode()) >= position_key(position.stream_id or "0-0"):
            lag: int | None = group["lag"]
            return lag
    return None


async def waiting_entries(client: Client, workspace: str, position: Position) -> int:
    """How many entries of the log are not folded yet. This reads them all, so `known_lag` comes first."""
    log, count, last = key(workspace, "events"), 0, position.stream_id or "0-0"
    while page := cast("list[tuple[bytes, Any]]", await client.xrange(log, min=f"({last}", count=_PAGE_ENTRIES)):
        count += len(page)
        last = page[-1][0].decode()
    return count
