"""A primary, a replica and three sentinels fail under load: what the promoted server holds is folded, and goes on to be.

Replication is asynchronous, so a promoted server may lack what the old one had acknowledged. That is not asked for here:
README has what it comes to. What is asked for is that everything which the promoted server holds is folded once, that
folding goes on within 5 s of the promotion, and that a reader of the feed ends with the projector's contacts.
"""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from tests.support.failures import hung, killed, promoted
from tests.support.nodes import Node
from tests.support.topologies import Topology, three_sentinels
from tests.support.under_load import in_use

pytestmark = pytest.mark.slow

WORKSPACE: Final = "shop"
LOST_ENTRIES: Final = 200


@pytest.mark.parametrize("fails", [killed, hung, promoted])
async def test_folding_goes_on_at_the_promoted_server(
    tmp_path: Path, warm_up: int, fails: Callable[[Topology, Node, Node], Awaitable[None]]
) -> None:
    """Nobody is told: the sentinels name another server, and projector, producers and reader find it by themselves."""
    async with three_sentinels(tmp_path) as servers, in_use(servers.url, WORKSPACE, tmp_path) as use:
        primary, replica = await servers.primary(), await servers.replica()
        async with primary.client() as client:
            await use.has_folded(client, warm_up)

        await fails(servers, primary, replica)
        await servers.wait_until_promoted(replica)
        promoted_at = time.monotonic()
        async with replica.client() as survivor:
            await use.folds_again(survivor, promoted_at)
            if fails is hung:
                await servers.heal()  # the old one wakes up, and takes itself for the primary until a sentinel tells it
            since = use.said()
            await use.has_folded(survivor, 100)
            await use.ends_well(survivor, since=since)


async def test_what_was_lost_with_the_old_server_is_forgotten_by_everybody(tmp_path: Path, warm_up: int) -> None:
    """The replica was cut off before the primary died: the projector and the reader have come further than it has.

    Its log goes on with entries whose ids are greater than those that both have seen, so only a look at the place itself tells
    them that something is missing after it.
    """
    async with three_sentinels(tmp_path) as servers, in_use(servers.url, WORKSPACE, tmp_path) as use:
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
