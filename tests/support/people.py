"""Contacts for tests of the directory, one at a time."""

from typing import Any, Final

import msgspec

from kinfold_projections.contact_ids import make_contact_id
from kinfold_schemas.canonical import metadata_hash
from kinfold_schemas.contacts import Contact

NOW_MS: Final = 1_795_000_000_000
AT: Final = "2026-11-01T08:00:00.000Z"


def person(number: int, workspace: str = "ours", **fields: Any) -> Contact:
    """A contact with these fields, and with defaults for the rest."""
    metadata = fields.pop("metadata", {})
    contact = Contact(
        id=make_contact_id(workspace, f"{NOW_MS - 1000 + number}-0"),
        external_id=f"u-{number}",
        email=None,
        name=None,
        image=None,
        metadata=metadata,
        metadata_hash=metadata_hash(metadata),
        visitor_count=0,
        visitor_ids=[],
        first_seen_at=AT,
        last_seen_at=AT,
        created_at=AT,
        updated_at=AT,
        version=1,
    )
    return msgspec.structs.replace(contact, **fields)
