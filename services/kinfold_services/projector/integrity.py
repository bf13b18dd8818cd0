"""Checks that a workspace's log and state belong together (contract section 8).

The state is made from the log, entry by entry, so the log holds the entry at the state's position. If it does not, and the
entry was not deleted or trimmed, the log is another one: an older copy, or one that has lost its end. The keys of the state
have as many fields as the fold wrote. If they have fewer, the server has evicted some, or somebody has deleted them. Nothing
may be folded onto such a state. A rebuild from the log repairs both cases.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

from kinfold_schemas.keys import COMMITTED, PrivateName, PublicName, key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.log.baseline import baseline_position
from kinfold_services.log.streams import as_entries
from kinfold_services.state.position import Position, entry_digest, read_position


class NeedsRebuild(RuntimeError):
    """The state does not match the log; the message says why. Nothing may be folded onto it."""


class WrongType(RuntimeError):
    """A key of the workspace has the wrong type. Nothing may be written to it."""


_TYPES: Final[dict[PublicName | PrivateName, bytes]] = {
    "events": b"stream",
    "changes": b"stream",
    "rejects": b"stream",
    **dict.fromkeys(COMMITTED, b"hash"),
    "members": b"zset",
    "created": b"zset",
    "projector": b"hash",
    "owner": b"string",
    "hold": b"string",
    "excluded": b"set",
    "blocked-identifiers": b"set",
    "baseline": b"hash",
    "baseline-pieces": b"list",
    "retention": b"hash",
    "retention-receipts": b"list",
}
"""The type of every key that a projector reads or writes."""


async def check_types(client: Client, workspace: str) -> None:
    """Raise WrongType if a key has the wrong type. A command on it would fail within a commit, with the rest written."""
    pipeline = client.pipeline(transaction=False)
    for name in _TYPES:
        pipeline.type(key(workspace, name))
    for (name, expected), found in zip(_TYPES.items(), await pipeline.execute(), strict=True):
        if found not in {b"none", expected}:
            raise WrongType(
                f"{key(workspace, name)}: expected a {expected.decode()}, got a {found.decode()}; "
                "rename or delete that key, then kinfold replay rebuilds the state"
            )


class LogInfo(NamedTuple):
    """What Redis knows about a log. An id is `0-0` if there is none."""

    entries: int
    added: int
    """How many entries were ever appended."""
    first: str
    last: str
    """The greatest id that was ever used."""
    deleted: str
    """The greatest id that XDEL has deleted. Trimming does not count."""


class Integrity:
    """Checks the log and the state of one workspace.

    Changes `client`: from now on, XRANGE returns the fields of an entry with repeated names, which are part of its content.
    """

    def __init__(self, client: Client, workspace: str) -> None:
        self._client: Final = client
        self._workspace: Final = workspace
        self._events: Final = key(workspace, "events")
        client.set_response_callback("XRANGE", cast("Any", as_entries))

    async def check_opening(self, position: Position) -> None:
        """Raise NeedsRebuild if the stored state, at this position, is not the log's."""
        await check_types(self._client, self._workspace)
        if position.damaged:
            raise NeedsRebuild(position.damaged)
        await self._check_baseline(position)
        if not position.stream_id:
            await self._check_beginning()
        await self._check_entry(position)
        await self.check(position)

    async def check(self, position: Position) -> None:
        """Raise NeedsRebuild if keys of the state have lost fields, or if the log does not hold the entry at the position."""
        await self._check_keys()
        await self._check_entry(position)

    async def check_committed(self, position: Position, fields: Mapping[bytes, bytes] | None) -> None:
        """Check the position that the last commit moved on from. `fields` is the log's entry there, as of the commit.

        So no batch is folded onto a log that has lost its end, or was replaced by an older copy, since the last batch.
        """
        if position.stream_id and position.digest and (fields is None or entry_digest(fields) != position.digest):
            await self._check_entry(position)

    async def lost_entries(self, position: Position) -> int:
        """How many entries after those that were folded were trimmed or deleted, as far as can be told now.

        It can be told if all remaining entries are folded, or none. Nothing may be folded meanwhile.
        """
        info = await self._info()
        at = position_key(position.stream_id)
        known = position.counts.entries + position.counts.lost
        if info.entries and at < position_key(info.first):
            return max(0, info.added - info.entries - known)
        return max(0, info.added - known) if at == position_key(info.last) or not info.entries else 0

    async def _check_beginning(self) -> None:
        """Raise NeedsRebuild if keys exist without a position: a state that was never written has neither."""
        names = [key(self._workspace, name) for name in (*COMMITTED, "changes") if name != "position"]
        pipeline = self._client.pipeline(transaction=False)
        for name in names:
            pipeline.exists(name)
        found = [name for name, exists in zip(names, await pipeline.execute(), strict=True) if exists]
        if found:
            raise NeedsRebuild(
                f"workspace {self._workspace}: expected {found[0]} and {key(self._workspace, 'position')}, or neither, got "
                "only the first: the server has evicted keys, or somebody has deleted them"
            )

    async def _check_baseline(self, position: Position) -> None:
        """The log was cut at its baseline, and entries follow only after that."""
        cut = await baseline_position(self._client, self._workspace)
        if position_key(position.stream_id) < position_key(cut):
            raise NeedsRebuild(
                f"workspace {self._workspace}: expected a state at {cut}, where the log begins, or later; got one at "
                f"{position.stream_id or 'no position'}"
            )

    async def _check_keys(self) -> None:
        tables: list[PublicName | PrivateName] = ["contacts", "contact-stamps", "visitors", "external-ids", "emails"]
        pipeline = self._client.pipeline(transaction=True)
        pipeline.hgetall(key(self._workspace, "position"))
        for table in tables:
            pipeline.hlen(key(self._workspace, table))
        pipeline.zcard(key(self._workspace, "created"))
        pipeline.zcard(key(self._workspace, "members"))
        stored, *found = await pipeline.execute()
        position = read_position(stored)
        if not position.stream_id:
            return await self._check_beginning()
        counts = position.counts
        living = counts.contacts - counts.merged
        names = (*tables, "created", "members")
        expected = [counts.contacts, living, counts.visitors, counts.external_ids, counts.emails, living, counts.linked]
        for name, has, wants in zip(names, found, expected, strict=True):
            if has < wants:
                raise NeedsRebuild(
                    f"workspace {self._workspace}: {name}: expected {wants} fields, got {has}: the "
                    "server has evicted keys, or somebody has deleted them"
                )
        return None

    async def _check_entry(self, position: Position) -> None:
        """Raise NeedsRebuild if the log never held the entry at the position, or holds another one there."""
        if not position.stream_id:
            return
        found = await self._entry(position.stream_id)
        if found is None:
            info = await self._info()
            at = position_key(position.stream_id)
            is_trimmed = position_key(info.last) >= at and (not info.entries or position_key(info.first) > at)
            if not is_trimmed and at > position_key(info.deleted):
                raise NeedsRebuild(
                    f"workspace {self._workspace}: the state is ahead of the log: expected entry {position.stream_id}, which "
                    f"was folded, got a log that ends at {info.last} and never held it: an older copy, or its end is lost"
                )
        elif position.digest and found != position.digest:
            raise NeedsRebuild(
                f"workspace {self._workspace}: the log is another one: expected the entry {position.stream_id} that was "
                "folded, got another one with this id"
            )

    async def _entry(self, entry_id: str) -> str | None:
        """The digest of an entry; None if the log does not hold it."""
        found = cast("list[RawEntry]", await self._client.xrange(self._events, entry_id, entry_id))
        return entry_digest(found[0][1]) if found else None

    async def _info(self) -> LogInfo:
        if not await self._client.exists(self._events):
            return LogInfo(0, 0, "0-0", "0-0", "0-0")
        info = await self._client.xinfo_stream(self._events)
        first = info["first-entry"]
        return LogInfo(
            info["length"],
            info["entries-added"],
            first[0].decode() if first else "0-0",
            info["last-generated-id"].decode(),
            info["max-deleted-entry-id"].decode(),
        )
