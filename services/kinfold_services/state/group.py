"""The consumer group that shows the lag in `XINFO GROUPS`. It reads nothing: its position follows the projector's."""

from typing import Final, cast

from redis.exceptions import ResponseError

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.state.position import Position

GROUP: Final = "kinfold"


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


async def lag(client: Client, workspace: str, position: Position) -> int:
    """How many entries of the log are not folded yet.

    A group that is behind the position, which was read before, was not moved yet: a state was rebuilt, and no projector has
    opened it since. And Redis does not know the lag once entries were deleted. In both cases, count them.
    """
    log, folded = key(workspace, "events"), position.stream_id or "0-0"
    if not await client.exists(log):
        return 0
    groups = cast("list[dict[str, object]]", await client.xinfo_groups(log))
    for group in groups:
        if group["name"] == GROUP.encode() and isinstance(lag := group["lag"], int):
            at = cast("bytes", group["last-delivered-id"]).decode()
            if position_key(at) >= position_key(folded):
                return lag
    return len(await client.xrange(log, min=f"({folded}") or ())
