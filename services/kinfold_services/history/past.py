"""The state at a past position of the log (`kinfold show --at`, `kinfold contacts --at`).

The log is folded in memory up to the position, starting from the newest snapshot before it, or from where the log begins: at
nothing, or at its baseline. Only these queries make snapshots, at regular numbers of entries, so nothing else pays for them. A
snapshot is only a cache: it is used if the same version of the fold made it (according to a digest of the source) under the
same rules.
"""

import hashlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from importlib.resources import files
from itertools import islice
from typing import Any, Final, cast

import msgspec

import kinfold_projections
import kinfold_schemas
import kinfold_services.history
from kinfold_projections.batches import read_batch
from kinfold_projections.duplicates import LOOKBACK_ENTRIES
from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.fold import fold
from kinfold_projections.members import Membership
from kinfold_projections.records import ContactRecord, ContactStamps, VisitorRecord, VisitorStamps
from kinfold_projections.state import State
from kinfold_schemas.contacts import MAX_VISITOR_BYTES, MergedContact
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key, snapshot_key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.log.baseline import Baseline, read_baseline
from kinfold_services.log.exclusions import Exclusions, excluded_entries, excludes
from kinfold_services.log.pages import LogExtent, log_extent, read_pages
from kinfold_services.settings import Settings
from kinfold_services.state.baseline import restore, window_before
from kinfold_services.state.reader import StateReader

KEPT_SNAPSHOTS: Final = 20
_PIECE_RECORDS: Final = 10_000
_SCANNED_AT_ONCE: Final = 1000


class _About(msgspec.Struct, frozen=True):
    """How a snapshot was made: the fold, the log, the number of entries that it covers, and the number of its pieces."""

    digest: str
    first: str
    """The first entry of the log, or its baseline's. It differs if the log was deleted and started again, or cut."""
    lost: int
    """How many entries had been removed from the log."""
    excluded: frozenset[str]
    last_exclusion: str
    entries: int = 0
    pieces: int = 0


class _Piece(msgspec.Struct):
    """A part of a snapshot."""

    visitors: dict[str, VisitorRecord] = {}
    visitor_stamps: dict[str, VisitorStamps] = {}
    contacts: dict[str, ContactRecord] = {}
    merged: dict[str, MergedContact] = {}
    contact_stamps: dict[str, ContactStamps] = {}
    external_ids: dict[str, str | None] = {}
    emails: dict[str, str | None] = {}
    older: dict[str, list[Membership]] = {}


class Past:
    """Folds the log of a workspace in memory up to any position."""

    def __init__(self, client: Client, settings: Settings, rules: IdentifierRules) -> None:
        self._client: Final = client
        self._workspace: Final = settings.workspace
        self._every: Final = settings.snapshot_entries
        self._rules: Final = rules
        self._digest: Final = fold_digest(rules)
        self._log = ""

    async def exclusions(self, upto: str) -> Exclusions:
        """The exclusions in the log up to `upto`."""
        return await excluded_entries(self._client, self._workspace, upto)

    async def state_at(self, position: str, exclusions: Exclusions | None = None) -> State:
        """The state after the entry at `position`, or after the last one before it. Raises NoLog.

        The state leaves out `exclusions`, read up to the position or a later one; by default those in the log up to `position`.
        """
        self._log = await self._rewriting()
        while True:
            extent = await log_extent(self._client, self._workspace)
            begin, about, state = await self._newest_snapshot(position, extent, exclusions)
            if (found := await self._fold(begin, about, state, position)) is not None:
                return found
            # The snapshot was made before an EventsExcluded, and may already contain the entries that this excludes.
            exclusions = await self.exclusions(position)

    async def _fold(self, begin: str, about: _About, state: State, position: str) -> State | None:
        """Continue from a snapshot. Returns None if the log has an exclusion that the snapshot does not know."""
        known, folded = position_key(about.last_exclusion), about.entries
        async with aclosing(read_pages(self._client, self._workspace, begin, position)) as pages:
            async for page in pages:
                if any(excludes(fields) and position_key(each.decode()) > known for each, fields in page):
                    return None
                fold(state, read_batch(page, self._rules, about.excluded).entries)
                folded += len(page)
                if self._every and folded - about.entries >= self._every:
                    about = msgspec.structs.replace(about, entries=folded)
                    state.take_changes()
                    await self._keep(state, page[-1][0].decode(), about)
        state.take_changes()  # this also completes the contacts
        return state

    async def baseline(self) -> Baseline | None:
        """The log's baseline; None if the log was never cut."""
        return await read_baseline(self._client, self._workspace)

    async def beginning(self, *, tells: bool) -> State:
        """The state at which the log begins: an empty one, or its baseline's."""
        baseline = await read_baseline(self._client, self._workspace)
        if baseline is None:
            return State(self._workspace, tells=tells)
        return (await restore(self._client, self._workspace, baseline, tells=tells)).state

    async def entries(self, position: str, exclusions: Exclusions) -> AsyncGenerator[tuple[RawEntry, Entry | BadEntry]]:
        """Yield every entry that a fold up to `position` takes, raw and decoded."""
        baseline = await read_baseline(self._client, self._workspace)
        after = baseline.position if baseline is not None else ""
        async with aclosing(read_pages(self._client, self._workspace, after, position)) as pages:
            async for page in pages:
                batch = read_batch(page, self._rules, exclusions.entries)
                for raw, entry in zip(batch.raws, batch.entries, strict=True):
                    yield raw, entry

    # --- snapshots

    async def _newest_snapshot(
        self, position: str, extent: LogExtent, exclusions: Exclusions | None
    ) -> tuple[str, _About, State]:
        """The newest snapshot that a fold of this log would reproduce, or an empty state: its position, origin and state."""
        known = exclusions
        if known is None:  # those that were cut count at every position
            known = Exclusions(frozenset(extent.baseline.excluded if extent.baseline is not None else ()))
        begun = self._digest, extent.begins or extent.first, extent.lost
        if not self._every:
            return await self._nothing(extent, _About(*begun, known.entries, known.last))
        reply: Any = await self._client.hgetall(key(self._workspace, "snapshots"))
        usable: list[tuple[tuple[int, int], tuple[int, int], str, _About]] = []
        for field, data in cast("_Hash", reply).items():
            with suppress(ValueError):
                each, about = field.decode(), msgspec.json.decode(data, type=_About)
                last_exclusion, at = position_key(about.last_exclusion), position_key(each)
                if (about.digest, about.first, about.lost) != begun or max(last_exclusion, at) > position_key(position):
                    continue
                if at <= position_key(extent.begins):
                    continue
                if exclusions is None or about.last_exclusion == exclusions.last:
                    usable.append((last_exclusion, at, each, about))
        for _, _, each, about in sorted(usable, key=lambda item: item[:2], reverse=True):
            if (state := await self._restore(each, about)) is not None:
                return each, about, state
        return await self._nothing(extent, _About(*begun, known.entries, known.last))

    async def _nothing(self, extent: LogExtent, about: _About) -> tuple[str, _About, State]:
        """Where a fold begins without a snapshot."""
        if extent.baseline is None:
            return "", about, State(self._workspace, tells=False)
        begun = await restore(self._client, self._workspace, extent.baseline)
        return extent.begins, about, begun.state

    async def _restore(self, position: str, about: _About) -> State | None:
        """The state of a snapshot; None if the snapshot is incomplete or belongs to another log."""
        state = State(self._workspace, tells=False)
        reply: Any = await self._client.lrange(snapshot_key(self._workspace, position), 0, -1)
        pieces = cast("list[bytes]", reply)
        try:
            if not pieces or len(pieces) != about.pieces + 1 or msgspec.json.decode(pieces[0], type=_About) != about:
                return None
            for data in pieces[1:]:
                _put(state, msgspec.msgpack.decode(zlib.decompress(data), type=_Piece))
        except (zlib.error, ValueError):
            return None
        count, last = LOOKBACK_ENTRIES + len(about.excluded), ""
        recalled, pages = await window_before(self._client, self._workspace, position, count)
        state.window.recall(recalled)
        for page in pages:
            last = page[-1][0].decode()
            state.window.enter(read_batch(page, self._rules, about.excluded).entries)
        return state if last == position else None  # otherwise the log was restored, and the snapshot is of another one

    async def _rewriting(self) -> str:
        """Which rewriting of the log is in place."""
        return (await StateReader(self._client, self._workspace).position()).log

    async def _keep(self, state: State, position: str, about: _About) -> None:
        pieces = [zlib.compress(msgspec.msgpack.encode(piece), level=1) for piece in _pieces(state)]
        label = msgspec.json.encode(msgspec.structs.replace(about, pieces=len(pieces)))
        pipeline = self._client.pipeline(transaction=True)
        pipeline.delete(snapshot_key(self._workspace, position))
        for piece in (label, *pieces):
            pipeline.rpush(snapshot_key(self._workspace, position), piece)
        pipeline.hset(key(self._workspace, "snapshots"), position, label)
        await pipeline.execute()
        if await self._rewriting() != self._log:  # an erasure has rewritten the log that this state was made from
            await self._client.unlink(snapshot_key(self._workspace, position))
            await cast("Any", self._client.hdel(key(self._workspace, "snapshots"), position))
        reply: Any = await self._client.hkeys(key(self._workspace, "snapshots"))
        oldest_first = sorted((each.decode() for each in cast("list[bytes]", reply)), key=position_key)
        if surplus := oldest_first[:-KEPT_SNAPSHOTS]:
            await self._client.unlink(*(snapshot_key(self._workspace, each) for each in surplus))
            await cast("Any", self._client.hdel(key(self._workspace, "snapshots"), *surplus))


_Hash = dict[bytes, bytes]


async def drop_unusable_snapshots(client: Client, workspace: str) -> None:
    """Delete the snapshots of a log that was cut since: they would keep what the cut removed."""
    extent = await log_extent(client, workspace)
    reply: Any = await client.hgetall(key(workspace, "snapshots"))
    usable = set[bytes]()
    for field, data in cast("_Hash", reply).items():
        about = _About("", "", -1, frozenset(), "")
        with suppress(ValueError):
            about = msgspec.json.decode(data, type=_About)
        if (about.first, about.lost) == (extent.begins or extent.first, extent.lost):
            usable.add(snapshot_key(workspace, field.decode()).encode())
        else:
            await cast("Any", client.hdel(key(workspace, "snapshots"), field.decode()))
    async for name in cast(
        "AsyncIterator[bytes]", client.scan_iter(match=snapshot_key(workspace, "*"), count=_SCANNED_AT_ONCE)
    ):
        if name not in usable:
            await client.unlink(name)


def fold_digest(rules: IdentifierRules) -> str:
    """A digest of everything that determines a snapshot: the source of fold, schemas and this module, and the rules."""
    digest = hashlib.sha256()
    for package in (kinfold_schemas, kinfold_projections):
        for source in sorted(files(package).iterdir(), key=lambda each: each.name):
            if source.name.endswith(".py"):
                digest.update(source.read_bytes())
    digest.update(files(kinfold_services.history).joinpath("past.py").read_bytes())
    digest.update(msgspec.json.encode(rules.blocked))
    return digest.hexdigest()


def _put(state: State, piece: _Piece) -> None:
    state.contacts.update(piece.merged)
    for name in _Piece.__struct_fields__:
        if name != "merged":
            getattr(state, name).update(getattr(piece, name))
    state.large_contexts.update(piece.visitors)
    for visitor_id, visitor in piece.visitors.items():
        if visitor.metadata or visitor.name is not None or visitor.image is not None:
            state.described_bytes[visitor_id] = MAX_VISITOR_BYTES  # not weighed yet


def _pieces(state: State) -> Iterator[_Piece]:
    for name in _Piece.__struct_fields__:
        match name:
            case "contacts" | "merged":
                kind = ContactRecord if name == "contacts" else MergedContact
                items: Any = ((each, contact) for each, contact in state.contacts.items() if type(contact) is kind)
            case _:
                items = iter(getattr(state, name).items())
        while some := dict(islice(items, _PIECE_RECORDS)):
            yield _Piece(**{name: some})
