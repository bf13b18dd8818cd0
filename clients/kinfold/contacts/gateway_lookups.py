"""Lookups through a gateway."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from kinfold.contacts.queries import decode_contact, identifier
from kinfold.errors import NotFolded, Unreachable
from kinfold.transport.gateway import GatewayClient, error_code, is_not_found, problem
from kinfold_schemas.contacts import Contact

_PATH: Final = "/v1/contacts"
_OK: Final = 200
_UNAVAILABLE: Final = 503
_NO_DIRECTORY: Final = "no-directory"
_PAGE_ITEMS: Final = 200
_SEARCHING_S: Final = 15.0
"""How much longer than `wait_s` the answer to a search may take: the gateway gives each of its queries 5 s."""
_FOLDING_S: Final = 10.0
"""How much longer than `wait_s` the answer to a lookup with `after` may take."""


C = TypeVar("C")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Page(Protocol[T_co]):
    """A page of a list."""

    @property
    def items(self) -> Sequence[T_co]:
        """The items."""
        ...

    @property
    def next_cursor(self) -> str | None:
        """The cursor of the next page; None on the last one."""
        ...


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
        return self._ask(path, query, decode_contact, self._wait_s + _FOLDING_S if after is not None else None)

    def count(self, query: Mapping[str, str], decode: Callable[[bytes], C]) -> C:
        """Count contacts. Raises NotFolded, Unreachable or Refused."""
        counted = self._ask(_PATH + "/count", query, decode, self._wait_s + _SEARCHING_S)
        assert counted is not None  # noqa: S101  the gateway answers 404 only for a contact
        return counted

    def pages(
        self, path: str, query: Mapping[str, str], decode: Callable[[bytes], Page[T]], limit: int | None
    ) -> Iterator[Sequence[T]]:
        """Read pages with `limit` items in total; no page if there is no such contact. Raises the errors of `count`."""
        query = dict(query)
        while limit is None or limit > 0:
            query["limit"] = str(_PAGE_ITEMS if limit is None else min(_PAGE_ITEMS, limit))
            page = self._ask(path, query, decode, self._wait_s + _SEARCHING_S)
            if page is None:
                return
            yield page.items
            if page.next_cursor is None:
                return
            limit = None if limit is None else limit - len(page.items)
            query["cursor"] = page.next_cursor
            query.pop("after", None)

    def _ask(self, path: str, query: Mapping[str, str], decode: Callable[[bytes], C], timeout_s: float | None) -> C | None:
        """The decoded answer; None if there is no such contact."""
        response = self._gateway.get(path, query, timeout_s=timeout_s)
        if response.status == _OK:
            try:
                return decode(response.body)
            except msgspec.MsgspecError as error:  # a server that answers every path, as many front ends do
                raise Unreachable(f"gateway: expected an answer from kinfold, got {response.body[:100]!r}") from error
        if is_not_found(response):
            return None
        if response.status == _UNAVAILABLE and "after" in query and error_code(response) != _NO_DIRECTORY:
            raise NotFolded(str(problem(response)))
        raise problem(response)
