"""What entries came to, counted since the log's beginning: for `kinfold status`, and to notice a state that lost keys."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from kinfold_projections.outcomes import Kind, Outcome
from kinfold_projections.state import StateChanges


class Counts(msgspec.Struct, rename={"no_op": "no-op", "id_reused": "id-reused"}):
    """How many entries came to what, and how many fields the stored hashes have: with fewer, the server has lost some."""

    folded: int = 0
    no_op: int = 0
    stale: int = 0
    duplicate: int = 0
    rejected: int = 0
    excluded: int = 0
    """Left out by a replay, because the log says so (contract section 9)."""
    blocked: int = 0
    """Identifiers that counted as absent."""
    id_reused: int = 0
    """Events whose id another event had before; each is counted among the outcomes, too (contract section 3)."""
    untrusted: int = 0
    """Values, removals and links of pages that were dropped (contract section 4, Trust)."""
    lost: int = 0
    """Entries that were trimmed or deleted before this state's fold came to them. To Redis, which counts what was ever added,
    they are read."""
    contacts: int = 0
    """Tombstones included."""
    merged: int = 0
    """Tombstones."""
    visitors: int = 0
    external_ids: int = 0
    emails: int = 0
    linked: int = 0
    """1 once a visitor was linked: `members` exists from then on."""

    @property
    def entries(self) -> int:
        """All the entries that were folded, with any outcome."""
        return self.folded + self.no_op + self.stale + self.duplicate + self.rejected + self.excluded

    def after(self, outcomes: Sequence[Outcome], changes: StateChanges, excluded: int) -> "Counts":
        """The counts after a batch: its outcomes, what it changed, and how many of its entries were excluded."""
        kinds: Counter[Kind] = Counter([outcome.kind for outcome in outcomes])
        odd = [outcome for outcome in outcomes if outcome.blocked or outcome.id_reused or outcome.untrusted]
        return Counts(
            folded=self.folded + kinds["folded"],
            no_op=self.no_op + kinds["no-op"],
            stale=self.stale + kinds["stale"],
            duplicate=self.duplicate + kinds["duplicate"],
            rejected=self.rejected + kinds["rejected"],
            excluded=self.excluded + excluded,
            blocked=self.blocked + sum([outcome.blocked for outcome in odd]),
            id_reused=self.id_reused + sum([outcome.id_reused for outcome in odd]),
            untrusted=self.untrusted + sum([outcome.untrusted for outcome in odd]),
            lost=self.lost,
            contacts=self.contacts + changes.new_contacts,
            merged=self.merged + changes.merges,
            visitors=self.visitors + changes.new_visitors,
            external_ids=self.external_ids + changes.new_external_ids,
            emails=self.emails + changes.new_emails,
            linked=self.linked or int(any(changes.members.values())),
        )
