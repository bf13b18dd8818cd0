"""The outcome of folding one entry. It is always a value: a refusal is an outcome, not an exception."""

from typing import Final, Literal

import msgspec

from kinfold_schemas.changes import Change
from kinfold_schemas.rejections import Rejection

Kind = Literal["folded", "no-op", "stale", "duplicate", "rejected"]
"""folded: something changed. no-op: it said nothing new. stale: what was new in it came too late, and newer values stay.
duplicate: the same event occurred before. rejected: it could not be folded."""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What one entry did: the kind of outcome, the changes for the feed in order, and why it was rejected.

    `blocked`: how many identifiers were blocked. `id_reused`: another event had its id before. `untrusted`: how many values,
    removals and links were dropped, because a page may not make them (contract section 4, Trust).
    """

    kind: Kind
    changes: tuple[Change, ...] = ()
    rejection: Rejection | None = None
    blocked: int = 0
    id_reused: bool = False
    untrusted: int = 0


FOLDED: Final = Outcome("folded")
NO_OP: Final = Outcome("no-op")
STALE: Final = Outcome("stale")
DUPLICATE: Final = Outcome("duplicate")


def rejected(rejection: Rejection) -> Outcome:
    """The outcome of an entry that is rejected."""
    return Outcome("rejected", rejection=rejection)
