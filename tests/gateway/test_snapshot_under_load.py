"""A client of the feed that is disconnected again and again, while contacts are created, updated and merged."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from tests.support.gateways import Gateway
from tests.support.lengths import short_or_long
from tests.support.sse import Received, following

DISCONNECTS: Final = short_or_long(10, 20)
PEOPLE: Final = 60
LAST: Final = "the-last-one"


class Dashboard:
    """Contacts by id, built from the messages of the feed alone."""

    def __init__(self) -> None:
        self.contacts: dict[str, dict[str, Any]] = {}
        self.last_id: str | None = None
        self.snapshots = 0
        self.is_whole = False

    def receive(self, received: Received) -> None:
        """Apply a message. Fails if one is missing or comes twice."""
        self.last_id = received.id
        change = received.data
        if received.event == "reset":
            self.contacts.clear()
            self.is_whole = False
        elif received.event == "snapshot-end":
            self.snapshots += 1
            self.is_whole = True
        elif change["cause"] == "snapshot":
            assert not self.is_whole, "a snapshot started before the previous one ended"
            assert change["contactId"] not in self.contacts, "a contact came twice in one snapshot"
            self.contacts[change["contactId"]] = change["contact"]
        else:
            self._apply(change)

    def _apply(self, change: dict[str, Any]) -> None:
        assert self.is_whole, "a change came within a snapshot"
        known = self.contacts.get(change["contactId"])
        step = 0 if change["type"] == "ContactSeen" else 1
        assert change["version"] == (known["version"] if known else 0) + step, (change, known)
        self.contacts[change["contactId"]] = change["contact"]
        if change["type"] == "ContactsMerged":
            del self.contacts[change["mergedContactId"]]


@asynccontextmanager
async def load(gateway: Gateway, dice: random.Random) -> AsyncGenerator[None]:
    """Post events in the background: contacts by email, by id and by both (merges), new names and metadata, visits."""
    enough = asyncio.Event()

    def event(turn: int) -> dict[str, Any]:
        person, visitor = dice.randrange(PEOPLE + turn // 10), f"v-{dice.randrange(PEOPLE * 3)}"
        address = {"email": f"{person}@x.org"}
        return dice.choice(
            [
                {"type": "VisitorIdentified", "visitorId": visitor, **address},
                {"type": "VisitorIdentified", "visitorId": visitor, "externalId": f"u-{person}"},
                {"type": "VisitorIdentified", "externalId": f"u-{person}", **address},
                {"type": "VisitorIdentified", "externalId": f"u-{person}", "name": f"name {turn}"},
                {"type": "MetadataSet", "visitorId": visitor, "metadata": {"turn": turn}},
                {"type": "VisitorSeen", "visitorId": visitor},
            ]
        )

    async def write() -> None:
        turn = 0
        while not enough.is_set():
            await gateway.put(*(event(turn + number) for number in range(20)))
            turn += 20
        await gateway.put({"type": "VisitorIdentified", "externalId": LAST})

    writing = asyncio.create_task(write())
    try:
        yield
    finally:
        enough.set()
        await writing


@pytest.mark.slow
async def test_snapshot_and_changes_add_up_to_the_state(gateway: Gateway):
    """After many disconnects, during snapshots and after them, the client has the projector's contacts, except seen times.

    It also got every change of every contact once: each version follows the previous one.
    """
    dice = random.Random(1)  # noqa: S311  the same load every time
    dashboard = Dashboard()
    # Enough contacts for several pages of the snapshot and several pieces of the stream.
    position = await gateway.put(*({"type": "VisitorIdentified", "email": f"{number}@y.org"} for number in range(700)))
    await gateway.get("/v1/contacts", after=position)

    async with load(gateway, dice):
        for turn in range(DISCONNECTS):
            # Disconnect during the snapshot or after it. Every fifth time start again, as a reloaded page does.
            if turn % 5 == 4:
                dashboard.last_id = "snapshot"
            async with following(gateway.client_of(gateway.secret), {"snapshot": "true"}, dashboard.last_id) as stream:
                for _ in range(dice.choice([3, 200, 800, 1200])):
                    dashboard.receive(await stream.message())
                while turn % 5 == 3 and not dashboard.is_whole:  # it has everything before it starts again
                    dashboard.receive(await stream.message())
    async with following(gateway.client_of(gateway.secret), {"snapshot": "true"}, dashboard.last_id) as stream:
        while not any(contact["externalId"] == LAST for contact in dashboard.contacts.values()) or not dashboard.is_whole:
            dashboard.receive(await stream.message())

    assert dashboard.snapshots > 1
    expected = await contacts_of(gateway)
    assert {each: without_seen(contact) for each, contact in dashboard.contacts.items()} == expected


async def contacts_of(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """The projector's contacts, by id."""
    last = (await gateway.entries("events"))[-1][0]
    found, cursor = dict[str, dict[str, Any]](), None
    while True:
        params: dict[str, Any] = {"order": "created", "limit": 500, "after": last, **({"cursor": cursor} if cursor else {})}
        page = await gateway.get("/v1/contacts", **params)
        found |= {contact["id"]: without_seen(contact) for contact in page["contacts"]}
        if (cursor := page["nextCursor"]) is None:
            return found


def without_seen(contact: dict[str, Any]) -> dict[str, Any]:
    """A contact without its seen times: the feed does not have all of them."""
    return {name: value for name, value in contact.items() if name not in {"firstSeenAt", "lastSeenAt"}}
