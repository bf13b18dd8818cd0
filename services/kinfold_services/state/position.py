"""The hash `position`: how far the log is folded, and into which state (contract section 8)."""

import hashlib
from collections.abc import Mapping

import msgspec

from kinfold_projections.counts import Counts
from kinfold_services.log.streams import pairs_of


class LostPlace(RuntimeError):
    """Another projector owns the workspace, or the stored position is not the expected one. Nothing was committed."""


class Replaced(RuntimeError):
    """A replay has replaced the state, so what was folded upon the old one is void. Nothing was committed."""


class Position(msgspec.Struct):
    """The hash, read."""

    stream_id: str
    """The last entry that was folded; empty where none was."""
    counts: Counts
    generation: str = ""
    """Which rebuilding of the state this is; empty until a replay has replaced it."""
    digest: str = ""
    """Of the content of that entry; empty where it is unknown, because the log had lost the entry."""
    owner: str = ""
    """The token of the projector that took the workspace last (`projector.lease`)."""
    log: str = ""
    """Which rewriting of the log this is; empty until an erasure has rewritten it."""
    begins: str = ""
    """The position of the baseline that the log begins at; empty until the log is cut."""
    damaged: str = ""
    """Why the state is not what the log says, where a commit failed halfway; gone with the state, when a replay replaces it."""


def read_position(stored: Mapping[bytes, bytes]) -> Position:
    """The hash as Redis gives it."""
    fields = {name.decode(): value.decode() for name, value in stored.items()}
    stream_id, *others = (
        fields.pop(name, "") for name in ("stream_id", "generation", "digest", "owner", "log", "begins", "damaged")
    )
    return Position(stream_id, msgspec.convert(fields, Counts, strict=False), *others)


def position_fields(position: Position) -> dict[str, str | int]:
    """What is written of it with each batch. Its generation and its owner are written when they change."""
    return {**msgspec.to_builtins(position.counts), "stream_id": position.stream_id, "digest": position.digest}


def entry_digest(fields: Mapping[bytes, bytes]) -> str:
    """A digest of an entry's content: another entry under the same id has another one."""
    digest = hashlib.blake2b(digest_size=16)
    for pair in pairs_of(fields):
        for item in pair:
            digest.update(b"%d:" % len(item))
            digest.update(item)
    return digest.hexdigest()
