"""A snapshot (`kinfold_services.state.snapshot`) as messages, for followers of the feed."""

from typing import Final

import msgspec

from kinfold_schemas.changes import ContactCreated, encode_change
from kinfold_schemas.contacts import Contact
from kinfold_services.connections import Client
from kinfold_services.gateway.changes.messages import PARTIAL_SNAPSHOT, Message
from kinfold_services.state.snapshot import SnapshotReader, Stored

CAUSE: Final = "snapshot"

_decode_contact: Final = msgspec.json.Decoder(Contact).decode


class Snapshot(msgspec.Struct, frozen=True):
    """All contacts as of the feed entry `position`, sorted by id, each as a message."""

    position: str
    contacts: list[Message]


async def take_snapshot(client: Client, workspace: str) -> Snapshot:
    """Read a workspace's contacts as of one entry of the feed. Raises RedisError and FeedOverran."""
    reader = SnapshotReader(client, workspace)
    contacts: dict[str, bytes] = {}
    async for page in reader.pages():
        _apply(contacts, page)
    async for page in reader.corrections():
        _apply(contacts, page)
    messages = [Message(PARTIAL_SNAPSHOT, data, contact_id=contact_id) for contact_id, data in sorted(contacts.items())]
    return Snapshot(reader.position, messages)


def _apply(contacts: dict[str, bytes], page: list[Stored]) -> None:
    for contact_id, data in page:
        if data is None:
            contacts.pop(contact_id, None)
        else:
            contacts[contact_id] = _as_change(_decode_contact(data))


def _as_change(contact: Contact) -> bytes:
    return encode_change(
        ContactCreated(contact_id=contact.id, version=contact.version, at=contact.updated_at, cause=CAUSE, contact=contact)
    )
