"""A workspace as the projector keeps it in Redis: encoded records, maps of strings and one sorted set, here in dictionaries.

Like the projector, `fold_batch` loads only what the batch needs (`kinfold_projections.needs`), folds, and writes what changed.
"""

from collections.abc import Iterator, Sequence

from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.fold import fold, remember
from kinfold_projections.members import Membership
from kinfold_projections.needs import contacts_behind, named_keys, older_memberships, survivors
from kinfold_projections.outcomes import Outcome
from kinfold_projections.records import decode_contact, decode_visitor, encode_record
from kinfold_projections.state import State, StateChanges

_ID_CHARS = 29
_SINCE_CHARS = 24


class Store:
    """The stored data of one workspace."""

    def __init__(self, workspace: str = "default") -> None:
        self.workspace = workspace
        self.visitors: dict[str, bytes] = {}
        self.contacts: dict[str, bytes] = {}
        self.external_ids: dict[str, str] = {}
        self.emails: dict[str, str] = {}
        self.members: set[str] = set()
        self._log: list[Entry | BadEntry] = []

    def content(self) -> tuple[object, ...]:
        """Everything that is stored, for comparison with another store."""
        return self.visitors, self.contacts, self.external_ids, self.emails, sorted(self.members)

    def fold_batch(self, entries: Sequence[Entry | BadEntry]) -> list[Outcome]:
        """Folds one batch as a projector that was just started: nothing is known but what is stored and the log."""
        state = State(self.workspace)
        for entry in self._log:
            remember(state, entry)
        self._log += entries
        self.load(state, entries)
        outcomes = fold(state, entries)
        self.write(state.take_changes())
        return outcomes

    def load(self, state: State, entries: Sequence[Entry | BadEntry]) -> None:
        """Load into the state what the entries need."""
        named = named_keys(entries)
        state.visitors.update({key: decode_visitor(self.visitors[key]) for key in named.visitors if key in self.visitors})
        state.external_ids.update({key: self.external_ids[key] for key in named.external_ids if key in self.external_ids})
        state.emails.update({key: self.emails[key] for key in named.emails if key in self.emails})
        wanted = [contact_id for contact_id in named.contacts if contact_id in self.contacts]
        wanted += contacts_behind(state, entries)
        while wanted:
            state.contacts.update({contact_id: decode_contact(self.contacts[contact_id]) for contact_id in wanted})
            wanted = survivors(state, wanted)
        for contact_id, count in older_memberships(state, entries).items():
            listed = len(state.contact(contact_id).visitor_ids)
            newest_first = sorted(self.memberships(contact_id), reverse=True)
            state.older[contact_id] = newest_first[listed : listed + count]

    def write(self, changes: StateChanges) -> None:
        """Write what a fold changed."""
        self.visitors.update({visitor.id: encode_record(visitor) for visitor in changes.visitors})
        self.contacts.update({contact.id: encode_record(contact) for contact in changes.contacts})
        self.external_ids.update(changes.external_ids)
        for address, contact_id in changes.emails.items():
            if contact_id is None:
                self.emails.pop(address, None)
            else:
                self.emails[address] = contact_id
        for member, is_in in changes.members.items():
            if is_in:
                self.members.add(member)
            else:
                self.members.discard(member)  # in and out again within one batch: it never was

    def memberships(self, contact_id: str, not_after: str = "9") -> Iterator[Membership]:
        """The visitors of a contact, including those of contacts merged into it. Checks the bounds of merged contacts."""
        for member in self.members:
            if not member.startswith(contact_id):
                continue
            since, kind = member[_ID_CHARS : _ID_CHARS + _SINCE_CHARS], member[_ID_CHARS + _SINCE_CHARS]
            name = member[_ID_CHARS + _SINCE_CHARS + 1 :]
            assert since <= not_after, "a member is newer than the merge of its contact"
            if kind == "v":
                yield Membership(since, name)
            else:
                yield from self.memberships(name, since)
