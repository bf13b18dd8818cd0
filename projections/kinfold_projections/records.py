"""What the fold keeps of contacts and visitors, and how each part is stored (contract section 1).

    contacts        contact id → ContactRecord, exactly as the feed shows it, or a MergedContact     JSON
    contact-stamps  contact id → ContactStamps                                                       MessagePack
    visitors        visitor id → VisitorRecord: the visitor without its id, defaults left out        JSON
    visitor-stamps  visitor id → VisitorStamps, absent where both parts are empty                    MessagePack

Public records keep their names and meaning. Stamps are the fold's own and may change at will: a replay rebuilds them. They
stand apart, so that an event that says nothing new writes a few bytes and leaves the public record alone.

A stamp is an effective time in milliseconds. The stamp of a metadata key, a name or an image also says whether a trusted source
set it: then `TRUSTED` is added. So the greater stamp wins, among values and where contacts come together.

`metadata`, `visitor_ids` and `links` are replaced and never mutated. The stamps of a contact's keys are mutated where a patch
says nothing new (`patching.said_again`). So no two records share them.
"""

from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from kinfold_schemas.canonical import EMPTY_HASH, Primitive
from kinfold_schemas.changes import ConflictReason
from kinfold_schemas.contacts import Contact, Link, MergedContact, Visitor

NEVER: Final = -1
"""A stamp before every effective time."""

TRUSTED: Final = 1 << 48
"""Greater than every effective time in ms."""

NO_PRESENCE_MS: Final = -60_000


class ContactRecord(msgspec.Struct, rename="camel", gc=False):
    """A living contact: the fields of `kinfold_schemas.contacts.Contact`, mutable."""

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

    def widen(self, first_at: str, last_at: str) -> None:
        """Widen the seen times."""
        if last_at > self.last_seen_at:
            self.last_seen_at = last_at
        if first_at < self.first_seen_at:
            self.first_seen_at = first_at


class ContactStamps(msgspec.Struct, array_like=True, gc=False):
    """What only the fold needs to know of a living contact."""

    presence_ms: int = NO_PRESENCE_MS
    """The effective time of the last ContactSeen."""
    metadata: dict[str, int] = {}
    """The stamp of every metadata key, including removed ones: a late event must not bring one back."""
    email_ms: int = NEVER
    name_stamp: int = NEVER
    image_stamp: int = NEVER
    since: list[int] = []
    """Parallel to the record's `visitor_ids`: the effective time of each link, in ms."""
    conflict: tuple[str, str, ConflictReason | None] | None = None
    """The last conflict that was reported: the key of the address, the contact that holds it, and the reason."""
    merges: int = 0
    """How many contacts were merged into this one. None of those had taken any itself: only a contact with an external id takes
    others, and such a contact is never merged."""
    dismissed: list[tuple[str, str]] | None = None
    """The conflicts that corrections dismissed, the latest last: the key of the address, and the contact that holds it."""
    unlisted: list[str] = []
    """The visitors that the record does not show because their ids are long: with its `visitor_ids`, those linked most
    recently (`members`)."""


class VisitorRecord(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """A visitor: the fields of `kinfold_schemas.contacts.Visitor` except its id, and the stamp of its context."""

    first_seen_at: str
    last_seen_at: str
    contact_id: str | None = None
    links: list[Link] = []
    name: str | None = None
    image: str | None = None
    metadata: dict[str, Primitive] = {}
    context: dict[str, Primitive] = {}
    context_ms: int = NEVER


class VisitorStamps(msgspec.Struct, array_like=True, gc=False):
    """What only the fold needs to know of a visitor."""

    metadata: dict[str, int] = {}
    """The stamps of an anonymous visitor's metadata keys, including removed ones."""
    name_stamp: int = NEVER
    image_stamp: int = NEVER
    confirmed: list[list[int]] = []
    """Parallel to the record's `links`: when events confirmed each link, ascending, in ms.

    The other stamps are kept until the first link. From then on the contact has what they date.
    """


NO_STAMPS: Final = VisitorStamps()
"""The stamps of a visitor for which none are stored."""


def new_contact(contact_id: str, at: str) -> ContactRecord:
    """A new contact: nothing is known, and its version is 0 until its first change."""
    return ContactRecord(contact_id, None, None, None, None, {}, EMPTY_HASH, 0, [], at, at, at, at, 0)


def public_contact(record: ContactRecord) -> Contact:
    """The contact as readers decode it."""
    return msgspec.convert(record, Contact, from_attributes=True)


def public_visitor(visitor_id: str, record: VisitorRecord) -> Visitor:
    """The visitor as readers decode it."""
    return msgspec.structs.replace(msgspec.convert(record, Visitor, from_attributes=True), id=visitor_id)


copy_contact: Final[Callable[[ContactRecord], ContactRecord]] = cast("Any", ContactRecord).__copy__
"""`copy.copy` takes five times as long."""
encode_record: Final = msgspec.json.Encoder().encode
encode_stamps: Final = msgspec.msgpack.Encoder().encode
decode_visitor: Final = msgspec.json.Decoder(VisitorRecord).decode
decode_contact_stamps: Final = msgspec.msgpack.Decoder(ContactStamps).decode
decode_visitor_stamps: Final = msgspec.msgpack.Decoder(VisitorStamps).decode
_decode_contact: Final = msgspec.json.Decoder(ContactRecord).decode
_decode_merged: Final = msgspec.json.Decoder(MergedContact).decode
_MERGED_BYTES: Final = 100
"""Tells tombstones by size: a tombstone has 83 bytes, and a living contact at least 300."""


def decode_contact(data: bytes) -> ContactRecord | MergedContact:
    """Decode a stored contact, living or merged. Raises msgspec.ValidationError for what the fold cannot have written."""
    return _decode_merged(data) if len(data) <= _MERGED_BYTES else _decode_contact(data)
