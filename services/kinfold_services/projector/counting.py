"""Counting what entries came to, for `kinfold status`."""

from collections import Counter
from collections.abc import Sequence

from kinfold_projections.outcomes import Kind, Outcome
from kinfold_schemas.changes import ContactsMerged
from kinfold_services.projector.store import Counts


def counted(before: Counts, outcomes: Sequence[Outcome], grown: Sequence[int]) -> Counts:
    """The counts after these outcomes, by which the stored hashes have `grown` (`StateCache.take_grown`)."""
    visitors, contacts, external_ids, emails, linked = grown
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
        contacts=before.contacts + contacts,
        visitors=before.visitors + visitors,
        external_ids=before.external_ids + external_ids,
        emails=before.emails + emails,
        linked=min(1, before.linked + linked),
    )
