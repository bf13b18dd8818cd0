"""Connections to Redis by URL: one server, TLS, a unix socket, behind Sentinel, or a cluster (contract section 8).

`redis://`, `rediss://`, `unix://`, and `redis+cluster://`, `redis+sentinel://`, with `rediss+` where those speak TLS.
Nothing is sent twice by redis-py: whether a repeat is harmless is for the caller to know.
"""

from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

CLUSTER: Final = "redis+cluster"
SENTINEL: Final = "redis+sentinel"
HTTP_SCHEMES: Final = frozenset(["http", "https"])
REDIS_SCHEMES: Final = frozenset(["redis", "rediss", "unix", CLUSTER, "rediss+cluster", SENTINEL, "rediss+sentinel"])

_SENTINEL_PORT: Final = 26379


def is_http(url: str) -> bool:
    """Whether `url` is a gateway's; otherwise it is Redis'. Raises ValueError for a URL that is none, TypeError for no text."""
    if not isinstance(cast("object", url), str):  # an environment variable that is not set, most of all
        raise TypeError(f"url: found {url!r}, allowed is a string such as redis://localhost:6379/0")
    try:
        scheme = urlsplit(url).scheme
        if scheme in HTTP_SCHEMES:
            _check_gateway(url)
            return True
        if scheme in REDIS_SCHEMES:
            _check_redis(url)
            return False
    except ValueError as error:  # whoever finds out later, in the background, can only lose what was said
        raise ValueError(f"url: found {_safe(url)!r}, {error}") from None
    allowed = ", ".join(f"{each}://" for each in sorted(HTTP_SCHEMES | REDIS_SCHEMES))
    raise ValueError(f"url: found {_safe(url)!r}, allowed is one that begins with {allowed}")


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

    options = {**_timeouts(timeout_s), "retry": Retry(NoBackoff(), 0)}
    return cast("Redis", _client(url, options, parse_url, Redis, RedisCluster, Sentinel))


def connect_async(url: str, timeout_s: float) -> "AsyncRedis":
    """The same for asyncio."""
    from redis.asyncio import Redis, RedisCluster, Sentinel  # noqa: PLC0415
    from redis.asyncio.connection import parse_url  # noqa: PLC0415
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    options = {**_timeouts(timeout_s), "retry": Retry(NoBackoff(), 0)}
    return cast("AsyncRedis", _client(url, options, parse_url, Redis, RedisCluster, Sentinel))


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


def _timeouts(timeout_s: float) -> dict[str, Any]:
    return {"socket_connect_timeout": timeout_s, "socket_timeout": timeout_s}


def _client(  # noqa: PLR0917  what the two colours of redis-py have in common
    url: str, options: dict[str, Any], parse_url: Any, redis: Any, cluster: Any, sentinel: Any
) -> object:
    kind = urlsplit(url).scheme.replace("rediss+", "redis+")
    if kind == CLUSTER:
        return cluster.from_url(_plain(url), **options)
    if kind == SENTINEL:
        hosts, master, single = _sentinel(url)
        # Read by redis-py itself, as if it were the URL of one server: login, TLS and whatever else a query may say.
        own = dict(parse_url(single))
        del own["host"]
        if own.pop("connection_class", None) is not None:
            own["ssl"] = True
        # Who speaks TLS does so everywhere; a login is the master's.
        shared = {**options, **{name: value for name, value in own.items() if name.startswith("ssl")}}
        return sentinel(hosts, sentinel_kwargs=shared, **{**own, **options}).master_for(master)
    return redis.from_url(url, **options)


def _check_gateway(url: str) -> None:
    parts = urlsplit(url)
    if not parts.hostname or parts.port == 0:
        raise ValueError(f"allowed is {parts.scheme}://host or {parts.scheme}://host:port")


def _check_redis(url: str) -> None:
    """What redis-py takes is what it makes a connection of, whether it connects or not."""
    from redis import ConnectionPool  # noqa: PLC0415  as above

    scheme = urlsplit(url).scheme
    single = _sentinel(url)[2] if scheme.endswith("+sentinel") else _plain(url) if "+" in scheme else url
    database = urlsplit(single).path.strip("/")
    if scheme != "unix" and not (database or "0").isdecimal():  # redis-py would take 0
        raise ValueError(f"allowed is a number as its database, and not {database!r}")
    try:
        connection: Any = ConnectionPool.from_url(single).make_connection()
    except (TypeError, ValueError) as error:
        raise ValueError(f"of which redis-py says: {error}") from None
    if connection.encoder.decode_responses:
        raise ValueError("allowed is no decode_responses: the log is bytes")


def _plain(url: str) -> str:
    """The URL with a scheme that redis-py knows."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(scheme=parts.scheme.partition("+")[0]))


def _sentinel(url: str) -> tuple[list[tuple[str, int]], str, str]:
    """The sentinels of `redis+sentinel://host:port,host:port/master/0`, the master's name, and its URL but for the host."""
    parts = urlsplit(_plain(url))
    login, _, hosts = parts.netloc.rpartition("@")
    master, _, database = parts.path.strip("/").partition("/")
    if not master:
        raise ValueError("allowed is redis+sentinel://host:port/master/0")
    addresses = [each.partition(":") for each in hosts.split(",")]
    single = urlunsplit(parts._replace(netloc=f"{login}@master", path=f"/{database or 0}"))
    return [(host, int(port or _SENTINEL_PORT)) for host, _, port in addresses], unquote(master), single


def _safe(url: str) -> str:
    """The URL without its password, for messages."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('//')[0]}//…{at}{tail}" if at else url
