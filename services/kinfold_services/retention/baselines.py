"""Makes the baseline of a log at an entry, beside the living state, and checks it before anything depends on it.

    1. fold the log in memory up to the entry, from the baseline before, if there is one
    2. write the state's pieces into a list of their own, which expires unless somebody needs it
    3. read that list back, fold the rest of the log on it, and compare the result with the living state, byte for byte

What differs in 3 is only what the baseline leaves out on purpose: visitors that no event identified, that were last seen before
a given time, and that no entry after the cut names. They have to leave the living state in the step that cuts the log.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from typing import Any, Final, NamedTuple

import msgspec

from kinfold_projections.batches import read_batch
from kinfold_projections.duplicates import LOOKBACK_ENTRIES, Occurred
from kinfold_projections.entries import Entry
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import staged_baseline_key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.log.baseline import Baseline, LogCut, baseline_position
from kinfold_services.log.exclusions import counting, exclusions_after, is_cut
from kinfold_services.log.pages import entries_before, log_extent, read_pages
from kinfold_services.privacy.records import Records, salt_of
from kinfold_services.replay.differences import Sides
from kinfold_services.replay.rebuild import PARTS, Part, Progress, Rebuild
from kinfold_services.settings import Settings
from kinfold_services.state.baseline import Begun, behind, occurrences, read_window, restore, state_pieces, window_pieces
from kinfold_services.state.reader import StateReader

GONE_MAX: Final = 200_000
"""How many visitors leave at once at most: Redis answers nobody meanwhile. The next cut takes the others."""
STAGED_S: Final = 900
"""What a run that was killed has prepared goes away after so long."""
_GONE_AT_ONCE: Final = 1000


class Differs(RuntimeError):
    """The baseline and the rest of the log do not make the living state. Nothing is cut."""


class ChangedMeanwhile(RuntimeError):
    """The log or the state changed in a way that a prepared baseline does not include. The run may be repeated."""


class Prepared(NamedTuple):
    """A baseline that was checked, in lists that expire."""

    baseline: Baseline
    before: Baseline | None
    """The baseline that it replaces."""
    generation: str
    """Of the state that it was compared with."""
    gone: frozenset[str]
    """The visitors that it leaves out."""
    checked: str
    """The position up to which no log entry after the cut names any of these."""


class Making:
    """Prepares one baseline, in lists under a token."""

    def __init__(self, client: Client, settings: Settings, rules: IdentifierRules, token: str) -> None:
        self._client: Final = client
        self._settings: Final = settings
        self._workspace: Final = settings.workspace
        self._rules: Final = rules
        self._pieces: Final = staged_baseline_key(settings.workspace, token, "pieces")
        self._gone: Final = staged_baseline_key(settings.workspace, token, "gone")
        self._reader: Final = StateReader(client, settings.workspace)
        self._rebuild: Final = Rebuild(client, settings, rules)

    async def prepare(self, cut: str, seen_before: str | None, made_at: str, progress: Progress) -> Prepared:
        """A checked baseline at the entry `cut`, without visitors last seen before `seen_before` (RFC 3339).

        Raises Differs, ChangedMeanwhile, NoLog and UnknownBaseline.
        """
        rebuild, living = self._rebuild, await self._reader.position()
        await rebuild.begin()
        await rebuild.build(cut, progress)
        if rebuild.position.stream_id != cut:
            raise ChangedMeanwhile(
                f"workspace {self._workspace}: expected to fold the log up to {cut}, came to {rebuild.position.stream_id}"
            )
        gone = await self._unidentified(seen_before, living.stream_id)
        baseline = await self._write(gone, made_at, await self._window(cut))
        checked = await self._check(baseline, gone, progress)
        return Prepared(baseline, rebuild.baseline, living.generation, gone, checked)

    async def named_after(self, position: str, upto: str, visitors: Iterable[str]) -> set[str]:
        """Those of the visitors that log entries name behind a position, up to another one. Raises ChangedMeanwhile."""
        wanted, named = set(visitors), set[str]()
        if not wanted:
            return named
        try:
            async with aclosing(read_pages(self._client, self._workspace, position, upto)) as pages:
                async for page in pages:
                    entries = read_batch(page, self._rules).entries
                    named |= wanted & {entry.names.visitor_id for entry in entries if isinstance(entry, Entry)}
        except LogCut as error:
            raise ChangedMeanwhile(str(error)) from error
        return named

    async def discard(self) -> None:
        """Removes what was prepared."""
        await self._client.unlink(self._pieces, self._gone)

    # --- making

    async def _unidentified(self, seen_before: str | None, upto: str) -> frozenset[str]:
        if seen_before is None:
            return frozenset()
        state = self._rebuild.state
        old = sorted(
            (visitor.last_seen_at, each)
            for each, visitor in state.visitors.items()
            if not visitor.links and visitor.last_seen_at < seen_before
        )
        candidates = {each for _, each in old}
        candidates -= await self.named_after(self._rebuild.position.stream_id, upto, candidates)
        return frozenset([each for _, each in old if each in candidates][:GONE_MAX])

    async def _window(self, cut: str) -> list[Occurred | None]:
        """What the duplicate window needs of the entries up to the cut."""
        rebuild = self._rebuild
        count = LOOKBACK_ENTRIES + len(rebuild.excluded)
        pages = [page async for page in entries_before(self._client, self._workspace, cut, count)]
        window = list[Occurred | None]()
        if rebuild.baseline is not None:
            pages = behind(pages, rebuild.baseline.position)
            window = await read_window(self._client, self._workspace, rebuild.baseline)
        salt = salt_of(await Records(self._client, self._workspace).secret())
        window += occurrences(pages, self._rules, rebuild.excluded, salt)
        return window[-LOOKBACK_ENTRIES:]

    def _stored(self, part: Part, gone: frozenset[str]) -> Iterator[tuple[str, bytes | None]]:
        ids = self._rebuild.ids(part)
        if part in {"visitors", "visitor-stamps"}:
            ids -= gone
        return zip(ids, self._rebuild.stored(part, ids), strict=True)

    async def _write(self, gone: frozenset[str], made_at: str, window: list[Occurred | None]) -> Baseline:
        rebuild, digest, count = self._rebuild, hashlib.sha256(), 0
        await self.discard()
        window_count = 0
        for data in state_pieces(lambda part: self._stored(part, gone), rebuild.state, rebuild.members):
            digest.update(data)
            count += 1
            await self._push(self._pieces, data)
        for data in window_pieces(window):
            digest.update(data)
            count += 1
            window_count += 1
            await self._push(self._pieces, data)
        ordered = sorted(gone)
        for first in range(0, len(ordered), _GONE_AT_ONCE):
            await self._push(self._gone, *ordered[first : first + _GONE_AT_ONCE])
        at = rebuild.position
        counts = msgspec.structs.replace(at.counts, visitors=at.counts.visitors - len(gone))
        return Baseline(
            at.stream_id, at.digest, made_at, counts, sorted(await self._excluded()), count, window_count, digest.hexdigest()
        )

    async def _excluded(self) -> set[str]:
        """Entries that the log behind the cut does not exclude any more: see `Baseline.excluded`."""
        rebuild, cut = self._rebuild, position_key(self._rebuild.position.stream_id)
        begins = rebuild.baseline.position if rebuild.baseline is not None else ""
        last = (await log_extent(self._client, self._workspace)).last
        try:
            found = await exclusions_after(self._client, self._workspace, begins, last)
        except LogCut as error:
            raise ChangedMeanwhile(str(error)) from error
        before = frozenset(rebuild.baseline.excluded) if rebuild.baseline is not None else frozenset[str]()
        excluded = counting(found, before)
        cut_ones = [event for each, event in found if each not in excluded and position_key(each) <= cut]
        return {
            *before,
            *(each for each in excluded if is_cut(each, cut)),
            *(each for event in cut_ones for each in event.entries),
        }

    async def _push(self, staged: str, *values: Any) -> None:
        pipeline = self._client.pipeline(transaction=True)
        pipeline.rpush(staged, *values)
        pipeline.expire(staged, STAGED_S)
        await pipeline.execute()

    # --- checking

    async def _check(self, baseline: Baseline, gone: frozenset[str], progress: Progress) -> str:
        """Fold the rest of the log on what was written, and compare. Returns the position that was reached."""
        check = _Check(self._client, self._settings, self._rules, baseline, self._pieces)
        await check.begin()
        await check.build((await self._reader.position()).stream_id, progress)
        if named := await self.named_after(baseline.position, check.position.stream_id, gone):
            raise ChangedMeanwhile(f"workspace {self._workspace}: {len(named)} of the visitors to remove came back")
        sides, compared = Sides(self._client, self._workspace, check), 0
        while compared != check.beginnings:  # the log, read on, may have excluded what was folded when we compared
            compared = check.beginnings
            for part in PARTS:
                await self._compare(part, sides, gone)
        return check.position.stream_id

    async def _compare(self, part: Part, sides: Sides, gone: frozenset[str]) -> None:
        left_out = gone if part in {"visitors", "visitor-stamps"} else frozenset[str]()
        async for each, living, rebuilt in sides.at_one_position(part, await sides.suspects(part)):
            if living != rebuilt and not (each in left_out and rebuilt is None):
                raise Differs(
                    f"workspace {self._workspace}: the state is not what the log makes of it ({part}); kinfold verify shows "
                    "what differs and kinfold replay repairs it; nothing was cut"
                )


class _Check(Rebuild):
    """Folds on a baseline that is not the log's yet."""

    def __init__(self, client: Client, settings: Settings, rules: IdentifierRules, baseline: Baseline, pieces: str) -> None:
        super().__init__(client, settings, rules)
        self._given: Final = baseline
        self._pieces: Final = pieces

    async def found_baseline(self) -> tuple[int, Baseline | None, Begun]:
        """The baseline to check."""
        given = self._given
        return given.counts.lost, given, await restore(self._client, self._workspace, given, self._pieces)

    async def begin_again(self, progress: Progress = lambda _: None) -> None:
        """Begin with exclusions that the log has behind the cut. Raises ChangedMeanwhile if they reach before it."""
        cut = position_key(self._given.position)
        if position_key(await baseline_position(self._client, self._workspace)) >= cut:
            raise ChangedMeanwhile(f"workspace {self._workspace}: another run has cut the log")
        await super().begin_again(progress)
        if {each for each in self.excluded if is_cut(each, cut)} - set(self._given.excluded):
            raise ChangedMeanwhile(f"workspace {self._workspace}: the log excludes entries that were to be cut")
