"""Erasures: from the request to the receipt (contract section 10).

    request    written down before anything is done
    erase      the log is rewritten (`rewriting.py`); from the swap on the person is gone for every reader
    search     every key is searched for the identifiers, which are then forgotten
    files      the server rewrites its append-only file, so that no file holds what was erased
    receipt    written down; the erasure is done

One process erases in a workspace at a time, for all erasures that are pending. After a crash the next one goes on where that
one stopped: `kinfold erase --resume`, or the projector, which looks for pending erasures every few seconds.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Any, Final, cast

import msgspec

import kinfold_services.replay
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key, snapshot_key
from kinfold_schemas.times import to_text
from kinfold_services.connections import SERVER_ERRORS, Client
from kinfold_services.log.erased_entries import remember_erased
from kinfold_services.privacy.baselines import Forgetting
from kinfold_services.privacy.files import Files
from kinfold_services.privacy.person import FoldedLog, People, find_people, fold_ownership
from kinfold_services.privacy.planning import Plan, hashes_of, make_plan, recording_events
from kinfold_services.privacy.records import Check, Pending, Receipt, Records, encode, salt_of, shown
from kinfold_services.privacy.rewriting import Rewriting
from kinfold_services.privacy.searching import Searcher, search_keys
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.runtime.terminal import counted
from kinfold_services.settings import Settings
from kinfold_services.state.position import Replaced
from kinfold_services.state.queries import Identifier
from kinfold_services.state.reader import StateReader

_HOLD: Final = files(kinfold_services.replay).joinpath("hold.lua").read_text()
_LOCK_MS: Final = 10_000
"""After a crash, the next process waits for so long. A process that gets little CPU must renew its lock within that time."""
_LOCK_AGAIN_S: Final = 1.0
_WAIT_S: Final = 0.1
_TRIES: Final = 20

Progress = Callable[[int], None]

ELSEWHERE: Final = (
    {
        "place": "exports and contact files that were written before",
        "what": "delete them, or keep them only as long as your retention allows; kinfold import applies the erasures that the "
        "target knows and those in the file",
    },
    {"place": "backups of the server, of its replicas and of the directory's database", "what": "let them expire"},
    {
        "place": "free space in the files of a directory on PostgreSQL",
        "what": "run VACUUM FULL in its database; its write-ahead log is overwritten in time",
    },
    {
        "place": "spools of producers, and events on their way",
        "what": "a resend within the duplicate window is dropped; a later one makes a new contact, to be erased again",
    },
    {"place": "subscribers of the feed", "what": "they are told ContactErased, and have to forget the contact"},
    {
        "place": "memory of a projector or a gateway that cannot reach Redis",
        "what": "the others drop the person within seconds, and it does once it can; otherwise stop it",
    },
    {"place": "web servers' and proxies' access logs", "what": "let them expire"},
)


class Eraser:
    """Erases people from one workspace."""

    def __init__(self, client: Client, settings: Settings, progress: Progress = lambda _: None) -> None:
        self.records: Final = Records(client, settings.workspace)
        self._client: Final = client
        self._settings: Final = settings
        self._workspace: Final = settings.workspace
        self._progress: Final = progress
        self._files: Final = Files(client, settings)

    async def find(self, identifiers: Sequence[Identifier]) -> tuple[FoldedLog, People]:
        """Who is meant. Raises NoLog."""
        log = await fold_ownership(self._client, self._settings, await self._rules(), self._progress)
        return log, find_people(log, identifiers)

    async def preview(self, log: FoldedLog, people: People) -> Plan:
        """What an erasure of these people would do."""
        salt = "0" * 16  # for nothing that is written
        return await make_plan(self._client, self._workspace, log, people.belongings, salt)

    async def request(self, identifiers: Sequence[Identifier], *, by: str | None = None, reason: str | None = None) -> Receipt:
        """Write down that these people are to be erased."""
        receipt = Receipt(f"er_{uuid.uuid4().hex}", self._workspace, _now(), by=by, reason=reason)
        await self.records.request(Pending(receipt, identifiers=list(identifiers)))
        return receipt

    async def finish_pending(self, log: FoldedLog | None = None) -> list[Receipt]:
        """Finish all erasures that are pending; return their receipts.

        `log`: a fold that was made just now, to save another one. Raises WouldLose, NoLog, and Replaced where replays do not
        leave us alone.
        """
        for left in range(_TRIES, 0, -1):
            try:
                async with self.alone():
                    return await self._finish_pending(log)
            except Replaced:  # by a replay, or by a process that took our lock for abandoned: it goes first
                if left == 1:
                    raise
                await asyncio.sleep(_WAIT_S)
                log = None
        raise AssertionError("unreachable")

    # --- stages

    async def _finish_pending(self, log: FoldedLog | None) -> list[Receipt]:
        await self._erase([each for each in await self.records.pending() if each.stage == "pending"], log)
        pending = await self.records.pending()
        texts = frozenset(text for each in pending if each.stage == "swapped" for text in each.texts)
        await self._search([each for each in pending if each.stage == "swapped"], texts)
        pending = [each for each in await self.records.pending() if each.stage == "forgotten"]
        return await self._finish(pending, texts)

    async def _erase(self, pending: list[Pending], log: FoldedLog | None) -> None:
        if not pending:
            return
        log = log or (await self.find(()))[0]
        secret = await self.records.secret()
        of_each = [find_people(log, each.identifiers) for each in pending]
        for each, people in zip(pending, of_each, strict=True):
            each.receipt.people = len(set(people.found.values()))
            each.receipt.unknown = len(people.missing)
            each.receipt.elsewhere = list(ELSEWHERE)
        everybody = find_people(log, [identifier for each in pending for identifier in each.identifiers]).belongings
        if not (everybody.entries or everybody.contacts or everybody.visitors):
            for each in pending:
                await self._nobody(each)
            return
        salt, workspace = salt_of(secret), self._workspace
        plan = await make_plan(self._client, workspace, log, everybody, salt)
        events = list[bytes]()
        for each, people in zip(pending, of_each, strict=True):
            own = plan if len(pending) == 1 else await make_plan(self._client, workspace, log, people.belongings, salt)
            each.receipt.contact_ids = sorted(people.belongings.contacts)
            each.receipt.identifiers = hashes_of(people.belongings, secret)
            each.receipt.removed = own.removed
            each.texts = sorted(own.texts)
            events += recording_events(each.receipt, own)
        forgetting = Forgetting(self._client, workspace, everybody, plan.token, uuid.uuid4().hex)
        job = Rewriting(self._client, self._settings, log, plan, forgetting)

        def swapped() -> list[tuple[str, bytes]]:
            return [(each.receipt.erasure, encode(_swapped(each, job.feed_entries))) for each in pending]

        try:
            await remember_erased(self._client, workspace, plan.redacted)
            await job.run(swapped, events, self._progress)
        finally:
            await job.close()

    async def _nobody(self, pending: Pending) -> None:
        """There is nobody to erase: the identifiers named no one, or somebody who was erased meanwhile."""
        await self.records.advance(
            msgspec.structs.replace(pending, stage="forgotten", identifiers=[], texts=[], receipt=_erased_now(pending.receipt))
        )

    async def _search(self, pending: Sequence[Pending], texts: frozenset[str]) -> None:
        if not pending:
            return
        await self._drop_snapshots()
        searcher = Searcher(texts)
        found = await search_keys(self._client, self._workspace, searcher, ("erasures-pending",))
        checks = [Check(place, count) for place, count in sorted(found.items())] or [Check("every key of the workspace", 0)]
        if searcher.left_out:
            checks.append(
                Check("not searched", 0, counted(searcher.left_out, "identifier is", "identifiers are") + " too short")
            )
        for each in pending:
            each.receipt.checks = checks
            await self.records.advance(msgspec.structs.replace(each, stage="forgotten", identifiers=[], texts=[]))

    async def _finish(self, pending: Sequence[Pending], texts: frozenset[str]) -> list[Receipt]:
        if not pending:
            return []
        checks = await self._files.clean(Searcher(texts) if texts else None)
        receipts: list[Receipt] = []
        for each in pending:
            receipt = shown(each)
            receipt.checks = [*receipt.checks, *checks]
            receipt.state, receipt.stage, receipt.finished_at = "done", None, _now()
            await self.records.finish(receipt)
            receipts.append(receipt)
        return receipts

    async def _drop_snapshots(self) -> None:
        """Delete the snapshots that no longer count: the swap has forgotten where they are."""
        kept = {
            snapshot_key(self._workspace, each.decode()).encode()
            for each in cast("list[bytes]", await cast("Any", self._client.hkeys(key(self._workspace, "snapshots"))))
        }
        pattern = snapshot_key(self._workspace, "*")
        names = cast("AsyncGenerator[bytes]", self._client.scan_iter(match=pattern, count=1000))
        async for name in names:
            if name not in kept:
                await self._client.unlink(name)

    # --- around

    async def _rules(self) -> IdentifierRules:
        return IdentifierRules(await StateReader(self._client, self._workspace).blocked_identifiers())

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """Wait until no other process erases in the workspace, and keep others waiting."""
        name, token = key(self._workspace, "erasing"), uuid.uuid4().hex
        while not await self._client.set(name, token, nx=True, px=_LOCK_MS):
            await asyncio.sleep(_WAIT_S)
        hold = self._client.register_script(_HOLD)

        async def keep() -> None:
            while True:
                await asyncio.sleep(_LOCK_AGAIN_S)
                with suppress(*SERVER_ERRORS):  # the lock outlasts three tries
                    if not await hold(
                        keys=[name], args=[token, _LOCK_MS]
                    ):  # it expired; if it was taken, we write nothing more
                        await self._client.set(name, token, nx=True, px=_LOCK_MS)

        keeping = asyncio.create_task(keep())
        try:
            yield
        finally:
            await end_tasks([keeping])
            with suppress(*SERVER_ERRORS):  # it expires; an error would hide that of the block, or that it is done
                await hold(keys=[name], args=[token, 0])


def _swapped(pending: Pending, feed_entries: int) -> Pending:
    receipt = _erased_now(pending.receipt)
    if receipt.removed is not None:
        receipt.removed.feed_entries = feed_entries
    return msgspec.structs.replace(pending, stage="swapped", receipt=receipt)


def _erased_now(receipt: Receipt) -> Receipt:
    return msgspec.structs.replace(receipt, erased_at=_now())


def _now() -> str:
    return to_text(time.time_ns() // 1_000_000)
