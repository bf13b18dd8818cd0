"""Turns what an entry did to a contact into changes for the feed, in the order of contract section 6."""

from typing import Any

import msgspec

from kinfold_projections.entries import Entry
from kinfold_projections.metadata import changed_keys
from kinfold_projections.outcomes import FOLDED, NO_OP, STALE, Outcome
from kinfold_projections.records import ContactRecord
from kinfold_projections.state import State
from kinfold_schemas.changes import Change, ContactChange, ContactSeen


def changed_fields(before: ContactRecord, now: ContactRecord) -> list[str]:
    """The fields in which a contact differs from an earlier copy, by their names on the feed."""
    names: list[str] = []
    if before.external_id != now.external_id:
        names.append("externalId")
    if before.email != now.email:
        names.append("email")
    if before.name != now.name:
        names.append("name")
    if before.image != now.image:
        names.append("image")
    if before.metadata is not now.metadata:
        names += [f"metadata.{key}" for key in changed_keys(before.metadata, now.metadata)]
    return names


class ChangeWriter(msgspec.Struct, gc=False):
    """Reports the changes of one entry, and writes the contact's record with each. Records are written at no other time.

    Use it after the entry has done all its work: a change shows the contact as the whole entry left it.
    """

    state: State
    entry: Entry
    about: ContactRecord | None
    """The contact that the entry names or belongs to. Its changes widen its seen times."""
    told: bool = False
    changes: list[Change] = []
    """Empty if the state has `tells=False`. `told` says whether there was any change."""

    def tell(self, change: type[ContactChange], contact: ContactRecord, **more: Any) -> None:
        """Report one change of a contact, with the fields of its type.

        Every change except presence gives the contact its next version.
        """
        entry, state = self.entry, self.state
        self.told = True
        if change is not ContactSeen:
            contact.version += 1
            if entry.at > contact.updated_at:
                contact.updated_at = entry.at
        if contact is self.about:
            contact.widen(entry.seen_at, entry.seen_at)
        stored = state.write_contact(contact)
        if state.tells:
            encoded: Any = msgspec.Raw(stored)  # encoded once: the feed shows exactly the bytes that are stored
            told: Any = change(
                contact_id=contact.id, version=contact.version, at=entry.at, cause=entry.id, contact=encoded, **more
            )
            self.changes.append(told)


def outcome_of(
    entry: Entry, writer: ChangeWriter | None = None, *, late: bool = False, folded: bool = False, untrusted: int = 0
) -> Outcome:
    """The outcome of an entry that was not refused: what the writer told, or whether anything else has changed."""
    if writer is not None and writer.told:
        return Outcome("folded", tuple(writer.changes), blocked=entry.names.blocked, untrusted=untrusted)
    outcome = FOLDED if folded else STALE if late else NO_OP
    if entry.names.blocked or untrusted:
        return msgspec.structs.replace(outcome, blocked=entry.names.blocked, untrusted=untrusted)
    return outcome
