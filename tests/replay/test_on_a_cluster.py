"""A replay on a cluster: everything that it builds and swaps is in the workspace's slot (contract section 1)."""

from pathlib import Path

from kinfold_schemas.keys import key
from kinfold_services.connections import connect
from tests.support.engines import cluster
from tests.support.event_log import append, entry_id, history
from tests.support.projecting import fold_log
from tests.support.replaying import kinfold, leftovers
from tests.support.retaining import cut_upto
from tests.support.snapshots import take_snapshot

ENTRIES = 500


async def test_cluster_is_replayed_like_a_single_server(tmp_path: Path, workspace: str) -> None:
    """Replay, an exclusion, verify, looking back, export, import, and a log that is cut. No keys are left over."""
    async with cluster(tmp_path) as url:
        client = connect(url)
        await append(client, workspace, history()[:ENTRIES])
        await fold_log(client, url, workspace)
        before = await take_snapshot(client, workspace)
        (tmp_path / "wrong").write_text("\n".join(map(entry_id, range(1, ENTRIES, 9))))

        for arguments in ([], ["--exclude-events", f"{tmp_path}/wrong"], []):
            answer = await kinfold(url, workspace, "replay", *arguments)
            assert answer.status == 0, answer.said
            assert bool(answer.out) == bool(arguments[1:]), answer.out
            assert "RuntimeWarning" not in answer.said
            assert await leftovers(client, workspace) == []
        for command in (["verify"], ["contacts", "--at", entry_id(ENTRIES - 1)], ["export", f"{tmp_path}/log.zst"]):
            answer = await kinfold(url, workspace, *command, snapshot_entries=100)
            assert answer.status == 0, answer.said
        assert await leftovers(client, workspace) == []

        await client.flushdb(target_nodes="all")
        assert (await kinfold(url, workspace, "import", tmp_path / "log.zst")).status == 0
        await fold_log(client, url, workspace)
        assert (await take_snapshot(client, workspace)).contacts == before.contacts

        await client.hset(key(workspace, "retention"), mapping={"feed": 1})  # the log's ids are in the future
        assert (await kinfold(url, workspace, "retention", "run")).out[0]["removed"]["feedEntries"] > 0
        assert (await kinfold(url, workspace, "replay")).status == 0  # the file had exclusions
        replayed = await take_snapshot(client, workspace)
        receipt = await cut_upto(client, workspace, entry_id(ENTRIES // 2), anonymous=0)
        assert receipt is not None
        assert receipt.removed.visitors > 0
        at = entry_id(ENTRIES - 1)
        for command in (["verify"], ["replay"], ["contacts", "--at", at], ["export", f"{tmp_path}/cut.zst"]):
            answer = await kinfold(url, workspace, *command, snapshot_entries=100)
            assert answer.status == 0, answer.said
        await client.flushdb(target_nodes="all")
        assert (await kinfold(url, workspace, "import", tmp_path / "cut.zst")).status == 0
        await fold_log(client, url, workspace)
        assert (await take_snapshot(client, workspace)).contacts == replayed.contacts
        await client.aclose()
