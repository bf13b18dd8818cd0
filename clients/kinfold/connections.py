"""Connections to Redis by URL: one server, TLS, a unix socket, behind Sentinel, or a cluster (contract section 8).

`redis://`, `rediss://`, `unix://`, and `redis+cluster://`, `redis+sentinel://`, with `rediss+` where those speak TLS.
Nothing is sent twice by redis-py: whether a repeat is harmless is for the caller to know.
"""

from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from kinfold_schemas.urls import REDIS_SCHEMES, hide_password, parse_redis_url

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

HTTP_SCHEMES: Final = frozenset(["http", "https"])

_SENTINEL_TIMEOUT_S: Final = 1.0
"""How long a sentinel may take: they are asked in turn, and one that hangs with its machine must not use up the time."""


def is_http(url: str) -> bool:
    """Whether `url` is a gateway's; otherwise it is Redis'. Raises ValueError for another URL, TypeError for no text."""
    if not isinstance(cast("object", url), str):  # an environment variable that is not set, most of all
        raise TypeError(f"url: expected a string such as redis://localhost:6379/0, got {url!r}")
    scheme = url.partition(":")[0].lower()
    # The background thread would find out later, and could only lose what was said.
    if scheme in HTTP_SCHEMES:
        _check_gateway(url)
        return True
    if scheme not in REDIS_SCHEMES:
        allowed = ", ".join(f"{each}://" for each in sorted(HTTP_SCHEMES | REDIS_SCHEMES))
        raise ValueError(f"url: expected one that begins with {allowed}, got {hide_password(url)!r}")
    try:
        parse_redis_url(url)
    except ValueError as error:
        raise ValueError(f"url: {error}") from None
    return False


def gateway_key(key: str | None, allowed: str) -> str:
    """The key, which a gateway's URL needs. Raises ValueError for none, and for what no header can hold; it shows none."""
    if not key:
        raise ValueError(f"key: found none, allowed with a gateway's URL is {allowed} (`kinfold keys create`)")
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise ValueError("key: found white space or other characters that no key has (a line end?), allowed are ASCII letters")
    return key


def connect(url: str, timeout_s: float) -> "Redis":
    """A blocking client that decodes nothing; it connects when it is first used, and gives up after `timeout_s`."""
    from redis import Redis, RedisCluster, Sentinel  # noqa: PLC0415  whoever uses the gateway needs none of it
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.connection import parse_url  # noqa: PLC0415  # pyright: ignore[reportUnknownVariableType]
    from redis.retry import Retry  # noqa: PLC0415

    return cast("Redis", _client(url, timeout_s, Retry(NoBackoff(), 0), parse_url, Redis, RedisCluster, Sentinel))


def connect_async(url: str, timeout_s: float) -> "AsyncRedis":
    """The same for asyncio."""
    from redis.asyncio import Redis, RedisCluster, Sentinel  # noqa: PLC0415
    from redis.asyncio.connection import parse_url  # noqa: PLC0415
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    return cast("AsyncRedis", _client(url, timeout_s, Retry(NoBackoff(), 0), parse_url, Redis, RedisCluster, Sentinel))


def close(client: "Redis") -> None:
    """Closes a client, and its connections to the sentinels, which redis-py leaves open."""
    client.close()
    for each in _sentinels(client):
        each.close()


async def close_async(client: "AsyncRedis") -> None:
    """The same for asyncio."""
    await client.aclose()
    for each in _sentinels(client):
        await each.aclose()


def _sentinels(client: Any) -> list[Any]:
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    return [] if manager is None else manager.sentinels


def _client(  # noqa: PLR0917  what the two colours of redis-py have in common
    url: str, timeout_s: float, retry: Any, parse_url: Any, redis: Any, cluster: Any, sentinel: Any
) -> object:
    parsed = parse_redis_url(url)
    if parsed.kind == "cluster":
        timeout_s /= 2  # before it reports a failure, redis-py asks a node where the slots are now
    options = {"socket_connect_timeout": timeout_s, "socket_timeout": timeout_s, "retry": retry}
    if parsed.kind == "cluster":
        return cluster.from_url(parsed.plain, **options)
    if parsed.kind == "server":
        return redis.from_url(parsed.plain, **options)
    # Read by redis-py itself, as if it were the URL of one server: login, TLS, and the options of the query.
    own = dict(parse_url(parsed.plain))
    del own["host"]
    if own.pop("connection_class", None) is not None:
        own["ssl"] = True
    # TLS is for the sentinels as well; a login is the primary's.
    sentinel_timeout_s = min(timeout_s, _SENTINEL_TIMEOUT_S)
    shared = {"socket_connect_timeout": sentinel_timeout_s, "socket_timeout": sentinel_timeout_s, "retry": retry}
    shared |= {name: value for name, value in own.items() if name.startswith("ssl")}
    manager = sentinel(list(parsed.sentinels), sentinel_kwargs=shared, **{**own, **options})
    return manager.master_for(parsed.primary)


def _check_gateway(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise ValueError(f"url: expected https://host or https://host:port, got {hide_password(url)!r}")
