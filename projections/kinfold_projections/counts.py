"""Counts of outcomes since the log's beginning, for `kinfold status`, and of stored fields, to notice lost keys."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from kinfold_projections.outcomes import Kind, Outcome
from kinfold_projections.state import StateChanges


class Counts(msgspec.Struct, rename={"no_op": "no-op", "id_reused": "id-reused"}):
    """How many entries had which outcome, and how many fields the stored hashes have. With fewer, the server has lost some."""

    folded: int = 0
    no_op: int = 0
    stale: int = 0
    duplicate: int = 0
    rejected: int = 0
    excluded: int = 0
    """Entries that a replay left out, because the log says so (contract section 9)."""
    blocked: int = 0
    """Identifiers that were blocked, and so counted as absent."""
    id_reused: int = 0
    """Events whose id another event had before. Each also counts among the outcomes (contract section 3)."""
    untrusted: int = 0
    """Values, removals and links from pages that were dropped (contract section 4, Trust)."""
    lost: int = 0
    """Entries that were trimmed or deleted before they were folded. In Redis' count of added entries, they count as read."""
    contacts: int = 0
    """Including tombstones."""
    merged: int = 0
    """Tombstones."""
    visitors: int = 0
    external_ids: int = 0
    emails: int = 0
    linked: int = 0
    """1 if a visitor was ever linked: from then on `members` exists."""

    @property
    def entries(self) -> int:
        """The number of entries that were folded, with any outcome."""
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

    def replaced(self, before: "Counts", after: "Counts") -> "Counts":
        """The counts after a part of the log was replaced, by the counts of that part alone. `linked` stays."""
        fields = [field for field in self.__struct_fields__ if field != "linked"]
        counts = {field: getattr(self, field) - getattr(before, field) + getattr(after, field) for field in fields}
        return msgspec.structs.replace(self, **counts)
