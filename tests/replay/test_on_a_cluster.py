"""A replay on a cluster: everything that it builds and swaps is in the workspace's slot (contract section 1)."""

from pathlib import Path

from kinfold_services.connections import connect
from tests.support.engines import cluster
from tests.support.event_log import append, entry_id, history
from tests.support.projecting import fold_log
from tests.support.replaying import kinfold, leftovers
from tests.support.snapshots import take_snapshot

ENTRIES = 500


async def test_cluster_is_replayed_like_a_single_server(tmp_path: Path, workspace: str) -> None:
    """Replay, an exclusion, another replay, verify, looking back, export and import. No keys are left over."""
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
        await client.aclose()
