"""Load from Redis what a batch needs and the state does not hold (`kinfold_projections.needs`)."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.members import Membership
from kinfold_projections.needs import contacts_behind, missing, survivors
from kinfold_projections.state import State
from kinfold_services.connections import Client
from kinfold_services.state.members import newest_members
from kinfold_services.state.writes import Writes, pack

Ask = Callable[[Sequence[bytes]], Awaitable[list[Any]]]
"""Sends packed commands and returns their replies."""


class Loader:
    """Loads parts of one workspace's state."""

    def __init__(self, client: Client, workspace: str, ask: Ask) -> None:
        self._client: Final = client
        self._workspace: Final = workspace
        self._ask: Final = ask
        self._key: Final = Writes(workspace).key

    async def load(self, state: State, entries: Sequence[Entry | BadEntry]) -> None:
        """Load the records that the entries name, and the contacts that these lead to. Raises DamagedState."""
        need = missing(state, entries)
        if not need:
            return
        asked: list[tuple[Any, dict[str, None]]] = [
            ("visitors", need.visitors),
            ("visitor-stamps", need.visitors),
            ("external-ids", need.external_ids),
            ("emails", need.emails),
        ]
        visitors, stamps, external_ids, emails = await self._hmget(asked)
        for each, record in visitors.items():
            state.hold_visitor(each, record, stamps.get(each))
        state.external_ids.update((each, contact_id.decode()) for each, contact_id in external_ids.items())
        state.emails.update((each, contact_id.decode()) for each, contact_id in emails.items())
        wanted = dict.fromkeys(contacts_behind(state, need))
        while wanted:
            contacts, stamps = await self._hmget([("contacts", wanted), ("contact-stamps", wanted)])
            for each, record in contacts.items():
                state.hold_contact(each, record, stamps.get(each))
            wanted = dict.fromkeys(survivors(state, contacts))

    async def load_older(self, state: State, leaving: Mapping[str, int]) -> None:
        """Load the visitors that move up when listed ones leave a contact (`needs.older_memberships`).

        No batch may be on its way, because its writes cannot be seen here yet.
        """
        for contact_id, count in leaving.items():
            listed = len(state.contact_stamps[contact_id].since)
            newest = await newest_members(self._client, self._workspace, contact_id, listed + count)
            state.older[contact_id] = [Membership(each.since_ms, each.visitor_id) for each in newest[listed:]]

    async def _hmget(self, asked: Sequence[tuple[Any, dict[str, None]]]) -> list[dict[str, bytes]]:
        """The values of some fields of several hashes, in one round trip."""
        commands = [pack(b"HMGET", self._key(name), *fields) for name, fields in asked if fields]
        replies = iter(await self._ask(commands))
        return [
            {each: value for each, value in zip(fields, next(replies), strict=True) if value is not None} if fields else {}
            for _, fields in asked
        ]
