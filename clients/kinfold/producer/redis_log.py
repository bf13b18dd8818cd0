"""The log in Redis; each batch is appended once.

One call of a script appends a batch, so the log has all of it or nothing. After a lost reply the producer sends the batch
again under the same number. The script keeps the last number of each producer in a key with a time to live, and answers
without appending again. The fold would not be enough: its window for duplicates is 65,536 entries, and an outage may be longer.
"""

import hashlib
import os
from typing import Any, Final, cast

from redis import exceptions

from kinfold.producer.log import Receipt
from kinfold.producer.stamps import Stamps
from kinfold.transport.redis import REDIS_ERRORS, close, connect, redis_error
from kinfold_schemas.keys import DEFAULT_WORKSPACE, WORKSPACES, key, sent_key

_REMEMBERED_S: Final = 24 * 3600
"""The time to live of a producer's last number."""

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
_SHA: Final = hashlib.sha1(_APPEND.encode()).hexdigest()  # noqa: S324  the name that Redis gives to a script


class RedisLog:
    """The log of a workspace in Redis."""

    def __init__(self, url: str, workspace: str, timeout_s: float) -> None:
        self._client: Final = connect(url, timeout_s)
        self._workspace: Final = workspace
        self._keys: Final = [key(workspace, "events"), sent_key(workspace, os.urandom(8).hex())]
        self._stamps: Final = Stamps()
        self._is_announced = workspace == DEFAULT_WORKSPACE

    def append(self, number: int, events: list[bytes]) -> Receipt:
        """Append a batch, unless the log has the batch of this number. Raises Unreachable or Refused."""
        stamped = self._stamps.stamp(events)
        arguments = [2, *self._keys, number, _REMEMBERED_S, *stamped]
        try:
            if not self._is_announced:  # so that a projector finds the workspace (contract section 1)
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
        """Close the connection."""
        close(self._client)

    def _call(self, command: str, script: str, arguments: list[Any]) -> bytes:
        return cast("bytes", cast("Any", self._client).execute_command(command, script, *arguments))
