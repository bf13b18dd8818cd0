"""A state folded in memory, from the log's beginning up to any position."""

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
from kinfold_services.log.erasures import erased_before
from kinfold_services.log.exclusions import excluded_entries, excludes
from kinfold_services.log.pages import log_extent, read_pages
from kinfold_services.rejects.entries import Reject, as_rejects
from kinfold_services.rejects.stored import StoredRejects
from kinfold_services.settings import Settings
from kinfold_services.state.position import Position, entry_digest

_TAKEN_ENTRIES: Final = 100_000
"""After so many entries the state completes what they changed. A projector that rebuilds renews its leases in between."""

Progress = Callable[[int], None]

Part = Literal["contacts", "visitors", "external-ids", "emails", "contact-stamps", "visitor-stamps", "members", "created"]
"""A part of the state that consists of single things: a hash, or a sorted set."""
PARTS: Final[tuple[Part, ...]] = get_args(Part)

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


class Rebuild:
    """Folds a workspace's log. It reads the log and the stored rejects, and writes nothing."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        rules: IdentifierRules,
        also_excluded: frozenset[str] = frozenset(),
        rewritten: Mapping[str, bytes] | None = None,
    ) -> None:
        """`rewritten`: entry id → the event that is folded in place of what the log holds (an erasure)."""
        self.position = Position("", Counts())
        """How far the log is folded. The sizes among the counts are those of the last `advance`."""
        self.beginnings = 0
        """How often it began: more than once where the log, read on, excluded entries that were folded already."""
        self.excluded: frozenset[str] = also_excluded
        """The entries that are left out."""
        self.excluded_by_log: set[str] = set()
        """Those of them that the log itself excludes, as far as it is folded."""
        self.state = State(settings.workspace, tells=False)
        self.members: set[str] = set()
        """The content of the sorted set `members`."""
        self.unwritten: Touched | None = None
        """What changed since a caller wrote the state; None: it was not written since the last beginning."""
        self.uncompared: Touched | None = None
        """What changed since a caller compared the state; None: it was not compared since the last beginning."""
        self.rejects: list[Reject] = []
        """Rejects of this state, in the log's order, for a caller that writes them and then clears the list."""
        self.stored_rejects = StoredRejects(client, settings.workspace)
        self._client: Final = client
        self._workspace: Final = settings.workspace
        self._rules: Final = IdentifierRules(rules.blocked, remembered=REMEMBERED_IDENTIFIERS)
        self._batch_entries: Final = settings.batch_entries
        self._also_excluded: Final = also_excluded
        self._rewritten: Final = rewritten
        self._erased: Mapping[str, bytes] = rewritten or {}
        """The events that are folded in place of what the log holds."""
        self._last_exclusion = ""
        self._taken = 0

    @property
    def is_compared(self) -> bool:
        """Whether a caller has begun to compare the state since the last beginning."""
        return self.uncompared is not None

    async def begin(self) -> None:
        """Begins at the log's beginning. Raises NoLog."""
        lost = (await log_extent(self._client, self._workspace)).lost
        self.position = Position("", Counts(lost=lost))
        self.state, self.members = State(self._workspace, tells=False), set()
        self.unwritten, self.uncompared, self.rejects = None, None, []
        self.stored_rejects = StoredRejects(self._client, self._workspace)
        self.beginnings += 1
        self._taken = 0
        if self._rewritten is None:  # the log may be an older copy, in which they stand still (contract section 10)
            self._erased = await erased_before(self._client, self._workspace)
        self.excluded_by_log.clear()

    async def build(self, upto: str, progress: Progress = lambda _: None) -> None:
        """As `advance`, and also leaves out what the log excludes behind `upto`.

        A replay records its exclusions at the log's end. While the projector stands still or lags, they are far behind it.
        """
        await self.advance(upto, progress)
        last = (await log_extent(self._client, self._workspace)).last
        async with aclosing(read_pages(self._client, self._workspace, self.position.stream_id, last)) as pages:
            async for page in pages:
                if self._excludes_more(page):
                    await self._begin_again(progress)
                    return await self.build(upto, progress)
        return None

    async def advance(self, upto: str, progress: Progress = lambda _: None) -> None:
        """Folds the log up to and with `upto` ('' is nothing). Afterwards `stored` answers for that position."""
        if not upto:
            return None
        async with aclosing(read_pages(self._client, self._workspace, self.position.stream_id, upto)) as pages:
            async for page in pages:
                if self._excludes_more(page):
                    await self._begin_again(progress)
                    return await self.advance(upto, progress)
                await self._fold(page)
                progress(len(page))
                if self.position.counts.entries >= self._taken + _TAKEN_ENTRIES:
                    self._take_changes()
        if position_key(self.position.stream_id) < position_key(upto):
            await self._pass_lost_entries(upto)
        self._take_changes()
        return None

    def ids(self, part: Part) -> set[str]:
        """The ids in a part of this state."""
        if part == "created":
            return {contact.id for contact in self.state.living_contacts()}
        return set(self.members if part == "members" else getattr(self.state, _attribute(part)))

    def stored(self, part: Part, ids: Iterable[str]) -> Iterator[bytes | None]:
        """What a projector stores under each of some ids; None for nothing. Of a sorted set: the score."""
        if part == "members":
            return (_IN_SET if each in self.members else None for each in ids)
        if part == "created":
            return (_IN_SET if type(self.state.contacts.get(each)) is ContactRecord else None for each in ids)
        held, encode = getattr(self.state, _attribute(part)), _ENCODE[part]
        return (None if value is None else encode(value) for value in map(held.get, ids))

    async def _begin_again(self, progress: Progress) -> None:
        """Begins with all that the log excludes: some of it may be folded already."""
        last = (await log_extent(self._client, self._workspace)).last
        excluded = await excluded_entries(self._client, self._workspace, last, self._also_excluded)
        self.excluded, self._last_exclusion = excluded
        progress(-self.position.counts.entries)
        await self.begin()

    async def _pass_lost_entries(self, upto: str) -> None:
        """Moves the position past the log's last entries if they were deleted.

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
