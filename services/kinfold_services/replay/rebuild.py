"""Folds a state in memory, from the log's beginning up to any position."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, Literal, get_args

import msgspec

from kinfold_projections.batches import fold_batch, read_batch
from kinfold_projections.counts import Counts
from kinfold_projections.entries import EVENT_FIELD
from kinfold_projections.records import ContactRecord, encode_record, encode_stamps
from kinfold_projections.state import State
from kinfold_schemas.identifiers import REMEMBERED_IDENTIFIERS, IdentifierRules
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.log.baseline import Baseline, LogCut, UnknownBaseline, read_baseline
from kinfold_services.log.erased_entries import erased_before
from kinfold_services.log.exclusions import excluded_entries, excludes
from kinfold_services.log.pages import log_extent, read_pages
from kinfold_services.rejects.entries import Reject, as_rejects
from kinfold_services.rejects.stored import StoredRejects
from kinfold_services.settings import Settings
from kinfold_services.state.baseline import Begun, restore
from kinfold_services.state.position import Position, entry_digest

_TAKEN_ENTRIES: Final = 100_000
"""After how many entries the state encodes what they changed. A projector that rebuilds renews its leases in between."""

_TURNS: Final = 2
"""Of the event loop, after each batch: an erasure copies the log meanwhile. One turn reads a reply, the next one acts on it."""

Progress = Callable[[int], None]

Part = Literal["contacts", "visitors", "external-ids", "emails", "contact-stamps", "visitor-stamps", "members", "created"]
"""A part of the state that consists of single records: a hash, or a sorted set."""
PARTS: Final[tuple[Part, ...]] = get_args(Part)

Forget = Callable[[Begun, Counts], Counts]

Touched = dict[Part, set[str]]
"""Ids, by the part of the state."""

_IN_SET: Final = b"0"
_ENCODE: Final[Mapping[Part, Callable[[Any], bytes]]] = {
    "contacts": encode_record,
    "visitors": encode_record,
    "contact-stamps": encode_stamps,
    "visitor-stamps": encode_stamps,
    "external-ids": str.encode,
    "emails": str.encode,
}


class Ahead(msgspec.Struct):
    """A state that was folded from the log's beginning, without `Rebuild`."""

    state: State
    members: set[str]
    position: Position
    excluded: frozenset[str]
    """The entries that were left out."""
    rejects: list[Reject] = []
    looked_at: list[RawEntry] = []
    """The entries of these rejects, and those of the stored rejects that the log still holds. In the log's order."""


class Rebuild:
    """Folds a workspace's log. It reads the log and the stored rejects, and writes nothing."""

    def __init__(  # noqa: PLR0913  what it leaves out, and what an erasure changes
        self,
        client: Client,
        settings: Settings,
        rules: IdentifierRules,
        also_excluded: frozenset[str] = frozenset(),
        *,
        rewritten: Mapping[str, bytes] | None = None,
        forget: Forget | None = None,
    ) -> None:
        """`rewritten`: entry id → the event that is folded in place of what the log holds (an erasure).

        `forget`: removes people from what a baseline restores (an erasure).
        """
        self.position = Position("", Counts())
        """How far the log is folded. The sizes among the counts are those after the last `advance`."""
        self.beginnings = 0
        """How often folding began: more than once if the log, read further, excluded entries that were already folded."""
        self.excluded: frozenset[str] = also_excluded
        """The entries that are left out."""
        self.excluded_by_log: set[str] = set()
        """Those of them that the log itself excludes, as far as it is folded."""
        self.state = State(settings.workspace, tells=False)
        self.members: set[str] = set()
        """The content of the sorted set `members`."""
        self.unwritten: Touched | None = None
        """What changed since a caller wrote the state; None if it was not written since the last beginning."""
        self.uncompared: Touched | None = None
        """What changed since a caller compared the state; None if it was not compared since the last beginning."""
        self.rejects: list[Reject] = []
        """Rejects of this state, in the log's order, for a caller that writes them and then clears the list."""
        self.stored_rejects = StoredRejects(client, settings.workspace)
        self.baseline: Baseline | None = None
        """What it began at; None: the log's beginning."""
        self.too_late: frozenset[str] = frozenset()
        """Entries that the log excludes and the baseline contains."""
        self._client: Final = client
        self._workspace: Final = settings.workspace
        self._rules: Final = IdentifierRules(rules.blocked, remembered=REMEMBERED_IDENTIFIERS)
        self._batch_entries: Final = settings.batch_entries
        self._also_excluded: Final = also_excluded
        self._rewritten: Final = rewritten
        self._erased: Mapping[str, bytes] = rewritten or {}
        """The events that are folded in place of what the log holds."""
        self._forget: Final = forget
        self._last_exclusion = ""
        self._taken = 0
        self._begun_entries = 0
        """How many entries the baseline stands for."""

    @property
    def is_compared(self) -> bool:
        """Whether a caller has begun to compare the state since the last beginning."""
        return self.uncompared is not None

    async def begin(self) -> None:
        """Begin at the log's beginning, or at its baseline. Raises NoLog."""
        lost, self.baseline, begun = await self.found_baseline()
        self.state, self.members = begun
        self.position = Position("", Counts(lost=lost))
        if self.baseline is not None:
            counts = msgspec.structs.replace(self.baseline.counts, lost=lost)
            if self._forget is not None:
                counts = self._forget(begun, counts)
            self.position = Position(self.baseline.position, counts, digest=self.baseline.digest)
            self.excluded |= frozenset(self.baseline.excluded)
        self.unwritten, self.uncompared = None, None
        self.rejects, self.stored_rejects = [], StoredRejects(self._client, self._workspace, self._rewritten or ())
        if self.position.stream_id:
            self.rejects += await self.stored_rejects.merge((), [], self.position.stream_id)
        self.beginnings += 1
        self._taken = self._begun_entries = self.position.counts.entries
        if self._rewritten is None:  # the log may be an older copy, in which they stand still (contract section 10)
            self._erased = await erased_before(self._client, self._workspace)
        self.excluded_by_log.clear()

    async def go_on_from(self, ahead: Ahead) -> bool:
        """After `begin`: take over a state. False if it is of another beginning; then it is folded as always."""
        if self.baseline is not None or self.position.counts.lost != ahead.position.counts.lost:
            return False
        self.state, self.members, self.position = ahead.state, ahead.members, ahead.position
        self.excluded |= ahead.excluded
        self._taken = self.position.counts.entries
        self.rejects += await self.stored_rejects.merge(ahead.looked_at, ahead.rejects, self.position.stream_id, self.excluded)
        return True

    async def found_baseline(self) -> tuple[int, Baseline | None, Begun]:
        """How many entries the log has lost, its baseline, and the state of that."""
        while True:
            extent = await log_extent(self._client, self._workspace)
            if extent.baseline is None:
                return extent.lost, None, Begun(State(self._workspace, tells=False), set())
            try:
                return extent.lost, extent.baseline, await restore(self._client, self._workspace, extent.baseline)
            except UnknownBaseline:
                if await read_baseline(self._client, self._workspace) == extent.baseline:
                    raise  # else a retention run has replaced it meanwhile

    async def build(self, upto: str, progress: Progress = lambda _: None) -> None:
        """As `advance`, and also leave out what the log excludes after `upto`.

        A replay records its exclusions at the log's end. While the projector is stopped or lags, they are far ahead of it.
        """
        while True:
            await self.advance(upto, progress)
            last = (await log_extent(self._client, self._workspace)).last
            if not await self._meets_exclusions(last):
                return
            await self.begin_again(progress)

    async def advance(self, upto: str, progress: Progress = lambda _: None) -> None:
        """Fold the log up to and including `upto` ('' is nothing). Afterwards `stored` answers for that position."""
        if not upto:
            return
        while not await self._fold_upto(upto, progress):
            await self.begin_again(progress)
        if position_key(self.position.stream_id) < position_key(upto):
            await self._pass_lost_entries(upto)
        self._take_changes()

    def ids(self, part: Part) -> set[str]:
        """The ids in a part of this state."""
        if part == "created":
            return {contact.id for contact in self.state.living_contacts()}
        return set(self.members if part == "members" else getattr(self.state, _attribute(part)))

    def stored(self, part: Part, ids: Iterable[str]) -> Iterator[bytes | None]:
        """What a projector stores under each of some ids; None for nothing. For a sorted set: the score."""
        if part == "members":
            return (_IN_SET if each in self.members else None for each in ids)
        if part == "created":
            return (_IN_SET if type(self.state.contacts.get(each)) is ContactRecord else None for each in ids)
        held, encode = getattr(self.state, _attribute(part)), _ENCODE[part]
        return (None if value is None else encode(value) for value in map(held.get, ids))

    async def _meets_exclusions(self, last: str) -> bool:
        """Whether the log between our position and `last` excludes more, or was cut beyond our position."""
        try:
            async with aclosing(read_pages(self._client, self._workspace, self.position.stream_id, last)) as pages:
                async for page in pages:
                    if self._excludes_more(page):
                        return True
        except LogCut:
            return True
        return False

    async def _fold_upto(self, upto: str, progress: Progress) -> bool:
        """Return False if it has to begin again: the log excludes what may be folded already, or was cut."""
        try:
            async with aclosing(read_pages(self._client, self._workspace, self.position.stream_id, upto)) as pages:
                async for page in pages:
                    if self._excludes_more(page):
                        return False
                    await self._fold(page)
                    progress(len(page))
                    if self.position.counts.entries >= self._taken + _TAKEN_ENTRIES:
                        self._take_changes()
        except LogCut:
            return False
        return True

    async def begin_again(self, progress: Progress = lambda _: None) -> None:
        """Begin again: with all that the log excludes, also what is folded already, and with the baseline as it is now."""
        last = (await log_extent(self._client, self._workspace)).last
        excluded = await excluded_entries(self._client, self._workspace, last, self._also_excluded)
        self.excluded, self._last_exclusion, self.too_late = excluded
        progress(self._begun_entries - self.position.counts.entries)
        await self.begin()

    async def _pass_lost_entries(self, upto: str) -> None:
        """Move the position past the log's last entries if they were deleted.

        It never moves past the last entry that the log held, because such a position would look like another log's.
        """
        extent = await log_extent(self._client, self._workspace)
        last = min(upto, extent.last, key=position_key)
        if extent.entries and position_key(extent.first) <= position_key(last):
            last = min(last, extent.deleted, key=position_key)
        if position_key(last) > position_key(self.position.stream_id):
            self.rejects += await self.stored_rejects.merge((), [], last, self.excluded)
            self.position = Position(last, self.position.counts)

    async def _fold(self, page: Sequence[RawEntry]) -> None:
        last, fields = page[-1]
        if self._erased:
            page = [_rewritten(raw, self._erased.get(raw[0].decode())) for raw in page]
        if self._rewritten is not None:
            last, fields = page[-1]
        counts, rejects = self.position.counts, list[Reject]()
        for first in range(0, len(page), self._batch_entries):
            batch = read_batch(page[first : first + self._batch_entries], self._rules, self.excluded)
            folded = fold_batch(self.state, batch, counts)
            counts = folded.counts
            rejects += as_rejects(folded.rejects)
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        self.position = Position(last.decode(), counts, digest=entry_digest(fields))
        self.rejects += await self.stored_rejects.merge(page, rejects, last.decode(), self.excluded)

    def _take_changes(self) -> None:
        changes = self.state.take_changes()
        self.position = msgspec.structs.replace(self.position, counts=self.position.counts.after((), changes, 0))
        self.members.update(each for each, is_in in changes.members.items() if is_in)
        self.members.difference_update(each for each, is_in in changes.members.items() if not is_in)
        self._taken = self.position.counts.entries
        for touched in (self.unwritten, self.uncompared):
            if touched is not None:
                for part in PARTS:
                    touched[part].update(getattr(changes, _attribute(part)))

    def _excludes_more(self, page: Sequence[RawEntry]) -> bool:
        """Whether the page excludes entries that are not left out."""
        known = position_key(self._last_exclusion)
        for entry_id, fields in page:
            if (event := excludes(fields)) is None or entry_id.decode() in self.excluded:
                continue
            if position_key(entry_id.decode()) > known and not self.excluded.issuperset(event.entries):
                return True
            self.excluded_by_log.update(event.entries)
        return False


def nothing_touched() -> Touched:
    """No ids in any part."""
    return {part: set() for part in PARTS}


def _rewritten(raw: RawEntry, event: bytes | None) -> RawEntry:
    return raw if event is None else (raw[0], {EVENT_FIELD: event})


def _attribute(part: Part) -> str:
    return part.replace("-", "_")
