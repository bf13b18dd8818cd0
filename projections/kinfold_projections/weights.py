"""How much a contact and a visitor may weigh: the bytes of their stored JSON (contract section 2, Limits).

Encoding a record is expensive, so the fold first asks for an upper estimate (`State.may_exceed`). Only if that is above the
limit, it encodes the record as the event would leave it. The measurement decides, so the estimate never shows.
"""

from copy import copy
from typing import Final

import msgspec

from kinfold_projections.contact_ids import make_contact_id
from kinfold_projections.entries import Entry
from kinfold_projections.identity import Decision, join_profile, take_profile
from kinfold_projections.metadata import NO_METADATA, Metadata
from kinfold_projections.records import (
    NO_STAMPS,
    ContactRecord,
    ContactStamps,
    VisitorRecord,
    VisitorStamps,
    copy_contact,
    encode_record,
    new_contact,
)
from kinfold_projections.state import LARGE_BYTES, State
from kinfold_schemas.canonical import EMPTY_HASH
from kinfold_schemas.contacts import MAX_CONTACT_BYTES, MAX_VISITOR_BYTES
from kinfold_schemas.events import MetadataSet, VisitorIdentified, VisitorSeen
from kinfold_schemas.rejections import Rejection

Anonymous = tuple[VisitorRecord, VisitorStamps]
"""A visitor that brings something to the contact that identifies it first."""

GROWTH: Final = 5
"""An event adds at most this many times its own bytes to a record. A number can grow: `9e15` becomes `9000000000000000`."""
LARGE_EVENT_BYTES: Final = 3000
"""A smaller event cannot make a light contact too heavy (`state.LIGHT_BYTES`)."""

FRAME_BYTES: Final = 500
"""An upper bound for the weight of a contact or a visitor without values."""
_COUNTER_DIGITS: Final = 16
"""The bytes counted for `version` and `visitorCount`, so that neither makes a contact too heavy as it counts up."""


def contact_bytes(contact: ContactRecord) -> int:
    """The weight of a contact in bytes."""
    digits = len(str(contact.version)) + len(str(contact.visitor_count))
    no_hash = len(EMPTY_HASH) - len(contact.metadata_hash)  # with `tells=False`, the hash is computed at the end
    return len(encode_record(contact)) - digits + 2 * _COUNTER_DIGITS + no_hash


def described_bytes(visitor: VisitorRecord) -> int:
    """The weight of a visitor in bytes, without its context and its links, which have a limit of their own."""
    return len(encode_record(msgspec.structs.replace(visitor, contact_id=None, links=[], context={}, context_ms=-1)))


def visitor_bytes(visitor: VisitorRecord) -> int:
    """The weight of a visitor in bytes."""
    return len(encode_record(msgspec.structs.replace(visitor, contact_id=None, links=[])))


def fitting(metadata: Metadata, excess: int, before_bytes: int, *, makes_room: bool, is_contact: bool) -> Metadata | Rejection:
    """Fit metadata with which a contact or a visitor would be `excess` bytes too heavy. Returns it, or why it is rejected.

    With `makes_room`, keys from pages make room. An event that makes a record no heavier than it was is not rejected.
    """
    if excess > 0 and makes_room:
        metadata, excess = metadata.lightened(excess)
    most = MAX_CONTACT_BYTES if is_contact else MAX_VISITOR_BYTES
    if excess <= 0 or most + excess <= before_bytes:
        return metadata
    return _too_heavy(most + excess, is_contact=is_contact)


def _too_heavy(size: int, *, is_contact: bool) -> Rejection:
    """The rejection of an event that would make a contact or a visitor this heavy."""
    most, what = (MAX_CONTACT_BYTES, "contact") if is_contact else (MAX_VISITOR_BYTES, "visitor")
    return Rejection("too-large", "event", f"at most {most:,} bytes of {what}", f"{size:,} bytes")


def context_too_heavy(state: State, entry: Entry, event: VisitorSeen, visitor_id: str) -> Rejection | None:
    """Why the context is rejected, if the visitor would be too heavy with it."""
    visitor = state.visitors.get(visitor_id, VisitorRecord(entry.seen_at, entry.seen_at))
    at_most = state.described_bytes.get(visitor_id, LARGE_BYTES) + GROWTH * len(entry.data)
    if event.context is None or entry.at_ms < visitor.context_ms or at_most <= MAX_VISITOR_BYTES:
        return None
    if visitor_id in state.described_bytes:
        state.described_bytes[visitor_id] = described_bytes(visitor)
    size = visitor_bytes(msgspec.structs.replace(visitor, context=event.context, context_ms=entry.at_ms))
    return _too_heavy(size, is_contact=False) if size > max(MAX_VISITOR_BYTES, visitor_bytes(visitor)) else None


def fitting_described(  # noqa: PLR0913, PLR0917  the contact with its stamps, and the event with what it makes of the metadata
    state: State,
    contact: ContactRecord,
    stamps: ContactStamps,
    entry: Entry,
    event: MetadataSet,
    metadata: Metadata,
) -> Metadata | Rejection:
    """The metadata with which a contact stays within its weight after an event, or why the event is rejected."""
    after, before_bytes = copy_contact(contact), 0
    if contact.id in state.contacts:
        before_bytes = contact_bytes(contact)
        state.note_contact_bytes(contact.id, before_bytes + GROWTH * len(entry.data))
    after.metadata = metadata.values
    take_profile(after, copy(stamps), event, entry.stamp)
    excess = contact_bytes(after) - MAX_CONTACT_BYTES
    return fitting(metadata, excess, before_bytes, makes_room=entry.is_trusted, is_contact=True)


def fitting_visitor(
    state: State, visitor_id: str, entry: Entry, event: MetadataSet, metadata: Metadata
) -> Metadata | Rejection:
    """As `fitting_described`, for an anonymous visitor. Its context does not count, because it makes room."""
    visitor = state.visitors.get(visitor_id, VisitorRecord(entry.seen_at, entry.seen_at))
    before_bytes = described_bytes(visitor)
    after = msgspec.structs.replace(visitor, metadata=metadata.values)
    take_profile(after, copy(state.visitor_stamps.get(visitor_id, NO_STAMPS)), event, entry.stamp)
    excess = described_bytes(after) - MAX_VISITOR_BYTES
    return fitting(metadata, excess, before_bytes, makes_room=entry.is_trusted, is_contact=False)


def may_be_heavy(state: State, entry: Entry, decision: Decision, anonymous: Anonymous | None) -> bool:
    """Whether a contact may be too heavy after an identification. False is always right."""
    if decision.target is None:
        return new_contact_bytes(entry, anonymous) > MAX_CONTACT_BYTES
    growth = GROWTH * len(entry.data)
    if anonymous is not None:
        growth += MAX_VISITOR_BYTES
    if decision.rule == "merges":
        growth += state.contact_bytes_at_most(decision.other.id)
    return state.may_exceed(decision.target.id, growth)


def new_contact_bytes(entry: Entry, anonymous: Anonymous | None) -> int:
    """The most that a contact can weigh right after the entry that creates it. Such an entry merges no other into it."""
    return FRAME_BYTES + GROWTH * len(entry.data) + (MAX_VISITOR_BYTES if anonymous is not None else 0)


def fitting_identified(  # noqa: PLR0913, PLR0917  all that decides what the contact will be
    state: State,
    entry: Entry,
    event: VisitorIdentified,
    decision: Decision,
    anonymous: Anonymous | None,
    metadata: Metadata,
) -> Metadata | Rejection:
    """As `fitting_described`, for an identification in which no records come together. NO_METADATA means no change.

    Keys from pages make room for it, even if a page sent it, because a token proved whom it names.
    """
    names, contact, before_bytes = entry.names, decision.target, 0
    if contact is None:
        contact, stamps = new_contact(make_contact_id(state.workspace, entry.id), entry.seen_at), ContactStamps()
    else:
        before_bytes, stamps = contact_bytes(contact), copy(state.contact_stamps[contact.id])
        state.note_contact_bytes(contact.id, before_bytes + GROWTH * len(entry.data))
    own = Metadata(contact.metadata, stamps.metadata) if metadata is NO_METADATA else metadata
    after = copy_contact(contact)
    after.metadata, after.external_id = own.values, contact.external_id or names.external_id
    if names.email is not None and decision.rule != "conflict" and entry.at_ms >= stamps.email_ms:
        after.email = names.email
    if anonymous is not None:
        join_profile(after, stamps, *anonymous)
    take_profile(after, stamps, event, entry.stamp)
    if names.visitor_id is not None and names.visitor_id not in contact.visitor_ids:
        after.visitor_ids = [*contact.visitor_ids, names.visitor_id]
    excess = contact_bytes(after) - MAX_CONTACT_BYTES
    fits = fitting(own, excess, before_bytes, makes_room=True, is_contact=True)
    return metadata if fits is own else fits
