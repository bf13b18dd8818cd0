"""Contacts and visitors as everybody reads them (contract section 5).

`kinfold:{W}:contacts` and `kinfold:{W}:visitors` hold these objects and, behind them, fields of the fold's own
(`kinfold_projections.records`): read what is named here, ignore the rest. May change: more fields. May not: these.
Times are RFC 3339 in UTC with milliseconds.
"""

from typing import Final, final

import msgspec

from kinfold_schemas.canonical import Primitive

LISTED_VISITORS: Final = 100
"""How many of a contact's visitors `visitorIds` lists: the ones linked most recently."""


class Contact(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A person, as far as events have told."""

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


@final
class MergedContact(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The tombstone of a contact that was merged: an old id always finds the living one."""

    id: str
    merged_into: str


class _MaybeMerged(msgspec.Struct, rename="camel", gc=False):
    merged_into: str | None = None


_decode_maybe_merged: Final = msgspec.json.Decoder(_MaybeMerged).decode


def merged_into(data: bytes) -> str | None:
    """The id of the contact that a stored contact was merged into; None where it is a living one."""
    return _decode_maybe_merged(data).merged_into


class Link(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """From `since` on the visitor was the contact's. `contact_id` may name a tombstone."""

    contact_id: str
    since: str


class Visitor(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A device or browser. `metadata` is what it brought while nobody had identified it."""

    id: str
    contact_id: str | None
    links: list[Link]
    metadata: dict[str, Primitive]
    context: dict[str, Primitive]
    first_seen_at: str
    last_seen_at: str
