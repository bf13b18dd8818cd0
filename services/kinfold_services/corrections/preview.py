"""What a correction would change. The real fold takes it, over the parts of the stored state that it names."""

import time
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from msgspec import UNSET

from kinfold_projections.entries import BadEntry, Entry, read_entry
from kinfold_projections.fold import fold
from kinfold_projections.links import holder_at
from kinfold_projections.needs import older_memberships
from kinfold_projections.outcomes import Kind
from kinfold_projections.records import TRUSTED, ContactRecord, VisitorRecord, public_contact
from kinfold_projections.state import DamagedState, State
from kinfold_schemas.codec import encode_event
from kinfold_schemas.contacts import Contact, MergedContact
from kinfold_schemas.events import IdentityCorrected
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.rejections import Rejection
from kinfold_schemas.times import to_text
from kinfold_services.connections import Client
from kinfold_services.state.loading import Loader
from kinfold_services.state.wire import Wire

_TRIES: Final = 3
"""Between two commands a replay may put another state in place. Then the parts do not belong together."""


class ContactChange(msgspec.Struct, frozen=True, rename="camel"):
    """A contact before and after a correction. After it, a contact may be merged into another one."""

    contact_id: str
    before: Contact | None
    after: Contact | None
    merged_into: str | None = None


class VisitorChange(msgspec.Struct, frozen=True, rename="camel"):
    """The contact of a visitor before and after a correction; None if it has no contact."""

    visitor_id: str
    before: str | None
    after: str | None


class Preview(msgspec.Struct, frozen=True, rename="camel"):
    """What a correction would change, as of the stored state."""

    outcome: Kind
    """As the fold would count it. Only `folded` changes anything; `rejected` has a `rejection`."""
    contact_id: str
    """The living contact that the correction names. The id that it names, if there is no such contact."""
    version: int | None
    """The contact's version, for `ifVersion`. None if there is no such contact."""
    contacts: list[ContactChange]
    """The contacts that would differ, the named one first."""
    visitor: VisitorChange | None
    """The visitor, where it would move."""
    notes: list[str]
    """What the person who corrects should know: newer events that win, and events to come that undo it."""
    rejection: Rejection | None = None
    """Why the correction would be refused."""

    @property
    def changes_anything(self) -> bool:
        """Whether it is worth appending."""
        return self.outcome == "folded"


async def preview(client: Client, workspace: str, rules: IdentifierRules, event: IdentityCorrected) -> Preview:
    """What the correction would change if it were appended now. Changes nothing. Raises RedisError and DamagedState."""
    wire = Wire(client, key(workspace, "events"), _ANSWER_S)
    try:
        for tries in range(1, _TRIES + 1):
            try:
                return await _preview(Loader(client, workspace, wire.ask), workspace, rules, event)
            except DamagedState:
                if tries == _TRIES:
                    raise
    finally:
        await wire.close()
    raise AssertionError  # the loop returns or raises


_ANSWER_S: Final = 5.0


async def _preview(loader: Loader, workspace: str, rules: IdentifierRules, event: IdentityCorrected) -> Preview:
    entry_id = f"{time.time_ns() // 1_000_000}-0"
    entry = read_entry(entry_id.encode(), {b"event": encode_event(event)}, rules)
    if isinstance(entry, BadEntry):
        return Preview("rejected", event.contact_id, None, [], None, [], entry.rejection)
    state = State(workspace)
    await loader.load(state, [entry])
    await loader.load_older(state, older_memberships(state, [entry]))
    return preview_in(state, entry, event)


def preview_in(state: State, entry: Entry, event: IdentityCorrected) -> Preview:
    """What the correction would change in a state, which is of no use afterwards: it has been folded into it."""
    named = state.contacts.get(entry.names.contact_id or "")
    contact = state.contact(named.id) if named is not None else None
    before = {each.id: public_contact(each) for each in state.living_contacts()}
    visitor = state.visitors.get(entry.names.visitor_id or "")
    holder = _holder(state, visitor)
    notes = [] if contact is None else [*_newer(state, entry, event, contact), *_to_come(state, entry, event, contact)]
    (outcome,) = fold(state, [entry])
    changed = state.take_changes().contacts
    if contact is not None and entry.names.merge_contact_id is not None:
        notes += [_free_address(each) for each in sorted(_addresses(before.values()) - _addresses(state.living_contacts()))]
    if not outcome.changes and outcome.kind == "folded":
        notes.insert(0, "Only the visitor's history changes, not its contact now.")
    return Preview(
        outcome.kind,
        event.contact_id if contact is None else contact.id,
        None if contact is None else before[contact.id].version,
        sorted(
            [_change(state, each, before) for each in changed],
            key=lambda change: contact is None or change.contact_id != contact.id,
        ),
        _moved(entry, holder, _holder(state, visitor)),
        notes if outcome.rejection is None else [],
        outcome.rejection,
    )


def _change(state: State, contact_id: str, before: dict[str, Contact]) -> ContactChange:
    now = state.contacts[contact_id]
    if isinstance(now, MergedContact):
        return ContactChange(contact_id, before.get(contact_id), None, now.merged_into)
    return ContactChange(contact_id, before.get(contact_id), public_contact(now))


def _holder(state: State, visitor: VisitorRecord | None) -> str | None:
    return None if visitor is None or visitor.contact_id is None else state.find(visitor.contact_id)


def _moved(entry: Entry, before: str | None, after: str | None) -> VisitorChange | None:
    visitor_id = entry.names.visitor_id
    return None if visitor_id is None or before == after else VisitorChange(visitor_id, before, after)


# --- what contradicts it ------------------------------------------------------------------------------------------------


def _newer(state: State, entry: Entry, event: IdentityCorrected, contact: ContactRecord) -> Iterator[str]:
    """The parts of a correction that lose, because an event that happened later says otherwise."""
    stamps, names = state.contact_stamps[contact.id], entry.names
    dated = [
        ("e-mail", event.email, stamps.email_ms + TRUSTED),
        ("name", event.name, stamps.name_stamp),
        ("image", event.image, stamps.image_stamp),
    ]
    for what, value, stamp in dated:
        if value is not UNSET and entry.stamp < stamp:
            yield _loses(what, stamp)
    for metadata_key in dict.fromkeys([*(event.metadata or ()), *(event.unset or ())]):
        if entry.stamp < (stamp := stamps.metadata.get(metadata_key, 0)):
            yield _loses(metadata_key, stamp)
    taken = state.by_email(names.email_key) if event.email is not UNSET and names.email_key is not None else None
    if taken is not None and taken is not contact and entry.at_ms < (held_ms := state.contact_stamps[taken.id].email_ms):
        yield f"{taken.id} was given {names.email} on {to_text(held_ms)}, which is newer: this correction does not take it."
    visitor = state.visitors.get(names.visitor_id or "")
    if visitor is not None and visitor.links:
        yield from _newer_link(state, entry, contact, visitor)


def _loses(what: str, stamp: int) -> str:
    time_of = to_text(stamp - TRUSTED if stamp >= TRUSTED else stamp)
    return f"{what}: an event of {time_of} says otherwise and is newer: this correction does not change it."


def _newer_link(state: State, entry: Entry, contact: ContactRecord, visitor: VisitorRecord) -> Iterator[str]:
    visitor_id, holder_id = entry.names.visitor_id, holder_at(visitor.links, entry.at)
    if holder_id is not None and state.contact(holder_id) is not contact:
        yield f"{visitor_id} was {state.find(holder_id)}'s at that time: this correction changes nothing."
        return
    stamps = state.visitor_stamps.get(visitor_id or "")
    confirmed = stamps.confirmed[-1] if stamps is not None and stamps.confirmed else []
    last = max(visitor.links[-1].since, to_text(confirmed[-1]) if confirmed else "")
    if entry.at < last and visitor.contact_id is not None:
        linked_to = state.find(visitor.contact_id)
        yield f"An event of {last} links {visitor_id} to {linked_to} and is newer: it stays {linked_to}'s from then on."


def _to_come(state: State, entry: Entry, event: IdentityCorrected, contact: ContactRecord) -> Iterator[str]:
    """What the next event of the same kind as before would do to the correction."""
    names = entry.names
    if names.merge_contact_id is not None and names.merge_contact_id in state.contacts:
        yield from _after_merge(contact, state.contact(names.merge_contact_id))
    elif names.visitor_id is not None:
        yield f"The next event that identifies {names.visitor_id} links it again."
    elif event.dismiss_conflict is None:
        yield from _after_change(state, entry, event, contact)


def _after_merge(contact: ContactRecord, merged: ContactRecord) -> Iterator[str]:
    if merged is contact:
        yield f"{contact.id} is both of them already."
    elif merged.external_id is not None and contact.external_id is not None:
        yield f"It keeps the external id {contact.external_id}. Events that name {merged.external_id} are about it from now on."


def _addresses(contacts: Iterable[Contact | ContactRecord]) -> set[str]:
    return {each.email for each in contacts if each.email is not None}


def _free_address(email: str) -> str:
    return f"{email} is free from now on: the next event that names it makes a contact, or gives it to one without any."


def _after_change(state: State, entry: Entry, event: IdentityCorrected, contact: ContactRecord) -> Iterator[str]:
    names = entry.names
    old_id, old_email = contact.external_id, contact.email
    if event.external_id is not UNSET and old_id is not None and old_id != names.external_id:
        yield f"{old_id} is free from now on: the next event that names it makes a contact, or gives it to one without any."
    if event.email is not UNSET and old_email is not None and names.email is None and contact.external_id is not None:
        yield f"The next event that names {contact.external_id} and {old_email} sets the e-mail again."
    holder = state.by_email(names.email_key) if names.email_key is not None else None
    if holder is None or holder is contact or holder.external_id is None:
        return
    keeps_id = contact.external_id is not None if event.external_id is UNSET else names.external_id is not None
    then = "is a conflict" if keeps_id else f"merges {contact.id} into {holder.id}"
    yield f"The next event that names {holder.external_id} and {names.email} {then}."
