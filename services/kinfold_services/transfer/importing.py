"""Imports a file's entries into an empty workspace (`kinfold import`). `log_file.py` describes the file."""

import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec
from redis.exceptions import ResponseError

import kinfold_services.transfer
from kinfold_projections.entries import EVENT_FIELD
from kinfold_projections.records import ContactRecord
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import PrivateName, PublicName, key, staged_baseline_key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.log.baseline import read_baseline
from kinfold_services.log.erased_entries import erased_entries
from kinfold_services.log.exclusions import excludes
from kinfold_services.log.streams import STREAM_PAGE_ENTRIES, StreamEntry, read_stream
from kinfold_services.privacy.records import Records
from kinfold_services.state.baseline import restore
from kinfold_services.state.group import make_group
from kinfold_services.state.reader import StateReader
from kinfold_services.transfer.log_file import Header, LogFile, Trailer

_STAGED_S: Final = 900
_PAGE_BYTES: Final = 4 << 20
_SCRIPT_VALUES_MAX: Final = 7000  # Lua's unpack fails at about 8,000
_IMPORT: Final = files(kinfold_services.transfer).joinpath("import.lua").read_text()
_PLACE_BASELINE: Final = files(kinfold_services.transfer).joinpath("place_baseline.lua").read_text()

_NOT_YET: Final[tuple[PublicName | PrivateName, ...]] = ("position", "contacts", "visitors", "changes", "rejects")
"""What a workspace does not have before its first event is folded."""


class ImportRefused(RuntimeError):
    """The workspace or the file does not permit the import; the message gives the reason."""


class Checked(NamedTuple):
    """The content of a file that was checked."""

    header: Header
    trailer: Trailer
    exclusions: int
    """How many `EventsExcluded` there are; a replay honours them, the projector does not."""


def check_file(path: Path, advance: Callable[[int], None]) -> Checked:
    """Read a whole file. Raises BrokenFile if it is not what was exported, and OSError."""
    exclusions = 0
    with LogFile(path) as file:
        for _ in file.pieces():
            pass
        for page in file.pages():
            exclusions += sum(map(_excludes, page))
            advance(len(page))
        return Checked(file.header, file.trailer, exclusions)


class Import:
    """Appends one file to one workspace. It can be killed at any time; the same import then continues where it stopped.

    Takes over `client`: from now on its XRANGE returns lists.
    """

    def __init__(self, client: Client, workspace: str, path: Path, checked: Checked) -> None:
        self.appended = 0
        """How many entries this run appended, without those of an earlier run."""
        self._client: Final = client
        self._workspace: Final = workspace
        self._path: Final = path
        self._checked: Final = checked
        self.erased = 0
        """How many entries of the file this import left erased, because the workspace or the file says so."""
        self._erased: dict[bytes, bytes] = {}
        self._last = ""
        self._has_baseline = False
        """Whether the workspace has the file's baseline, which an earlier run has placed."""
        self._append: Final = client.register_script(_IMPORT)

    async def run(self, advance: Callable[[int], None]) -> None:
        """Append what is missing.

        Raises ImportRefused, BadPattern, BrokenFile if the file has changed since the check, and OSError.
        """
        await self._check_workspace()
        with LogFile(self._path) as file:
            await self._place_baseline(file)
            header = {entry.encode(): event.encode() for entry, event in self._checked.header.erased_entries.items()}
            self._erased = header | await erased_entries(self._client, self._workspace)
            entries = map(self._without_erased, chain.from_iterable(file.pages()))
            await self._skip_imported(entries, advance)
            await self._write_settings()
            for batch in _batches(entries):
                await self._append_batch(batch)
                self.appended += len(batch)
                advance(len(batch))

    def _without_erased(self, entry: StreamEntry) -> StreamEntry:
        """The entry, or what an erasure put in its place since the file was written."""
        event = self._erased.get(entry.id)
        if event is None or list(entry.fields) == [EVENT_FIELD, event]:
            return entry
        self.erased += 1
        return StreamEntry(entry.id, [EVENT_FIELD, event])

    async def _check_workspace(self) -> None:
        info = await _log_info(self._client, self._workspace)
        baseline = await read_baseline(self._client, self._workspace)
        self._has_baseline = baseline is not None and baseline == self._checked.header.cut
        if baseline is not None and not self._has_baseline:
            raise ImportRefused(f"baseline: expected a log that was never cut, got one that begins at {baseline.position}")
        if not info["length"] and not self._has_baseline:
            await self._check_unused(cast("bytes", info["last-generated-id"]).decode())
        wanted = set(self._checked.header.blocked_identifiers)
        IdentifierRules(wanted)  # raises BadPattern now, and not when the log is there and no projector serves it
        stored = await StateReader(self._client, self._workspace).blocked_identifiers()
        if stored != wanted and (stored or info["length"]):
            raise ImportRefused(
                f"blocked-identifiers: expected the {len(wanted)} of the file, or none if the log is empty, got a different "
                f"set of {len(stored)} in workspace {self._workspace}"
            )

    async def _place_baseline(self, file: LogFile) -> None:
        """Write the file's baseline, in one step, with the log's count of entries as if they had been there."""
        baseline = self._checked.header.cut
        if baseline is None or self._has_baseline:
            for _ in file.pieces():
                pass
            return
        staged = staged_baseline_key(self._workspace, uuid.uuid4().hex, "pieces")
        for piece in file.pieces():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.rpush(staged, piece)
            pipeline.expire(staged, _STAGED_S)
            await pipeline.execute()
        state = (await restore(self._client, self._workspace, baseline, staged)).state  # raises UnknownBaseline
        erased = {each for receipt in await Records(self._client, self._workspace).receipts() for each in receipt.contact_ids}
        if found := [each for each in erased if type(state.contacts.get(each)) is ContactRecord]:
            await self._client.unlink(staged)
            raise ImportRefused(
                f"baseline: expected a file without the people who were erased in workspace {self._workspace} since, got "
                f"{len(found)} of them; export the log again"
            )
        await make_group(self._client, self._workspace)
        about = msgspec.json.encode(baseline).decode()
        added = baseline.counts.entries + baseline.counts.lost
        names: tuple[PublicName | PrivateName, ...] = ("baseline-pieces", "baseline", "events")
        keys = [staged, *(key(self._workspace, name) for name in names)]
        await self._client.register_script(_PLACE_BASELINE)(keys=keys, args=[baseline.position, about, added])

    async def _check_unused(self, last_generated: str) -> None:
        first = self._checked.trailer.first
        if first is not None and position_key(last_generated) >= position_key(first):
            raise ImportRefused(
                f"log: expected a workspace that never had entries, got one whose entries up to {last_generated} were deleted; "
                f"Redis does not accept the id {first} after them"
            )
        for name in _NOT_YET:
            if await self._has(name):
                raise ImportRefused(
                    f"{name}: expected an empty workspace, got a state in workspace {self._workspace} although its log is empty"
                )

    async def _has(self, name: PublicName | PrivateName) -> bool:
        if name == "position":  # before the first event is folded it names only the owner
            return bool((await StateReader(self._client, self._workspace).position()).stream_id)
        return bool(await self._client.exists(key(self._workspace, name)))

    async def _skip_imported(self, entries: Iterator[StreamEntry], advance: Callable[[int], None]) -> None:
        """Compare the log with the beginning of the file, and leave `entries` at the first one that the log lacks."""
        async for page in read_stream(self._client, key(self._workspace, "events"), "+"):
            for entry in page:
                expected = next(entries, None)
                if expected is None:
                    raise ImportRefused(
                        f"log: expected an empty log or the beginning of the file's, got entry {entry.id.decode()} after the "
                        f"file's last, {self._last}; the log already holds the whole file, and nothing was appended"
                    )
                if (entry.id, list(entry.fields)) != (expected.id, list(expected.fields)):
                    raise ImportRefused(
                        "log: expected an empty log, or what an interrupted import of the same file left, got "
                        f"{entry.id.decode()}, where the file has "
                        f"{'other fields' if expected.id == entry.id else expected.id.decode()}"
                    )
                self._last = entry.id.decode()
            advance(len(page))

    async def _write_settings(self) -> None:
        """Write the sets that the fold and the rejects need beside the log, before there is an entry to fold."""
        header = self._checked.header
        pipeline = self._client.pipeline(transaction=True)
        if header.blocked_identifiers:
            pipeline.sadd(key(self._workspace, "blocked-identifiers"), *header.blocked_identifiers)
        if header.settled_rejects:
            pipeline.hset(key(self._workspace, "settled-rejects"), mapping=cast("dict[Any, Any]", header.settled_rejects))
        if header.erased_entries:
            pipeline.hset(key(self._workspace, "erased-entries"), mapping=cast("dict[Any, Any]", self._erased))
        await pipeline.execute()

    async def _append_batch(self, batch: Sequence[StreamEntry]) -> None:
        try:
            if len(batch[0].fields) > _SCRIPT_VALUES_MAX:  # such an entry is alone in its batch
                send = cast("Any", self._client).execute_command  # xadd takes a dictionary, but a field name can occur twice
                await send("XADD", key(self._workspace, "events"), batch[0].id, *batch[0].fields)
            else:
                arguments: list[bytes | int] = []
                for entry_id, fields in batch:
                    arguments += (entry_id, len(fields), *fields)
                await self._append(keys=[key(self._workspace, "events")], args=[self._last, *arguments])
        except ResponseError as error:
            if "OTHERWRITER" not in str(error) and "equal or smaller" not in str(error):
                raise
            raise ImportRefused(
                f"log: expected no other writer until the import is done, got one ({error}). The imported part of the file "
                f"ends at {self._last or 'its beginning'}"
            ) from error
        self._last = batch[-1].id.decode()


async def _log_info(client: Client, workspace: str) -> dict[str, Any]:
    log = key(workspace, "events")
    if not await client.exists(log):
        return {"length": 0, "last-generated-id": b"0-0"}
    return await client.xinfo_stream(log)


def _excludes(entry: StreamEntry) -> bool:
    fields = entry.fields
    return excludes(dict(zip(fields[::2], fields[1::2], strict=True))) is not None


def _batches(entries: Iterator[StreamEntry]) -> Generator[list[StreamEntry]]:
    """As many entries at a time as one script call takes; an entry with too many fields for a script comes alone."""
    batch: list[StreamEntry] = []
    size = 0
    for entry in entries:
        alone = len(entry.fields) > _SCRIPT_VALUES_MAX
        if batch and (alone or len(batch) == STREAM_PAGE_ENTRIES or size > _PAGE_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += sum(map(len, entry.fields))
        if alone:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
