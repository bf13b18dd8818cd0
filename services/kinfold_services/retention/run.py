"""One retention run of one workspace: finds what is older than promised, and removes it.

    1. visitors that no event identified go with their events: the log is rewritten, and swapped in one atomic step
    2. the log is cut behind a new baseline, rejects and feed are trimmed, and the receipt is left, in another one (`cut.lua`)

A run that is killed has done nothing, or one of these steps wholly; the next run does the rest. Before its step nothing of the
workspace has changed, and what was prepared expires. A run may be beside a projector, a replay and an export. A step that would
disturb one of them is not done, or they notice it (`LogCut`), and begin again. Runs and erasures wait for each other.
"""

import uuid
from importlib.resources import files
from typing import Any, Final, Literal, NamedTuple, cast

import msgspec

import kinfold_services.retention
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import PrivateName, PublicName, key, snapshot_key, staged_baseline_key
from kinfold_schemas.positions import position_key
from kinfold_schemas.times import to_text
from kinfold_services.connections import Client, RawEntry
from kinfold_services.history.past import drop_unusable_snapshots
from kinfold_services.log.pages import log_extent
from kinfold_services.log.streams import STREAM_PAGE_ENTRIES, as_entries, pairs_of
from kinfold_services.privacy.eraser import Eraser
from kinfold_services.rejects.entries import read_reject
from kinfold_services.replay.rebuild import Progress
from kinfold_services.retention.anonymous import Unidentified
from kinfold_services.retention.baselines import BaselineMaker, ChangedMeanwhile, Prepared
from kinfold_services.retention.limits import Limits, read_limits, slack_ms
from kinfold_services.settings import Settings
from kinfold_services.state.position import Replaced
from kinfold_services.state.reader import StateReader

_CUT: Final = files(kinfold_services.retention).joinpath("cut.lua").read_text()
_ATTEMPTS: Final = 3
_LAST_SEQ: Final = 2**64 - 1

By = Literal["projector", "kinfold retention run"]


class Removed(msgspec.Struct, rename="camel", frozen=True):
    """How much is removed."""

    log_entries: int = 0
    """Log entries that were cut."""
    visitors: int = 0
    """Visitors that no event identified."""
    erased_entries: int = 0
    """Log entries of these visitors. Each is `Erased` now, unless it was cut, too."""
    rejects: int = 0
    feed_entries: int = 0


class Checks(msgspec.Struct, rename="camel", frozen=True):
    """What was checked before the log was cut."""

    baseline_sha256: str
    """The SHA-256 of the stored baseline, as it was read back."""
    baseline_entries: int
    """How many log entries it stands for, those of earlier cuts included."""
    equal_at: str
    """The position at which the baseline and the rest of the log made the living state, byte for byte."""


class Receipt(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """What a run removed. It holds no personal data."""

    id: str
    kind: Literal["retention"] = "retention"
    workspace: str
    at: str
    by: By
    limits: dict[str, str | None]
    log_cut_at: str | None = None
    """The last log entry that was removed; null if the log was not cut."""
    removed: Removed
    checks: Checks | None = None
    """Null if the log was not cut."""
    was_interrupted: bool = False
    """The run was killed after it had found the visitors that go. They are gone, or the next receipt has them."""


class Due(NamedTuple):
    """What is older than promised. '' is nothing."""

    cut: str = ""
    """The last log entry to remove."""
    seen_before: str = ""
    """Unidentified visitors go if they were last seen before this time (RFC 3339)."""
    rejects_from: str = ""
    """The first log entry whose reject is kept."""
    rejects_keep: str = ""
    """The first reject that is kept, by its own id."""
    feed_keep: str = ""
    """The first feed entry that is kept."""

    def __bool__(self) -> bool:
        return bool(self.cut or self.rejects_keep or self.feed_keep or self.seen_before)


class RetentionRun:
    """One run. Changes `client` as `read_pages` does."""

    def __init__(self, client: Client, settings: Settings, by: By, now_ms: int) -> None:
        """`now_ms` is the server's time."""
        self._client: Final = client
        self._settings: Final = settings
        self._workspace: Final = settings.workspace
        self._by: Final[By] = by
        self._now_ms: Final = now_ms
        self._reader: Final = StateReader(client, settings.workspace)
        client.set_response_callback("XRANGE", cast("Any", as_entries))

    async def due(self, limits: Limits, *, with_slack: bool = False) -> Due:
        """What is due; `with_slack`: only if something is past its age by more than the job tolerates."""
        if with_slack and not await self._is_urgent(limits):
            return Due()
        return await self._due(limits)

    async def run(self, limits: Limits, progress: Progress = lambda _: None, *, dry: bool = False) -> Receipt | None:
        """Remove what is due; None if nothing is. With `dry` only says what would go.

        Raises Differs, ChangedMeanwhile (after several attempts), NoLog, WouldLose and UnknownBaseline.
        """
        if dry:
            return await self._repeatedly(limits, progress, dry=True)
        async with Eraser(self._client, self._settings).alone():
            await self._leave_interrupted_receipt()
            return await self._repeatedly(limits, progress, dry=False)

    async def _repeatedly(self, limits: Limits, progress: Progress, *, dry: bool) -> Receipt | None:
        receipt = Receipt(
            id=uuid.uuid4().hex,
            workspace=self._workspace,
            at=to_text(self._now_ms),
            by=self._by,
            limits=limits.shown(),
            removed=Removed(),
        )
        for attempt in range(_ATTEMPTS):
            due = await self._due(limits)
            try:
                if due.seen_before and not receipt.removed.visitors:
                    receipt = await self._remove_visitors(receipt, due.seen_before, progress, dry=dry)
                    due = await self._due(limits)  # the rewriting has rewritten the rejects, too
                if due.cut or due.rejects_keep or due.feed_keep or receipt.removed.visitors:
                    return await self._cut_and_trim(receipt, due, progress, dry=dry)
            except (ChangedMeanwhile, Replaced) as error:
                if attempt == _ATTEMPTS - 1:
                    raise ChangedMeanwhile(str(error)) from error
            else:
                return None
        return None

    # --- what is due

    async def _due(self, limits: Limits) -> Due:
        cut = await self._cut(limits.events)
        kept_from = [_after(cut)] if cut else []
        if limits.rejects is not None:
            kept_from.append(f"{max(0, self._now_ms - limits.rejects)}-0")
        rejects_from = max(kept_from, key=position_key, default="")
        seen_before = "" if limits.anonymous is None else to_text(max(0, self._now_ms - limits.anonymous))
        rejects_keep = await self._first_kept_reject(rejects_from) if rejects_from else ""
        return Due(cut, seen_before, rejects_from, rejects_keep, await self._first_kept_change(limits.feed))

    async def _cut(self, age_ms: int | None) -> str:
        """The last log entry that is too old and folded, after the baseline."""
        position = (await self._reader.position()).stream_id
        if age_ms is None or age_ms >= self._now_ms or not position:
            return ""
        extent = await log_extent(self._client, self._workspace)
        last = min(position, f"{self._now_ms - age_ms - 1}-{_LAST_SEQ}", key=position_key)
        reply = await self._client.xrevrange(key(self._workspace, "events"), max=last, count=1)
        entries = cast("list[RawEntry]", reply)
        cut = entries[0][0].decode() if entries else ""
        return cut if position_key(cut) > position_key(extent.begins) else ""

    async def _first_kept_reject(self, kept_from: str) -> str:
        """The first reject to keep, by its own id; '' if no reject is too old. Rejects are in the log's order."""
        rejects, after, found = key(self._workspace, "rejects"), "", ""
        while page := await self._page(rejects, after):
            for reject_id, fields in page:
                reject = read_reject(pairs_of(fields))
                entry = reject.entry if reject is not None else reject_id.decode()
                if position_key(entry) >= position_key(kept_from):
                    return found and reject_id.decode()
                found = after = reject_id.decode()
        return found and _after(found)

    async def _first_kept_change(self, age_ms: int | None) -> str:
        if age_ms is None or age_ms >= self._now_ms:
            return ""
        keep = f"{self._now_ms - age_ms}-0"
        first = await self._page(key(self._workspace, "changes"), "", count=1)
        return keep if first and position_key(first[0][0].decode()) < position_key(keep) else ""

    async def _page(self, stream: str, after: str, count: int = STREAM_PAGE_ENTRIES) -> list[RawEntry]:
        reply = await self._client.xrange(stream, min=f"({after}" if after else "-", count=count)
        return cast("list[RawEntry]", reply)

    async def _is_urgent(self, limits: Limits) -> bool:
        """Whether the oldest of something is past its age by the slack, or nobody has looked for old visitors for so long."""
        if limits.anonymous is not None:
            reply: Any = await self._client.hget(key(self._workspace, "retention"), "anonymous_at")
            if self._now_ms - int(reply or 0) > slack_ms(limits.anonymous):
                return True
        names: list[tuple[int | None, PublicName]] = [
            (limits.events, "events"),
            (limits.rejects, "rejects"),
            (limits.feed, "changes"),
        ]
        for age_ms, name in names:
            if age_ms is None or not (page := await self._page(key(self._workspace, name), "", count=1)):
                continue
            oldest, fields = page[0]
            entry = oldest.decode()
            if name == "rejects" and (reject := read_reject(pairs_of(fields))) is not None:
                entry = reject.entry
            if self._now_ms - position_key(entry)[0] > age_ms + slack_ms(age_ms):
                return True
        return False

    # --- removing it

    async def _leave_interrupted_receipt(self) -> None:
        """Leave the receipt of a run that was killed between its steps."""
        retention, left = key(self._workspace, "retention"), key(self._workspace, "retention-receipts")
        pending: Any = await self._client.hget(retention, "pending")
        if pending is None:
            return
        pipeline = self._client.pipeline(transaction=True)
        pipeline.rpush(left, pending)
        pipeline.hdel(retention, "pending")
        await pipeline.execute()

    async def _remove_visitors(self, receipt: Receipt, seen_before: str, progress: Progress, *, dry: bool) -> Receipt:
        """The first step; returns the receipt with what it removed."""
        unidentified = Unidentified(self._client, self._settings, await self._rules())
        leaving = await unidentified.seen_before(seen_before, progress)
        retention: Any = key(self._workspace, "retention")
        if leaving is not None:
            removed = Removed(visitors=len(leaving.visitors), erased_entries=len(leaving.plan.redacted))
            receipt = msgspec.structs.replace(receipt, removed=removed)
        if not dry:
            if leaving is not None:
                pending = _encode(msgspec.structs.replace(receipt, was_interrupted=True))
                await cast("Any", self._client.hset(retention, "pending", pending))
                await unidentified.remove(leaving, progress)
                await drop_unusable_snapshots(self._client, self._workspace)
            await cast("Any", self._client.hset(retention, "anonymous_at", self._now_ms))
        return receipt

    async def _cut_and_trim(self, receipt: Receipt, due: Due, progress: Progress, *, dry: bool) -> Receipt:
        """The second step."""
        if not due.cut:
            return await self._would_remove(receipt, due, None) if dry else await self._remove(receipt, due, None)
        maker = BaselineMaker(self._client, self._settings, await self._rules(), receipt.id)
        try:
            prepared = await maker.prepare(due.cut, receipt.at, progress)
            checks = Checks(prepared.baseline.sha256, prepared.baseline.counts.entries, prepared.checked)
            receipt = msgspec.structs.replace(receipt, log_cut_at=due.cut, checks=checks)
            return await (self._would_remove if dry else self._remove)(receipt, due, prepared)
        finally:
            await maker.discard()

    async def _rules(self) -> IdentifierRules:
        return IdentifierRules(await self._reader.blocked_identifiers())

    async def _remove(self, receipt: Receipt, due: Due, prepared: Prepared | None) -> Receipt:
        """The atomic step. Raises ChangedMeanwhile if something is not as it was checked."""
        names: list[PublicName | PrivateName] = [
            *("retention", "retention-receipts", "changes", "rejects", "events", "baseline", "baseline-pieces")
        ]
        keys = [key(self._workspace, name) for name in names]
        keys += [staged_baseline_key(self._workspace, receipt.id, "pieces"), key(self._workspace, "position")]
        keys.append(key(self._workspace, "snapshots"))
        args: list[str | int] = [_encode(receipt), due.feed_keep, due.rejects_keep, due.rejects_from]
        if prepared is None:
            args += ["", "", "", "", 0, ""]
        else:
            reply: Any = await self._client.hkeys(key(self._workspace, "snapshots"))
            keys += [snapshot_key(self._workspace, each.decode()) for each in cast("list[bytes]", reply)]
            baseline, before = prepared.baseline, prepared.before
            args += [_after(due.cut), baseline.position, _encode(baseline), before.position if before is not None else ""]
            args += [baseline.pieces, prepared.generation]
        answer: bytes = await self._client.register_script(_CUT)(keys=keys, args=args)
        if answer.startswith(b"changed: "):
            raise ChangedMeanwhile(f"workspace {self._workspace}: {answer.decode()} was replaced while the cut was prepared")
        await drop_unusable_snapshots(self._client, self._workspace)
        return msgspec.json.decode(answer, type=Receipt)

    async def _would_remove(self, receipt: Receipt, due: Due, prepared: Prepared | None) -> Receipt:
        entries = 0 if prepared is None else prepared.baseline.counts.entries
        if prepared is not None and prepared.before is not None:
            entries -= prepared.before.counts.entries
        removed = msgspec.structs.replace(
            receipt.removed,
            log_entries=entries,
            rejects=await self._count_before("rejects", due.rejects_keep),
            feed_entries=await self._count_before("changes", due.feed_keep),
        )
        return msgspec.structs.replace(receipt, removed=removed)

    async def _count_before(self, name: PublicName, keep: str) -> int:
        count, after = 0, ""
        while keep and (page := await self._page(key(self._workspace, name), after)):
            older = sum(position_key(each.decode()) < position_key(keep) for each, _ in page)
            count, after = count + older, page[-1][0].decode()
            if older < len(page):
                break
        return count


async def server_ms(client: Client) -> int:
    """The server's time in milliseconds. Log entries get their ids from it."""
    seconds, microseconds = await client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def run_retention(
    client: Client, settings: Settings, by: By, progress: Progress = lambda _: None, *, dry: bool = False
) -> Receipt | None:
    """A run now; None if nothing is due, or the workspace has no limits. Raises what `RetentionRun.run` does."""
    limits = await read_limits(client, settings.workspace)
    return await RetentionRun(client, settings, by, await server_ms(client)).run(limits, progress, dry=dry)


async def receipts(client: Client, workspace: str) -> list[Receipt]:
    """The receipts of a workspace, the oldest first."""
    reply: Any = await client.lrange(key(workspace, "retention-receipts"), 0, -1)
    return [msgspec.json.decode(each, type=Receipt) for each in cast("list[bytes]", reply)]


def _after(entry_id: str) -> str:
    """The least id after an entry's."""
    ms, seq = position_key(entry_id)
    return f"{ms}-{seq + 1}" if seq < _LAST_SEQ else f"{ms + 1}-0"


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()
