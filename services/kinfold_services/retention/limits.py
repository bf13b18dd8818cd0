"""How long a workspace keeps its log, its rejects, its feed, and visitors that no event identified (contract section 11).

They are in the hash `retention`, in milliseconds. A missing field means no limit. Beside them are `rejects_from`
(`rejects/stored.py`), `anonymous_at`, when a run looked for old visitors last, and `pending`, the receipt of a run that is not
done.
"""

import re
from collections.abc import Awaitable
from typing import Any, Final, cast

import msgspec

from kinfold_schemas.keys import key
from kinfold_services.connections import Client

_SECOND_MS: Final = 1000
_UNITS: Final = {"s": _SECOND_MS, "m": 60 * _SECOND_MS, "h": 3600 * _SECOND_MS, "d": 86_400 * _SECOND_MS}
_AGE: Final = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_SLACK_MS: Final = _UNITS["d"]
_SLACK_PARTS: Final = 100


class Limits(msgspec.Struct, frozen=True):
    """The age in milliseconds at which things go; None: they stay."""

    events: int | None = None
    """Log entries, and the rejects of these."""
    anonymous: int | None = None
    """Visitors that no event identified, since they were last seen. They go with their events."""
    rejects: int | None = None
    feed: int | None = None

    def __bool__(self) -> bool:
        return any(msgspec.structs.astuple(self))

    def shown(self) -> dict[str, str | None]:
        """The limits as users write them."""
        return {name: None if ms is None else show_age(ms) for name, ms in msgspec.structs.asdict(self).items()}


NAMES: Final = Limits.__struct_fields__


def parse_age(text: str) -> int:
    """Milliseconds of an age such as `400d`, `36h`, `90m` or `30s`. Raises ValueError."""
    match = _AGE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected an age such as 400d or 36h, got {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def show_age(ms: int) -> str:
    """An age as users write it, in the largest unit that has a whole number of it."""
    unit = next((unit for unit in ("d", "h", "m") if ms % _UNITS[unit] == 0), "s")
    return f"{ms // _UNITS[unit]}{unit}"


def slack_ms(limit_ms: int) -> int:
    """By how much the oldest may be past its age before the job starts a run: a hundredth of the age, at most a day."""
    return min(limit_ms // _SLACK_PARTS, _SLACK_MS)


async def read_limits(client: Client, workspace: str) -> Limits:
    """The limits of a workspace."""
    reply = await cast("Awaitable[list[bytes | None]]", client.hmget(key(workspace, "retention"), list(NAMES)))
    return Limits(*(None if value is None else int(value) for value in reply))


async def write_limits(client: Client, workspace: str, limits: Limits) -> None:
    """Set those of the limits that are not None, and leave the others."""
    given: dict[Any, Any] = {name: ms for name, ms in msgspec.structs.asdict(limits).items() if ms is not None}
    await client.hset(key(workspace, "retention"), mapping=given)


async def remove_limits(client: Client, workspace: str) -> None:
    """Remove all limits."""
    await client.hdel(key(workspace, "retention"), *NAMES)
