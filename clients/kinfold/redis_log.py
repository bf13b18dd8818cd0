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
        return Refused(f"Redis: expected a single server, got a node of a cluster (MOVED {text}); use redis+cluster://")
    is_server_error = isinstance(error, (exceptions.AuthenticationError, exceptions.ResponseError))
    # redis-py cuts off the codes that it knows and keeps the others.
    is_final = is_server_error and (getattr(error, "status_code", None) or text.partition(" ")[0]) in _FINAL_CODES
    text = f"Redis: {text or type(error).__name__}"
    return Refused(text) if is_final else Unreachable(text)


_FINAL_CODES: Final = frozenset(["ERR", "WRONGTYPE", "NOAUTH", "WRONGPASS", "NOPERM", "DENIED", "NOPROTO", "CROSSSLOT"])
"""What a server says that will not change by itself. All else passes: a failover (READONLY, MASTERDOWN, UNBLOCKED, LOADING,
NOREPLICAS), a slot on the move (CLUSTERDOWN, TRYAGAIN, ASK), a full memory or disk (OOM, MISCONF), somebody's script (BUSY,
UNKILLABLE), and what a newer server says: trying again costs less than giving up too early."""
