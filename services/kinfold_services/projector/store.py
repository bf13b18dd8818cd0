"""A workspace's state in Redis: loading what a batch names, and committing what its fold changed (contract sections 1 and 8).

Stored shapes: `kinfold_projections.records` (contacts, visitors), `kinfold_projections.members` (the sorted set), and the hash
`position`: `stream_id`, the last entry folded, `digest`, a digest of its content, and counts (`Counts`).
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Final, NamedTuple, cast

import msgspec
from redis.exceptions import ResponseError

import kinfold_services.projector
from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.members import Membership
from kinfold_projections.needs import contacts_behind, named_keys, survivors
from kinfold_projections.outcomes import Outcome
from kinfold_projections.records import decode_contact, decode_visitor
from kinfold_projections.state import State
from kinfold_schemas.changes import encode_change
from kinfold_schemas.keys import COMMITTED, STATE, PrivateName, PublicName, Staging, key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.members import newest_members
from kinfold_services.projector.cache import StateCache, flat
from kinfold_services.streams import pairs_of

GROUP: Final = "kinfold"
"""The consumer group whose position follows the projector's, so that `XINFO GROUPS` shows the lag."""

_PAGE_ENTRIES: Final = 2000

_REJECT_FIELDS: Final = 2000
"""An entry may have more fields than Lua's unpack can pass to one XADD. Then its reject has several parts, one after the other,
each with its share of the fields and the same `entry`."""
_HELD_S: Final = 0.005

_pack: Final = msgspec.msgpack.Encoder().encode

_COMMIT: Final = files(kinfold_services.projector).joinpath("commit.lua").read_text()


class LostPlace(RuntimeError):
    """Another projector owns the workspace, or the stored position is not the one this one is at. Nothing was committed."""


class Replaced(RuntimeError):
    """A replay has replaced the state: what is kept of the old one is worth nothing. Nothing was committed."""


class Counts(msgspec.Struct, rename={"no_op": "no-op", "id_reused": "id-reused"}):
    """How many entries came to what, since the log's beginning; `merged`: tombstones among the contacts.

    And how many fields the state's hashes have: a hash with fewer was evicted, or somebody deleted from it.
    """

    folded: int = 0
    no_op: int = 0
    stale: int = 0
    duplicate: int = 0
    rejected: int = 0
    excluded: int = 0
    """Left out by a replay, because the log says so (contract section 9)."""
    blocked: int = 0
    merged: int = 0
    id_reused: int = 0
    """Events whose id another event had before; each is counted among the outcomes, too (contract section 3)."""
    lost: int = 0
    """Trimmed or deleted before this state's fold came to them; to Redis, which counts what was ever added, they are read."""
    contacts: int = 0
    """Tombstones included."""
    visitors: int = 0
    external_ids: int = 0
    emails: int = 0
    linked: int = 0
    """1 once a visitor was linked: `members` is there then."""

    @property
    def entries(self) -> int:
        """All the entries that were folded, whatever came of them."""
        return self.folded + self.no_op + self.stale + self.duplicate + self.rejected + self.excluded


class Position(msgspec.Struct):
    """The hash `position`, read."""

    stream_id: str
    """Empty where nothing is folded yet."""
    counts: Counts
    generation: str = ""
    """Which rebuilding of the state this is; empty until a replay has replaced it."""
    digest: str = ""
    """Of the content of the entry `stream_id`; empty where it is unknown, because the log had lost that entry."""


class Move(NamedTuple):
    """From the position that a batch was read after to the one that it leads to."""

    before: Position
    after: Position
    feed_entries: int
    """How many entries the feed keeps."""
    took_ms: float | None = None
    """How long the batch took so far; None in a rebuild, which nobody watches."""


class Reject(msgspec.Struct, frozen=True):
    """An entry for `rejects`: its fields as they were, and why it is there."""

    entry: str
    fields: list[tuple[bytes, bytes]]
    reason: str
    detail: str


class Batch(msgspec.Struct, frozen=True):
    """A folded batch, as `commit.lua` takes it, the contacts that it writes, and how many changes go to the feed."""

    arguments: list[str | bytes | int]
    contacts: list[str]
    changes: int


class StateStore:
    """One workspace's state in Redis: the living one, or one that is built beside it in a staging area."""

    def __init__(
        self, client: Client, workspace: str, staging: Staging | None = None, *, token: str = "", lease_ms: int = 0
    ) -> None:
        """`token` is that of the projector that commits, which then owns the workspace for another `lease_ms`."""
        self.workspace: Final = workspace
        self.staging: Final[Staging | None] = staging
        self.cache = StateCache()
        self._client: Final = client
        self._commit: Final = client.register_script(_COMMIT)
        self._token: Final = token
        self._lease_ms: Final = lease_ms
        changes, events = key(workspace, "changes"), key(workspace, "events")
        around = [changes, self._key("rejects"), events, self._key("hold"), self._key("projector"), self._key("owner")]
        self._keys: Final = [*map(self._key, COMMITTED), *around]

    async def position(self) -> Position:
        """How far the log is folded."""
        stored = await cast("Awaitable[dict[bytes, bytes]]", self._client.hgetall(self._key("position")))
        fields = {name.decode(): value.decode() for name, value in stored.items()}
        return read_position(fields)

    async def make_group(self) -> None:
        """Makes the consumer group that shows the lag, where it is missing. A workspace without a log gets an empty one."""
        try:
            await self._client.xgroup_create(key(self.workspace, "events"), GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def set_group(self, position: Position) -> None:
        """Puts the group where the state is, which a replay may have put somewhere else. Every commit moves it on."""
        counts = position.counts
        await self._client.xgroup_setid(
            key(self.workspace, "events"), GROUP, position.stream_id or "0-0", entries_read=counts.entries + counts.lost
        )

    async def blocked_identifiers(self) -> set[str]:
        """What the workspace itself calls no identifier: exact values and `/patterns/`."""
        stored = await cast("Awaitable[set[bytes]]", self._client.smembers(key(self.workspace, "blocked-identifiers")))
        return {item.decode(errors="replace") for item in stored}  # what is not UTF-8 can block nobody, and must stop nobody

    async def clear(self, generation: str = "") -> None:
        """Empties the state, to be built anew under another generation: whoever still builds the old one is refused."""
        self.cache = StateCache()
        self.cache.is_whole = True
        pipeline = self._client.pipeline(transaction=True)
        # Not `pipeline.unlink`: on a cluster redis-py has it as a coroutine, and nothing would be sent.
        pipeline.execute_command("UNLINK", *map(self._key, STATE), self._key("differences"))
        if generation:
            pipeline.hset(self._key("position"), "generation", generation)
        await pipeline.execute()

    async def excluded(self) -> frozenset[str]:
        """The entries that this state was folded without."""
        stored = await cast("Awaitable[set[bytes]]", self._client.smembers(self._key("excluded")))
        return frozenset(item.decode() for item in stored)

    async def entries_before(
        self, last: str, count: int, between: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncIterator[RawEntry]:
        """The last `count` log entries up to and with `last`, in the log's order. Calls `between` after each page."""
        pages: list[list[RawEntry]] = []
        upper = last
        while count > 0 and (page := await self._page_before(upper, min(count, _PAGE_ENTRIES))):
            if between is not None:
                await between()
            pages.append(page)
            count -= len(page)
            upper = f"({page[-1][0].decode()}"
        for page in reversed(pages):
            for raw in reversed(page):
                yield raw

    async def _page_before(self, upper: str, count: int) -> list[RawEntry]:
        page = await self._client.xrevrange(key(self.workspace, "events"), max=upper, count=count)
        return cast("list[RawEntry]", page)

    async def load(self, state: State, entries: Sequence[Entry | BadEntry]) -> None:
        """Loads into the empty state what the entries need: what is known here, and the rest from Redis.

        A batch may be under way meanwhile: what it writes is known here, but for the visitors that a contact does not list.
        """
        cache, named = self.cache, named_keys(entries)
        unknown_visitors: list[str] = []
        for each in named.visitors:
            if (record := cache.visitors.get(each)) is not None:
                state.visitors[each] = decode_visitor(record)
            else:
                unknown_visitors.append(each)
        unknown_external_ids = _take(named.external_ids, cache.external_ids, state.external_ids)
        unknown_emails = _take(named.emails, cache.emails, state.emails)
        if (unknown_visitors or unknown_external_ids or unknown_emails) and not cache.is_whole:
            visitors, external_ids, emails = await self._hmget(
                visitors=unknown_visitors, external_ids=unknown_external_ids, emails=unknown_emails
            )
            cache.visitors.update(visitors)
            cache.external_ids.update(external_ids)
            cache.emails.update(dict.fromkeys(unknown_emails) | dict(emails))
            state.visitors.update((each, decode_visitor(record)) for each, record in visitors)
            state.external_ids.update(external_ids)
            state.emails.update(emails)
        elif unknown_emails:
            cache.emails.update(dict.fromkeys(unknown_emails))

        wanted = list(dict.fromkeys([*named.contacts, *contacts_behind(state, entries)]))
        while wanted:
            await self._load_contacts(state, wanted)
            wanted = survivors(state, wanted)

    async def load_older(self, state: State, leaving: Mapping[str, int]) -> None:
        """Loads the visitors that come next where so many of the listed ones may leave (`older_memberships`).

        Nothing may be under way.
        """
        for full_id, count in leaving.items():
            listed = state.contact(full_id).visitor_ids
            newest = await newest_members(self._client, self.workspace, full_id, len(listed) + count, self.staging)
            state.older[full_id] = [Membership(each.since, each.visitor_id) for each in newest[len(listed) :]]

    def prepare(self, move: Move, outcomes: Sequence[Outcome], rejects: Sequence[Reject]) -> Batch:
        """What is to be written: all that the cache has taken from folded batches since the last call."""
        unwritten = self.cache.take_unwritten()
        changes = [encode_change(change).decode() for outcome in outcomes if outcome.changes for change in outcome.changes]
        sections = (  # of text, for the server's MessagePack knows no bytes
            flat((name, str(count)) for name, count in msgspec.to_builtins(move.after.counts).items()),
            *unwritten.sections(),
            changes,
            [] if move.took_ms is None else [f"{move.took_ms:.3f}"],
        )
        before, after = move.before, move.after
        arguments: list[str | bytes | int] = [before.stream_id, after.stream_id, before.generation]
        # Only the living state's position is the group's.
        group = GROUP if self.staging is None else ""
        arguments += [move.feed_entries, group, after.counts.entries + after.counts.lost]
        arguments += [self._token, self._lease_ms, after.digest, _pack(sections)]
        for values in (values for reject in rejects for values in _reject_values(reject)):
            arguments += [len(values), *values]
        return Batch(arguments, list(unwritten.contacts), len(changes))

    async def commit(self, batch: Batch) -> None:
        """Writes a batch in one transaction, and moves the position. Waits while a replay is about to replace the state.

        Raises Replaced where a replay has done so, and LostPlace where the position is not the one that the batch was read
        after, or another projector owns the workspace; then nothing was written. After any other error it may be called again
        with the same batch: what is committed already is not committed twice.
        """
        try:
            while await self._commit(keys=self._keys, args=batch.arguments) == b"held":
                await asyncio.sleep(_HELD_S)
        except ResponseError as error:
            for code, exception in (("LOSTPLACE", LostPlace), ("REPLACED", Replaced)):
                if code in str(error):
                    raise exception(f"workspace {self.workspace}: {error}") from error
            raise

    async def _load_contacts(self, state: State, ids: list[str]) -> None:
        known = self.cache.contacts
        unknown = [each for each in ids if each not in known]
        if unknown and not self.cache.is_whole:
            (contacts,) = await self._hmget(contacts=unknown)
            known.update(contacts)
        state.contacts.update((each, decode_contact(known[each])) for each in ids if each in known)

    async def _hmget(self, **ids: list[str]) -> list[list[tuple[str, str]]]:
        """What stands under some fields of several hashes, in one round trip; no question, no trip."""
        pipeline = self._client.pipeline(transaction=False)
        asked = [name for name, fields in ids.items() if fields]
        for name in asked:
            pipeline.hmget(self._key(cast("PublicName", name.replace("_", "-"))), ids[name])
        answers: dict[str, list[bytes | None]] = dict(zip(asked, await pipeline.execute() if asked else (), strict=True))
        return [
            [(each, value.decode()) for each, value in zip(fields, answers.get(name, ()), strict=False) if value is not None]
            for name, fields in ids.items()
        ]

    def _key(self, name: PublicName | PrivateName) -> str:
        return key(self.workspace, name, self.staging)


def read_position(fields: dict[str, str]) -> Position:
    """The hash `position`, as it is stored."""
    stream_id, generation, digest = (fields.pop(name, "") for name in ("stream_id", "generation", "digest"))
    return Position(stream_id, msgspec.convert(fields, Counts, strict=False), generation, digest)


def entry_digest(fields: Mapping[bytes, bytes]) -> str:
    """A digest of an entry's content: another entry under the same id has another one."""
    digest = hashlib.blake2b(digest_size=16)
    for pair in pairs_of(fields):
        for item in pair:
            digest.update(b"%d:" % len(item))
            digest.update(item)
    return digest.hexdigest()


def rejects_of(batch: Sequence[RawEntry], outcomes: Sequence[Outcome]) -> list[Reject]:
    """What of a batch could not be folded."""
    return [
        Reject(entry_id.decode(), pairs_of(fields), outcome.rejection.reason, outcome.rejection.detail)
        for (entry_id, fields), outcome in zip(batch, outcomes, strict=True)
        if outcome.rejection is not None
    ]


def _take(names: Iterable[str], known: Mapping[str, str | None], held: dict[str, str]) -> list[str]:
    """Puts what is known of some names among what is held; returns the others."""
    held.update((name, contact_id) for name in names if (contact_id := known.get(name)) is not None)
    return [name for name in names if name not in known]


def read_reject(pairs: list[tuple[bytes, bytes]]) -> Reject | None:
    """An entry of `rejects`, or a part of one; None where no projector wrote it, and so it is of no entry of the log."""
    # Ours stand last, so a field of the entry's own may have the same name.
    if [name for name, _ in pairs[-3:]] != [b"entry", b"reason", b"detail"]:
        return None
    try:
        entry, reason, detail = (value.decode() for _, value in pairs[-3:])
        position_key(entry)
    except ValueError:
        return None
    return Reject(entry, pairs[:-3], reason, detail)


def _reject_values(reject: Reject) -> Iterator[list[str | bytes]]:
    # The reason stands behind the entry's own fields: who reads the fields into a mapping gets ours, whatever theirs are.
    for first in range(0, len(reject.fields), _REJECT_FIELDS):
        own = [item for pair in reject.fields[first : first + _REJECT_FIELDS] for item in pair]
        yield [*own, "entry", reject.entry, "reason", reject.reason, "detail", reject.detail]
