"""A workspace as the projector keeps it in Redis: encoded records, maps of strings and two sorted sets, here in dictionaries.

Like the projector, `fold_batch` loads only what the batch needs (`kinfold_projections.needs`), folds, and writes what changed.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.fold import fold
from kinfold_projections.members import Membership
from kinfold_projections.needs import contacts_behind, missing, older_memberships, survivors
from kinfold_projections.outcomes import Outcome
from kinfold_projections.records import (
    ContactRecord,
    ContactStamps,
    VisitorStamps,
    decode_contact,
    decode_contact_stamps,
    decode_visitor,
    decode_visitor_stamps,
    encode_record,
    encode_stamps,
)
from kinfold_projections.state import State, StateChanges
from kinfold_schemas.times import text_ms

_Value = TypeVar("_Value")

_ID_CHARS = 29
_SINCE_CHARS = 24


class Store:
    """The stored data of one workspace."""

    def __init__(self, workspace: str = "default") -> None:
        self.workspace = workspace
        self.visitors: dict[str, bytes] = {}
        self.visitor_stamps: dict[str, bytes] = {}
        self.contacts: dict[str, bytes] = {}
        self.contact_stamps: dict[str, bytes] = {}
        self.external_ids: dict[str, str] = {}
        self.emails: dict[str, str] = {}
        self.members: set[str] = set()
        self.created: set[str] = set()
        self._log: list[Entry | BadEntry] = []

    def content(self) -> tuple[object, ...]:
        """Everything that is stored, to be compared with another store's."""
        records = self.visitors, self.visitor_stamps, self.contacts, self.contact_stamps
        return *records, self.external_ids, self.emails, sorted(self.members), sorted(self.created)

    def fold_batch(self, entries: Sequence[Entry | BadEntry], state: State | None = None) -> list[Outcome]:
        """Fold one batch, like a projector that has just started, or like one that holds the `state` of earlier batches."""
        if state is None:
            state = State(self.workspace)
            state.window.enter(self._log)
        self._log += entries
        self.load(state, entries)
        outcomes = fold(state, entries)
        self.write(state.take_changes())
        return outcomes

    def load(self, state: State, entries: Sequence[Entry | BadEntry]) -> None:
        """Load into the state what the entries need."""
        need = missing(state, entries)
        for each in need.visitors:
            if each in self.visitors:
                state.visitors[each] = decode_visitor(self.visitors[each])
            if each in self.visitor_stamps:
                state.visitor_stamps[each] = decode_visitor_stamps(self.visitor_stamps[each])
        state.external_ids.update({each: self.external_ids[each] for each in need.external_ids if each in self.external_ids})
        state.emails.update({each: self.emails[each] for each in need.emails if each in self.emails})
        wanted = [each for each in contacts_behind(state, need) if each in self.contacts]
        while wanted:
            for each in wanted:
                state.contacts[each] = contact = decode_contact(self.contacts[each])
                if isinstance(contact, ContactRecord):
                    state.contact_stamps[each] = decode_contact_stamps(self.contact_stamps[each])
            wanted = survivors(state, wanted)
        state.older.clear()
        for contact_id, count in older_memberships(state, entries).items():
            listed = len(state.contact(contact_id).visitor_ids)
            newest_first = sorted(self.memberships(contact_id), reverse=True)
            state.older[contact_id] = newest_first[listed : listed + count]

    def write(self, changes: StateChanges) -> None:
        """Write what a fold changed."""
        self.visitors.update({each: encode_record(visitor) for each, visitor in changes.visitors.items()})
        self.contacts.update(changes.contacts)
        _write(self.visitor_stamps, {each: _encoded(stamps) for each, stamps in changes.visitor_stamps.items()})
        _write(self.contact_stamps, {each: _encoded(stamps) for each, stamps in changes.contact_stamps.items()})
        _write(self.external_ids, changes.external_ids)
        _write(self.emails, changes.emails)
        for members, changed in ((self.members, changes.members), (self.created, changes.created)):
            members.update(each for each, is_in in changed.items() if is_in)
            members.difference_update(each for each, is_in in changed.items() if not is_in)

    def memberships(self, contact_id: str, not_after: str = "9") -> Iterator[Membership]:
        """The visitors of a contact, including those of contacts merged into it. Checks the bounds of merged contacts."""
        for member in self.members:
            if not member.startswith(contact_id):
                continue
            since, kind = member[_ID_CHARS : _ID_CHARS + _SINCE_CHARS], member[_ID_CHARS + _SINCE_CHARS]
            name = member[_ID_CHARS + _SINCE_CHARS + 1 :]
            assert since <= not_after, "a member is newer than the merge of its contact"
            if kind == "v":
                yield Membership(text_ms(since), name)
            else:
                yield from self.memberships(name, since)


def _encoded(stamps: ContactStamps | VisitorStamps | None) -> bytes | None:
    return None if stamps is None else encode_stamps(stamps)


def _write(stored: dict[str, _Value], changed: dict[str, _Value | None]) -> None:
    for each, value in changed.items():
        if value is None:
            stored.pop(each, None)
        else:
            stored[each] = value
