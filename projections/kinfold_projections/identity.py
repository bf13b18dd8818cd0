"""Who is who: contract section 5, line by line of its tables.

One principle: a device is never evidence that two identities are the same person; only an event that names both is. Better
two contacts than one wrong one, for a wrong merge shows one person's data to another.

What takes something here changes the contact, and leaves it to the fold to put that into the state, once, with its metadata.
"""

from typing import Final, Literal

import msgspec

from kinfold_projections.entries import Entry, Stamp
from kinfold_projections.records import NEVER, ContactRecord
from kinfold_projections.state import State
from kinfold_schemas.changes import ConflictReason
from kinfold_schemas.contacts import MergedContact
from kinfold_schemas.events import VisitorIdentified
from kinfold_schemas.identifiers import email_key

MAX_MERGES: Final = 25
"""So many contacts may be merged into one by ordinary events. An identifier that is junk, and not known as such, would
otherwise collect everybody."""

EmailRule = Literal["not named", "takes", "has", "merges", "conflict"]


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What an event that names people means for the contacts there are. Nothing is changed yet."""

    target: ContactRecord | None
    """The contact; None: a new one."""
    rule: EmailRule
    """The line of the second table."""
    email: str | None = None
    holder: ContactRecord | None = None
    """Who holds the address, where that is not the target."""
    reason: ConflictReason | None = None
    """Of a conflict, where it is another than the holder's external id."""


def decide(state: State, external_id: str | None, email: str | None) -> Decision:
    """Applies the two tables of contract section 5 to the identifiers that an event names (at least one)."""
    x = state.by_external_id(external_id) if external_id is not None else None
    e = state.by_email(email) if email is not None else None

    # The first table: which contact it is.
    if external_id is None:
        target = e  # `e` alone: E, or a new contact
    elif x is not None:
        target = x  # `x`, X exists: X
    elif e is not None and e.external_id is None:
        target = e  # `x`, `e`; no X; E exists and has no external id: E gains `x` and keeps its contact id
    else:
        target = None  # `x`, otherwise: a new contact

    # The second: what becomes of the address.
    if email is None:
        return Decision(target, "not named")
    if e is None:
        return Decision(target, "takes", email)
    if e is target:
        return Decision(target, "has", email)
    if e.external_id is not None:
        return Decision(target, "conflict", email, e)
    if target is not None and target.merges >= MAX_MERGES:
        return Decision(target, "conflict", email, e, "too-many-merges")
    return Decision(target, "merges", email, e)


def take_external_id(state: State, contact: ContactRecord, external_id: str) -> None:
    """Gives a contact the external id that it has not got; one that it has is never replaced."""
    if contact.external_id is None:
        contact.external_id = external_id
        state.put_external_id(external_id, contact.id)


def take_email(state: State, contact: ContactRecord, email: str, stamp: Stamp) -> bool:
    """T takes `e`, by effective time; the address that it had is free again. False where it came too late."""
    if stamp < contact.stamps.get("email", NEVER):
        return False
    contact.stamps["email"] = stamp
    if contact.email != email:
        if contact.email is None or email_key(contact.email) != email_key(email):
            if contact.email is not None:
                state.free_email(contact.email)
            state.put_email(email, contact.id)
            contact.conflict = None  # the same conflict, should it come again, is news
        contact.email = email
    return True


def address_by_metadata(state: State, contact: ContactRecord, email: str) -> None:
    """Gives a new contact the address that metadata came for.

    Without a stamp: metadata asks for an address and does not say whose it is, so whatever an identification says is newer.
    """
    contact.email = email
    state.put_email(email, contact.id)


def take_profile(contact: ContactRecord, event: VisitorIdentified, stamp: Stamp) -> bool:
    """The contact's name and image, by effective time; absent and null say nothing. False where one came too late."""
    in_time = True
    for field, value in (("name", event.name), ("image", event.image)):
        if value is None:
            continue
        if stamp < contact.stamps.get(field, NEVER):
            in_time = False
            continue
        contact.stamps[field] = stamp
        setattr(contact, field, value)
    return in_time


def merge(state: State, contact: ContactRecord, merged: ContactRecord, entry: Entry) -> None:
    """Merges E into T: the event names both. Metadata is the caller's, who has weighed already what comes together.

    Afterwards E is a tombstone, so that an old id always finds the living contact.
    """
    email = entry.names.email
    if email is not None and entry.stamp > merged.stamps.get("email", NEVER):
        merged.stamps["email"], merged.email = entry.stamp, email  # the event says E's address again
    for field in ("name", "image"):
        if merged.stamps.get(field, NEVER) > contact.stamps.get(field, NEVER):
            contact.stamps[field] = merged.stamps[field]
            setattr(contact, field, getattr(merged, field))
    if merged.email is not None:
        state.free_email(merged.email)  # unless T takes it:
        take_email(state, contact, merged.email, merged.stamps["email"])
    state.widen(contact, merged.first_seen_at, merged.last_seen_at)
    contact.created_at = min(contact.created_at, merged.created_at)
    contact.presence_ms = max(contact.presence_ms, merged.presence_ms)
    contact.merges += 1
    state.unite_visitors(contact, merged)
    state.put_contact(MergedContact(merged.id, contact.id))
