"""What the schemas say of one event: the event, normalised, or why it is refused."""

from kinfold_projections.entries import BadEntry, Entry
from kinfold_schemas.identifiers import CONTRACT_RULES, IdentifierRules
from tests.support.folding import Event, entry_of

ENTRY = "1767225600000-0"


def accepted(event: Event | bytes, rules: IdentifierRules = CONTRACT_RULES) -> Entry:
    """Asserts that the event is a good one."""
    entry = entry_of(ENTRY, event, rules)
    assert isinstance(entry, Entry), entry
    return entry


def refused(event: Event | bytes, reason: str, *in_detail: str, rules: IdentifierRules = CONTRACT_RULES) -> str:
    """Asserts the reason for which the event is refused, and parts of the sentence; returns the whole."""
    entry = entry_of(ENTRY, event, rules)
    assert isinstance(entry, BadEntry), entry
    assert entry.rejection.reason == reason, entry.rejection
    for part in ("found", "allowed", *in_detail):
        assert part in entry.rejection.detail, entry.rejection
    return entry.rejection.detail
