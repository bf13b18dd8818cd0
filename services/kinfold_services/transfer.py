"""A workspace's log into a file, and back into an empty workspace (contract section 9). The file: `log_file.py`."""

from collections.abc import Generator, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from redis.exceptions import ResponseError

import kinfold_services
from kinfold_schemas.keys import PrivateName, PublicName, key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.log_file import Header, LogFile, LogWriter, Trailer
from kinfold_services.progress import Advance
from kinfold_services.projector.store import StateStore
from kinfold_services.rejects import settled_rejects
from kinfold_services.replay.log import LogExtent, excludes
from kinfold_services.streams import PAGE_ENTRIES, StreamEntry, read_stream

_PAGE_BYTES: Final = 4 << 20
_SCRIPT_VALUES_MAX: Final = 7000  # Lua's unpack fails at about 8,000
_IMPORT: Final = files(kinfold_services).joinpath("import.lua").read_text()

_NOT_YET: Final[tuple[PublicName | PrivateName, ...]] = ("position", "contacts", "visitors", "changes", "rejects")
"""What a workspace does not have before its first event is folded."""


class ImportRefused(RuntimeError):
    """The workspace or the file does not permit the import; the message says why."""


class Checked(NamedTuple):
    """What a file was found to hold."""

    header: Header
    trailer: Trailer
    exclusions: int
    """How many `EventsExcluded`, which a replay honours and the projector does not."""


# --- out -----------------------------------------------------------------------------------------------------------


async def export_log(client: Client, workspace: str, extent: LogExtent, file: IO[bytes], advance: Advance) -> Trailer:
    """Writes the log up to `extent.last`: what is appended meanwhile is not in the file.

    Takes over `client`: XRANGE answers with lists from now on.
    """
    settled = await settled_rejects(client, workspace)
    header = Header(
        workspace=workspace,
        blocked_identifiers=sorted(await StateStore(client, workspace).blocked_identifiers()),
        settled_rejects=_up_to(extent.last, settled),
    )
    writer = LogWriter(file, header)
    async for page in read_stream(client, key(workspace, "events"), extent.last):
        writer.write(page)
        advance(len(page))
    return writer.finish(lost=extent.entries + extent.lost - writer.entries)


def _up_to(last: str, settled: dict[str, str]) -> dict[str, str]:
    """Without what was settled by entries that are not in the file."""
    return {entry: by for entry, by in settled.items() if position_key(by) <= position_key(last)}


# --- in ------------------------------------------------------------------------------------------------------------


def check_file(path: Path, advance: Advance) -> Checked:
    """Reads a whole file. Raises BrokenFile where it is not what was exported, and OSError."""
    exclusions = 0
    with LogFile(path) as file:
        for page in file.pages():
            exclusions += sum(_excludes(entry) for entry in page)
            advance(len(page))
        return Checked(file.header, file.trailer, exclusions)


class Import:
    """One file's way into one workspace. May be killed at any instant, and done again: it goes on where it was.

    Takes over `client`: XRANGE answers with lists from now on.
    """

    def __init__(self, client: Client, workspace: str, path: Path, checked: Checked) -> None:
        self.appended = 0
        """How many entries were appended, those of an earlier run not included."""
        self._client: Final = client
        self._workspace: Final = workspace
        self._path: Final = path
        self._checked: Final = checked
        self._last = ""
        self._append: Final = client.register_script(_IMPORT)

    async def run(self, advance: Advance) -> None:
        """Appends what is not there yet. Raises ImportRefused, BrokenFile where the file has changed since, and OSError."""
        await self._check_workspace()
        with LogFile(self._path) as file:
            entries = _each(file.pages())
            await self._pass_what_is_there(entries, advance)
            await self._put_beside_the_log()
            for batch in _batches(entries):
                await self._append_batch(batch)
                self.appended += len(batch)
                advance(len(batch))

    async def _check_workspace(self) -> None:
        info = await _log_info(self._client, self._workspace)
        if not info["length"]:
            await self._check_unused(cast("bytes", info["last-generated-id"]).decode())
        wanted = set(self._checked.header.blocked_identifiers)
        there = await StateStore(self._client, self._workspace).blocked_identifiers()
        if there != wanted and (there or info["length"]):
            raise ImportRefused(
                f"blocked-identifiers: expected the {len(wanted)} of the file, or none if the log is empty, got a different "
                f"set of {len(there)} in workspace {self._workspace}"
            )

    async def _check_unused(self, last_generated: str) -> None:
        first = self._checked.trailer.first
        if first is not None and position_key(last_generated) >= position_key(first):
            raise ImportRefused(
                f"log: expected a workspace that never had entries, got one whose entries up to {last_generated} were deleted; "
                f"Redis does not accept the id {first} after them"
            )
        for name in _NOT_YET:
            if await self._client.exists(key(self._workspace, name)):
                raise ImportRefused(
                    f"{name}: expected an empty workspace, got a state in workspace {self._workspace} although its log is empty"
                )

    async def _pass_what_is_there(self, entries: Iterator[StreamEntry], advance: Advance) -> None:
        """Compares the log with the file's beginning, and leaves `entries` at the first that is not in the log."""
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

    async def _put_beside_the_log(self) -> None:
        """Puts in place, before the first entry is there to be folded, what the fold and the rejects need beside the log."""
        header = self._checked.header
        pipeline = self._client.pipeline(transaction=True)
        if header.blocked_identifiers:
            pipeline.sadd(key(self._workspace, "blocked-identifiers"), *header.blocked_identifiers)
        if header.settled_rejects:
            pipeline.hset(key(self._workspace, "settled-rejects"), mapping=cast("dict[Any, Any]", header.settled_rejects))
        await pipeline.execute()

    async def _append_batch(self, batch: Sequence[StreamEntry]) -> None:
        try:
            if len(batch[0].fields) > _SCRIPT_VALUES_MAX:  # and then it is alone
                send = cast("Any", self._client).execute_command  # xadd takes a dictionary, and a name may come twice
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
                f"log: expected no other writer until the import is done, got one ({error}). What was appended of the file "
                f"ends at {self._last or 'its beginning'}"
            ) from error
        self._last = batch[-1].id.decode()


# --- both ----------------------------------------------------------------------------------------------------------


async def _log_info(client: Client, workspace: str) -> dict[str, Any]:
    log = key(workspace, "events")
    if not await client.exists(log):
        return {"length": 0, "last-generated-id": b"0-0"}
    return await client.xinfo_stream(log)


def _excludes(entry: StreamEntry) -> bool:
    fields = entry.fields
    return excludes(dict(zip(fields[::2], fields[1::2], strict=True))) is not None


def _each(pages: Generator[list[StreamEntry]]) -> Iterator[StreamEntry]:
    for page in pages:
        yield from page


def _batches(entries: Iterator[StreamEntry]) -> Iterator[list[StreamEntry]]:
    """As many at a time as go together into one script; an entry with too many fields for a script comes alone."""
    batch: list[StreamEntry] = []
    size = 0
    for entry in entries:
        alone = len(entry.fields) > _SCRIPT_VALUES_MAX
        if batch and (alone or len(batch) == PAGE_ENTRIES or size > _PAGE_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += sum(map(len, entry.fields))
        if alone:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
