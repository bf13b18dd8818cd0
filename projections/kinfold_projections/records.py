"""What is stored of a contact and a visitor: the public object (`kinfold_schemas.contacts`), then the fold's own fields.

The own fields may change at will: a replay rebuilds them. The public ones come first and keep their names and meaning.
`metadata`, `visitor_ids` and `links` are replaced and never mutated, so that a change on the feed may share them.
"""

from typing import Final

import msgspec

from kinfold_projections.entries import Stamp
from kinfold_schemas.canonical import EMPTY_HASH, Primitive
from kinfold_schemas.changes import ConflictReason
from kinfold_schemas.contacts import Contact, MergedContact

NEVER: Final[Stamp] = (-1, 0, 0)
"""Before every entry's stamp."""

NO_PRESENCE_MS: Final = -60_000


class ContactRecord(msgspec.Struct, rename="camel", gc=False):
    """A living contact."""

    id: str
    external_id: str | None
    email: str | None
    name: str | None
    image: str | None
    metadata: dict[str, Primitive]
    metadata_hash: str
    visitor_count: int
    visitor_ids: list[str]
    first_seen_at: str
    last_seen_at: str
    created_at: str
    updated_at: str
    version: int
    # The fold's own.
    stamps: dict[str, Stamp]
    """Of `email`, `name`, `image`."""
    metadata_stamps: dict[str, Stamp]
    """Of every metadata key, removed ones included: a late event must not bring one back."""
    visitor_since: list[str]
    """Of `visitor_ids`, in step: since when each is linked."""
    presence_ms: int
    """Effective time of the last ContactSeen."""
    conflict: tuple[str, str, ConflictReason | None] | None
    """The last conflict that was told: address, holder, reason."""
    merges: int = 0
    """How many contacts were merged into it. None of those had taken any itself: only who has an external id takes others,
    and who has one is never merged."""

    def public(self) -> Contact:
        """The contact as a change shows it."""
        return Contact(
            self.id,
            self.external_id,
            self.email,
            self.name,
            self.image,
            self.metadata,
            self.metadata_hash,
            self.visitor_count,
            self.visitor_ids,
            self.first_seen_at,
            self.last_seen_at,
            self.created_at,
            self.updated_at,
            self.version,
        )


class LinkRecord(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """A link, and the times at which events said it again: what is older than one of those does not end it."""

    contact_id: str
    since: str
    # The fold's own.
    said: str = ""
    """The confirmations that are kept, as `kinfold_projections.links` writes and reads them."""
    full: bool = False
    """Whether those are as many as may be, and no time between two others that are within a minute of each other is left."""


class VisitorRecord(msgspec.Struct, rename="camel", gc=False):
    """A visitor, identified or not."""

    id: str
    contact_id: str | None
    links: list[LinkRecord]
    metadata: dict[str, Primitive]
    context: dict[str, Primitive]
    first_seen_at: str
    last_seen_at: str
    # The fold's own.
    context_stamp: Stamp | msgspec.UnsetType = msgspec.UNSET
    metadata_stamps: dict[str, Stamp] | msgspec.UnsetType = msgspec.UNSET


def new_contact(contact_id: str, at: str) -> ContactRecord:
    """A contact as its first event finds it: nothing known, version 0 until a change on the feed concerns it."""
    return ContactRecord(
        contact_id, None, None, None, None, {}, EMPTY_HASH, 0, [], at, at, at, at, 0, {}, {}, [], NO_PRESENCE_MS, None
    )  # in order: keywords would cost as much again as all that its first event does


def new_visitor(visitor_id: str, at: str) -> VisitorRecord:
    """A visitor at its first event."""
    return VisitorRecord(visitor_id, None, [], {}, {}, at, at)


encode_record: Final = msgspec.json.Encoder().encode
decode_visitor: Final = msgspec.json.Decoder(VisitorRecord).decode
_decode_contact: Final = msgspec.json.Decoder(ContactRecord).decode


_decode_merged: Final = msgspec.json.Decoder(MergedContact).decode
_MERGED_BYTES: Final = 100
"""A tombstone has 83 bytes, and a living contact never fewer than 300."""


def decode_contact(data: str | bytes) -> ContactRecord | MergedContact:
    """A stored contact, living or merged. Raises msgspec.ValidationError for what the fold cannot have written."""
    return _decode_merged(data) if len(data) <= _MERGED_BYTES else _decode_contact(data)
