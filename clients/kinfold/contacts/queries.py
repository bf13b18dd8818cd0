"""The queries to the state in Redis.

A query is a generator that yields commands and receives their replies. So blocking code and asyncio share it.
"""

import time
from collections.abc import Generator
from typing import Any, Final, TypeVar

import msgspec

from kinfold.errors import NotFolded
from kinfold_schemas.contacts import Contact, merged_into
from kinfold_schemas.identifiers import email_key, id_key, stripped
from kinfold_schemas.keys import PublicName, check_workspace, key
from kinfold_schemas.positions import position_key

T = TypeVar("T")
Query = Generator[tuple[str, ...] | None, Any, T]
"""Yields a command and receives its reply, or yields None to wait for `POLL_S`. Returns the answer."""

POLL_S: Final = 0.005

decode_contact: Final = msgspec.json.Decoder(Contact).decode


class _Visitor(msgspec.Struct, rename="camel"):
    contact_id: str | None = None


_decode_visitor: Final = msgspec.json.Decoder(_Visitor).decode


class Queries:
    """The queries about one workspace. Raises ValueError for an invalid workspace."""

    def __init__(self, workspace: str, wait_s: float) -> None:
        self._wait_s: Final = wait_s
        self._workspace: Final = check_workspace(workspace)

    def find(self, by: str, value: str, after: str | None) -> Query[Contact | None]:
        """Find the contact with an identifier, once the position `after` is folded. Raises NotFolded, or TypeError."""
        if after is not None:
            yield from self._until_folded(after)
        missed: str | None = None
        while (contact_id := (yield from self._contact_id(by, identifier(by, value)))) is not None:
            while (data := (yield "HGET", key(self._workspace, "contacts"), contact_id)) is not None:
                if (survivor := merged_into(data)) is None:
                    return decode_contact(data)
                contact_id = survivor
            if contact_id == missed:
                return None
            missed = contact_id  # a replay may have swapped the state between two commands: ask once more
        return None

    def _contact_id(self, by: str, value: str) -> Query[str | None]:
        if by == "id":
            return value
        if by == "visitorId":
            data = yield "HGET", key(self._workspace, "visitors"), id_key(value)
            return None if data is None else _decode_visitor(data).contact_id
        name: PublicName = "emails" if by == "email" else "external-ids"
        data = yield "HGET", key(self._workspace, name), email_key(value) if by == "email" else id_key(value)
        return None if data is None else data.decode()

    def _until_folded(self, after: str) -> Query[None]:
        target = position_key(after)
        deadline = time.monotonic() + self._wait_s
        while True:
            position = yield "HGET", key(self._workspace, "position"), "stream_id"
            if position_key((position or b"").decode()) >= target:
                return
            if time.monotonic() > deadline:
                raise NotFolded(f"position {after} was not folded within {self._wait_s:g} s; is a projector running?")
            yield None


def identifier(by: str, value: object) -> str:
    """The identifier, stripped. Raises TypeError for anything but text, such as a number from the application's own table."""
    if not isinstance(value, str):
        raise TypeError(f"{by}: expected a string, got {value!r}")
    return stripped(value)
