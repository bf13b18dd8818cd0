"""Queries of a past state, like those of the current one (`kinfold_services.state.queries.StateQueries`)."""

from collections.abc import AsyncIterator
from typing import Final

from kinfold_projections.records import ContactRecord, public_contact, public_visitor
from kinfold_projections.state import State
from kinfold_schemas.contacts import Contact, Visitor
from kinfold_schemas.identifiers import email_key, id_key


class PastQueries:
    """Queries a whole state in memory."""

    def __init__(self, state: State) -> None:
        self._state: Final = state

    async def contact(self, contact_id: str) -> Contact | None:
        """The contact with this id, or the one that it had been merged into; None if there was none."""
        return _public(self._state.holder(contact_id)) if contact_id in self._state.contacts else None

    async def contact_by_external_id(self, external_id: str) -> Contact | None:
        """The contact that had this external id."""
        contact = self._state.by_external_id(id_key(external_id))
        return public_contact(contact) if contact is not None else None

    async def contact_by_email(self, email: str) -> Contact | None:
        """The contact that had this address."""
        contact = self._state.by_email(email_key(email))
        return public_contact(contact) if contact is not None else None

    async def contact_by_visitor(self, visitor_id: str) -> Contact | None:
        """The contact that the visitor belonged to; None if the visitor had not been identified."""
        visitor = self._state.visitors.get(id_key(visitor_id))
        if visitor is None or visitor.contact_id is None:
            return None
        return _public(self._state.holder(visitor.contact_id))

    async def visitor(self, visitor_id: str) -> Visitor | None:
        """The visitor."""
        visitor = self._state.visitors.get(id_key(visitor_id))
        return public_visitor(id_key(visitor_id), visitor) if visitor is not None else None

    async def is_erased(self, contact_id: str) -> bool:
        """Whether the contact with this id was erased (contract section 10)."""
        return contact_id in self._state.contacts and self._state.is_erased(contact_id)

    async def contacts(self) -> AsyncIterator[Contact]:
        """Yield every living contact, sorted by id."""
        for contact in sorted(self._state.living_contacts(), key=lambda contact: contact.id):
            yield public_contact(contact)


def _public(contact: ContactRecord | None) -> Contact | None:
    """The contact as readers see it; None for an erased one."""
    return None if contact is None else public_contact(contact)
