"""Commits without a projector: fold events into batches, pass them to a `Committer`, and check what is stored afterwards."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, cast

from redis.asyncio import Redis

from kinfold_projections.batches import RawEntry, fold_batch, read_batch
from kinfold_projections.counts import Counts
from kinfold_projections.state import State
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import COMMITTED, PrivateName, PublicName, key
from kinfold_services.connections import Client
from kinfold_services.projector.commit import Committer, Move, Transaction
from kinfold_services.projector.lease import LEASE_MS, Lease
from kinfold_services.rejects.entries import as_rejects
from kinfold_services.state.group import make_group
from kinfold_services.state.position import Position, entry_digest, position_fields
from kinfold_services.state.writes import Writes
from tests.support.event_log import append, entry_id
from tests.support.snapshots import read_stream
from tests.support.store import Store

ANSWER_S: Final = 5.0
FEED_ENTRIES: Final = 1_000_000


class Committing:
    """The owner of a workspace, from the beginning of the log. It reads the stored data through `redis`, without any proxy."""

    def __init__(self, client: Client, redis: Redis, workspace: str, answer_s: float = ANSWER_S) -> None:
        self.workspace: Final = workspace
        self.redis: Final = redis
        self.lease: Final = Lease(client, workspace, asyncio.Event())
        self.committer: Final = Committer(client, workspace, self.lease.token, LEASE_MS, answer_s)
        self.expected: Final = Expected(workspace)

    async def own(self) -> None:
        """Take ownership of the workspace."""
        await make_group(self.redis, self.workspace)
        while owned_s := await self.lease.take():
            await asyncio.sleep(owned_s)

    async def fold(self, *events: Mapping[str, Any] | bytes) -> Transaction:
        """Append events to the log and fold them; without events, fold what others have appended."""
        before, start = self.expected.position, self.expected.entries
        if events:
            await append(self.redis, self.workspace, events, start=start)
        raws = await self.redis.xrange(key(self.workspace, "events"), entry_id(start))
        folded = self.expected.fold(cast("list[RawEntry]", raws))
        writes = Writes(self.workspace)
        packed = [*writes.state(folded.state), *writes.feed(folded.changes, FEED_ENTRIES)]
        return self.committer.transaction(packed, as_rejects(folded.rejects), Move(before, self.expected.position, 0.5))

    async def commit(self, *events: Mapping[str, Any] | bytes) -> None:
        """Fold events and commit them."""
        await self.send(await self.fold(*events))

    async def send(self, transaction: Transaction) -> None:
        """Commit a batch."""
        await self.committer.start(transaction)
        assert await self.committer.finish()

    async def assert_stored(self) -> None:
        """Assert that every batch is stored exactly once: state, feed, rejects and position."""
        await self.expected.assert_stored(self.redis)


class Expected:
    """The data that must be stored, computed with one state over the whole log."""

    def __init__(self, workspace: str) -> None:
        self.workspace: Final = workspace
        self.position = Position("", Counts())
        self.entries = 0
        """How many entries were folded."""
        self._state: Final = State(workspace)
        self._store: Final = Store(workspace)
        self._feed: Final[list[bytes]] = []
        self._rejected: Final[list[str]] = []

    def fold(self, raws: list[RawEntry]) -> Any:
        """Fold the next entries of the log; returns their outcomes."""
        folded = fold_batch(self._state, read_batch(raws, IdentifierRules()), self.position.counts)
        last, fields = raws[-1]
        self.position = Position(last.decode(), folded.counts, "", entry_digest(fields))
        self.entries += len(raws)
        self._store.write(folded.state)
        self._feed.extend(folded.changes)
        self._rejected.extend(entry.decode() for (entry, _), _ in folded.rejects)
        return folded

    async def assert_stored(self, client: Redis) -> None:
        """Assert that the server holds this data, key by key, and that the counts are the sizes of the keys."""
        found, store = await committed(client, self.workspace), self._store
        wanted: dict[str, dict[bytes, bytes] | list[bytes]] = {
            "visitors": _encoded(store.visitors),
            "visitor-stamps": _encoded(store.visitor_stamps),
            "contacts": _encoded(store.contacts),
            "contact-stamps": _encoded(store.contact_stamps),
            "external-ids": _encoded(store.external_ids),
            "emails": _encoded(store.emails),
            "members": sorted(each.encode() for each in store.members),
            "created": sorted(each.encode() for each in store.created),
            "position": _encoded({name: str(value) for name, value in position_fields(self.position).items()}),
        }
        position = found.pop("position")
        assert isinstance(position, dict)
        position = {name: value for name, value in position.items() if name not in {b"owner", b"generation"}}
        assert position == wanted.pop("position"), (position, position_fields(self.position))
        for name, content in wanted.items():
            assert found[name] == content, (name, found[name], content)
        assert [fields[b"change"] for _, fields in await read_stream(client, self.workspace, "changes")] == self._feed
        rejects = await read_stream(client, self.workspace, "rejects")
        assert [fields[b"entry"].decode() for _, fields in rejects] == self._rejected
        counts = self.position.counts
        sizes = [len(found[name]) for name in ("contacts", "created", "visitors", "external-ids", "emails")]
        living = counts.contacts - counts.merged
        assert sizes == [counts.contacts, living, counts.visitors, counts.external_ids, counts.emails]
        assert bool(found["members"]) == bool(counts.linked)


async def committed(client: Redis, workspace: str) -> dict[str, dict[bytes, bytes] | list[bytes]]:
    """The stored value of each key in `COMMITTED`."""
    pipeline = client.pipeline(transaction=True)
    for name in COMMITTED:
        if _is_sorted(name):
            pipeline.zrange(key(workspace, name), 0, -1)
        else:
            pipeline.hgetall(key(workspace, name))
    return dict(zip(COMMITTED, await pipeline.execute(), strict=True))


def _is_sorted(name: PublicName | PrivateName) -> bool:
    return name in {"members", "created"}


def _encoded(stored: Mapping[str, str | bytes]) -> dict[bytes, bytes]:
    return {each.encode(): value if isinstance(value, bytes) else value.encode() for each, value in stored.items()}
