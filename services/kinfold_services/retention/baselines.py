"""Makes the baseline of a log at an entry, beside the living state, and checks it before anything depends on it.

1. fold the log in memory up to the entry, from the baseline before, if there is one
2. write the state's pieces into a list of their own, which expires unless somebody needs it
3. read that list back, fold the rest of the log on it, and compare the result with the living state, byte for byte
"""

import hashlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from kinfold_projections.duplicates import LOOKBACK_ENTRIES, Occurred
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import staged_baseline_key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.log.baseline import Baseline, LogCut, baseline_position
from kinfold_services.log.exclusions import counting, exclusions_after, is_cut
from kinfold_services.log.pages import log_extent, pages_backward
from kinfold_services.privacy.records import Records, salt_of
from kinfold_services.replay.differences import Sides
from kinfold_services.replay.rebuild import PARTS, Part, Progress, Rebuild
from kinfold_services.settings import Settings
from kinfold_services.state.baseline import Begun, occurrences, pages_after, read_window, restore, state_pieces, window_pieces
from kinfold_services.state.reader import StateReader

STAGED_S: Final = 900
"""How long what a run prepares is kept if the run is killed."""


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
    """The generation of the state that it was compared with."""
    checked: str
    """The position at which both were equal."""


class BaselineMaker:
    """Makes one baseline, in lists under a token."""

    def __init__(self, client: Client, settings: Settings, rules: IdentifierRules, token: str) -> None:
        self._client: Final = client
        self._settings: Final = settings
        self._workspace: Final = settings.workspace
        self._rules: Final = rules
        self._pieces: Final = staged_baseline_key(settings.workspace, token, "pieces")
        self._reader: Final = StateReader(client, settings.workspace)
        self._rebuild: Final = Rebuild(client, settings, rules)

    async def prepare(self, cut: str, made_at: str, progress: Progress) -> Prepared:
        """A checked baseline at the entry `cut`. Raises Differs, ChangedMeanwhile, NoLog and UnknownBaseline."""
        rebuild, living = self._rebuild, await self._reader.position()
        await rebuild.begin()
        await rebuild.build(cut, progress)
        if (reached := rebuild.position.stream_id) != cut:
            raise ChangedMeanwhile(f"workspace {self._workspace}: expected to fold the log up to {cut}, came to {reached}")
        baseline = await self._write(made_at, await self._window(cut))
        return Prepared(baseline, rebuild.baseline, living.generation, await self._check(baseline, progress))

    async def discard(self) -> None:
        """Remove what was prepared."""
        await self._client.unlink(self._pieces)

    # --- making

    async def _window(self, cut: str) -> list[Occurred | None]:
        """What the duplicate window needs of the entries up to the cut."""
        rebuild = self._rebuild
        count = LOOKBACK_ENTRIES + len(rebuild.excluded)
        pages = [page async for page in pages_backward(self._client, self._workspace, cut, count)][::-1]
        window = list[Occurred | None]()
        if rebuild.baseline is not None:
            pages = pages_after(pages, rebuild.baseline.position)
            window = await read_window(self._client, self._workspace, rebuild.baseline)
        salt = salt_of(await Records(self._client, self._workspace).secret())
        window += occurrences(pages, self._rules, rebuild.excluded, salt)
        return window[-LOOKBACK_ENTRIES:]

    def _stored(self, part: Part) -> Iterator[tuple[str, bytes | None]]:
        ids = self._rebuild.ids(part)
        return zip(ids, self._rebuild.stored(part, ids), strict=True)

    async def _write(self, made_at: str, window: list[Occurred | None]) -> Baseline:
        rebuild, digest, counts = self._rebuild, hashlib.sha256(), [0, 0]
        await self.discard()
        for number, pieces in enumerate((state_pieces(self._stored, rebuild.state, rebuild.members), window_pieces(window))):
            for data in pieces:
                digest.update(data)
                counts[number] += 1
                await self._push(data)
        at, excluded = rebuild.position, sorted(await self._excluded())
        return Baseline(at.stream_id, at.digest, made_at, at.counts, excluded, sum(counts), counts[1], digest.hexdigest())

    async def _excluded(self) -> set[str]:
        """Entries that the log after the cut does not exclude any more: see `Baseline.excluded`."""
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

    async def _push(self, data: bytes) -> None:
        pipeline = self._client.pipeline(transaction=True)
        pipeline.rpush(self._pieces, data)
        pipeline.expire(self._pieces, STAGED_S)
        await pipeline.execute()

    # --- checking

    async def _check(self, baseline: Baseline, progress: Progress) -> str:
        """Fold the rest of the log on what was written, and compare. Returns the position that was reached."""
        check = _Check(self._client, self._settings, self._rules, baseline, self._pieces)
        await check.begin()
        await check.build((await self._reader.position()).stream_id, progress)
        sides, compared = Sides(self._client, self._workspace, check), 0
        while compared != check.beginnings:  # the log, read further, may have excluded what was folded when we compared
            compared = check.beginnings
            for part in PARTS:
                if await sides.is_other(part, await sides.suspects(part)):
                    raise Differs(
                        f"workspace {self._workspace}: the state differs from a fold of the log ({part}); kinfold verify "
                        "shows what differs and kinfold replay repairs it; nothing was cut"
                    )
        return check.position.stream_id


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
        """Begin with exclusions that the log has after the cut. Raises ChangedMeanwhile if they reach before it."""
        cut = position_key(self._given.position)
        if position_key(await baseline_position(self._client, self._workspace)) >= cut:
            raise ChangedMeanwhile(f"workspace {self._workspace}: another run has cut the log")
        await super().begin_again(progress)
        if {each for each in self.excluded if is_cut(each, cut)} - set(self._given.excluded):
            raise ChangedMeanwhile(f"workspace {self._workspace}: the log excludes entries that were to be cut")
