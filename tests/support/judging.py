"""What the schemas say of one event: the event, normalised, or why it is refused."""

import json
from collections.abc import Mapping
from typing import Any

from kinfold_projections.entries import BadEntry, Entry, read_entry
from kinfold_schemas.identifiers import CONTRACT_RULES, IdentifierRules


def judge(event: Mapping[str, Any] | bytes, rules: IdentifierRules = CONTRACT_RULES) -> Entry | BadEntry:
    """Reads the event as a log entry."""
    data = event if isinstance(event, bytes) else json.dumps(event).encode()
    return read_entry(b"1767225600000-0", {b"event": data}, rules)


def accepted(event: Mapping[str, Any] | bytes, rules: IdentifierRules = CONTRACT_RULES) -> Entry:
    """Asserts that the event is a good one."""
    entry = judge(event, rules)
    assert isinstance(entry, Entry), entry
    return entry


def refused(event: Mapping[str, Any] | bytes, reason: str, *in_detail: str, rules: IdentifierRules = CONTRACT_RULES) -> str:
    """Asserts the reason for which the event is refused, and parts of the sentence; returns the whole."""
    entry = judge(event, rules)
    assert isinstance(entry, BadEntry), entry
    assert entry.rejection.reason == reason, entry.rejection
    for part in ("found", "allowed", *in_detail):
        assert part in entry.rejection.detail, entry.rejection
    return entry.rejection.detail
