"""FastStream's broker for every kind of URL that `kinfold_services.connections` knows.

In a module of its own: FastStream takes a third of a second to import, and only the projector needs it.
"""

from types import TracebackType
from typing import Any, cast

from faststream.redis import RedisBroker, RedisClusterBroker, RedisSentinelBroker

from kinfold_services.connections import (
    CLUSTER,
    MAX_CONNECTIONS,
    SENTINEL,
    close_sentinels,
    plain_url,
    sentinel_options,
    tls_of,
    url_kind,
)


def make_broker(url: str, **options: Any) -> RedisBroker:
    """FastStream's broker for `url`."""
    options |= {"max_connections": MAX_CONNECTIONS, "socket_timeout": None, "apply_types": False}
    kind = url_kind(url)
    if kind == CLUSTER:
        return RedisClusterBroker(plain_url(url), **options)
    if kind == SENTINEL:
        hosts, master, own = sentinel_options(url)
        return _SentinelBroker(
            sentinels=hosts, sentinel_master_name=master, sentinel_kwargs=tls_of(own), **cast("Any", own), **options
        )
    return RedisBroker(url, **options)


class _SentinelBroker(RedisSentinelBroker):
    """Closes its connections to the sentinels too, as `connections` does for redis-py's client."""

    async def stop(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        client = self._connection
        await super().stop(exc_type, exc_val, exc_tb)
        if client is not None:
            await close_sentinels(client)
