"""The Redis keys that kinfold reads and writes (contract section 1). All keys are built here."""

import re
from typing import Final, Literal, cast

WORKSPACES: Final = "kinfold:workspaces"
"""Set of the workspaces to serve besides `default`, which is always served."""

DEFAULT_WORKSPACE: Final = "default"

_WORKSPACE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")

COMMITTED: Final[tuple["PublicName | PrivateName", ...]] = (
    "position",
    "visitors",
    "visitor-stamps",
    "contacts",
    "contact-stamps",
    "external-ids",
    "emails",
    "members",
    "created",
)
"""The keys that the fold derives from the log and every batch writes."""

STATE: Final[tuple["PublicName | PrivateName", ...]] = (*COMMITTED, "rejects", "excluded")
"""The keys that a replay rebuilds. The other keys are the log itself, or cannot be rebuilt from it."""

AreaName = Literal["replay"]
"""A staging area, where a state is built beside the live one: `kinfold:{W}:replay:contacts`."""

PublicName = Literal["events", "contacts", "visitors", "external-ids", "emails", "changes", "rejects", "position"]
"""The keys of contract section 1."""

PrivateName = Literal[
    "visitor-stamps",
    "contact-stamps",
    "members",
    "created",
    "blocked-identifiers",
    "hold",
    "corrected",
    "excluded",
    "differences",
    "snapshots",
    "settled-rejects",
    "projector",
    "directory",
    "owner",
    "api-keys",
    "api-keys-used",
    "identity-secrets",
    "session-secret",
    "sign-in-links",
    "baseline",
    "baseline-pieces",
    "retention",
    "retention-receipts",
    "erasures",
    "erasures-pending",
    "erasure-secret",
    "erased-entries",
    "erasing",
    "erased",
]
"""`visitor-stamps`, `contact-stamps`: hashes, what only the fold needs of visitors and contacts (`projections.records`).
`members`: sorted set, the visitors of each contact, newest link first (see `projections.members`).
`created`: sorted set, the living contacts by id.
`blocked-identifiers`: set, the workspace's blocked identifiers, exact or `/pattern/`.
`hold`: string with a time to live, set while a replay replaces the state. No batch is committed meanwhile.
`corrected`: string with a time to live, the last correction's entry: the next one waits until it is folded
(`services.corrections`).
`excluded`: set, the entries that the state was folded without (`EventsExcluded`).
`snapshots`: hash, position → how the snapshot at it was made; the snapshot itself is at `snapshot_key`.
`differences`: list in a staging area, the changes that a replay will put on the feed.
`settled-rejects`: hash, id of a rejected log entry → id of the entry that replaced it (`services.rejects.retry`).
`projector`: hash, for monitoring and not part of the state: when the last batch was committed, how long batches took, why the
workspace is not served (`damage`), how often its state was rebuilt and why (`rebuilds`, `rebuild_reason`).
`directory`: hash, for monitoring and not part of the state: the feed entry that the directory applied last (`position`), and
whether its tables are complete (`state`: `building` or `current`).
`owner`: string with a time to live, the token of the projector that owns the workspace (contract section 8).
`api-keys`: hash, id of an API key → its permissions and the hash of its secret (`services.access.keys`).
`api-keys-used`: hash, id of an API key → when a gateway last saw it, as RFC 3339, to the minute (`services.access.keys`).
`identity-secrets`: hash, kid → a secret that signs identity tokens (`services.access.identity_tokens`).
`session-secret`: string, the secret that signs the sessions of the screen (`services.access.sessions`).
`sign-in-links`: hash, SHA-256 of a link's token → who may sign in with it, once (`services.access.sessions`).
`baseline`, `baseline-pieces`: hash and list, the state that stands for the part of the log that was cut (contract section 11).
`retention`: hash, how long the workspace keeps what (`services.retention.limits`).
`retention-receipts`: list, what each retention run removed, the oldest first.
`erasures`: hash, id of an erasure → its receipt, which holds no personal data (`services.privacy`).
`erasures-pending`: hash, id of an erasure that is not done → what it is to erase.
`erasure-secret`: string, the key of the hashes that erasures leave.
`erased-entries`: hash, id of an erased log entry → the event that took its place, for an import of an older export.
`erasing`: string with a time to live, the token of the process that erases.
`erased`: set in a staging area, the contacts that an erasure removes."""


def key(workspace: str, name: PublicName | PrivateName, area: AreaName | None = None) -> str:
    """Return a key of a workspace, such as `kinfold:{acme}:events`, or its counterpart in a staging area.

    The braces are a Redis Cluster hash tag: all keys of a workspace are in one slot, so one transaction can touch them all.
    Raises ValueError for an invalid workspace name.
    """
    prefix = f"{area}:" if area is not None else ""
    return f"kinfold:{{{check_workspace(workspace)}}}:{prefix}{name}"


def snapshot_key(workspace: str, position: str) -> str:
    """Return the key of the list that holds the state at a position in compressed pieces: a cache for looking back."""
    return f"kinfold:{{{check_workspace(workspace)}}}:snapshot:{position}"


def staged_baseline_key(workspace: str, token: str, name: Literal["about", "pieces"]) -> str:
    """Return the key of a list, with a time to live, in which a retention run prepares a baseline (`services.retention`)."""
    return f"kinfold:{{{check_workspace(workspace)}}}:retention:{token}:{name}"


def sent_key(workspace: str, producer: str) -> str:
    """Return the private key of a producer's last batch: string `{batch number} {position}` with a time to live.

    A producer that lost the reply sends the same batch again and finds here that the log already has it.
    """
    return f"kinfold:{{{check_workspace(workspace)}}}:sent:{producer}"


def check_workspace(workspace: str) -> str:
    """Return `workspace` unchanged. Raises ValueError if it is not a valid name (contract section 1) or not a string."""
    if not isinstance(cast("object", workspace), str) or not _WORKSPACE.match(workspace):
        message = f"workspace: expected 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit, got {workspace!r}"
        raise ValueError(message)
    return workspace
