"""Lookups: who somebody is, asked of the state in Redis, or of a gateway; blocking and asyncio with the same names.

Each question to Redis is a generator that yields commands and is sent their answers, so that there is one of each for both.
"""

import asyncio
import time
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast

import msgspec

from kinfold.connections import close, close_async, connect, connect_async, gateway_key, is_http
from kinfold.errors import NotFolded, Unreachable
from kinfold_schemas.contacts import Contact, merged_into
from kinfold_schemas.identifiers import email_key, id_key, stripped
from kinfold_schemas.keys import DEFAULT_WORKSPACE, PublicName, check_workspace, key
from kinfold_schemas.positions import position_key

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from kinfold.gateway import Gateway

T = TypeVar("T")
R = TypeVar("R")
C = TypeVar("C")
Asking = Generator[tuple[str, ...] | None, Any, T]
"""Yields a command, or None to wait a moment; is sent the answer."""

_ASK_AGAIN_S: Final = 0.005
_OK: Final = 200
_UNAVAILABLE: Final = 503

decode_contact: Final = msgspec.json.Decoder(Contact).decode


class _Visitor(msgspec.Struct, rename="camel"):
    contact_id: str | None


_decode_visitor: Final = msgspec.json.Decoder(_Visitor).decode


class Lookups(Generic[C, R]):
    """What `Contacts` and `AsyncContacts` can be asked, spelled once; `R` is a contact or something to be awaited.

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
        self._questions: Final = _Questions(workspace, wait_s)
        self._gateway: Final = _gateway(url, key, timeout_s)
        self._client: C | None = None if self._gateway else self._connect(url, timeout_s)

    def by_visitor(self, visitor_id: str, *, after: str | None = None) -> R:
        """Whose this visitor is now.

        >>> kinfold.Contacts("redis://localhost:6379/0", workspace="lookups").by_visitor("v-unknown") is None
        True
        """
        return self._ask("visitorId", visitor_id, after)

    def by_external_id(self, external_id: str, *, after: str | None = None) -> R:
        """Who has this id in the application's own data.

        >>> kinfold.Contacts("redis://localhost:6379/0", workspace="lookups").by_external_id("u-unknown") is None
        True
        """
        return self._ask("externalId", external_id, after)

    def by_email(self, email: str, *, after: str | None = None) -> R:
        """Who has this address, however it is written.

        >>> kinfold.Contacts("redis://localhost:6379/0", workspace="lookups").by_email("nobody@example.org") is None
        True
        """
        return self._ask("email", email, after)

    def get(self, contact_id: str, *, after: str | None = None) -> R:
        """The contact with this id, or the one that it was merged into.

        >>> kinfold.Contacts("redis://localhost:6379/0", workspace="lookups").get("ct_unknown") is None
        True
        """
        return self._ask("id", contact_id, after)

    def _connect(self, url: str, timeout_s: float) -> C:
        raise NotImplementedError

    def _ask(self, by: str, value: str, after: str | None) -> R:
        raise NotImplementedError


class Contacts(Lookups["Redis", Contact | None]):
    """Looks contacts up: `url`, `workspace` and `key` as for `Producer`. Any thread may ask.

    Every method takes `after=`, a position as `Producer.flush` returns it, and answers when that is folded: so an application
    reads what it wrote. It waits for `wait_s` at most. Every method returns None where there is nobody.

    Raises NotFolded, Unreachable or Refused; TypeError for an identifier that is no string.

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

    def _connect(self, url: str, timeout_s: float) -> "Redis":
        from kinfold.redis_log import REDIS_ERRORS, redis_error  # noqa: PLC0415  whoever uses the gateway needs none of it

        try:
            return connect(url, timeout_s)
        except REDIS_ERRORS as error:  # a cluster is asked for its nodes at once
            raise redis_error(error) from error

    def close(self) -> None:
        """Gives up the connections.

        >>> kinfold.Contacts("redis://localhost:6379/0").close()
        """
        if self._gateway is not None:
            self._gateway.close()
        if self._client is not None:
            close(self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, by: str, value: str, after: str | None) -> Contact | None:
        if self._gateway is not None:
            return _ask_gateway(self._gateway, by, value, after, self._questions.wait_s)
        asking = self._questions.find(by, value, after)
        answer: Any = None
        while True:
            try:
                wanted = asking.send(answer)
            except StopIteration as end:
                return cast("Contact | None", end.value)
            if wanted is None:
                time.sleep(_ASK_AGAIN_S)
                answer = None
            else:
                answer = self._command(wanted)

    def _command(self, command: tuple[str, ...]) -> Any:
        from kinfold.redis_log import REDIS_ERRORS, redis_error  # noqa: PLC0415  loaded by now

        assert self._client is not None  # noqa: S101  the constructor
        try:
            return cast("Any", self._client).execute_command(*command)
        except REDIS_ERRORS as error:
            raise redis_error(error) from error


class AsyncContacts(Lookups["_LoopClients", Coroutine[Any, Any, Contact | None]]):
    """The same for asyncio: the same names, to be awaited. One may serve several event loops, one after the other, too.

    >>> async def who(visitor_id):
    ...     async with kinfold.AsyncContacts("redis://localhost:6379/0", workspace="lookups") as contacts:
    ...         return await contacts.by_visitor(visitor_id)
    >>> asyncio.run(who("v-unknown")) is None
    True
    """

    def _connect(self, url: str, timeout_s: float) -> "_LoopClients":
        return _LoopClients(url, timeout_s)

    async def close(self) -> None:
        """Gives up the connections of this event loop."""
        if self._gateway is not None:
            self._gateway.close()
        if self._client is not None:
            await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, by: str, value: str, after: str | None) -> Contact | None:
        if self._gateway is not None:
            return await asyncio.to_thread(_ask_gateway, self._gateway, by, value, after, self._questions.wait_s)
        asking = self._questions.find(by, value, after)
        answer: Any = None
        while True:
            try:
                wanted = asking.send(answer)
            except StopIteration as end:
                return cast("Contact | None", end.value)
            if wanted is None:
                await asyncio.sleep(_ASK_AGAIN_S)
                answer = None
            else:
                answer = await self._command(wanted)

    async def _command(self, command: tuple[str, ...]) -> Any:
        from kinfold.redis_log import REDIS_ERRORS, redis_error  # noqa: PLC0415  loaded by now

        assert self._client is not None  # noqa: S101  the constructor
        try:
            return await cast("Any", self._client.of_this_loop()).execute_command(*command)
        except REDIS_ERRORS as error:
            raise redis_error(error) from error


class _LoopClients:
    """A client for each event loop, whose connections are that loop's: some frameworks run every request on one of its own."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url: Final = url
        self._timeout_s: Final = timeout_s
        self._clients: dict[asyncio.AbstractEventLoop, AsyncRedis] = {}

    def of_this_loop(self) -> "AsyncRedis":
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            for ended in [each for each in list(self._clients) if each.is_closed()]:
                self._clients.pop(ended, None)
            client = self._clients[loop] = connect_async(self._url, self._timeout_s)
        return client

    async def close(self) -> None:
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await close_async(client)


class _Questions:
    """What to ask Redis. Raises ValueError for a name that is no workspace's."""

    def __init__(self, workspace: str, wait_s: float) -> None:
        self.wait_s: Final = wait_s
        self._workspace: Final = check_workspace(workspace)

    def find(self, by: str, value: str, after: str | None) -> Asking[Contact | None]:
        if after is not None:
            yield from self._until_folded(after)
        missed: str | None = None
        while (contact_id := (yield from self._named(by, _text(by, value)))) is not None:
            while (data := (yield "HGET", key(self._workspace, "contacts"), contact_id)) is not None:
                if (survivor := merged_into(data)) is None:
                    return decode_contact(data)
                contact_id = survivor
            if contact_id == missed:
                return None
            missed = contact_id  # a replay may have put another state in place between two questions
        return None

    def _named(self, by: str, value: str) -> Asking[str | None]:
        if by == "id":
            return value
        if by == "visitorId":
            data = yield "HGET", key(self._workspace, "visitors"), id_key(value)
            return None if data is None else _decode_visitor(data).contact_id
        name: PublicName = "emails" if by == "email" else "external-ids"
        data = yield "HGET", key(self._workspace, name), email_key(value) if by == "email" else id_key(value)
        return None if data is None else data.decode()

    def _until_folded(self, after: str) -> Asking[None]:
        target = position_key(after)
        deadline = time.monotonic() + self.wait_s
        while True:
            position = yield "HGET", key(self._workspace, "position"), "stream_id"
            if position_key((position or b"").decode()) >= target:
                return
            if time.monotonic() > deadline:
                raise NotFolded(f"after: position {after} is not folded after {self.wait_s:g} s; does a projector run?")
            yield None


def _gateway(url: str, key: str | None, timeout_s: float) -> "Gateway | None":
    if not is_http(url):
        return None
    api_key = gateway_key(key, "a secret API key")
    from kinfold.gateway import Gateway  # noqa: PLC0415  whoever uses Redis needs none of it

    return Gateway(url, api_key, timeout_s)


def _text(by: str, value: object) -> str:
    """The identifier, stripped. Raises TypeError for what is no text, as a number of one's own table."""
    if not isinstance(value, str):
        raise TypeError(f"{by}: found {value!r}, allowed is a string")
    return stripped(value)


def _ask_gateway(gateway: "Gateway", by: str, value: str, after: str | None, wait_s: float) -> Contact | None:
    from urllib.parse import quote  # noqa: PLC0415  loaded by now

    from kinfold.gateway import is_nobody, problem  # noqa: PLC0415  as above

    text = _text(by, value)
    if not text:
        return None  # nobody has it; and as a path it would be that of the list
    path, query = (f"/v1/contacts/{quote(text, safe='')}", {}) if by == "id" else ("/v1/contacts", {by: text})
    if after is not None:
        query["after"] = after
    answer = gateway.get(path, query, timeout_s=wait_s + 10.0 if after is not None else None)
    if answer.status == _OK:
        try:
            return decode_contact(answer.body)
        except msgspec.MsgspecError as error:  # of who answers to every path, as many a front end does
            raise Unreachable(f"gateway: found {answer.body[:100]!r}, allowed is a contact") from error
    if is_nobody(answer):
        return None
    if answer.status == _UNAVAILABLE and after is not None:
        raise NotFolded(str(problem(answer)))
    raise problem(answer)
