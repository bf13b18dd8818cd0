"""Explains a contact: every event that shaped it, the effects of each, and the rules behind them (`kinfold explain`).

The log is folded twice. The first fold finds the contacts that were merged into this one, and all visitors that ever belonged
to them. The second fold stops at every event that names one of them or changes one of them.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final, Literal

import msgspec

from kinfold_projections import rules
from kinfold_projections.entries import EVENT_FIELD, BadEntry, Entry
from kinfold_projections.fold import fold
from kinfold_projections.identity import Decision, decide
from kinfold_projections.outcomes import Kind, Outcome
from kinfold_projections.records import ContactRecord, public_contact
from kinfold_projections.state import State
from kinfold_schemas.changes import (
    Change,
    ConflictDismissed,
    ContactsMerged,
    Correction,
    IdentityConflict,
    VisitorLinked,
    VisitorUnlinked,
)
from kinfold_schemas.contacts import Contact, MergedContact
from kinfold_schemas.events import Event, IdentityCorrected, MetadataSet, VisitorIdentified, VisitorSeen
from kinfold_schemas.identifiers import email_key
from kinfold_services.history.past import Past
from kinfold_services.history.past_queries import PastQueries
from kinfold_services.log.exclusions import Exclusions
from kinfold_services.state.queries import Identifier, find_contact


class Deed(msgspec.Struct, frozen=True):
    """One thing that an event did, in words, and the rule of the contract behind it."""

    what: str
    rule: str


class Effect(msgspec.Struct, frozen=True, rename="camel"):
    """A field of a contact before and after an event. A field that was added has no `before`, a removed one no `after`."""

    contact_id: str
    field: str
    before: Any = msgspec.UNSET
    after: Any = msgspec.UNSET


SEEN: Final = Deed("seen", "3: seen times only widen")
"""What a visit does that changes nothing else."""


class Step(msgspec.Struct, frozen=True):
    """One event of a contact's story. The effects of all steps, applied in order, give the contact."""

    entry: str
    at: str
    outcome: Kind | Literal["baseline"]
    did: list[Deed]
    effects: list[Effect]
    event: msgspec.Raw


class Story:
    """The story of one contact up to a position.

    It leaves out the entries that the log excludes up to `exclusions_upto`: the position, or the log's end after a replay.
    """

    def __init__(self, past: Past, position: str, exclusions_upto: str) -> None:
        self._past: Final = past
        self._position: Final = position
        self._exclusions_upto: Final = exclusions_upto
        self._exclusions = Exclusions()
        self.contact: Contact | None = None
        """The living contact that was found; None before `open`, and if there is none."""
        self._lineage: set[str] = set()
        self._visitors: set[str] = set()

    async def open(self, identifier: Identifier) -> bool:
        """Find the contact, also by a former address, and its visitors. Returns False if there never was such a contact."""
        self._exclusions = await self._past.exclusions(self._exclusions_upto)
        state = await self._past.state_at(self._position, self._exclusions)
        self.contact = await find_contact(PastQueries(state), identifier)
        if self.contact is None and identifier.email is not None:
            former = await self._former_holder(identifier.email)
            self.contact = None if former is None else public_contact(state.contact(former))
        if self.contact is None:
            return False
        contact = self.contact
        self._lineage = {each for each in state.contacts if state.find(each) == contact.id}
        self._visitors = {
            each for each, visitor in state.visitors.items() if any(link.contact_id in self._lineage for link in visitor.links)
        }
        return True

    async def _former_holder(self, email: str) -> str | None:
        """The id of the contact that had the address last, found by folding the whole log."""
        state, address = await self._past.beginning(tells=True), email_key(email)
        holder = state.emails.get(address)
        async with aclosing(self._past.entries(self._position, self._exclusions)) as entries:
            async for _, entry in entries:
                fold(state, [entry])
                state.take_changes()
                holder = state.emails.get(address) or holder
        return holder

    async def steps(self) -> AsyncGenerator[Step]:
        """Yield, in order, every event that named or changed the contact, one merged into it, or one of their visitors.

        The first step is the baseline if the log was cut and the baseline has the contact.
        """
        state = await self._past.beginning(tells=True)
        known: dict[str, dict[str, Any]] = {}
        if (begun := await self._from_baseline(state, known)) is not None:
            yield begun
        async with aclosing(self._past.entries(self._position, self._exclusions)) as entries:
            async for (_, fields), entry in entries:
                decision = _decision(state, entry)
                concerns = isinstance(entry, Entry) and self._concerns(state, entry)
                (outcome,) = fold(state, [entry])
                changed = state.take_changes().contacts.keys() & self._lineage
                if not isinstance(entry, Entry) or not (concerns or changed):
                    continue
                effects = [effect for each in sorted(changed) for effect in _effects(known, state.contacts[each])]
                did = list(self._did(outcome, decision, effects)) or [_nothing(entry, outcome, self._lineage)]
                did = [_by_hand(entry.event, deed) for deed in did] if isinstance(entry.event, IdentityCorrected) else did
                yield Step(entry.id, entry.at, outcome.kind, did, effects, _one_line(fields[EVENT_FIELD]))

    async def _from_baseline(self, state: State, known: dict[str, dict[str, Any]]) -> Step | None:
        baseline = await self._past.baseline()
        there = sorted(each for each in self._lineage if type(state.contacts.get(each)) is ContactRecord)
        if baseline is None or not there:
            return None
        effects = [effect for each in there for effect in _effects(known, state.contacts[each])]
        did = [Deed(f"{each} comes from the baseline of {baseline.made_at}", "11: Retention") for each in there]
        return Step(baseline.position, baseline.made_at, "baseline", did, effects, msgspec.Raw(b"null"))

    def _concerns(self, state: State, entry: Entry) -> bool:
        """Whether the event names a contact or visitor of the story. Such an event need not change anything, and vice versa."""
        names = entry.names
        if names.visitor_id in self._visitors or {names.contact_id, names.merge_contact_id} & self._lineage:
            return True
        if names.external_id is not None and state.external_ids.get(names.external_id) in self._lineage:
            return True
        return names.email_key is not None and state.emails.get(names.email_key) in self._lineage

    def _did(self, outcome: Outcome, decision: Decision | None, effects: list[Effect]) -> Iterator[Deed]:
        if outcome.rejection is not None:
            yield Deed(f"rejected: {outcome.rejection.detail}", _REJECTED)
        created = {effect.contact_id for effect in effects if effect.field == "version" and effect.before is msgspec.UNSET}
        for contact_id in sorted(created):
            yield Deed(f"created {contact_id}", _why_created(decision))
        for effect in effects:
            if deed := _field_deed(effect, decision):
                yield deed
        for change in outcome.changes:
            if change.contact_id in self._lineage and (deed := _change_deed(change)):
                yield deed
            elif isinstance(change, IdentityConflict) and change.held_by in self._lineage:
                yield Deed(f"kept {change.email}, which an event named for {change.contact_id}", _why_held(change))
        if outcome.untrusted:
            yield Deed(f"dropped {outcome.untrusted} of what a page said", _UNTRUSTED)


def _by_hand(event: IdentityCorrected, deed: Deed) -> Deed:
    """What a correction did: the rule is who made it, and why. What it did not do has a rule of its own."""
    is_other = deed in _DROPPED.values() or deed.rule == _REJECTED
    return deed if is_other else Deed(deed.what, rules.corrected(Correction(event.by, event.reason)))


def _why_held(change: IdentityConflict) -> str:
    if change.reason == "too-many-merges":
        return rules.FUSE
    return rules.HELD


def _change_deed(change: Change) -> Deed | None:  # noqa: PLR0911  one for each type of change
    """The part of a change that its fields do not show."""
    match change:
        case VisitorLinked():
            return Deed(f"linked {change.visitor_id}", rules.LINKED)
        case VisitorUnlinked(next_contact_id=None):
            return Deed(f"unlinked {change.visitor_id}", rules.LINKED)
        case VisitorUnlinked():
            return Deed(f"{change.visitor_id} moved on to {change.next_contact_id}", rules.MOVES_ON)
        case ContactsMerged():
            return Deed(f"merged {change.merged_contact_id}", rules.MERGED)
        case IdentityConflict():
            return Deed(f"did not take {change.email}, which {change.held_by} holds", _why_held(change))
        case ConflictDismissed():
            return Deed(f"dismissed the conflict about {change.email}, which {change.held_by} holds", rules.HELD)
        case _:
            return None


def _field_deed(effect: Effect, decision: Decision | None) -> Deed | None:
    if effect.after is None and not effect.before and not effect.field.startswith("metadata."):
        return None  # a new contact does not have it yet
    if effect.field == "externalId":
        lost = f", lost {effect.before}" if effect.before else ""
        return Deed(
            f"took external id {effect.after}{lost}" if effect.after else f"lost external id {effect.before}",
            rules.GAINS_EXTERNAL_ID,
        )
    if effect.field == "email":
        rule = f"5, second table: {decision.rule}" if decision is not None else "5: named by the event"
        freed = f"freed {effect.before}"
        return Deed(f"took e-mail {effect.after}" + (f", {freed}" if effect.before else "") if effect.after else freed, rule)
    if effect.field in {"name", "image"} or effect.field.startswith("metadata."):
        return Deed(f"{effect.field} {_shown(effect.before)} → {_shown(effect.after)}", rules.LAST_WRITE)
    return None


def _decision(state: State, entry: Entry | BadEntry) -> Decision | None:
    """The decision of the tables in contract section 5 about an event, before it is folded."""
    if not isinstance(entry, Entry) or not isinstance(entry.event, VisitorIdentified):
        return None
    return decide(state, entry.names)


def _why_created(decision: Decision | None) -> str:
    if decision is None:
        return "5: metadata for a contact that did not exist"
    return rules.NEW_CONTACT


def _nothing(entry: Entry, outcome: Outcome, lineage: set[str]) -> Deed:
    """The result of an event that named a contact or visitor of the story and did not change the contact."""
    if dropped := _DROPPED.get(outcome.kind):
        return dropped
    if others := sorted({change.contact_id for change in outcome.changes} - lineage):
        return Deed(f"went to {', '.join(others)}", _WHOSE.get(type(entry.event), _ERASED))
    if isinstance(entry.event, MetadataSet):
        return Deed(f"metadata kept with {entry.names.visitor_id}", "4: the visitor is not identified yet")
    if isinstance(entry.event, IdentityCorrected):
        return Deed(f"unlinked {entry.names.visitor_id} for a past period", rules.LINKED)
    if isinstance(entry.event, VisitorIdentified):
        return Deed(f"linked {entry.names.visitor_id} for a past period", "5, Linking: last write wins by effective time")
    return SEEN


_REJECTED: Final = "7: Rejects"
_UNTRUSTED: Final = "4, Trust, and 5, Linking: a trusted source set it, or another contact holds the visitor"
_DROPPED: Final[Mapping[Kind, Deed]] = {
    "duplicate": Deed("dropped as a duplicate", "3, Duplicates: the same event occurred before"),
    "stale": Deed("dropped as late", "3: the current value has a later effective time"),
    "no-op": Deed("nothing new", "4: a no-op"),
}
_ERASED: Final = "10: what is left of an erased person's event"
_WHOSE: Final[Mapping[type[Event], str]] = {
    VisitorIdentified: "5, first table: the contact that the event names",
    IdentityCorrected: "5, Corrections: the contact that it names",
    MetadataSet: "5, Linking: the contact that held the visitor at that time",
    VisitorSeen: "5, Linking: the contact that held the visitor at that time",
}


def _effects(known: dict[str, dict[str, Any]], record: ContactRecord | MergedContact) -> Iterator[Effect]:
    """The differences between a contact and its fields in `known`, which this updates."""
    if isinstance(record, MergedContact):
        known.pop(record.id, None)  # the effects on the other contact include its values
        return
    old, now = known.get(record.id, {}), _fields(record)
    known[record.id] = now
    for field in sorted(old.keys() | now.keys()):
        one, other = old.get(field, msgspec.UNSET), now.get(field, msgspec.UNSET)
        if one is not other and (one != other or one.__class__ is not other.__class__):
            yield Effect(record.id, field, one, other)


def _fields(record: ContactRecord) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(record)
    metadata: dict[str, Any] = fields.pop("metadata")
    return fields | {f"metadata.{name}": value for name, value in metadata.items()}


def _one_line(event: bytes) -> msgspec.Raw:
    """The event as written, but without line breaks between its parts, because a step is one line of output."""
    return msgspec.Raw(msgspec.json.format(event, indent=-1) if b"\n" in event or b"\r" in event else event)


def _shown(value: object) -> str:
    if value is msgspec.UNSET:
        return "nothing"
    return msgspec.json.encode(value).decode() if not isinstance(value, str) else value
