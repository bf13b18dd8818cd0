"""Exports a workspace's log to a file (`kinfold export`). `log_file.py` describes the file."""

from collections.abc import Callable
from typing import IO

import msgspec

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.log.baseline import LogCut, read_baseline
from kinfold_services.log.erased_entries import erased_entries
from kinfold_services.log.pages import LogExtent
from kinfold_services.log.streams import read_stream
from kinfold_services.rejects.retry import settled_rejects
from kinfold_services.state.baseline import read_pieces
from kinfold_services.state.reader import StateReader
from kinfold_services.transfer.log_file import BASELINE_VERSION, VERSION, Header, LogWriter, Trailer


async def export_log(
    client: Client, workspace: str, extent: LogExtent, file: IO[bytes], advance: Callable[[int], None]
) -> Trailer:
    """Write the log up to `extent.last`; entries that are appended during the export are not in the file.

    Raises LogCut if the log was cut meanwhile. Takes over `client`: from now on its XRANGE returns lists. `advance` receives
    the number of entries of each page.
    """
    settled = await settled_rejects(client, workspace)
    baseline = extent.baseline
    header = Header(
        version=VERSION if baseline is None else BASELINE_VERSION,
        workspace=workspace,
        blocked_identifiers=sorted(await StateReader(client, workspace).blocked_identifiers()),
        erased_entries={entry.decode(): event.decode() for entry, event in (await erased_entries(client, workspace)).items()},
        settled_rejects={entry: by for entry, by in settled.items() if position_key(by) <= position_key(extent.last)},
        baseline=msgspec.UNSET if baseline is None else baseline,
    )
    writer = LogWriter(file, header)
    if baseline is not None:
        async for piece in read_pieces(client, key(workspace, "baseline-pieces")):
            writer.write_piece(piece)
    async for page in read_stream(client, key(workspace, "events"), extent.last):
        writer.write(page)
        advance(len(page))
    if await read_baseline(client, workspace) != baseline:
        raise LogCut(f"workspace {workspace}: the log was cut while it was exported; repeat the command")
    return writer.finish(lost=extent.entries + extent.lost - writer.entries)
