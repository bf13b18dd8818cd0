"""Connections to Redis by URL: one server, TLS, a unix socket, behind Sentinel, or a cluster (contract section 8).

`redis://`, `rediss://`, `unix://`, and `redis+cluster://`, `redis+sentinel://`, with `rediss+` where those speak TLS.
"""

import asyncio
import contextlib
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

from kinfold_projections.batches import RawEntry as RawEntry  # noqa: PLC0414  everybody who reads a stream imports it from here
from kinfold_schemas.urls import parse_redis_url

CLUSTER: Final = "redis+cluster"
SENTINEL: Final = "redis+sentinel"


Client = Redis  # RedisCluster has the same commands; redis-py has no type for both

Engine = Literal["valkey", "redis"]
OLDEST: Final[dict[Engine, tuple[int, int]]] = {"redis": (7, 0), "valkey": (8, 0)}
"""The oldest (major, minor) that kinfold works with (contract, section 8)."""
MAX_CONNECTIONS: Final = 10_000
"""A workspace needs one connection that waits for entries; the pool's own default would end at about a hundred."""

ANSWER_S: Final = 30.0
"""How long a command that has no limit of its own may take. No connection waits for ever."""
_CONNECT_TIMEOUT_S: Final = 3.0
_SENTINEL_TIMEOUT_S: Final = 1.0
"""A sentinel that hangs delays every new connection by this much, until one that answers was found."""
_SENTINEL_PORT: Final = 26379


SERVER_ERRORS: Final = (RedisError, RedisClusterException)
"""Every error that a command can end with. redis-py's errors about a cluster's layout are no RedisError."""
_PASSING: Final = (
    RedisConnectionError,  # with LOADING
    RedisTimeoutError,
    ClusterDownError,  # with MASTERDOWN
    ClusterError,  # "TTL exhausted.": a slot is on the move
    AskError,  # with MOVED
    TryAgainError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,  # a slot that no node covers, or no node that answers
)
_PASSING_CODES: Final = (
    *("ASK ", "BUSY ", "CLUSTERDOWN ", "LOADING ", "MASTERDOWN ", "MISCONF ", "MOVED ", "NOREPLICAS ", "OOM ", "READONLY "),
    *("TRYAGAIN ", "UNBLOCKED ", "UNKILLABLE "),
)
"""Of errors for which redis-py has no class, and of those that did not pass through redis-py (`state.wire`)."""


class ServerUnfit(RuntimeError):
    """The server is there, and cannot be used as it is; the message says why, and what mends it."""


class ServerTooOld(ServerUnfit):
    """The server's version lacks what kinfold needs."""


class ServerEvicts(ServerUnfit):
    """The server deletes keys that have no time to live when its memory is full: parts of the log and of the state."""


def connect(url: str, answer_s: float = ANSWER_S) -> Client:
    """A client for `url`, decoding nothing. It connects when it is first used.

    `answer_s` is how long the server may take for a whole answer, in seconds.

    It never sends a command twice by itself: an append whose reply was lost may have happened, and only the caller knows
    whether to do it again is harmless.
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
    return Redis.from_url(url, **options)


def is_passing(error: BaseException) -> bool:
    """Whether the same command may be answered later: the server is away, full, a replica for now, busy, or a slot moves."""
    return isinstance(error, _PASSING) or str(error).startswith(_PASSING_CODES)


async def drop_idle_connections(client: Client) -> None:
    """Closes the connections that nobody uses at the moment.

    Where one connection hangs, the others of the pool lead to the same server. Each would cost another timeout, even after
    Sentinel has named a new server. A cluster's client does this itself.
    """
    pool = getattr(client, "connection_pool", None)
    if pool is not None:
        await pool.disconnect(inuse_connections=False)


def check_url(url: str) -> str:
    """`url`, its scheme in lower case, as redis-py wants it. Raises ValueError where it is no Redis URL; shows no password."""
    try:
        parse_redis_url(url)
    except ValueError as error:
        raise ValueError(f"redis URL: {error}") from error
    scheme, separator, rest = url.partition("://")
    return scheme.lower() + separator + rest


class _ClusterClient(RedisCluster):
    """Raises ConnectionError where no node answers, as every other client does: redis-py's own error is no RedisError."""

    _home: asyncio.AbstractEventLoop | None = None
    """The event loop that its connections belong to."""
    _lookup: "asyncio.Task[None] | None" = None

    async def initialize(self, *args: Any, **kwargs: Any) -> "_ClusterClient":
        """Looks up the nodes, where that has to be done (again); in its own event loop alone.

        redis-py queues a transaction's commands in a thread and an event loop that end with each. Connections made there would
        be dead, so there it raises ConnectionError, and the nodes are looked up before the next try.
        """
        loop = asyncio.get_running_loop()
        if self._home is None or self._home.is_closed():
            self._home = loop
        if self._initialize and self._home is not loop:
            self._home.call_soon_threadsafe(self._look_up_soon)
            raise RedisConnectionError("the nodes of the cluster are looked up again")
        try:
            await super().initialize(*args, **kwargs)
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error
        return self

    def _look_up_soon(self) -> None:
        self._lookup = asyncio.ensure_future(self._look_up())

    async def _look_up(self) -> None:
        with contextlib.suppress(RedisError, OSError):  # the next try begins another one
            await self.initialize()

    async def _determine_slot(self, command: str, *args: Any, **kwargs: Any) -> int:
        """Finds the slot of a read by itself: redis-py asks one node for its keys, and never another one, dead or not.

        So it is with every command whose keys do not stand in a fixed place. Where such a question fails, the nodes are looked
        up again before the next command.
        """
        if command == "XREAD":
            return self.keyslot(args[args.index(b"STREAMS") + 1])
        try:
            return await super()._determine_slot(command, *args, **kwargs)
        except (RedisConnectionError, RedisTimeoutError):
            self._initialize = True
            raise


class _SentinelClient(Redis):
    """Closes its connections to the sentinels too, which redis-py leaves open."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001  redis-py's signature
        await super().aclose(close_connection_pool)
        await close_sentinels(self)


async def close_sentinels(client: Any) -> None:
    """Closes a client's connections to the sentinels."""
    for each in client.connection_pool.sentinel_manager.sentinels:
        await each.aclose()


async def check_server(client: Client) -> str:
    """The server's name and version.

    Raises ServerTooOld, ServerEvicts, or redis.exceptions.RedisError where it does not answer.
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
    """Raises ServerEvicts.

    `volatile-*` is fine: it deletes only keys with a time to live (`hold`, `sent:*`), which may be gone at any time anyway.
    INFO and not CONFIG GET: managed servers refuse CONFIG.
    """
    either: Any = client  # a cluster's client is no subclass of Redis
    nodes: list[Any] = either.get_nodes() if isinstance(either, RedisCluster) else [None]
    for node in nodes:
        target: dict[str, Any] = {} if node is None else {"target_nodes": node}
        try:
            info: dict[str, Any] = await client.info("memory", **target)
        except RedisConnectionError:
            if node is None or node.server_type == "primary":
                raise
            continue  # a replica that is away is no reason not to start
        policy = str(info.get("maxmemory_policy"))
        if int(info.get("maxmemory", 0)) and policy.startswith("allkeys-"):
            where = "" if node is None else f"{node.name}: "
            raise ServerEvicts(
                f"{where}maxmemory-policy: expected noeviction, got {policy}, with which a full server deletes parts of the "
                "log and of the state; this command mends it: CONFIG SET maxmemory-policy noeviction"
            )


def url_kind(url: str) -> str:
    """The scheme, TLS aside: `rediss+cluster` is a cluster."""
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
    # Read by redis-py itself, as if it were the URL of one server: login, TLS and whatever else a query may say.
    if not (database or "0").isdecimal():
        raise ValueError(f"expected a number as database behind the master's name, got {database!r}")
    single = urlsplit(plain_url(url))._replace(netloc=f"{login}@master", path=f"/{database or 0}")
    options = dict(cast("dict[str, Any]", parse_url(urlunsplit(single))))
    del options["host"]
    if options.pop("connection_class", None) is not None:
        options["ssl"] = True
    addresses = [each.partition(":") for each in hosts.split(",")]
    return [(host, int(port or _SENTINEL_PORT)) for host, _, port in addresses], unquote(master), options


def tls_of(options: dict[str, Any]) -> dict[str, Any]:
    """What of it holds for the sentinels as well: who speaks TLS does so everywhere, and a login is the master's."""
    # Without `retry`, redis-py asks a sentinel that is gone ten times before it asks the next one.
    limits: dict[str, Any] = {
        "socket_connect_timeout": _SENTINEL_TIMEOUT_S,
        "socket_timeout": _SENTINEL_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }
    return limits | {name: value for name, value in options.items() if name.startswith("ssl")}
