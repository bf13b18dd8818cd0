"""Erased entries: what an erasure put in the place of log entries (contract section 10)."""

from collections.abc import Mapping
from typing import Any, Final, cast

from kinfold_schemas.keys import key
from kinfold_services.connections import Client

_AT_ONCE: Final = 500


async def erased_entries(client: Client, workspace: str) -> dict[bytes, bytes]:
    """Every erased entry of the workspace, with the event that took its place."""
    answer: Any = client.hgetall(key(workspace, "erased-entries"))
    return cast("dict[bytes, bytes]", await answer)


async def erased_before(client: Client, workspace: str) -> dict[str, bytes]:
    """As `erased_entries`; none while an erasure is pending, because the log may be the one before it."""
    if await client.exists(key(workspace, "erasures-pending")):
        return {}
    return {entry.decode(): event for entry, event in (await erased_entries(client, workspace)).items()}


async def remember_erased(client: Client, workspace: str, redacted: Mapping[str, bytes]) -> None:
    """Remember what takes the place of some entries."""
    ids = list(redacted)
    for first in range(0, len(ids), _AT_ONCE):
        some: Any = {each: redacted[each] for each in ids[first : first + _AT_ONCE]}
        await client.hset(key(workspace, "erased-entries"), mapping=some)
