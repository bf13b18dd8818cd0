"""Three primaries, and a replica of the one that has the workspace's slot: nodes fail and the slot moves, under load."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from kinfold_schemas.keys import key
from tests.support.failures import hung, killed, promoted
from tests.support.nodes import Node
from tests.support.topologies import Topology, three_node_cluster
from tests.support.under_load import in_use

pytestmark = pytest.mark.slow

WORKSPACE: Final = "shop"
LOG: Final = key(WORKSPACE, "events")
LOST_ENTRIES: Final = 200
ENTRIES_BETWEEN_KEYS: Final = 10


@pytest.mark.parametrize("fails", [killed, hung, promoted])
async def test_folding_goes_on_at_the_promoted_node(
    tmp_path: Path, warm_up: int, fails: Callable[[Topology, Node, Node], Awaitable[None]]
) -> None:
    """Nobody is told: the slot has another owner, and projector, producers and reader find it by themselves."""
    async with three_node_cluster(tmp_path, LOG) as servers, in_use(servers.url, WORKSPACE, tmp_path) as use:
        primary, replica = await servers.primary(), await servers.replica()
        async with primary.client() as client:
            await use.has_folded(client, warm_up)

        await fails(servers, primary, replica)
        await servers.wait_until_promoted(replica)
        promoted_at = time.monotonic()
        async with replica.client() as survivor:
            await use.folds_again(survivor, promoted_at)
            if fails is hung:
                await servers.heal()
            # Primary and replica agree on the moment of a promotion by hand: then no entry at all is lost.
            since = None if fails is promoted else use.said()
            await use.has_folded(survivor, 100)
            await use.ends_well(survivor, since=since)


async def test_what_was_lost_with_the_old_node_is_forgotten_by_everybody(tmp_path: Path, warm_up: int) -> None:
    """The replica was cut off before the primary died: the projector and the reader have come further than it has."""
    async with three_node_cluster(tmp_path, LOG) as servers, in_use(servers.url, WORKSPACE, tmp_path) as use:
        primary, replica = await servers.primary(), await servers.replica()
        async with primary.client() as client:
            await use.has_folded(client, warm_up)
            await replica.cut_off_from(primary)
            await use.has_folded(client, LOST_ENTRIES)

        primary.kill()
        await servers.wait_until_promoted(replica)
        promoted_at = time.monotonic()
        async with replica.client() as survivor:
            await use.folds_again(survivor, promoted_at)
            since = use.said()
            await use.has_folded(survivor, 100)
            await use.ends_well(survivor, since=since)


async def test_projector_waits_while_the_slot_moves_to_another_node(tmp_path: Path, warm_up: int) -> None:
    """While it is on the move, some keys are here and some there, and commands on several are told to try again.

    That ends by itself: nothing is lost, nothing is folded twice, and nobody exits.
    """
    async with three_node_cluster(tmp_path, LOG) as servers, in_use(servers.url, WORKSPACE, tmp_path) as use:
        source, target = await servers.primary(), servers.others[0]
        async with source.client() as client:
            await use.has_folded(client, warm_up)
        said = sum(use.said().values())

        async def more_is_said() -> None:
            nonlocal said
            said = await use.has_said(said + ENTRIES_BETWEEN_KEYS)

        await servers.migrate(source, target, more_is_said)
        moved_at = time.monotonic()
        async with target.client() as owner:
            await use.folds_again(owner, moved_at)
            await use.has_folded(owner, 100)
            await use.ends_well(owner)
