"""FastStream's broker over a connection of ours, so that one place handles every kind of URL and every timeout.

It has its own module because FastStream takes a third of a second to import and only the projector needs it.
"""

from typing import Any, Final

from faststream.redis import RedisBroker
from faststream.redis.configs.state import ConnectionState

from kinfold_services.connections import Client


class LogBroker(RedisBroker):
    """A broker that uses a client of `kinfold_services.connections`, and closes it when it stops."""

    def __init__(self, client: Client, **options: Any) -> None:
        self._given: Final = client
        super().__init__("redis://", apply_types=False, **options)

    def _make_connection_state(self, connection_options: dict[str, Any], kwargs: dict[str, Any]) -> "ConnectionState[Any]":  # noqa: ARG002
        return _Connected(self._given)


class _Connected(ConnectionState[Any]):
    def __init__(self, client: Client) -> None:
        super().__init__()
        self._given: Final = client

    async def connect(self) -> Any:
        self._client, self._connected = self._given, True
        return self._given
