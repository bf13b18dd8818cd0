"""Counting what entries came to, for `kinfold status`."""

from collections import Counter
from collections.abc import Sequence

from kinfold_projections.outcomes import Kind, Outcome
from kinfold_schemas.changes import ContactsMerged
from kinfold_services.projector.store import Counts


def counted(before: Counts, outcomes: Sequence[Outcome]) -> Counts:
    """The counts after these outcomes."""
    kinds: Counter[Kind] = Counter([outcome.kind for outcome in outcomes])
    merged = sum([type(change) is ContactsMerged for outcome in outcomes if outcome.changes for change in outcome.changes])
    return Counts(
        folded=before.folded + kinds["folded"],
        no_op=before.no_op + kinds["no-op"],
        stale=before.stale + kinds["stale"],
        duplicate=before.duplicate + kinds["duplicate"],
        rejected=before.rejected + kinds["rejected"],
        excluded=before.excluded,
        blocked=before.blocked + sum([outcome.blocked for outcome in outcomes]),
        merged=before.merged + merged,
        id_reused=before.id_reused + sum([outcome.id_reused for outcome in outcomes]),
        lost=before.lost,
    )
