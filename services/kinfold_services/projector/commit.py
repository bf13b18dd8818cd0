"""The commit: one batch's state, feed, rejects and position in one transaction (contract section 8).

    arm      WATCH position, hold; read both
    send     MULTI, read the log's entry at the position before, the writes, the position last, EXEC, and after it the next
             arm: one write to the socket
    finish   read the replies; meanwhile the next batch was folded

The transaction is conditional because it is armed: Redis executes it only if neither the position nor the hold has changed
since. All who write a state change the position: a projector that takes the workspace (`lease.lua`), and a replay that replaces
the state (`swap.lua`). The replies to EXEC and to the arm after it say what happened:

| EXEC's reply | position, hold | the batch |
|---|---|---|
| an array | | is committed |
| an array with an error in it | | is half written, for Redis does not roll back: CommitFailed |
| nil | another generation | Replaced |
| nil | held | waits until the replay that holds it is done |
| nil | another owner or entry | LostPlace |
| nil | ours, as it was | is sent again |
| EXECABORT | | was refused; nothing was written |
| none: the server closes the connection whenever a large batch is sent | before the batch | is too large for it: Refused |
| none: the connection is gone | after the batch | is committed, and the reply was lost: WrongType where it told of an error |
| none | before the batch | is sent again, on a new connection |

How large a batch can be (contract section 2, Weight): one entry changes at most three contacts, each of 80 KiB with stamps of
270 KiB (256 keys that are set and 256 that were removed, of 128 characters), and one visitor of 100 KiB with stamps of 40 KiB
(64 links with 64 times each). It makes at most seven changes of 80 KiB, or a reject of 130 KiB. That is 2 MiB. A batch
ends after the entry with which its changes have more than `TOLD_BYTES`, and one of several entries has at most `BATCH_BYTES`.

A server that cannot do it now (away, full, a replica, a slot on the move) is asked again until it can.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from kinfold_projections.counts import Counts
from kinfold_services.connections import SERVER_ERRORS, Client, drop_idle_connections, is_passing
from kinfold_services.log.streams import as_entries
from kinfold_services.projector.integrity import check_types
from kinfold_services.rejects.entries import Reject
from kinfold_services.state.group import GROUP
from kinfold_services.state.position import LostPlace, Position, Replaced, position_fields
from kinfold_services.state.wire import Wire
from kinfold_services.state.writes import Writes, pack

TOLD_BYTES: Final = 4 << 20
BATCH_BYTES: Final = 16 << 20
_LEAST_LIMIT_BYTES: Final = 1 << 20
"""Every server takes this much: its limits (`proto-max-bulk-len`, `client-query-buffer-limit`) cannot be set lower."""
_CLOSED_TIMES: Final = 3
"""If the server closes the connection this many times in a row when it gets a batch, that counts as a refusal."""
_PROTOCOL_ERROR: Final = "Protocol error"
_HELD_S: Final = 0.005
_FIRST_RETRY_S: Final = 0.05
_LAST_RETRY_S: Final = 0.5
_ARM_REPLIES: Final = 3
_MULTI: Final = pack(b"MULTI")
_EXEC: Final = pack(b"EXEC")
_UNWATCH: Final = pack(b"UNWATCH")
_ABORTED: Final = "EXECABORT Transaction discarded because of: "
_SETID: Final = pack(b"XGROUP", b"SETID", b"")[4 : -len(b"$0\r\n\r\n")]

_Answer = TypeVar("_Answer")


class CommitFailed(RuntimeError):
    """A command of a transaction failed and the others did not, so the state is damaged. The message names the command."""


class Refused(ResponseError):
    """The server refuses a batch for its size. Nothing of it was written."""


class Move(NamedTuple):
    """The position after which a batch was read, and the position that it leads to."""

    before: Position
    after: Position
    took_ms: float
    """How long the batch took so far."""


class Transaction(NamedTuple):
    """A folded batch as packed commands, ready to send."""

    commands: Sequence[bytes]
    before: Position
    after: Position

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(map(len, self.commands))


class Armed(NamedTuple):
    """The position, its owner and the hold, as they were when the transaction was armed."""

    stream_id: str
    generation: str
    owner: str
    is_held: bool


class Committer:
    """Commits the batches of one workspace, one after the other, for the projector that owns it.

    Between two commits its connection also answers queries. What a batch needs is loaded before the previous batch is sent,
    because Redis answers nothing while it executes a transaction.
    """

    def __init__(self, client: Client, workspace: str, token: str, lease_ms: int, answer_s: float) -> None:
        self._workspace: Final = workspace
        self._token: Final = token
        self._client: Final = client
        self._writes: Final = Writes(workspace)
        self._wire: Final = Wire(client, self._writes.key("position").decode(), answer_s)
        position, hold = self._writes.key("position"), self._writes.key("hold")
        self._arming: Final = (
            pack(b"WATCH", position, hold),
            pack(b"HMGET", position, b"stream_id", b"generation", b"owner"),
            pack(b"EXISTS", hold),
        )
        self._lease: Final = pack(b"SET", self._writes.key("owner"), token, b"PX", lease_ms)
        self.committed = Position("", Counts())
        """The position of the last batch that was committed here."""
        self.left = Position("", Counts())
        """The position that the last commit moved on from."""
        self.left_entry: Mapping[bytes, bytes] | None = None
        """The fields of the log's entry at `left`, as of the commit. None if the log did not hold it, or if that is unknown."""
        self._transaction: Transaction | None = None
        self._is_sent = False
        self._closed_times = 0
        """How often in a row the server has closed the connection when it got the transaction."""
        self._armed: Armed | None = None
        self._log: Final = structlog.get_logger().bind(workspace=workspace)

    def transaction(self, writes: Iterable[bytes], rejects: Sequence[Reject], move: Move) -> Transaction:
        """The transaction of a folded batch: its writes, followed by the commands that move the position."""
        keys, after, before = self._writes, move.after, move.before.stream_id or "0-0"
        read = after.counts.entries + after.counts.lost
        commands = [
            pack(b"XRANGE", keys.key("events"), before, before),
            *writes,
            *(keys.reject(reject.values()) for reject in rejects),
            self._lease,
            keys.hash("projector", {"committed_at_ms": time.time_ns() // 1_000_000}),
            pack(b"HINCRBY", keys.key("projector"), b"batches", 1),
            pack(b"HINCRBYFLOAT", keys.key("projector"), b"batch_ms", move.took_ms),
            # For tools that show consumer groups. Nothing depends on it, so a missing group is not an error.
            pack(b"XGROUP", b"SETID", keys.key("events"), GROUP, after.stream_id or "0-0", b"ENTRIESREAD", read),
            keys.hash("position", position_fields(after)),
        ]
        return Transaction(commands, move.before, after)

    async def ask(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to commands that only read. No batch may be in flight. Raises errors that are not temporary."""

        async def attempt() -> list[Any]:
            await self._connect()
            self._wire.send(commands)
            return _without_errors(await self._wire.replies(len(commands)))

        return await self._patiently(attempt)

    async def start(self, transaction: Transaction) -> None:
        """Send a batch. `finish` has to be called before anything else."""
        self._transaction, self._is_sent, self._closed_times = transaction, False, 0
        armed = self._armed
        if armed is not None and not armed.is_held and _is_before(armed, transaction, self._token) and self._wire.is_open:
            with suppress(RedisError):  # `finish` notices, and sends it again
                self._send(transaction)

    async def finish(self) -> bool:
        """Wait until the batch that was started is committed. Returns False if there is none.

        Raises LostPlace or Replaced if it was not committed; CommitFailed; and errors that are not temporary.
        """
        transaction, self._transaction = self._transaction, None
        if transaction is None:
            return False
        self.left, self.left_entry = transaction.before, None
        await self._patiently(lambda: self._commit_unless_refused(transaction))
        self.committed = transaction.after
        return True

    async def close(self) -> None:
        """Close the connection. A batch in flight may be committed or not: the next owner finds out."""
        self._transaction, self._armed, self._is_sent, self.left_entry = None, None, False, None
        await self._wire.close()

    async def _patiently(self, attempt: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Retry until the server can answer, on a new connection each time."""
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                return await attempt()
            except SERVER_ERRORS as error:
                self._armed, self._is_sent = None, False
                await self._wire.close()
                if not is_passing(error):
                    raise
                self._log.warning("redis cannot do it now", error=str(error), retry_in_s=retry_s)
                await drop_idle_connections(self._client)
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _LAST_RETRY_S)

    async def _connect(self) -> None:
        if not self._wire.is_open:
            self._armed = None
            await self._wire.open()

    async def _commit_unless_refused(self, transaction: Transaction) -> None:
        """As `_commit`. Raises Refused where the server does not take so much at once.

        It may say so before it closes the connection, but the reply is lost if the rest of the batch is on its way still.
        """
        try:
            await self._commit(transaction)
        except ResponseError as error:
            if _PROTOCOL_ERROR not in str(error):
                raise
            raise Refused(str(error)) from error
        except RedisConnectionError as error:
            self._closed_times += self._is_sent
            if self._closed_times < _CLOSED_TIMES or transaction.size < _LEAST_LIMIT_BYTES:
                raise
            reason = (
                f"the server closed the connection {self._closed_times} times when it got a batch of {transaction.size:,} bytes"
            )
            raise Refused(reason) from error

    async def _commit(self, transaction: Transaction) -> None:
        while True:
            if not self._is_sent:
                armed = await self._arm(transaction)
                if self._is_committed(armed, transaction):
                    await check_types(self._client, self._workspace)  # the lost reply may have reported a failed command
                    return
                self._check(armed, transaction)
                self._send(transaction)
            if await self._is_executed(transaction):
                return

    def _send(self, transaction: Transaction) -> None:
        self._wire.send((_MULTI, *transaction.commands, _EXEC, *self._arming))
        self._armed, self._is_sent = None, True

    async def _arm(self, transaction: Transaction) -> Armed:
        """Arm for the batch unless already armed, and wait while a replay holds the workspace."""
        await self._connect()
        armed = self._armed
        if armed is None:
            self._wire.send(self._arming)
            armed = _armed(await self._wire.replies(_ARM_REPLIES))
        while armed.is_held and _is_before(armed, transaction, self._token):
            await asyncio.sleep(_HELD_S)
            self._wire.send((_UNWATCH, *self._arming))
            armed = _armed((await self._wire.replies(1 + _ARM_REPLIES))[1:])
        self._armed = armed
        return armed

    def _is_committed(self, armed: Armed, transaction: Transaction) -> bool:
        """Whether the batch was committed and only the reply was lost."""
        return armed.owner == self._token and armed.stream_id == transaction.after.stream_id != transaction.before.stream_id

    async def _is_executed(self, transaction: Transaction) -> bool:
        """Read the replies to the transaction and to the arm that follows it. Returns False if it has to be sent again."""
        count = len(transaction.commands)
        replies = await self._wire.replies(1 + count + 1 + _ARM_REPLIES)
        self._is_sent = False
        executed = replies[1 + count]
        if isinstance(executed, RedisError):
            refused = next((reply for reply in replies[: 1 + count] if isinstance(reply, RedisError)), executed)
            raise ResponseError(str(refused).removeprefix(_ABORTED))
        results: list[Any] = executed or []
        for command, reply in zip(transaction.commands, results, strict=executed is not None):
            if isinstance(reply, RedisError) and _SETID not in command[: len(_SETID) + 8]:
                raise CommitFailed(f"workspace {self._workspace}: {_name(command)} failed within a commit: {reply}")
        self._armed = _armed(replies[2 + count :])
        if executed is None:
            return False
        self.left_entry = next((fields for _, fields in as_entries(executed[0])), None)
        return True

    def _check(self, armed: Armed, transaction: Transaction) -> None:
        if armed.generation != transaction.before.generation:
            raise Replaced(
                f"workspace {self._workspace}: another state, {armed.generation!r}, replaced {transaction.before.generation!r}"
            )
        if armed.owner != self._token:
            raise LostPlace(f"workspace {self._workspace}: another projector owns the workspace")
        if armed.stream_id != transaction.before.stream_id:
            expected = transaction.before.stream_id
            raise LostPlace(f"workspace {self._workspace}: expected position {expected!r}, got {armed.stream_id!r}")


def _is_before(armed: Armed, transaction: Transaction, token: str) -> bool:
    before = transaction.before
    return (armed.stream_id, armed.generation, armed.owner) == (before.stream_id, before.generation, token)


def _armed(replies: Sequence[Any]) -> Armed:
    _, position, held = _without_errors(replies)
    stream_id, generation, owner = [(value or b"").decode() for value in position]
    return Armed(stream_id, generation, owner, bool(held))


def _without_errors(replies: Sequence[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, RedisError):
            raise reply
    return list(replies)


def _name(command: bytes) -> str:
    """The name of a packed command, and its key."""
    parts = command.split(b"\r\n", 5)
    return f"{parts[2].decode()} {parts[4].decode(errors='replace')}"
