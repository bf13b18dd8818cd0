"""An export from before an erasure does not bring anybody back (contract section 10)."""

from pathlib import Path

import msgspec
from redis.asyncio import Redis

from kinfold_schemas.keys import STATE, key
from kinfold_services.transfer.log_file import LogFile, LogWriter
from tests.support.erased_people import ADA, ADAS_TEXTS, adas_events, publish
from tests.support.erasures import erase, keys_with
from tests.support.projecting import fold_log
from tests.support.replaying import kinfold
from tests.support.snapshots import take_snapshot


async def test_import_of_an_older_export_applies_what_the_workspace_knows(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
) -> None:
    """As after a disaster that took the log and left the private keys."""
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    older = tmp_path / "older.ndjson"
    assert (await kinfold(redis_url, workspace, "export", older)).status == 0
    await erase(redis, workspace, ADA)
    erased = await take_snapshot(redis, workspace)
    await redis.delete(*(key(workspace, name) for name in (*STATE, "events", "changes")))

    imported = await kinfold(redis_url, workspace, "import", older)

    assert imported.status == 0, imported.said
    assert "6 entries of the file stay erased" in imported.said or "7 entries of the file stay erased" in imported.said
    await fold_log(redis, redis_url, workspace)
    assert (await take_snapshot(redis, workspace)).contacts == erased.contacts
    assert await keys_with(redis, workspace, ADAS_TEXTS) == {}


async def test_import_applies_what_the_header_of_the_file_says(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
) -> None:
    """The header is that of a newer export, and the entries are those of an older one."""
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    older, newer, both = (tmp_path / f"{name}.ndjson" for name in ("older", "newer", "both"))
    assert (await kinfold(redis_url, workspace, "export", older)).status == 0
    await erase(redis, workspace, ADA)
    assert (await kinfold(redis_url, workspace, "export", newer)).status == 0
    with LogFile(older) as old, LogFile(newer) as new, both.open("wb") as file:
        assert old.header.erased_entries == {}
        writer = LogWriter(file, msgspec.structs.replace(old.header, erased_entries=new.header.erased_entries))
        for page in old.pages():
            writer.write(page)
        writer.finish(lost=0)
    await redis.flushdb()

    imported = await kinfold(redis_url, workspace, "import", both)

    assert imported.status == 0, imported.said
    assert "entries of the file stay erased" in imported.said
    await fold_log(redis, redis_url, workspace)
    assert await keys_with(redis, workspace, ADAS_TEXTS) == {}
    assert await redis.hlen(key(workspace, "erased-entries")) > 0
