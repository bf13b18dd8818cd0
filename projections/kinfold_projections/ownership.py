"""Whose each log entry is: the contact that took what the entry says, at the time when it was folded (contract section 10).

- An event that names people is its contact's (contract section 5, first table).
- An event that names only a visitor is the contact's that held the visitor at the event's effective time.
- An event of an anonymous visitor is the contact's that the visitor was linked to first, because that contact took its values.

So on a shared browser each user has their own events. Contacts that were merged are one person, also before the merge.

An event may also name a second person: an address that another contact keeps (a conflict), or a visitor that another contact
keeps (a page's link that was dropped). Such an entry belongs to its contact, and only mentions the other one.
"""

from collections.abc import Collection, Sequence
from typing import Final, Literal

import msgspec

from kinfold_projections.contact_ids import make_contact_id
from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.fold import evolve
from kinfold_projections.identity import decide
from kinfold_projections.links import holder_at
from kinfold_projections.state import State
from kinfold_schemas.changes import ConflictReason
from kinfold_schemas.events import Erased, MetadataSet, VisitorIdentified

_Owners = str | tuple[str, ...]
"""The contacts that an identifier belonged to. Nearly always one."""


class Mention(msgspec.Struct, frozen=True, gc=False):
    """An entry of another person that names this one."""

    entry: str
    field: Literal["email", "visitorId"]
    identifier: str
    """As it is compared."""
    contact_id: str
    """The contact that it mentions, as of that time."""
    reason: ConflictReason | None = None
    """Of the conflict, if it has one."""


class Belongings(msgspec.Struct):
    """Everything in a log that belongs to some people. Identifiers are in the form in which they are compared."""

    contacts: set[str]
    """Their contact ids: the living ones, and all that were merged into them."""
    entries: set[str]
    """The entries that are theirs."""
    mentions: list[Mention]
    """The entries of other people that name them."""
    external_ids: set[str]
    emails: set[str]
    """The addresses that they ever had or named, by key."""
    visitors: set[str]
    shared_visitors: set[str]
    """Those of the visitors that also belonged to other people."""
    shared_emails: set[str]
    """Those of the addresses that also belonged to other people."""
    links: dict[str, str]
    """Of their entries that linked a visitor: the contact that it was linked to, as of that time."""


class Ownership:
    """Folds a log, and notes whose each entry is. Needs memory for each entry's id."""

    def __init__(self, workspace: str, begins: State | None = None) -> None:
        """`begins`: the state at which the log begins (a baseline). What is in it belongs to the contacts that hold it."""
        self.state: Final = begins or State(workspace, tells=False)
        self.entries: Final[dict[str, list[str]]] = {}
        """By contact id, as of the entry's time: its entries, in the log's order within each contact id."""
        self.anonymous: Final[dict[str, list[str]]] = {}
        """By visitor id: the entries of visitors that were never linked."""
        self.unfolded: Final[list[str]] = []
        """Entries that no contact and no visitor took: rejected ones."""
        self.duplicates: Final[list[str]] = []
        self._mentions: Final[list[Mention]] = []
        self._links: Final[dict[str, str]] = {}
        self._erased_links: Final[dict[str, list[str]]] = {}
        """By visitor id: the erased entries that linked it."""
        self._visitors: Final[dict[str, _Owners]] = {}
        self._emails: Final[dict[str, _Owners]] = {}
        if begins is not None:
            self._take_over(begins)

    def fold(self, entries: Sequence[Entry | BadEntry]) -> None:
        """Folds the next entries of the log."""
        occurrences = self.state.window.enter(entries)
        for index, entry in enumerate(entries):
            if not isinstance(entry, Entry):
                self.unfolded.append(entry.id)
            elif occurrences.get(index) == "duplicate":
                self.duplicates.append(entry.id)
            else:
                self._fold(entry)

    def belongings(self, contact_ids: Collection[str], anonymous_visitors: Collection[str] = ()) -> Belongings:
        """What belongs to the people who have these living contacts, and to these visitors that nobody identified."""
        state = self.state
        living = set(contact_ids)
        contacts = {each for each in state.contacts if each in living or state.find(each) in living}
        entries = {entry for each in contacts for entry in self.entries.get(each, ())}
        entries.update(entry for each in anonymous_visitors for entry in self.anonymous.get(each, ()))
        visitors, shared_visitors = _owned(self._visitors, contacts)
        for each in visitors - shared_visitors:  # only erased people share it, and now nobody is left
            entries.update(self._erased_links.get(each, ()))
        emails, shared_emails = _owned(self._emails, contacts)
        return Belongings(
            contacts=contacts,
            entries=entries,
            mentions=[each for each in self._mentions if each.contact_id in contacts and each.entry not in entries],
            external_ids={each for each, holder in state.external_ids.items() if holder in contacts},
            emails=emails,
            visitors=visitors | set(anonymous_visitors),
            shared_visitors=shared_visitors,
            shared_emails=shared_emails,
            links={entry: linked for entry in entries if (linked := self._links.get(entry)) is not None},
        )

    def take_changes(self) -> None:
        """Forgets what a writer of the state would want to know. Call it now and then, to save memory."""
        self.state.take_changes()

    def former_holder(self, email_key: str) -> str | None:
        """The living contact that had an address, the latest one that came to it; None if there is none, or it was erased."""
        known = self._emails.get(email_key)
        if known is None:
            return None
        contact_id = known if isinstance(known, str) else known[-1]
        return None if self.state.is_erased(contact_id) else self.state.find(contact_id)

    def named_others(self, belongings: Belongings) -> dict[str, list[Mention]]:
        """By entry: where entries of these people name somebody else."""
        found: dict[str, list[Mention]] = {}
        for mention in self._mentions:
            if mention.entry in belongings.entries and mention.contact_id not in belongings.contacts:
                found.setdefault(mention.entry, []).append(mention)
        return found

    def _take_over(self, begins: State) -> None:
        for visitor_id, visitor in begins.visitors.items():
            for link in visitor.links:
                _add(self._visitors, visitor_id, link.contact_id)
            if not visitor.links:
                self.anonymous[visitor_id] = []
        for email_key, holder in begins.emails.items():
            if holder is not None:
                _add(self._emails, email_key, holder)

    # --- one entry

    def _fold(self, entry: Entry) -> None:
        event = entry.event
        if type(event) is VisitorIdentified:
            self._identified(entry, event)
        elif type(event) is Erased:
            self._erased(entry, event)
        elif type(event) is MetadataSet and entry.names.visitor_id is None:
            self._metadata_set(entry)
        elif entry.names.visitor_id is not None:
            self._of_visitor(entry, entry.names.visitor_id)
        else:
            evolve(self.state, entry)

    def _erased(self, entry: Entry, event: Erased) -> None:
        """What an earlier erasure has left."""
        if event.kept is not None:
            self._identified(entry, event.kept)
            return
        evolve(self.state, entry)
        if event.visitor_id is not None:
            self._erased_links.setdefault(event.visitor_id, []).append(entry.id)

    def _of_visitor(self, entry: Entry, visitor_id: str) -> None:
        visitor = self.state.visitors.get(visitor_id)
        link = holder_at(visitor.links, entry.at) if visitor is not None else None
        evolve(self.state, entry)
        if link is None:
            self.anonymous.setdefault(visitor_id, []).append(entry.id)
        elif self.state.is_erased(link.contact_id):
            self.unfolded.append(entry.id)
        else:
            self.entries.setdefault(link.contact_id, []).append(entry.id)
            _add(self._visitors, visitor_id, link.contact_id)

    def _metadata_set(self, entry: Entry) -> None:
        names, state = entry.names, self.state
        if names.contact_id is not None:
            owner = "" if names.contact_id not in state.contacts or state.is_erased(names.contact_id) else names.contact_id
        else:
            target = decide(state, names).target
            owner = make_contact_id(state.workspace, entry.id) if target is None else target.id
        evolve(state, entry)
        if owner not in state.contacts:  # the event was rejected
            self.unfolded.append(entry.id)
            return
        self.entries.setdefault(owner, []).append(entry.id)
        if names.email_key is not None:
            _add(self._emails, names.email_key, owner)

    def _identified(self, entry: Entry, event: VisitorIdentified) -> None:
        names, state = entry.names, self.state
        decision, visitor_id = decide(state, names), names.visitor_id
        owner = make_contact_id(state.workspace, entry.id) if decision.target is None else decision.target.id
        visitor = state.visitors.get(visitor_id) if visitor_id is not None else None
        held = holder_at(visitor.links, entry.at) if visitor is not None else None
        outcome = evolve(state, entry)
        if outcome.rejection is not None:
            if owner in state.contacts:
                self.entries.setdefault(owner, []).append(entry.id)
            else:
                self.unfolded.append(entry.id)
            return
        self.entries.setdefault(owner, []).append(entry.id)
        if names.email_key is not None:
            if decision.rule == "conflict":
                self._mentions.append(Mention(entry.id, "email", names.email_key, decision.other.id, decision.reason))
            else:
                _add(self._emails, names.email_key, owner)
        if visitor_id is None:
            return
        proves = entry.is_trusted or event.visitor_proven is True
        if not proves and held is not None and state.find(held.contact_id) != owner:  # the fold dropped the link
            self._mentions.append(Mention(entry.id, "visitorId", visitor_id, held.contact_id))
            return
        self._links[entry.id] = owner
        _add(self._visitors, visitor_id, owner)
        if past := self.anonymous.pop(visitor_id, None):
            self.entries[owner] += past


def _add(owners: dict[str, _Owners], identifier: str, contact_id: str) -> None:
    known = owners.get(identifier)
    if known is None:
        owners[identifier] = contact_id
    elif known != contact_id:
        each = (known,) if isinstance(known, str) else known
        if contact_id not in each:
            owners[identifier] = (*each, contact_id)


def _owned(owners: dict[str, _Owners], contacts: set[str]) -> tuple[set[str], set[str]]:
    """The identifiers that belonged to any of the contacts, and those of them that also belonged to another one."""
    owned, shared = set[str](), set[str]()
    for identifier, known in owners.items():
        if isinstance(known, str):
            if known in contacts:
                owned.add(identifier)
        elif not contacts.isdisjoint(known):
            owned.add(identifier)
            if not contacts.issuperset(known):
                shared.add(identifier)
    return owned, shared
