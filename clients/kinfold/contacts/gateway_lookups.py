"""Lookups through a gateway."""

from typing import Final
from urllib.parse import quote

import msgspec

from kinfold.contacts.questions import decode_contact, identifier
from kinfold.errors import NotFolded, Unreachable
from kinfold.transport.gateway import GatewayClient, is_not_found, problem
from kinfold_schemas.contacts import Contact

_PATH: Final = "/v1/contacts"
_OK: Final = 200
_UNAVAILABLE: Final = 503
_FOLDING_S: Final = 10.0
"""How much longer than `wait_s` the answer to a lookup with `after` may take."""


class GatewayLookups:
    """Asks a gateway, from any thread."""

    def __init__(self, url: str, key: str, wait_s: float, timeout_s: float) -> None:
        self._gateway: Final = GatewayClient(url, key, timeout_s)
        self._wait_s: Final = wait_s
        self.close: Final = self._gateway.close

    def find(self, by: str, value: str, after: str | None) -> Contact | None:
        """Find the contact with an identifier. Raises NotFolded, Unreachable or Refused."""
        text = identifier(by, value)
        if not text:
            return None  # no contact has it, and an empty path would be that of the list
        path, query = (f"{_PATH}/{quote(text, safe='')}", {}) if by == "id" else (_PATH, {by: text})
        if after is not None:
            query["after"] = after
        response = self._gateway.get(path, query, timeout_s=self._wait_s + _FOLDING_S if after is not None else None)
        if response.status == _OK:
            try:
                return decode_contact(response.body)
            except msgspec.MsgspecError as error:  # a server that answers every path, as many front ends do
                raise Unreachable(f"gateway: expected a contact, got {response.body[:100]!r}") from error
        if is_not_found(response):
            return None
        if response.status == _UNAVAILABLE and after is not None:
            raise NotFolded(str(problem(response)))
        raise problem(response)
