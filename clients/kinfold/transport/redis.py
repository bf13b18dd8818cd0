"""Connections to Redis by URL: a server, TLS, a Unix socket, Sentinel, or a cluster (contract section 8).

The schemes are `redis://`, `rediss://`, `unix://`, `redis+cluster://`, `redis+sentinel://`, and `rediss+` for the last two with
TLS. redis-py does not repeat a command here: only the caller knows whether a repeat is harmless.
"""

from typing import Any, Final, cast

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio import Redis as AsyncRedis
from redis.backoff import NoBackoff

from kinfold.errors import Refused, Unreachable
from kinfold_schemas.urls import parse_redis_url

REDIS_ERRORS: Final = (exceptions.RedisError, exceptions.RedisClusterException)
"""The exceptions of redis-py. The second is not a RedisError: no node of a cluster answers."""

_SENTINEL_TIMEOUT_S: Final = 1.0
"""The timeout of one sentinel. They are asked in turn, and one that hangs must not use up the whole timeout."""
_FINAL_CODES: Final = frozenset(["ERR", "WRONGTYPE", "NOAUTH", "WRONGPASS", "NOPERM", "DENIED", "NOPROTO", "CROSSSLOT"])
"""Error codes that do not go away by themselves. All others may: a failover (READONLY, MASTERDOWN, UNBLOCKED, LOADING,
NOREPLICAS), a slot that moves (CLUSTERDOWN, TRYAGAIN, ASK), a full memory or disk (OOM, MISCONF), a script that runs (BUSY,
UNKILLABLE), and codes of newer servers: another attempt costs less than giving up too early."""


def connect(url: str, timeout_s: float) -> redis.Redis:
    """A blocking client that decodes nothing. It connects on first use. `timeout_s` limits each connect and each reply.

    Raises Unreachable or Refused: a client of a cluster asks for the nodes at once.
    """
    try:
        return cast("redis.Redis", _client(redis, url, timeout_s))
    except REDIS_ERRORS as error:
        raise redis_error(error) from error


def connect_async(url: str, timeout_s: float) -> AsyncRedis:
    """The same for asyncio; it always connects on first use."""
    return cast("AsyncRedis", _client(redis.asyncio, url, timeout_s))


def close(client: redis.Redis) -> None:
    """Close a client, and its connections to the sentinels, which redis-py leaves open."""
    client.close()
    for each in _sentinels(client):
        each.close()


async def close_async(client: AsyncRedis) -> None:
    """The same for asyncio."""
    await client.aclose()
    for each in _sentinels(client):
        await each.aclose()


def redis_error(error: Exception) -> Unreachable | Refused:
    """The client's own exception for one of redis-py."""
    text = str(error)
    if isinstance(error, exceptions.MovedError):
        return Refused(f"Redis: expected a single server, got a node of a cluster (MOVED {text}); use redis+cluster://")
    is_server_error = isinstance(error, (exceptions.AuthenticationError, exceptions.ResponseError))
    # redis-py removes the codes that it knows from the text, and keeps the others.
    is_final = is_server_error and (getattr(error, "status_code", None) or text.partition(" ")[0]) in _FINAL_CODES
    text = f"Redis: {text or type(error).__name__}"
    return Refused(text) if is_final else Unreachable(text)


def _sentinels(client: Any) -> list[Any]:
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    return [] if manager is None else manager.sentinels


def _client(package: Any, url: str, timeout_s: float) -> object:
    """A client of `redis` or of `redis.asyncio`, which have the same names."""
    parsed = parse_redis_url(url)
    if parsed.kind == "cluster":
        timeout_s /= 2  # before redis-py reports a failure, it asks a node where the slots are now
    retry = package.retry.Retry(NoBackoff(), 0)
    options = {"socket_connect_timeout": timeout_s, "socket_timeout": timeout_s, "retry": retry}
    if parsed.kind == "cluster":
        return package.RedisCluster.from_url(parsed.plain, **options)
    if parsed.kind == "server":
        return package.Redis.from_url(parsed.plain, **options)
    # redis-py parses the rest as if it were the URL of one server: login, TLS, and the options of the query.
    own = dict(package.connection.parse_url(parsed.plain))
    del own["host"]
    if own.pop("connection_class", None) is not None:
        own["ssl"] = True
    # TLS also applies to the sentinels; the login applies to the primary only.
    sentinel_timeout_s = min(timeout_s, _SENTINEL_TIMEOUT_S)
    shared = {"socket_connect_timeout": sentinel_timeout_s, "socket_timeout": sentinel_timeout_s, "retry": retry}
    shared |= {name: value for name, value in own.items() if name.startswith("ssl")}
    manager = package.Sentinel(list(parsed.sentinels), sentinel_kwargs=shared, **{**own, **options})
    return manager.master_for(parsed.primary)
