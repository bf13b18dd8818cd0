"""The hash `position`: how far the log is folded, and into which state (contract section 8)."""

import hashlib
from collections.abc import Mapping

import msgspec

from kinfold_projections.counts import Counts
from kinfold_services.log.streams import pairs_of


class LostPlace(RuntimeError):
    """Another projector owns the workspace, or the stored position is not the expected one. Nothing was committed."""


class Replaced(RuntimeError):
    """A replay has replaced the state, so what was folded onto the old one is void. Nothing was committed."""


class Position(msgspec.Struct):
    """The content of the hash."""

    stream_id: str
    """The last entry that was folded; empty if there is none."""
    counts: Counts
    generation: str = ""
    """Identifies the rebuild that made this state; empty until a replay replaces it."""
    digest: str = ""
    """The digest of that entry's content; empty if it is unknown, because the log had lost the entry."""
    owner: str = ""
    """The token of the projector that took the workspace last (`projector.lease`)."""
    log: str = ""
    """Which rewriting of the log this is; empty until an erasure has rewritten it."""
    begins: str = ""
    """The position of the baseline that the log begins at; empty until the log is cut."""
    damaged: str = ""
    """Why the state does not match the log, if a commit failed halfway. A replay removes it with the state."""


def read_position(stored: Mapping[bytes, bytes]) -> Position:
    """Read the hash from what Redis returns."""
    fields = {name.decode(): value.decode() for name, value in stored.items()}
    stream_id, *others = (
        fields.pop(name, "") for name in ("stream_id", "generation", "digest", "owner", "log", "begins", "damaged")
    )
    return Position(stream_id, msgspec.convert(fields, Counts, strict=False), *others)


def position_fields(position: Position) -> dict[str, str | int]:
    """The fields that each batch writes. Generation and owner are written only when they change."""
    return {**msgspec.to_builtins(position.counts), "stream_id": position.stream_id, "digest": position.digest}


def entry_digest(fields: Mapping[bytes, bytes]) -> str:
    """A digest of an entry's content. It differs for another entry under the same id."""
    digest = hashlib.blake2b(digest_size=16)
    for pair in pairs_of(fields):
        for item in pair:
            digest.update(b"%d:" % len(item))
            digest.update(item)
    return digest.hexdigest()
