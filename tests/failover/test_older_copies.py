"""One server gets older data back, under load: the projector and the readers of the feed have come further than it has."""

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from tests.support.nodes import Node
from tests.support.under_load import Use, in_use
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

WORKSPACE: Final = "shop"
LOST_ENTRIES: Final = 200


@asynccontextmanager
async def one_server(tmp_path: Path) -> AsyncGenerator[tuple[Node, Redis, Use]]:
    """Start a server without persistence of its own, and a workspace in use on it."""
    node = Node(tmp_path / "server", "--save", "", "--appendonly", "no")
    try:
        await node.start()
        url = f"redis://127.0.0.1:{node.port}/0"
        async with node.client() as client, in_use(url, WORKSPACE, tmp_path) as use:
            yield node, client, use
    finally:
        node.kill()


async def copy_of(node: Node, client: Redis, directory: Path) -> Path:
    """Write a snapshot of everything as it is at this moment, as a backup does."""
    before = await client.lastsave()
    await wait_until(lambda: _is_another_second(client, before))
    await client.bgsave()

    async def is_saved() -> bool:
        return await client.lastsave() != before

    await wait_until(is_saved)
    return Path(shutil.copy(node.directory / "dump.rdb", directory / "copy.rdb"))


async def _is_another_second(client: Redis, moment: Any) -> bool:
    """Whether LASTSAVE, which counts seconds, would tell a save from the one before."""
    seconds, _ = await client.time()
    return bool(seconds > moment.timestamp())


async def test_server_that_is_restored_from_an_older_copy_is_folded_from_there(tmp_path: Path, warm_up: int) -> None:
    """Log, state and feed are of one moment, and folding goes on from there; what came after it is forgotten by everybody."""
    async with one_server(tmp_path) as (node, client, use):
        await use.has_folded(client, warm_up)
        copy = await copy_of(node, client, tmp_path)
        await use.has_folded(client, LOST_ENTRIES)

        node.kill()
        shutil.copy(copy, node.directory / "dump.rdb")
        await node.start()

        await use.folds_again(client)
        since = use.said()
        await use.has_folded(client, 100)
        await use.ends_well(client, since=since)


async def test_a_log_that_is_restored_from_an_older_copy_beneath_a_newer_state(tmp_path: Path, warm_up: int) -> None:
    """The state holds what no entry of the log says. It is rebuilt from the log, and the feed tells what differs.

    New entries get ids after the position at once, so it does not show in the last entry's id that some before it are missing.
    """
    log = key(WORKSPACE, "events")
    async with one_server(tmp_path) as (_, client, use):
        await use.has_folded(client, warm_up)
        older = cast("bytes", await client.dump(log))
        stranger = await use.makes_contact(client, "somebody whom only the lost part of the log knows")
        await use.has_folded(client, LOST_ENTRIES)

        await client.restore(log, 0, older, replace=True)

        await use.folds_again(client)
        await use.is_rebuilt(client, stranger)
        since = use.said()
        await use.has_folded(client, 100)
        await use.ends_well(client, since=since)
