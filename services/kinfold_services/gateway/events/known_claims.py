"""Identities that a page claims without proof, although they are already those of its visitor.

SDKs keep the user's id in the browser's storage, and send it again with each later identify, but without the proof of the first
one. Such a call claims nothing new. What else it says is metadata of the visitor, which a page may set.
"""

from typing import Any, NamedTuple

from kinfold_schemas.contacts import Contact
from kinfold_schemas.identifiers import email_key, id_key
from kinfold_services.gateway.problems import RejectedEvent
from kinfold_services.gateway.workspaces import GatewayWorkspace

_CLAIMS = ("externalId", "email")


class Claim(NamedTuple):
    """An event that identifies a visitor without proof, and its rejection, which counts if the identity is a new one."""

    event: dict[str, Any]
    rejected: RejectedEvent


async def as_metadata(workspace: GatewayWorkspace, event: dict[str, Any]) -> dict[str, Any] | None:
    """A MetadataSet with the rest of the event, if the visitor's contact has its identifiers; else None.

    The event with the proof may have come just before. So a claim counts as new only when the log is folded up to now. Raises
    NotFolded if this takes too long.
    """
    if not _has(await workspace.queries.contact_by_visitor(event["visitorId"]), event):
        await workspace.wait_until_folded(await workspace.last_entry() or "0-0")
        if not _has(await workspace.queries.contact_by_visitor(event["visitorId"]), event):
            return None
    rest = {name: value for name, value in event.items() if name not in _CLAIMS}
    return {"metadata": {}, **rest, "type": "MetadataSet"}


def _has(contact: Contact | None, event: dict[str, Any]) -> bool:
    if contact is None:
        return False
    external_id, email = (event.get(name) for name in _CLAIMS)
    if external_id is not None and id_key(external_id) != contact.external_id:
        return False
    return email is None or (contact.email is not None and email_key(email) == email_key(contact.email))
