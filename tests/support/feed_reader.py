"""A reader that knows only the change feed (contract section 6)."""

from collections.abc import Iterable
from typing import Any

import msgspec

from kinfold_projections.outcomes import Outcome
from kinfold_projections.state import State
from kinfold_schemas.changes import Change, ContactErased, ContactGone, ContactsMerged, decode_change, encode_change
from kinfold_schemas.contacts import Contact


class FeedReader:
    """Builds the contacts by applying changes in order."""

    def __init__(self) -> None:
        self.contacts: dict[str, Contact] = {}
        self.merged: dict[str, str] = {}

    def read(self, outcomes: Iterable[Outcome]) -> None:
        """Apply the changes of entries, each encoded and decoded as on the wire."""
        for outcome in outcomes:
            for change in outcome.changes:
                self.apply(decode_change(encode_change(change)))

    def apply(self, change: Change) -> None:
        """Apply one change and check that its version follows the last one, unless it comes from a replay."""
        if isinstance(change, ContactGone):
            del self.contacts[change.contact_id]
            return
        if isinstance(change, ContactErased):
            self.contacts.pop(change.contact_id, None)
            self.merged.pop(change.contact_id, None)
            return
        known = self.contacts.get(change.contact_id)
        version = known.version if known else 0
        assert change.version == change.contact.version
        assert change.cause == "replay" or change.version == version + (type(change).__name__ != "ContactSeen"), change
        self.contacts[change.contact_id] = change.contact
        self.merged.pop(change.contact_id, None)  # a replay may undo a merge
        if isinstance(change, ContactsMerged):
            assert change.cause == "replay" or change.merged_contact_id in self.contacts, change
            self.contacts.pop(change.merged_contact_id, None)
            self.merged[change.merged_contact_id] = change.contact_id


def shown_by(outcome: Outcome) -> dict[str, Any]:
    """The contacts after one entry, according to its changes: the last form of each, and the tombstones of merged ones."""
    shown: dict[str, Any] = {}
    for change in outcome.changes:
        fields = msgspec.json.decode(encode_change(change))
        shown[change.contact_id] = fields["contact"]
        if "mergedContactId" in fields:
            shown[fields["mergedContactId"]] = {"id": fields["mergedContactId"], "mergedInto": change.contact_id}
    return shown


def contacts_of(state: State) -> dict[str, Contact]:
    """The living contacts of a state, as readers see them."""
    return {contact.id: msgspec.convert(msgspec.to_builtins(contact), Contact) for contact in state.living_contacts()}
