"""Assert the result of checking one event: the normalised event, or a rejection."""

from kinfold_projections.entries import BadEntry, Entry
from kinfold_schemas.identifiers import CONTRACT_RULES, IdentifierRules
from kinfold_schemas.rejections import Rejection
from tests.support.folding import Event, entry_of

ENTRY = "1767225600000-0"


def accepted(event: Event | bytes, rules: IdentifierRules = CONTRACT_RULES) -> Entry:
    """Assert that the event is accepted; returns the entry."""
    entry = entry_of(ENTRY, event, rules)
    assert isinstance(entry, Entry), entry
    return entry


def refused(event: Event | bytes, reason: str, *in_detail: str, rules: IdentifierRules = CONTRACT_RULES) -> Rejection:
    """Assert why the event is rejected, and fragments of the sentence; returns the rejection."""
    entry = entry_of(ENTRY, event, rules)
    assert isinstance(entry, BadEntry), entry
    assert entry.rejection.reason == reason, entry.rejection
    assert all((entry.rejection.field, entry.rejection.expected, entry.rejection.got)), entry.rejection
    for part in in_detail:
        assert part in entry.rejection.detail, entry.rejection
    return entry.rejection
