"""Contacts and visitors in their public form (contract section 5).

`kinfold:{W}:contacts` and `kinfold:{W}:visitors` hold these objects, which may also contain private fields of the fold
(`kinfold_projections.records`); readers ignore those. Fields may be added, and the ones here never change. Times are RFC 3339
in UTC with milliseconds.
"""

from typing import Final, final

import msgspec

from kinfold_schemas.canonical import Primitive

LISTED_VISITORS: Final = 100
"""Maximum length of `visitorIds`, which lists the most recently linked visitors."""
LISTED_BYTES: Final = 16 * 1024
"""Maximum size of `visitorIds` as JSON. Visitors that do not fit are not listed."""
MAX_CONTACT_BYTES: Final = 64 * 1024
"""What a contact may weigh: the bytes of its stored JSON."""
MAX_VISITOR_BYTES: Final = 16 * 1024
"""What an anonymous visitor may weigh: the bytes of its stored JSON."""
MAX_LINKS: Final = 1000
"""Maximum number of links of a visitor."""


class Contact(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A person, as known from events."""

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
    """The tombstone of a merged contact, through which an old id leads to the living contact."""

    id: str
    merged_into: str


ERASED: Final = "erased"
"""What the tombstone of an erased contact names in place of a contact (contract section 10). It is the id of none."""


class _MaybeMerged(msgspec.Struct, rename="camel", gc=False):
    merged_into: str | None = None


_decode_maybe_merged: Final = msgspec.json.Decoder(_MaybeMerged).decode


def merged_into(data: bytes) -> str | None:
    """The id of the contact that a stored contact was merged into, or None if it is living."""
    return _decode_maybe_merged(data).merged_into


class Link(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A visitor's link to a contact from `since` on. `contact_id` may name a tombstone.

    Where it is None, a correction unlinked the visitor, which belongs to no contact until the next link.
    """

    contact_id: str | None
    since: str


class Visitor(msgspec.Struct, kw_only=True, frozen=True, rename="camel", gc=False):
    """A device or browser. `name`, `image` and `metadata` come from the events before it was first identified.

    Stored under its id, without the id and without fields that have their default.
    """

    id: str = ""
    contact_id: str | None = None
    links: list[Link] = []
    name: str | None = None
    image: str | None = None
    metadata: dict[str, Primitive] = {}
    context: dict[str, Primitive] = {}
    first_seen_at: str
    last_seen_at: str
