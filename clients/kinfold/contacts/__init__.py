"""Lookups of contacts in Redis or through a gateway, with the same names for blocking code and asyncio."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from kinfold.contacts.queries import Queries
from kinfold.transport.urls import gateway_key, is_http
from kinfold_schemas.contacts import Contact
from kinfold_schemas.directory import Conflict, ContactCount, ContactCounts, TimelineEntry
from kinfold_schemas.keys import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from kinfold.contacts.gateway_lookups import GatewayLookups
    from kinfold.contacts.redis_lookups import AsyncRedisLookups, RedisLookups
    from kinfold.contacts.searches import Searches, Status, Where

R = TypeVar("R")
C = TypeVar("C")
T = TypeVar("T")


class Lookups(Generic[C, R]):
    """The lookups that `Contacts` and `AsyncContacts` share. `R` is a contact or None, or an awaitable of one.

    >>> with kinfold.Contacts("redis://localhost:6379/0", workspace="lookups") as contacts:
    ...     contacts.by_visitor("v-unknown") is None
    True
    """

    def __init__(
        self,
        url: str,
        *,
        workspace: str = DEFAULT_WORKSPACE,
        key: str | None = None,
        wait_s: float = 5.0,
        timeout_s: float = 4.0,
    ) -> None:
        queries = Queries(workspace, wait_s)
        self._gateway: GatewayLookups | None = None
        self._redis: C | None = None
        if is_http(url):
            from kinfold.contacts import gateway_lookups  # noqa: PLC0415  only for a gateway

            api_key = gateway_key(key, "a secret API key", workspace)
            self._gateway = gateway_lookups.GatewayLookups(url, api_key, wait_s, timeout_s)
        else:
            self._redis = self._connect(queries, url, timeout_s)

    def by_visitor(self, visitor_id: str, *, after: str | None = None) -> R:
        """The contact that this visitor belongs to now.

        >>> kinfold.Contacts("redis://localhost:6379/0", workspace="lookups").by_visitor("v-unknown") is None
        True
        """
        return self._find("visitorId", visitor_id, after)

    def by_external_id(self, external_id: str, *, after: str | None = None) -> R:
        """The contact with this external id.

        >>> kinfold.Contacts("redis://localhost:6379/0", workspace="lookups").by_external_id("u-unknown") is None
        True
        """
        return self._find("externalId", external_id, after)

    def by_email(self, email: str, *, after: str | None = None) -> R:
        """The contact with this e-mail address, in any spelling.

        >>> kinfold.Contacts("redis://localhost:6379/0", workspace="lookups").by_email("unknown@example.org") is None
        True
        """
        return self._find("email", email, after)

    def get(self, contact_id: str, *, after: str | None = None) -> R:
        """The contact with this id, or the one it was merged into.

        >>> kinfold.Contacts("redis://localhost:6379/0", workspace="lookups").get("ct_unknown") is None
        True
        """
        return self._find("id", contact_id, after)

    def _searches(self) -> "Searches":
        """The queries that only a gateway answers. Raises ValueError for Redis."""
        if self._gateway is None:
            raise ValueError("url: expected the URL of a gateway (https://…) to search contacts, got a Redis URL")
        from kinfold.contacts.searches import Searches  # noqa: PLC0415  only for searches

        return Searches(self._gateway)

    def _connect(self, queries: Queries, url: str, timeout_s: float) -> C:
        raise NotImplementedError

    def _find(self, by: str, value: str, after: str | None) -> R:
        raise NotImplementedError


class Contacts(Lookups["RedisLookups", Contact | None]):
    """Looks up contacts, from any thread. `url`, `workspace` and `key` are those of `Producer`; the key is a secret one.

    Every method takes `after=`, a position from `Producer.flush`, and waits at most `wait_s` until this position is folded.
    So an application reads its own writes. Every method returns None if there is no such contact.

    Raises NotFolded, Unreachable or Refused; TypeError for an identifier that is not a string.

    >>> visitors = kinfold.Producer("redis://localhost:6379/0", workspace="lookups")
    >>> visitors.identify("v-1", external_id="u-1", email="Ada@example.org", name="Ada")
    >>> with kinfold.Contacts("redis://localhost:6379/0", workspace="lookups") as contacts:
    ...     ada = contacts.by_visitor("v-1", after=visitors.flush())
    ...     ada == contacts.by_external_id("u-1") == contacts.by_email("ada@example.org") == contacts.get(ada.id)
    True
    >>> ada.name
    'Ada'
    >>> visitors.close()
    """

    def _connect(self, queries: Queries, url: str, timeout_s: float) -> "RedisLookups":
        from kinfold.contacts.redis_lookups import RedisLookups  # noqa: PLC0415  only for Redis

        return RedisLookups(queries, url, timeout_s)

    def _find(self, by: str, value: str, after: str | None) -> Contact | None:
        lookups = self._gateway or self._redis
        assert lookups is not None  # noqa: S101  the constructor sets one of them
        return lookups.find(by, value, after)

    def search(
        self,
        q: str | None = None,
        *,
        where: "Where | None" = None,
        sort: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Iterator[Contact]:
        """Iterate over the matching contacts. Pages are read as needed.

        `q`: words. The name, e-mail, external id or contact id must contain every one; case and accents do not matter.

        `where`: a filter as text (`"plan = pro and mrr >= 99"`), or conditions by field, which must all hold. A condition is
        a value, a list of values, or an object of operators (`=`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `contains`, `exists`,
        `before`, `after`). A time may be a datetime, and an age a timedelta.

        `sort`: a field or metadata key, with `-` in front for descending; the default is `-createdAt`. `limit`: the maximum
        number of contacts.

        Only a gateway with a directory answers this. Raises as lookups do, ValueError for Redis, and Refused for a wrong
        filter.

        >>> with kinfold.Contacts("http://localhost:8000", key="kf_sk_secret") as contacts:
        ...     for contact in contacts.search("ada", where={"plan": "pro", "mrr": {">=": 99}}, sort="-lastSeenAt"):
        ...         print(contact.name)
        Ada
        """
        return chain.from_iterable(self._searches().search(q, where, sort, limit, after))

    @overload
    def count(self, q: str | None = None, *, where: "Where | None" = None, after: str | None = None) -> ContactCount: ...

    @overload
    def count(
        self,
        q: str | None = None,
        *,
        where: "Where | None" = None,
        by: str,
        limit: int | None = None,
        after: str | None = None,
    ) -> ContactCounts: ...

    def count(
        self,
        q: str | None = None,
        *,
        where: "Where | None" = None,
        by: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> ContactCount | ContactCounts:
        """How many contacts match. With `by`, how many have each value of that field: the `limit` most frequent values (10).

        >>> with kinfold.Contacts("http://localhost:8000", key="kf_sk_secret") as contacts:
        ...     print(contacts.count(where={"plan": "pro"}).count)
        ...     print([(each.value, each.count) for each in contacts.count(by="plan").values])
        1
        [('pro', 1)]
        """
        if by is None:
            return self._searches().count(q, where, after)
        return self._searches().counts(q, where, by, limit, after)

    def timeline(self, contact_id: str, *, limit: int | None = None, after: str | None = None) -> Iterator[TimelineEntry]:
        """The changes of a contact and of those merged into it, newest first. Empty if there is no such contact.

        >>> with kinfold.Contacts("http://localhost:8000", key="kf_sk_secret") as contacts:
        ...     ada = contacts.by_external_id("u-1")
        ...     print([entry.type for entry in contacts.timeline(ada.id)])
        ['VisitorLinked', 'ContactCreated']
        """
        return chain.from_iterable(self._searches().timeline(contact_id, limit, after))

    def conflicts(self, *, status: "Status" = "open", limit: int | None = None, after: str | None = None) -> Iterator[Conflict]:
        """Addresses that an event named for one contact and that another one keeps, newest first: the open ones, or `"all"`.

        >>> with kinfold.Contacts("http://localhost:8000", key="kf_sk_secret") as contacts:
        ...     print([conflict.email for conflict in contacts.conflicts()])
        []
        """
        return chain.from_iterable(self._searches().conflicts(status, limit, after))

    def close(self) -> None:
        """Close the connections.

        >>> kinfold.Contacts("redis://localhost:6379/0").close()
        """
        if (lookups := self._gateway or self._redis) is not None:
            lookups.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncContacts(Lookups["AsyncRedisLookups", Coroutine[Any, Any, Contact | None]]):
    """`Contacts` for asyncio: the same names, to be awaited. One object may serve several event loops.

    >>> async def who(visitor_id):
    ...     async with kinfold.AsyncContacts("redis://localhost:6379/0", workspace="lookups") as contacts:
    ...         return await contacts.by_visitor(visitor_id)
    >>> asyncio.run(who("v-unknown")) is None
    True
    """

    def _connect(self, queries: Queries, url: str, timeout_s: float) -> "AsyncRedisLookups":
        from kinfold.contacts.redis_lookups import AsyncRedisLookups  # noqa: PLC0415  only for Redis

        return AsyncRedisLookups(queries, url, timeout_s)

    async def _find(self, by: str, value: str, after: str | None) -> Contact | None:
        if self._redis is not None:
            return await self._redis.find(by, value, after)
        assert self._gateway is not None  # noqa: S101  the constructor sets one of them
        return await asyncio.to_thread(self._gateway.find, by, value, after)

    def search(
        self,
        q: str | None = None,
        *,
        where: "Where | None" = None,
        sort: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> AsyncIterator[Contact]:
        """As `Contacts.search`.

        >>> async def names():
        ...     async with kinfold.AsyncContacts("http://localhost:8000", key="kf_sk_secret") as contacts:
        ...         return [contact.name async for contact in contacts.search("ada")]
        >>> asyncio.run(names())
        ['Ada']
        """
        return _in_threads(self._searches().search(q, where, sort, limit, after))

    @overload
    async def count(self, q: str | None = None, *, where: "Where | None" = None, after: str | None = None) -> ContactCount: ...

    @overload
    async def count(
        self,
        q: str | None = None,
        *,
        where: "Where | None" = None,
        by: str,
        limit: int | None = None,
        after: str | None = None,
    ) -> ContactCounts: ...

    async def count(
        self,
        q: str | None = None,
        *,
        where: "Where | None" = None,
        by: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> ContactCount | ContactCounts:
        """As `Contacts.count`."""
        searches = self._searches()
        if by is None:
            return await asyncio.to_thread(searches.count, q, where, after)
        return await asyncio.to_thread(searches.counts, q, where, by, limit, after)

    def timeline(self, contact_id: str, *, limit: int | None = None, after: str | None = None) -> AsyncIterator[TimelineEntry]:
        """As `Contacts.timeline`."""
        return _in_threads(self._searches().timeline(contact_id, limit, after))

    def conflicts(
        self, *, status: "Status" = "open", limit: int | None = None, after: str | None = None
    ) -> AsyncIterator[Conflict]:
        """As `Contacts.conflicts`."""
        return _in_threads(self._searches().conflicts(status, limit, after))

    async def close(self) -> None:
        """Close the connections of this event loop."""
        if self._redis is not None:
            await self._redis.close()
        if self._gateway is not None:
            self._gateway.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _in_threads(pages: Iterator[Sequence[T]]) -> AsyncIterator[T]:
    """The items of pages, each page read in a thread."""
    while (page := await asyncio.to_thread(next, pages, None)) is not None:
        for item in page:
            yield item
