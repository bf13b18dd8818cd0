"""Appending to the log in Redis, each batch once.

A batch is one call of a script, so it is in the log as a whole or not at all. Where the answer was lost the batch is sent
again under its number, and the script, which keeps each producer's last number in a key with a time to live, answers without
appending. That is better than leaving it to the fold: its window for duplicates is 65,536 entries, and an outage may be longer.
"""

import hashlib
import os
from typing import Any, Final, cast

from redis import exceptions

from kinfold.connections import close, connect
from kinfold.encoding import Stamps
from kinfold.errors import Refused, Unreachable
from kinfold.transports import Receipt
from kinfold_schemas.keys import DEFAULT_WORKSPACE, WORKSPACES, key, sent_key

_REMEMBERED_S: Final = 24 * 3600
"""How long after its last batch a producer's last number is kept."""

_APPEND: Final = """
local last = redis.call('GET', KEYS[2])
if last then
    local number, position = string.match(last, '^(%d+) (.+)$')
    if number == ARGV[1] then return position end
end
local position
for i = 3, #ARGV do position = redis.call('XADD', KEYS[1], '*', 'event', ARGV[i]) end
redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. position, 'EX', ARGV[2])
return position
"""
REDIS_ERRORS: Final = (exceptions.RedisError, exceptions.RedisClusterException)
"""What redis-py raises. The second is no RedisError: no node of a cluster answers."""
_SHA: Final = hashlib.sha1(_APPEND.encode()).hexdigest()  # noqa: S324  Redis' own name for a script


class RedisLog:
    """A transport (`kinfold.transports.Transport`) to the log of a workspace. Used by one thread."""

    def __init__(self, url: str, workspace: str, timeout_s: float) -> None:
        try:
            self._client: Final = connect(url, timeout_s)
        except REDIS_ERRORS as error:  # a cluster is asked for its nodes at once
            raise redis_error(error) from error
        self._workspace: Final = workspace
        self._keys: Final = [key(workspace, "events"), sent_key(workspace, os.urandom(8).hex())]
        self._stamps: Final = Stamps()
        self._is_announced = workspace == DEFAULT_WORKSPACE

    def append(self, number: int, events: list[bytes]) -> Receipt:
        """Appends a batch, unless the batch of this number is there already. Raises Unreachable or Refused."""
        stamped = self._stamps.stamp(events)
        arguments = [2, *self._keys, number, _REMEMBERED_S, *stamped]
        try:
            if not self._is_announced:  # contract section 1: that is how a projector learns of a workspace
                self._client.sadd(WORKSPACES, self._workspace)
                self._is_announced = True
            try:
                position = self._call("EVALSHA", _SHA, arguments)
            except exceptions.NoScriptError:
                position = self._call("EVAL", _APPEND, arguments)
        except REDIS_ERRORS as error:
            self._stamps.lost(stamped)
            raise redis_error(error) from error
        self._stamps.arrived(position.decode(), stamped)
        return Receipt(position.decode())

    def close(self) -> None:
        """Gives up the connection."""
        close(self._client)

    def _call(self, command: str, script: str, arguments: list[Any]) -> bytes:
        return cast("bytes", cast("Any", self._client).execute_command(command, script, *arguments))


def redis_error(error: Exception) -> Unreachable | Refused:
    """What redis-py raised, as ours."""
    text = str(error)
    if isinstance(error, exceptions.MovedError):
        return Refused(f"Redis: found a node of a cluster (MOVED {text}), allowed there is redis+cluster://")
    # What goes away by itself: a failover, a full server or disk, a server that still loads, or runs somebody's script.
    is_transient = isinstance(error, _TRANSIENT) or text.startswith(_TRANSIENT_CODES)
    is_final = isinstance(error, (exceptions.AuthenticationError, exceptions.ResponseError)) and not is_transient
    text = f"Redis: {text or type(error).__name__}"
    return Refused(text) if is_final else Unreachable(text)


_TRANSIENT: Final = (
    exceptions.ClusterDownError,
    exceptions.MasterDownError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
)
_TRANSIENT_CODES: Final = ("BUSY ", "MISCONF ", "NOREPLICAS ", "UNKILLABLE ")
"""Of errors for which redis-py has no class."""
