"""Entries of the change feed, as the directory reads them."""

from typing import Final

import msgspec

from kinfold_schemas.changes import Correction
from kinfold_schemas.contacts import Contact
from kinfold_schemas.positions import position_key

REPLAY: Final = "replay"
"""The cause of a replay's changes."""

ERASURE: Final = "erasure"
"""The cause of other contacts' changes from which an erasure has removed the person."""

ERASED: Final = "ContactErased"
"""The type of the change after which nothing of a contact is kept."""

VISITORS: Final = "visitorIds"
"""In `changed`: other visitors, or another order of them."""

_NO_CONTACT: Final = msgspec.Raw()


class FeedChange(msgspec.Struct, rename="camel", gc=False):
    """A change of any type, even of one that a later version adds; `contact` is the contact's JSON as it is, or empty."""

    type: str
    contact_id: str
    at: str
    cause: str
    contact: msgspec.Raw = _NO_CONTACT
    changed: list[str] = []
    visitor_id: str | None = None
    previous_contact_id: str | None = None
    next_contact_id: str | None = None
    merged_contact_id: str | None = None
    email: str | None = None
    held_by: str | None = None
    reason: str | None = None
    correction: Correction | None = None


class FeedEntry(msgspec.Struct, gc=False):
    """An entry of the feed."""

    position: tuple[int, int]
    change: FeedChange
    contact: Contact | None
    """None if the contact is gone."""


_decode_change: Final = msgspec.json.Decoder(FeedChange).decode
decode_contact: Final = msgspec.json.Decoder(Contact).decode


def read_entry(entry: str, data: bytes) -> FeedEntry:
    """Read an entry of the feed. Raises ValueError if `data` is not a change."""
    change = _decode_change(data)
    return FeedEntry(position_key(entry), change, decode_contact(change.contact) if change.contact else None)
