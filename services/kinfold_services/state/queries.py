"""Queries of a workspace's state. They return public objects, without the fold's private fields."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol, cast

import msgspec

from kinfold_schemas.contacts import ERASED, Contact, Visitor, merged_into
from kinfold_schemas.identifiers import email_key, id_key
from kinfold_schemas.keys import DEFAULT_WORKSPACE, WORKSPACES, PublicName, check_workspace, key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.state.position import Position
from kinfold_services.state.reader import StateReader
from kinfold_services.state.status import Status, read_reports

_decode_visitor: Final = msgspec.json.Decoder(Visitor).decode
_decode_contact: Final = msgspec.json.Decoder(Contact).decode
_SCAN: Final = 1000
_ASK_AGAIN_S: Final = 0.005


class NotFolded(TimeoutError):
    """The projector did not reach the requested position in time."""


class Queries(Protocol):
    """Queries of the state at one moment."""

    async def contact(self, contact_id: str) -> Contact | None:
        """The living contact with a contact id, following tombstones; None if it never existed."""
        ...

    async def contact_by_external_id(self, external_id: str) -> Contact | None:
        """The contact with this external id."""
        ...

    async def contact_by_email(self, email: str) -> Contact | None:
        """The contact with this address, in any spelling."""
        ...

    async def contact_by_visitor(self, visitor_id: str) -> Contact | None:
        """The contact of a visitor; None if no event has identified the visitor."""
        ...

    async def visitor(self, visitor_id: str) -> Visitor | None:
        """The visitor, identified or not."""
        ...

    def contacts(self) -> AsyncIterator[Contact]:
        """Yield every living contact by id, which is the order of creation."""
        ...

    async def is_erased(self, contact_id: str) -> bool:
        """Whether the contact with this id was erased."""
        ...


class Identifier(NamedTuple):
    """What names a contact: its id, its address, its external id or one of its visitors. Exactly one field is set."""

    visitor: str | None = None
    external_id: str | None = None
    email: str | None = None
    contact: str | None = None

    def __str__(self) -> str:
        name, value = next((name, value) for name, value in self._asdict().items() if value is not None)
        return f"{name.replace('_', '-')} {value!r}"


async def find_contact(queries: Queries, identifier: Identifier) -> Contact | None:
    """The living contact with an identifier."""
    if identifier.visitor is not None:
        return await queries.contact_by_visitor(identifier.visitor)
    if identifier.external_id is not None:
        return await queries.contact_by_external_id(identifier.external_id)
    if identifier.email is not None:
        return await queries.contact_by_email(identifier.email)
    return await queries.contact(identifier.contact or "")


async def listed_workspaces(client: Client) -> list[str]:
    """`default` and the members of `kinfold:workspaces`, sorted, without invalid names."""
    members = await cast("Awaitable[set[bytes]]", client.smembers(WORKSPACES))
    names = {DEFAULT_WORKSPACE}
    for member in members:
        with contextlib.suppress(ValueError):
            names.add(check_workspace(member.decode(errors="replace")))
    return sorted(names)


class StateQueries:
    """Queries of a workspace's current state in Redis."""

    def __init__(self, client: Client, name: str) -> None:
        self.name: Final = name
        self._client: Final = client

    async def contact(self, contact_id: str) -> Contact | None:
        """The living contact with a contact id, following tombstones; None if it never existed."""

        async def same() -> str:
            return contact_id

        return await self._living(same)

    async def contact_by_external_id(self, external_id: str) -> Contact | None:
        """The contact with this external id."""
        return await self._living(lambda: self._holder("external-ids", id_key(external_id)))

    async def contact_by_email(self, email: str) -> Contact | None:
        """The contact with this address, in any spelling."""
        return await self._living(lambda: self._holder("emails", email_key(email)))

    async def contact_by_visitor(self, visitor_id: str) -> Contact | None:
        """The contact of a visitor; None if no event has identified the visitor."""

        async def its() -> str | None:
            visitor = await self.visitor(visitor_id)
            return None if visitor is None else visitor.contact_id

        return await self._living(its)

    async def visitor(self, visitor_id: str) -> Visitor | None:
        """The visitor, identified or not."""
        data = await self._get("visitors", id_key(visitor_id))
        return None if data is None else msgspec.structs.replace(_decode_visitor(data), id=id_key(visitor_id))

    async def visitors(self, visitor_ids: Sequence[str]) -> list[Visitor]:
        """The visitors with these ids, in one round trip. Unknown ids are left out."""
        if not visitor_ids:
            return []
        stored = await self._client.hmget(self._key("visitors"), [id_key(each) for each in visitor_ids])
        found = zip(visitor_ids, cast("Sequence[bytes | None]", stored), strict=True)
        return [msgspec.structs.replace(_decode_visitor(data), id=id_key(each)) for each, data in found if data is not None]

    async def contacts(self) -> AsyncIterator[Contact]:
        """Yield every living contact by id, which is the order of creation. Contacts created during the walk are left out."""
        ids = sorted(await cast("Awaitable[list[bytes]]", self._client.hkeys(self._key("contacts"))))
        for first in range(0, len(ids), _SCAN):
            page = await self._client.hmget(self._key("contacts"), cast("list[str]", ids[first : first + _SCAN]))
            for data in cast("Sequence[bytes | None]", page):
                if data is not None and (contact := self.living(data)) is not None:
                    yield contact

    async def is_erased(self, contact_id: str) -> bool:
        """Whether the contact with this id was erased (contract section 10)."""
        while (data := await self._get("contacts", contact_id)) is not None and (into := merged_into(data)) is not None:
            if into == ERASED:
                return True
            contact_id = into
        return False

    @staticmethod
    def living(stored: bytes) -> Contact | None:
        """A stored contact; None if it is a tombstone."""
        return _decode_contact(stored) if merged_into(stored) is None else None

    async def position(self) -> Position:
        """The position up to which the log is folded."""
        return await StateReader(self._client, self.name).position()

    async def wait_until_folded(self, position: str, timeout_s: float) -> None:
        """Wait until the projector has folded up to `position`. Raises NotFolded."""
        target = position_key(position)
        deadline = time.monotonic() + timeout_s
        while position_key((await self.position()).stream_id) < target:
            if time.monotonic() > deadline:
                raise NotFolded(f"position {position} was not folded within {timeout_s:g} s; is a projector running?")
            await asyncio.sleep(_ASK_AGAIN_S)

    async def status(self) -> Status:
        """The status. It is not atomic. Raises RedisError."""
        (report,) = await read_reports(self._client, [self.name])
        return report.status

    async def _holder(self, name: PublicName, identifier: str) -> str | None:
        contact_id = await self._get(name, identifier)
        return None if contact_id is None else contact_id.decode()

    async def _living(self, find: Callable[[], Awaitable[str | None]]) -> Contact | None:
        """Follow tombstones from the contact that `find` finds to the living one.

        A replay may replace the state between two reads: contacts may then have other ids, and a merge may be gone. So if the
        chain ends nowhere, it is followed again from the start, until it ends twice at the same place.
        """
        missed: str | None = None
        while (contact_id := await find()) is not None:
            while (data := await self._get("contacts", contact_id)) is not None:
                if (survivor := merged_into(data)) is None:
                    return _decode_contact(data)
                contact_id = survivor
            if contact_id == missed:
                return None
            missed = contact_id
        return None

    async def _get(self, name: PublicName, field: str) -> bytes | None:
        return cast("bytes | None", await cast("Awaitable[object]", self._client.hget(self._key(name), field)))

    def _key(self, name: PublicName) -> str:
        return key(self.name, name)
