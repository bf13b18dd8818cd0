"""Whole states in memory, for comparison."""

from kinfold_projections.records import encode_record, encode_stamps
from kinfold_projections.state import State


def content(state: State) -> dict[str, object]:
    """The content of a state, except the count of duplicates, and freed addresses."""
    return {
        "contacts": {each: encode_record(contact) for each, contact in state.contacts.items()},
        "contact_stamps": {each: encode_stamps(stamps) for each, stamps in state.contact_stamps.items()},
        "visitors": {each: encode_record(visitor) for each, visitor in state.visitors.items()},
        "visitor_stamps": {each: encode_stamps(stamps) for each, stamps in state.visitor_stamps.items()},
        "external_ids": state.external_ids,
        "emails": {each: held for each, held in state.emails.items() if held is not None},
        "older": {each: older for each, older in state.older.items() if older},
    }
