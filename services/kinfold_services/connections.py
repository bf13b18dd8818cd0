"""Connections to Redis by URL: a server, TLS, a Unix socket, Sentinel, or a cluster (contract section 8).

The schemes are `redis://`, `rediss://`, `unix://`, `redis+cluster://`, `redis+sentinel://`, and `rediss+` for the last two with
TLS.
"""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, Final, Literal, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ClusterError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from kinfold_projections.batches import RawEntry as RawEntry  # noqa: PLC0414  all modules that read streams import it from here
from kinfold_schemas.urls import parse_redis_url

CLUSTER: Final = "redis+cluster"
SENTINEL: Final = "redis+sentinel"


Client = Redis  # RedisCluster has the same commands; redis-py has no type for both

Engine = Literal["valkey", "redis"]
OLDEST: Final[dict[Engine, tuple[int, int]]] = {"redis": (7, 0), "valkey": (8, 0)}
"""The oldest (major, minor) that kinfold works with (contract, section 8)."""
MAX_CONNECTIONS: Final = 10_000
"""Each workspace needs a connection that waits for entries; redis-py's default is about a hundred connections."""

ANSWER_S: Final = 30.0
"""The timeout of commands that have no other. No connection waits forever."""
_CONNECT_TIMEOUT_S: Final = 3.0
_SENTINEL_TIMEOUT_S: Final = 1.0
"""A hanging sentinel delays every new connection by this much, until another one answers."""
_SENTINEL_PORT: Final = 26379

SERVER_ERRORS: Final = (RedisError, RedisClusterException, OSError)
"""Every error that a command can raise. redis-py's errors about the layout of a cluster are not RedisErrors, and neither is a
TimeoutError of asyncio."""
_PASSING: Final = (
    OSError,
    RedisConnectionError,  # includes LOADING
    RedisTimeoutError,
    ClusterDownError,  # includes MASTERDOWN
    ClusterError,  # "TTL exhausted.": a slot is moving
    AskError,  # includes MOVED
    TryAgainError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,  # a slot that no node covers, or no node that answers
)
_PASSING_CODES: Final = (
    *("ASK ", "BUSY ", "CLUSTERDOWN ", "LOADING ", "MASTERDOWN ", "MISCONF ", "MOVED ", "NOREPLICAS ", "OOM ", "READONLY "),
    *("TRYAGAIN ", "UNBLOCKED ", "UNKILLABLE "),
)
"""The codes of errors for which redis-py has no class, or that did not pass through redis-py (`state.wire`)."""


class ServerUnfit(RuntimeError):
    """The server answers but cannot be used; the message says why and how to fix it."""


class ServerTooOld(ServerUnfit):
    """The server's version lacks what kinfold needs."""


class ServerEvicts(ServerUnfit):
    """The server deletes keys that have no time to live when its memory is full: parts of the log and of the state."""


def connect(url: str, answer_s: float = ANSWER_S) -> Client:
    """A client that decodes nothing. It connects on first use. `answer_s` limits the time of a whole answer, in seconds.

    It never repeats a command. An append whose reply was lost may have succeeded, and only the caller knows whether a repeat is
    harmless.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "socket_timeout": answer_s,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": MAX_CONNECTIONS,
    }
    kind = url_kind(url)
    if kind == CLUSTER:
        cluster: Any = _ClusterClient.from_url(plain_url(url), **options)
        return cast("Client", cluster)
    if kind == SENTINEL:
        hosts, master, own = sentinel_options(url)
        sentinel: Any = cast("Any", Sentinel)(hosts, sentinel_kwargs=tls_of(own), **own, **options)
        return cast("Client", sentinel.master_for(master, redis_class=_SentinelClient))
    return _ServerClient.from_url(url, **options)


def is_passing(error: BaseException) -> bool:
    """Whether the command may succeed later: the server is away, full, busy, or now a replica, or a slot is moving."""
    return isinstance(error, _PASSING) or str(error).startswith(_PASSING_CODES)


async def drop_idle_connections(client: Client) -> None:
    """Close the connections that are not in use. Raises nothing, and does not wait.

    If one connection hangs, the others in the pool lead to the same server. Each would cost another timeout, even after
    Sentinel has named a new server. A cluster's client does this itself.

    In an outage, all workspaces call this at once. So each connection leaves the pool, and the next call does not look at it.
    """
    pool = getattr(client, "connection_pool", None)
    idle: list[Any] = [] if pool is None else pool._available_connections  # noqa: SLF001
    # The pool's `disconnect` waits until each connection is closed, and raises if that takes long.
    while idle:
        await idle.pop().disconnect(nowait=True)


def check_url(url: str) -> str:
    """Return `url` with its scheme in lower case, which redis-py needs. Raises ValueError, which does not show the password."""
    try:
        parse_redis_url(url)
    except ValueError as error:
        raise ValueError(f"redis URL: {error}") from error
    scheme, separator, rest = url.partition("://")
    return scheme.lower() + separator + rest


async def _close_quietly(closing: Awaitable[None]) -> None:
    """Wait until connections are closed. If the server does not answer, that fails, but they are closed all the same.

    An error here would end a program that stops with a failure, and would hide the error that a block is left with.
    """
    with contextlib.suppress(*SERVER_ERRORS):
        await closing


class _ServerClient(Redis):
    """Raises nothing when it is closed."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001  redis-py's signature
        await _close_quietly(super().aclose(close_connection_pool))


class _ClusterClient(RedisCluster):
    """Raises ConnectionError if no node answers, like every other client. redis-py's error is not a RedisError."""

    _home: asyncio.AbstractEventLoop | None = None
    """The event loop that its connections belong to."""
    _lookup: "asyncio.Task[None] | None" = None

    async def aclose(self) -> None:
        await _close_quietly(super().aclose())

    async def initialize(self, *args: Any, **kwargs: Any) -> "_ClusterClient":
        """Look up the nodes if necessary, but only in the client's event loop.

        redis-py queues the commands of a transaction in a temporary thread with its own event loop. Connections made there
        would be dead, so there this raises ConnectionError, and the nodes are looked up before the next attempt.
        """
        loop = asyncio.get_running_loop()
        if self._home is None or self._home.is_closed():
            self._home = loop
        if self._initialize and self._home is not loop:
            self._home.call_soon_threadsafe(self._look_up_soon)
            raise RedisConnectionError("looking up the nodes of the cluster again")
        try:
            await super().initialize(*args, **kwargs)
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error
        return self

    def _look_up_soon(self) -> None:
        self._lookup = asyncio.ensure_future(self._look_up())

    async def _look_up(self) -> None:
        with contextlib.suppress(*SERVER_ERRORS):  # the next attempt looks them up again
            await self.initialize()

    async def _determine_slot(self, command: str, *args: Any, **kwargs: Any) -> int:
        """Compute the slot of an XREAD. redis-py asks a node for its keys, and always the same node, even if it is dead.

        It does so for every command whose keys have no fixed place. If that fails, the nodes are looked up again before the
        next command.
        """
        if command == "XREAD":
            return self.keyslot(args[args.index(b"STREAMS") + 1])
        try:
            return await super()._determine_slot(command, *args, **kwargs)
        except (RedisConnectionError, RedisTimeoutError):
            self._initialize = True
            raise


class _SentinelClient(_ServerClient):
    """Also closes its connections to the sentinels, which redis-py leaves open."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001  redis-py's signature
        await super().aclose(close_connection_pool)
        await close_sentinels(self)


async def close_sentinels(client: Any) -> None:
    """Close a client's connections to the sentinels."""
    for each in client.connection_pool.sentinel_manager.sentinels:
        await _close_quietly(each.aclose())


async def check_server(client: Client) -> str:
    """Return the server's name and version.

    Raises ServerTooOld, ServerEvicts, or redis.exceptions.RedisError if it does not answer.
    """
    info: dict[str, Any] = await client.info("server")
    if "redis_version" not in info:  # a cluster answers for each node
        info = next(iter(info.values()))
    name: Engine = "valkey" if "valkey_version" in info else "redis"
    version = str(info.get("valkey_version") or info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST[name]:
        raise ServerTooOld(f"{name}-server: expected Redis 7.0, Valkey 8 or newer, got version {version}")
    await _check_memory_policy(client)
    return f"{name} {version}"


async def _check_memory_policy(client: Client) -> None:
    """Check that the server does not evict the log or the state. Raises ServerEvicts.

    `volatile-*` is fine: it deletes only keys with a time to live (`hold`, `sent:*`), which may expire at any time anyway.
    This uses INFO, because managed servers refuse CONFIG GET.
    """
    either: Any = client  # the client of a cluster is not a subclass of Redis
    nodes: list[Any] = either.get_nodes() if isinstance(either, RedisCluster) else [None]
    for node in nodes:
        target: dict[str, Any] = {} if node is None else {"target_nodes": node}
        try:
            info: dict[str, Any] = await client.info("memory", **target)
        except RedisConnectionError:
            if node is None or node.server_type == "primary":
                raise
            continue  # a missing replica must not prevent the start
        policy = str(info.get("maxmemory_policy"))
        if int(info.get("maxmemory", 0)) and policy.startswith("allkeys-"):
            where = "" if node is None else f"{node.name}: "
            raise ServerEvicts(
                f"{where}maxmemory-policy: expected noeviction, got {policy}: a full server would delete parts of the log "
                "and of the state; to fix this, run: CONFIG SET maxmemory-policy noeviction"
            )


def url_kind(url: str) -> str:
    """The scheme of a URL regardless of TLS: `redis+cluster` for `rediss+cluster`."""
    return urlsplit(url).scheme.replace("rediss+", "redis+")


def plain_url(url: str) -> str:
    """The URL with a scheme that redis-py knows."""
    return urlunsplit(urlsplit(url)._replace(scheme=urlsplit(url).scheme.partition("+")[0]))


def sentinel_options(url: str) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """The sentinels of `redis+sentinel://host:port,host:port/master/0`, the master's name, and how to connect to it."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    master, _, database = parts.path.strip("/").partition("/")
    if not master:
        raise ValueError("expected the name of the master behind the sentinels (redis+sentinel://host:port/master/0), got none")
    # redis-py parses the rest as if it were the URL of one server: login, TLS, and the options of the query.
    if not (database or "0").isdecimal():
        raise ValueError(f"expected a number as the database after the master's name, got {database!r}")
    single = urlsplit(plain_url(url))._replace(netloc=f"{login}@master", path=f"/{database or 0}")
    options = dict(cast("dict[str, Any]", parse_url(urlunsplit(single))))
    del options["host"]
    if options.pop("connection_class", None) is not None:
        options["ssl"] = True
    addresses = [each.partition(":") for each in hosts.split(",")]
    return [(host, int(port or _SENTINEL_PORT)) for host, _, port in addresses], unquote(master), options


def tls_of(options: dict[str, Any]) -> dict[str, Any]:
    """The options that also apply to the sentinels: TLS applies to all servers, the login only to the master."""
    # Without `retry`, redis-py asks an unreachable sentinel ten times before it asks the next one.
    limits: dict[str, Any] = {
        "socket_connect_timeout": _SENTINEL_TIMEOUT_S,
        "socket_timeout": _SENTINEL_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }
    return limits | {name: value for name, value in options.items() if name.startswith("ssl")}
