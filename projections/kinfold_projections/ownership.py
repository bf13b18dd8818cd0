"""Whose each log entry is: the contact that took what the entry says, at the time when it was folded (contract section 10).

- An event that names people is its contact's (contract section 5, first table).
- An event that names only a visitor is the contact's that held the visitor at the event's effective time.
- An event of an anonymous visitor is the contact's that the visitor was linked to first, because that contact took its values.

So on a shared browser each user has their own events. Contacts that were merged are one person, even before the merge.

An event may also name a second person: an address that another contact keeps (a conflict), or a visitor that another contact
keeps (a page's link that was dropped). A correction may take an identifier from another contact. An event that did nothing,
because it was rejected or had nothing to unlink, may name anybody. Such an entry belongs to its contact, and only mentions the
other one.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Final, Literal

import msgspec

from kinfold_projections.contact_ids import make_contact_id
from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.fold import evolve
from kinfold_projections.identity import decide
from kinfold_projections.linking import is_unlinked_after
from kinfold_projections.links import holder_at
from kinfold_projections.outcomes import Outcome
from kinfold_projections.records import NO_STAMPS, ContactRecord, VisitorRecord
from kinfold_projections.state import State
from kinfold_schemas.changes import ConflictReason
from kinfold_schemas.events import Erased, IdentityCorrected, MetadataSet, VisitorIdentified

_Owners = str | tuple[str, ...]
"""The contacts that an identifier belonged to; nearly always one."""


class Mention(msgspec.Struct, frozen=True, gc=False):
    """A mention of a person in another person's entry."""

    entry: str
    field: Literal["email", "visitorId", "all"]
    """The field that names the other person. all: the event did nothing, so none of it has to stay."""
    identifier: str
    """The identifier, in the form in which it is compared; empty if the field `all` names a contact by another identifier."""
    contact_id: str
    """The contact that is mentioned, as of that time; empty for a visitor without a contact."""
    reason: ConflictReason | None = None
    """The reason of the conflict, if it has one."""


class Takes(msgspec.Struct, frozen=True, gc=False):
    """What a correction took from other contacts, and for which one."""

    contact_id: str
    external_id: str | None
    external_id_of: str
    email: str | None
    email_of: str


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
    """By key: the addresses that they ever had or named."""
    visitors: set[str]
    shared_visitors: set[str]
    """Their visitors that also belonged to other people."""
    shared_emails: set[str]
    """Their addresses that also belonged to other people."""
    shared_external_ids: set[str]
    """Their external ids that also belonged to other people."""
    links: dict[str, str]
    """Their entries that linked or unlinked a visitor, each with their contact as of that time."""
    unlinks: set[str]
    """Those of `links` that unlinked a visitor."""
    takes: dict[str, "Takes"]
    """Their corrections that took an identifier from others: what, and from whom."""
    erased_takes: set[str]
    """Entries that were erased before and say what they took from others. It may be theirs."""


class Ownership:
    """Folds a log, and notes whose each entry is. Keeps every entry's id in memory."""

    def __init__(self, workspace: str, begins: State | None = None) -> None:
        """`begins`: the state at which the log begins (a baseline). Its records belong to the contacts that hold them."""
        self.state: Final = begins or State(workspace, tells=False)
        self.entries: Final[dict[str, list[str]]] = defaultdict(list)
        """By contact id, as of the entry's time: its entries, in the log's order within each contact id."""
        self.anonymous: Final[dict[str, list[str]]] = defaultdict(list)
        """By visitor id: the entries of visitors that were never linked."""
        self.unfolded: Final[list[str]] = []
        """Entries that no contact and no visitor took: rejected ones."""
        self.idle: Final[list[str]] = []
        """Entries of a contact that did nothing: rejected ones, and corrections that changed nothing. They may name anybody."""
        self.duplicates: Final[list[str]] = []
        self._mentions: Final[list[Mention]] = []
        self._links: Final[dict[str, str]] = {}
        self._unlinks: Final[set[str]] = set()
        self._takes: Final[dict[str, Takes]] = {}
        self._external_ids: Final[dict[str, _Owners]] = {}
        self._erased_links: Final[dict[str, list[str]]] = {}
        """By visitor id: the erased entries that linked it."""
        self._erased_takes: Final[set[str]] = set()
        self._visitors: Final[dict[str, _Owners]] = {}
        self._emails: Final[dict[str, _Owners]] = {}
        if begins is not None:
            self._take_over(begins)

    def fold(self, entries: Sequence[Entry | BadEntry]) -> list[Outcome]:
        """Fold the next entries of the log. Returns the outcome of each."""
        occurrences, outcomes = self.state.window.enter(entries), list[Outcome]()
        for index, entry in enumerate(entries):
            occurrence = occurrences.get(index, "new")
            if type(entry) is Entry and occurrence != "duplicate":
                outcome = self._fold(entry)
                outcomes.append(outcome if occurrence == "new" else msgspec.structs.replace(outcome, id_reused=True))
            else:
                (self.duplicates if type(entry) is Entry else self.unfolded).append(entry.id)
                outcomes.append(evolve(self.state, entry, occurrence))
        return outcomes

    def belongings(self, contact_ids: Collection[str], anonymous_visitors: Collection[str] = ()) -> Belongings:
        """What belongs to the people with these living contacts, and to these visitors that were never identified."""
        state = self.state
        living = set(contact_ids)
        contacts = {each for each in state.contacts if each in living or state.find(each) in living}
        entries = {entry for each in contacts for entry in self.entries.get(each, ())}
        entries.update(entry for each in anonymous_visitors for entry in self.anonymous.get(each, ()))
        visitors, shared_visitors = _owned(self._visitors, contacts)
        # What an unlinked visitor does is another person's, who is not identified.
        shared_visitors |= visitors & self.anonymous.keys() - set(anonymous_visitors)
        for each in anonymous_visitors:
            if not contacts.issuperset(_owners(self._visitors, each)):
                shared_visitors.add(each)
        visitors.update(anonymous_visitors)
        for each in visitors - shared_visitors:  # only erased people shared it, and all of them are gone
            entries.update(self._erased_links.get(each, ()))
        emails, shared_emails = _owned(self._emails, contacts)
        external_ids, shared_external_ids = _owned(self._external_ids, contacts)
        return Belongings(
            contacts=contacts,
            entries=entries,
            mentions=[
                each
                for each in self._mentions
                if each.entry not in entries
                and (each.contact_id in contacts if each.contact_id else each.identifier in visitors)
            ],
            external_ids=external_ids,
            shared_external_ids=shared_external_ids,
            emails=emails,
            visitors=visitors,
            shared_visitors=shared_visitors,
            shared_emails=shared_emails,
            links={entry: linked for entry in entries if (linked := self._links.get(entry)) is not None},
            unlinks=entries & self._unlinks,
            takes={entry: taken for entry in entries if (taken := self._takes.get(entry)) is not None},
            erased_takes=self._erased_takes,
        )

    def former_holder(self, email_key: str) -> str | None:
        """The living contact that had an address last; None if there is none or it was erased."""
        known = self._emails.get(email_key)
        if known is None:
            return None
        contact_id = known if isinstance(known, str) else known[-1]
        return None if self.state.is_erased(contact_id) else self.state.find(contact_id)

    def named_others(self, belongings: Belongings) -> dict[str, list[Mention]]:
        """By entry: where these people's entries name somebody else."""
        found: dict[str, list[Mention]] = {}
        for mention in self._mentions:
            if mention.entry in belongings.entries and mention.contact_id not in belongings.contacts:
                found.setdefault(mention.entry, []).append(mention)
        return found

    def _take_over(self, begins: State) -> None:
        for visitor_id, visitor in begins.visitors.items():
            for link in visitor.links:
                if link.contact_id is not None:
                    _add(self._visitors, visitor_id, link.contact_id)
            if not visitor.links or (visitor.contact_id is None and visitor.last_seen_at > visitor.links[-1].since):
                self.anonymous[visitor_id] = []
        for owners, held in ((self._emails, begins.emails), (self._external_ids, begins.external_ids)):
            for identifier, holder in held.items():
                if holder is not None:
                    _add(owners, identifier, holder)

    # --- one entry

    def _fold(self, entry: Entry) -> Outcome:
        event = entry.event
        if type(event) is VisitorIdentified:
            return self._identified(entry, event)
        if type(event) is IdentityCorrected:
            return self._corrected(entry, event)
        if type(event) is Erased:
            return self._erased(entry, event)
        if entry.names.visitor_id is not None:
            return self._of_visitor(entry, entry.names.visitor_id)
        return self._metadata_set(entry) if type(event) is MetadataSet else evolve(self.state, entry)

    def _erased(self, entry: Entry, event: Erased) -> Outcome:
        """Note what an earlier erasure has left."""
        if type(event.kept) is VisitorIdentified:
            return self._identified(entry, event.kept)
        if type(event.kept) is IdentityCorrected:
            return self._corrected(entry, event.kept)
        outcome = evolve(self.state, entry)
        if event.taken_external_id is not None or event.taken_email is not None:
            self._erased_takes.add(entry.id)
        if event.visitor_id is not None:
            self._erased_links.setdefault(event.visitor_id, []).append(entry.id)
        return outcome

    def _of_visitor(self, entry: Entry, visitor_id: str) -> Outcome:
        state = self.state
        visitor = state.visitors.get(visitor_id)
        holder = holder_at(visitor.links, entry.at) if visitor is not None else None
        outcome = evolve(state, entry)
        if holder is None:
            self.anonymous[visitor_id].append(entry.id)
        elif type(state.contacts[holder]) is not ContactRecord and state.is_erased(holder):
            self.unfolded.append(entry.id)
        else:
            self.entries[holder].append(entry.id)
            if self._visitors.get(visitor_id) != holder:
                _add(self._visitors, visitor_id, holder)
        return outcome

    def _metadata_set(self, entry: Entry) -> Outcome:
        names, state = entry.names, self.state
        if names.contact_id is not None:
            owner = "" if names.contact_id not in state.contacts or state.is_erased(names.contact_id) else names.contact_id
        else:
            target = decide(state, names).target
            owner = make_contact_id(state.workspace, entry.id) if target is None else target.id
        outcome = evolve(state, entry)
        if owner not in state.contacts:  # the event was rejected
            self.unfolded.append(entry.id)
            return outcome
        self.entries[owner].append(entry.id)
        if names.email_key is not None:
            _add(self._emails, names.email_key, owner)
        if names.external_id is not None:
            _add(self._external_ids, names.external_id, owner)
        return outcome

    def _identified(self, entry: Entry, event: VisitorIdentified) -> Outcome:
        names, state = entry.names, self.state
        decision, visitor_id = decide(state, names), names.visitor_id
        owner = make_contact_id(state.workspace, entry.id) if decision.target is None else decision.target.id
        visitor = state.visitors.get(visitor_id) if visitor_id is not None else None
        held = holder_at(visitor.links, entry.at) if visitor is not None else None
        brings = visitor is None or not visitor.links or (visitor.contact_id is None and not self._is_late(entry, visitor))
        has_email = state.by_email(names.email_key) if names.email_key is not None else None
        outcome = evolve(state, entry)
        if outcome.rejection is not None:
            if owner in state.contacts:
                self.entries[owner].append(entry.id)
                self.idle.append(entry.id)
                self._mention_all(entry, owner, (has_email,), held)
            else:
                self.unfolded.append(entry.id)
            return outcome
        self.entries[owner].append(entry.id)
        if names.external_id is not None:
            _add(self._external_ids, names.external_id, owner)
        if names.email_key is not None:
            if decision.rule == "conflict":
                self._mentions.append(Mention(entry.id, "email", names.email_key, decision.other.id, decision.reason))
            else:
                _add(self._emails, names.email_key, owner)
        if visitor_id is None:
            return outcome
        proves = entry.is_trusted or event.visitor_proven is True
        if not proves and held is not None and state.find(held) != owner:  # the fold dropped the link
            self._mentions.append(Mention(entry.id, "visitorId", visitor_id, held))
            return outcome
        self._links[entry.id] = owner
        _add(self._visitors, visitor_id, owner)
        if brings and (past := self.anonymous.pop(visitor_id, None)):
            self.entries[owner] += past
        return outcome

    def _is_late(self, entry: Entry, visitor: VisitorRecord) -> bool:
        """Whether a correction unlinked the visitor at a later time."""
        stamps = self.state.visitor_stamps.get(entry.names.visitor_id or "", NO_STAMPS)
        return is_unlinked_after(visitor, stamps, entry)

    def _corrected(self, entry: Entry, event: IdentityCorrected) -> Outcome:
        names, state = entry.names, self.state
        has_id = state.by_external_id(names.external_id) if names.external_id is not None else None
        has_email = state.by_email(names.email_key) if names.email_key is not None else None
        known = names.contact_id is not None and names.contact_id in state.contacts
        owner = state.holder(names.contact_id) if known and names.contact_id is not None else None
        visitor = state.visitors.get(names.visitor_id) if names.visitor_id is not None else None
        held = holder_at(visitor.links, entry.at) if visitor is not None else None
        before = self._history_of(names.visitor_id)
        outcome = evolve(state, entry)
        if owner is None:
            self.unfolded.append(entry.id)
            return outcome
        self.entries[owner.id].append(entry.id)
        if outcome.rejection is not None:
            self.idle.append(entry.id)
            self._mention_all(entry, owner.id, (has_id, has_email), held)
            return outcome
        if names.visitor_id is not None:
            if self._history_of(names.visitor_id) != before:
                self._links[entry.id] = owner.id
                self._unlinks.add(entry.id)
            if held is None or state.find(held) != owner.id:
                self.idle.append(entry.id)
                self._mention_all(entry, owner.id, (), held)
            return outcome
        if event.dismiss_conflict is not None:
            if has_email is not None and has_email is not owner:
                self._mentions.append(Mention(entry.id, "email", names.email_key or "", has_email.id))
            else:
                self.idle.append(entry.id)
            return outcome
        self._took(entry, owner, has_id, has_email)
        return outcome

    def _history_of(self, visitor_id: str | None) -> object:
        """A visitor's links, and when each was confirmed."""
        if visitor_id is None or (visitor := self.state.visitors.get(visitor_id)) is None:
            return None
        return visitor.links, self.state.visitor_stamps.get(visitor_id, NO_STAMPS).confirmed

    def _mention_all(
        self, entry: Entry, owner: str, holders: Sequence[ContactRecord | None], holder_of_visitor: str | None
    ) -> None:
        """Note whom an event that did nothing names besides its contact."""
        self._mentions.extend(
            Mention(entry.id, "all", "", each.id) for each in holders if each is not None and each.id != owner
        )
        visitor_id = entry.names.visitor_id
        if visitor_id is not None and (holder_of_visitor is None or self.state.find(holder_of_visitor) != owner):
            self._mentions.append(Mention(entry.id, "all", visitor_id, holder_of_visitor or ""))

    def _took(self, entry: Entry, owner: ContactRecord, has_id: ContactRecord | None, has_email: ContactRecord | None) -> None:
        """Note the identifiers that a correction set: they belong to the contact now, or still to another one."""
        names, state = entry.names, self.state
        external_id, email, id_of, email_of = None, None, "", ""
        if names.external_id is not None:
            _add(self._external_ids, names.external_id, owner.id)
            if has_id is not None and has_id is not owner:
                external_id, id_of = names.external_id, has_id.id
        if names.email_key is not None:
            is_taken = state.by_email(names.email_key) is owner
            if is_taken or has_email is None or has_email is owner:
                _add(self._emails, names.email_key, owner.id)
            if has_email is not None and has_email is not owner:
                if is_taken:
                    email, email_of = names.email, has_email.id
                else:
                    self._mentions.append(Mention(entry.id, "email", names.email_key, has_email.id))
        if external_id is not None or email is not None:
            self._takes[entry.id] = Takes(owner.id, external_id, id_of, email, email_of)


def _add(owners: dict[str, _Owners], identifier: str, contact_id: str) -> None:
    known = owners.get(identifier)
    if known is None:
        owners[identifier] = contact_id
    elif known != contact_id:
        each = (known,) if isinstance(known, str) else known
        if contact_id not in each:
            owners[identifier] = (*each, contact_id)


def _owners(owners: dict[str, _Owners], identifier: str) -> tuple[str, ...]:
    """The contacts that an identifier belonged to."""
    known = owners.get(identifier, ())
    return (known,) if isinstance(known, str) else known


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
