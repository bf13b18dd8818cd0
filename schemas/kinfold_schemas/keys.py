"""Every Redis key that kinfold reads or writes (contract section 1). Nothing else mints one."""

import re
from typing import Final, Literal, cast

WORKSPACES: Final = "kinfold:workspaces"
"""Set of the workspaces to serve; `default` is served without being in it."""

DEFAULT_WORKSPACE: Final = "default"

_WORKSPACE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")

COMMITTED: Final[tuple["PublicName | PrivateName", ...]] = (
    "position",
    "visitors",
    "contacts",
    "external-ids",
    "emails",
    "members",
    "recent",
    "created",
)
"""What a fold of the log makes and every batch writes (`commit.lua` takes them in this order)."""

STATE: Final[tuple["PublicName | PrivateName", ...]] = (*COMMITTED, "rejects", "excluded")
"""What a replay makes anew. All else is the log, or told from it once."""

Staging = Literal["replay", "verify"]
"""Where a state is built beside the living one: `kinfold:{W}:replay:contacts`."""

PublicName = Literal["events", "contacts", "visitors", "external-ids", "emails", "changes", "rejects", "position"]
"""The keys of contract section 1."""

PrivateName = Literal[
    "members",
    "recent",
    "created",
    "blocked-identifiers",
    "hold",
    "excluded",
    "differences",
    "snapshots",
    "settled-rejects",
    "projector",
    "api-keys",
    "identity-secret",
]
"""`members`: sorted set, which visitors a contact has, newest link first (see `projections.members`).
`recent`: sorted set, the living contacts by the minute of their `lastSeenAt` (its first millisecond); `created`: the same ones
by their ids.
`blocked-identifiers`: set of a workspace's own blocked identifiers, exact or `/pattern/`.
`hold`: string with a time to live, there while a replay is about to replace the state: nothing is committed meanwhile.
`excluded`: set, the entries that the state was folded without, because the log says so.
`snapshots`: hash, position → what a snapshot of the state at it was made with; the state itself stands in `snapshot_key`.
`differences`: list, in a staging area: the changes that a replay will put on the feed.
`settled-rejects`: hash, a rejected entry of the log → the entry that it was appended as again (`services.rejects`).
`projector`: hash, when the last batch was committed, and how long batches took: for whoever watches, no part of the state.
`api-keys`: hash, an API key's id → what it may and the hash of its secret (`services.gateway.keys`).
`identity-secret`: string, what the signatures of identities are made with (`services.gateway.signatures`)."""


def key(workspace: str, name: PublicName | PrivateName, staging: Staging | None = None) -> str:
    """The key of one thing of one workspace: `kinfold:{acme}:events`, or of its like in a staging area.

    The braces are a Redis Cluster hash tag: all keys of a workspace live in one slot, so one transaction can touch them all.
    Raises ValueError for a name that is no workspace's.
    """
    area = f"{staging}:" if staging is not None else ""
    return f"kinfold:{{{check_workspace(workspace)}}}:{area}{name}"


def snapshot_key(workspace: str, position: str) -> str:
    """The list that holds the state as it was at a position, in compressed pieces: a cache for looking back."""
    return f"kinfold:{{{check_workspace(workspace)}}}:snapshot:{position}"


def sent_key(workspace: str, producer: str) -> str:
    """The key of what a producer appended last: string `{number of the batch} {position}`, with a time to live; private.

    A producer whose answer was lost asks for the same batch again, and finds here that it is in the log.
    """
    return f"kinfold:{{{check_workspace(workspace)}}}:sent:{producer}"


def check_workspace(workspace: str) -> str:
    """`workspace` as it is. Raises ValueError where contract section 1 does not allow the name, also for what is no text."""
    if not isinstance(cast("object", workspace), str) or not _WORKSPACE.match(workspace):
        message = f"workspace: expected 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit, got {workspace!r}"
        raise ValueError(message)
    return workspace
