"""The rewriting of a log for an erasure: a replay whose log is another one (contract section 10).

    1. rebuild in memory what the log as it will be gives, and compare     (the projector goes on)
    2. copy the log and the feed into the staging area, redacted           (it goes on; begins with 1)
    3. write the rebuilt state into the staging area                       (it goes on)
    4. hold the projector for a moment, do the last of 1 to 3 again, and swap log, feed and state in one script

Producers append at any time, also between our last copy and the script, so the script copies the last entries itself. Killed
anywhere before the script, everything stays as it was. The hold ends by itself.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any, Final, cast

import msgspec

import kinfold_services.privacy
from kinfold_schemas.changes import Change
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import ANSWER_S, Client, RawEntry
from kinfold_services.log.streams import pairs_of
from kinfold_services.privacy.baselines import Forgetting
from kinfold_services.privacy.person import FoldedLog
from kinfold_services.privacy.planning import Plan
from kinfold_services.privacy.refolding import refolded
from kinfold_services.privacy.searching import MIN_CHARS
from kinfold_services.replay.replay import CHECK, SWAP, Replay
from kinfold_services.runtime.tasks import end_tasks
from kinfold_services.settings import Settings
from kinfold_services.state.position import Replaced
from kinfold_services.state.wire import Wire
from kinfold_services.state.writes import pack

_PAGE_ENTRIES: Final = 50
"""The server copies a page in about 0.2 ms, and answers nobody meanwhile."""
_AT_ONCE: Final = 1000
_FEW_TEXTS: Final = 100
"""In a page of the feed, up to this many identifiers are searched for one by one. Of more, all strings of it are looked up."""


def _script(name: str) -> str:
    return files(kinfold_services.privacy).joinpath(name).read_text()


class Rewriting(Replay):
    """One rewriting of one workspace's log. `run`, and `close` in any case."""

    def __init__(self, client: Client, settings: Settings, log: FoldedLog, plan: Plan, forgetting: Forgetting) -> None:
        """`log`: it was folded for the plan, and is used up. `forgetting`: what the log's baseline loses."""
        redacted = plan.redacted
        settings = settings.model_copy(update={"batch_entries": _PAGE_ENTRIES})
        super().__init__(client, settings, log.rules, rewritten=redacted, forget=forgetting)
        self._log: Final = log
        self._copying: asyncio.Task[None] | None = None
        self._forgetting: Final = forgetting
        self.feed_entries = 0
        """How many entries of the feed lost their body."""
        self._redacted: Final = redacted
        self._texts: Final = sorted(_in_json(each) for each in plan.texts if len(each) >= MIN_CHARS)
        self._waiting: list[str] = []
        self._records: Callable[[], Sequence[tuple[str, bytes]]] = tuple
        self._events: Sequence[bytes] = ()
        self._copied = ""
        self._copied_feed = ""
        self._wire: Final = Wire(client, key(settings.workspace, "events"), ANSWER_S)
        self._copy_log = self._copy_feed = b""
        """The hashes of the scripts."""
        self._erase: Final = client.register_script(CHECK + _script("erase.lua") + SWAP)

    async def run(
        self, records: Callable[[], Sequence[tuple[str, bytes]]], events: Sequence[bytes], progress: Callable[[int], None]
    ) -> list[Change]:
        """Rewrite the log. Returns the changes that went to the feed.

        `records`: what is pending of each erasure from the swap on, asked for at that time. `events`: what the log is told of
        them. Raises WouldLose, NoLog, and Replaced where a replay has begun meanwhile.
        """
        self._records, self._events = records, events
        await self._forgetting.stage()
        await self.build(progress)
        await self.compare()
        await self.check_loss()
        return await self.replace(allow_lost=False)

    async def _build(self, progress: Callable[[int], None]) -> None:
        """The server copies while we fold, compare and write."""
        await self._begin_copies()
        self._copying = asyncio.create_task(self._copy_all())
        living = await self._stored.position()
        if position_key(living.stream_id) >= position_key(self._log.upto):  # else we would be ahead of what we compare
            ahead = await refolded(self._client, self._workspace, self._log, self._redacted)
            if ahead is not None and await self.rebuild.go_on_from(ahead):
                progress(ahead.position.counts.entries)
        await super()._build(progress)

    async def _before_hold(self) -> None:
        if self._copying is not None:
            await self._copying
        await self._copy_all()
        await self._staging.check()

    async def _differs(self) -> bool:
        """The log does in any case."""
        await super()._differs()
        return True

    async def _put_in_place(self) -> bool:
        await self._copy_all()
        workspace = self._workspace
        keys = self._swapped_keys()
        keys += [key(workspace, "events"), key(workspace, "events", "replay"), key(workspace, "changes", "replay")]
        keys += [key(workspace, "erased", "replay"), key(workspace, "snapshots"), key(workspace, "erasures-pending")]
        keys += [key(workspace, "baseline"), key(workspace, "baseline-pieces"), *self._forgetting.staged]
        generation = self._staging.generation
        arguments: list[Any] = [self._token, generation, self._feed_entries, self._copied, self._copied_feed, generation]
        records = self._records()
        arguments += [len(records), *(item for record in records for item in record), *self._events]
        reply = await self._erase(keys=keys, args=arguments)
        if reply == b"replaced":
            raise Replaced(f"workspace {workspace}: another replay has begun")
        if reply == b"cut":
            raise Replaced(f"workspace {workspace}: the log was cut")
        return bool(reply == b"done")

    async def close(self) -> None:
        """Empty the staging area, unless another replay is at work there."""
        if self._copying is not None:
            await end_tasks([self._copying])
            with suppress(asyncio.CancelledError):
                self._copying.exception()  # else it would be logged, and `run` has raised it or another one
        await self._wire.close()
        await self._forgetting.discard()
        await super().close()

    # --- copies

    async def _begin_copies(self) -> None:
        erased = key(self._workspace, "erased", "replay").encode()
        ids = self._forgetting.contacts + (self._texts if len(self._texts) > _FEW_TEXTS else [])
        await self._staging.write(
            pack(b"SADD", erased, *ids[first : first + _AT_ONCE]) for first in range(0, len(ids), _AT_ONCE)
        )
        self._copied = self._copied_feed = ""
        scripts = "copy_log.lua", "copy_feed.lua"
        self._copy_log, self._copy_feed = await self._wire.ask([pack(b"SCRIPT", b"LOAD", _script(each)) for each in scripts])
        self._waiting = sorted(self._redacted, key=position_key, reverse=True)
        self.feed_entries = 0

    async def _copy_all(self) -> None:
        """Copy what is there, until that is little at a time."""
        while await self._copy_log_page() >= _PAGE_ENTRIES:
            pass
        while await self._copy_feed_page() >= _PAGE_ENTRIES:
            pass

    async def _copy_log_page(self) -> int:
        """Copy up to a page of the log; return how many entries."""
        some = self._waiting[-_PAGE_ENTRIES:][::-1]
        upto = some[-1] if len(some) == _PAGE_ENTRIES else "+"  # the next ones are not at hand before they are told
        keys = [
            key(self._workspace, "events"),
            key(self._workspace, "events", "replay"),
            key(self._workspace, "position", "replay"),
        ]
        replaced = [item for each in some for item in (each, self._redacted[each])]
        last, count, wide = await self._execute(self._copy_log, keys, [self._copied, upto, _PAGE_ENTRIES, *replaced])
        if last:
            self._copied = last.decode()
            copied = position_key(self._copied)
            while self._waiting and position_key(self._waiting[-1]) <= copied:
                self._waiting.pop()
        if wide:
            await self._copy_wide(wide)
            return _PAGE_ENTRIES
        return _PAGE_ENTRIES if upto != "+" else int(count)

    async def _execute(self, script: bytes, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        """Execute a script. There are many pages, and redis-py would take half as long as the server for each.

        Raises Replaced if another process has claimed the staging area: then nothing was written.
        """
        generation = self._staging.generation
        (reply,) = await self._wire.ask([pack(b"EVALSHA", script, len(keys), *keys, generation, *arguments)])
        if reply == b"replaced":
            raise Replaced(f"workspace {self._workspace}: another replay has begun after {generation}")
        return reply

    async def _copy_wide(self, entry_id: bytes) -> None:
        """Copy an entry with more fields than a script can pass on."""
        ((_, fields),) = cast("list[RawEntry]", await self._client.xrange(key(self._workspace, "events"), entry_id, entry_id))
        values = [item for pair in pairs_of(fields) for item in pair]
        await self._staging.write([pack(b"XADD", key(self._workspace, "events", "replay"), entry_id, *values)])
        self._copied = entry_id.decode()

    async def _copy_feed_page(self) -> int:
        keys = [key(self._workspace, name, area) for name, area in _FEED_KEYS]
        are_many = len(self._texts) > _FEW_TEXTS
        texts = [] if are_many else self._texts
        arguments: list[str | bytes | int] = [self._copied_feed, _PAGE_ENTRIES, int(are_many), *texts]
        last, count, changed = await self._execute(self._copy_feed, keys, arguments)
        if last:
            self._copied_feed = last.decode()
        self.feed_entries += int(changed)
        return int(count)


def _in_json(text: str) -> str:
    """A text as JSON writes it between quotes."""
    return msgspec.json.encode(text).decode()[1:-1]


_LOG_KEYS: Final[Sequence[tuple[Any, Any]]] = (("events", None), ("events", "replay"), ("position", "replay"))
_FEED_KEYS: Final[Sequence[tuple[Any, Any]]] = (
    *(("changes", None), ("changes", "replay"), ("erased", "replay"), ("position", "replay")),
)
