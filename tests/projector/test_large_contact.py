"""A contact with very many visitors: linking one, moving one away and merging it cost the same as before (section 2).

Measured at the server in commands and bytes, with a projector that caches nothing between batches, so that loading counts.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from kinfold_schemas.contacts import LISTED_VISITORS
from kinfold_schemas.keys import key
from kinfold_services.projector import lease
from kinfold_services.projector import workspace as projector_workspace
from kinfold_services.state.members import iterate_members
from kinfold_services.state.queries import StateQueries
from tests.support.costs import Cost, costing
from tests.support.event_log import LOG_START_MS, append
from tests.support.lengths import short_or_long
from tests.support.projecting import newest_entry, projecting, wait_until_folded

MANY: Final = short_or_long(10_000, 100_000)
LISTED: Final = LISTED_VISITORS + 1
"""A contact with as many visitors as it can list, and one more."""
TOLERATED_BYTES: Final = 400
"""Ids and counts are longer if there are more visitors."""
LISTED_VISITOR_BYTES: Final = 200
"""A listed visitor in a stored contact, with its time, and in up to two changes on the feed."""
HOUR_S: Final = 3600


class Shop:
    """A workspace with three contacts that only have an address: with one visitor, a full list, and very many visitors."""

    def __init__(self, client: Redis, workspace: str) -> None:
        self.client = client
        self.workspace = workspace
        self.elapsed_ms = 0

    async def fill(self) -> str:
        """Create them; returns the id of the last entry."""
        events = [identified(f"{name}-{number}", name) for name, count in SIZES.items() for number in range(count)]
        events += [{"type": "VisitorIdentified", "externalId": f"u-{name}"} for name in SIZES]
        return await self.append(*events)

    async def append(self, *events: Mapping[str, Any]) -> str:
        """Append events, a millisecond apart."""
        start, self.elapsed_ms = self.elapsed_ms, self.elapsed_ms + len(events)
        return await append(self.client, self.workspace, events, start=start)

    async def cost_of(self, event: Mapping[str, Any]) -> Cost:
        """The cost of folding one event, including appending it. It is a minute later than the one before.

        So each contact moves in the `recent` order, and not only those that have not been seen in this minute.
        """
        self.elapsed_ms += 60_000
        feed = key(self.workspace, "changes")
        newest = await newest_entry(self.client, self.workspace, "changes")
        async with costing(self.client) as cost:
            last = await self.append(event)
            await self.client.xread({feed: newest}, block=10_000, count=1)  # waits without polling
        await wait_until_folded(self.client, self.workspace, last)
        return cost


SIZES: Final = {"one": 1, "listed": LISTED, "many": MANY}


def identified(visitor_id: str, name: str, **fields: Any) -> Mapping[str, Any]:
    """An identification by an address."""
    return {"type": "VisitorIdentified", "visitorId": visitor_id, "email": f"{name}@example.org", **fields}


@pytest.fixture
async def shop(redis: Redis, redis_url: str, workspace: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    """A shop whose projector caches nothing, and owns the workspace for an hour: renewing the lease would count, too."""
    shop = Shop(redis, workspace)
    last = await shop.fill()
    async with projecting(redis_url, workspace, batch_entries=5000):
        await wait_until_folded(redis, workspace, last)
    for module in (lease, projector_workspace):
        monkeypatch.setattr(module, "KEEP_S", HOUR_S)
        monkeypatch.setattr(module, "LEASE_MS", HOUR_S * 1000)
    async with projecting(redis_url, workspace, cache_bytes=0):
        opened = await shop.append({"type": "VisitorSeen", "visitorId": "first"})  # opening a workspace reads much of the log
        await wait_until_folded(redis, workspace, opened)
        yield shop


@pytest.mark.slow
async def test_contact_with_very_many_visitors_costs_as_much_as_any_other(shop: Shop) -> None:
    """Link one visitor, move one away, merge the contact, link one to the surviving contact, and list all visitors."""
    link = {name: await shop.cost_of(identified(f"{name}-next", name)) for name in SIZES}
    assert_alike(link)
    move = {name: await shop.cost_of(identified(f"{name}-next", f"elsewhere-{name}")) for name in SIZES}
    assert_alike(move)
    merge = {name: await shop.cost_of(names_both(name)) for name in SIZES}
    assert_alike(merge)
    again = {name: await shop.cost_of(identified(f"{name}-after", name)) for name in SIZES}
    assert_alike(again)

    contact = await StateQueries(shop.client, shop.workspace).contact_by_external_id("u-many")
    assert contact is not None
    assert contact.visitor_count == MANY + 1
    listed = [each async for each in iterate_members(shop.client, shop.workspace, contact.id)]
    newest_first = ["many-after", *(f"many-{number}" for number in reversed(range(MANY)))]
    assert [each.visitor_id for each in listed] == newest_first
    assert contact.visitor_ids == newest_first[:LISTED_VISITORS]
    assert listed[-1].since_ms == LOG_START_MS + SIZES["one"] + SIZES["listed"]


def names_both(name: str) -> Mapping[str, Any]:
    """An event with the address and an external id: the contact of the address is merged."""
    return {"type": "VisitorIdentified", "externalId": f"u-{name}", "email": f"{name}@example.org"}


def assert_alike(costs: dict[str, Cost]) -> None:
    """Assert equal bytes for a full list and for very many visitors, and for one visitor at most a list less."""
    one, listed, many = costs["one"], costs["listed"], costs["many"]
    commands = {name: cost.commands for name, cost in costs.items()}
    assert commands["many"] == commands["listed"], costs
    assert sum(commands["many"].values()) <= sum(commands["one"].values()) + 2, costs  # the visitors after the list
    assert abs(many.bytes_in - listed.bytes_in) < TOLERATED_BYTES, costs
    assert abs(many.bytes_out - listed.bytes_out) < max(TOLERATED_BYTES, listed.bytes_out), costs
    assert many.bytes_in - one.bytes_in < LISTED_VISITORS * LISTED_VISITOR_BYTES, costs
