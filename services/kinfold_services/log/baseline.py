"""The baseline of a log: a checked copy of the state at one entry, which stands for the log up to there (contract section 11).

    baseline          hash: `position`, the last entry that it stands for, and `about`, JSON: `Baseline`
    baseline-pieces   list: the state, in pieces (`state/baseline.py`)

Only a retention run makes one, and in the same atomic step it trims the log up to that entry. So a log never lacks entries that
no baseline stands for, and every fold begins at the baseline.
"""

from collections.abc import Awaitable
from typing import Final, cast

import msgspec

from kinfold_projections.counts import Counts
from kinfold_schemas.keys import key
from kinfold_services.connections import Client

SHAPE: Final = 1
"""The version of `Baseline` and of its pieces. Fields with a default may be added; any other change is a new shape."""


class UnknownBaseline(LookupError):
    """The baseline is damaged, or has a shape that this version does not know. Nothing can be folded on it."""


class LogCut(LookupError):
    """The log was cut while it was read, so entries may be missing from what was read. The caller begins again."""


class Baseline(msgspec.Struct, frozen=True, rename="camel"):
    """What a baseline stands for, and how to check it."""

    position: str
    """The last entry that it stands for."""
    digest: str
    """The digest of that entry's content (`state.position.entry_digest`)."""
    made_at: str
    counts: Counts
    """The counts of the fold up to the position, as if it had gone on from the log's beginning."""
    excluded: list[str]
    """Entries that every fold leaves out because of what was cut: entries that were cut, and later ones that a cut
    `EventsExcluded` names."""
    pieces: int
    window_pieces: int
    """How many of the pieces, the last ones, hold the duplicate window."""
    sha256: str
    """The SHA-256 of all pieces, in their order."""
    shape: int = SHAPE


class _Shape(msgspec.Struct):
    shape: int = 0


async def read_baseline(client: Client, workspace: str) -> Baseline | None:
    """The workspace's baseline; None if its log was never cut. Raises UnknownBaseline."""
    reply = await cast("Awaitable[bytes | None]", client.hget(key(workspace, "baseline"), "about"))
    return decode_baseline(workspace, reply)


def decode_baseline(workspace: str, about: bytes | None) -> Baseline | None:
    """A stored `about`. Raises UnknownBaseline."""
    if about is None:
        return None
    try:
        found = msgspec.json.decode(about, type=_Shape).shape
        if found == SHAPE:
            return msgspec.json.decode(about, type=Baseline)
    except ValueError as error:
        raise UnknownBaseline(f"workspace {workspace}: the log's baseline is damaged: {error}") from error
    raise UnknownBaseline(
        f"workspace {workspace}: expected a baseline of shape {SHAPE}, got shape {found}; a newer kinfold can read it"
    )


async def baseline_position(client: Client, workspace: str) -> str:
    """The position of the baseline; '' if the log was never cut."""
    reply = await cast("Awaitable[bytes | None]", client.hget(key(workspace, "baseline"), "position"))
    return (reply or b"").decode()
