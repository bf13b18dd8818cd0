"""All visitors of a contact, newest link first: the pages, compared with a plain computation over all visitors (section 5)."""

import json
import random
from collections.abc import Mapping
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from kinfold_projections.members import Membership
from kinfold_schemas.contacts import LISTED_VISITORS
from kinfold_schemas.times import text_ms
from kinfold_services.state.members import iterate_members, newest_members
from kinfold_services.state.queries import StateQueries
from tests.support.event_log import LOG_START_MS, append
from tests.support.projecting import fold_log
from tests.support.snapshots import Snapshot, take_snapshot

PEOPLE: Final = 12
VISITORS: Final = 900
EVENTS: Final = 4000


@pytest.mark.parametrize("seed", range(3))
async def test_whole_list_is_complete_and_in_order(redis: Redis, redis_url: str, workspace: str, seed: int) -> None:
    """With chains of merged contacts, visitors that move back and forth, late links, and equal times."""
    await append(redis, workspace, a_busy_day(random.Random(seed)))  # noqa: S311  no secret
    await fold_log(redis, redis_url, workspace, batch_entries=250)
    expected = plainly(await take_snapshot(redis, workspace))

    contacts = {contact.id: contact async for contact in StateQueries(redis, workspace).contacts()}

    assert max(len(members) for members in expected.values()) > 2 * LISTED_VISITORS
    for contact_id, contact in contacts.items():
        members = expected.pop(contact_id, [])
        assert [each async for each in iterate_members(redis, workspace, contact_id)] == members
        assert await newest_members(redis, workspace, contact_id, 7) == members[:7]
        assert contact.visitor_count == len(members)
        assert contact.visitor_ids == [each.visitor_id for each in members[:LISTED_VISITORS]]
    assert not expected


def a_busy_day(dice: random.Random) -> list[Mapping[str, Any]]:
    """Few people on many devices. At first each contact only has an address; later most turn out to be one of two people."""
    events: list[Mapping[str, Any]] = [{"type": "VisitorIdentified", "externalId": f"u-{number}"} for number in range(2)]
    for number in range(EVENTS):
        person = dice.randrange(PEOPLE)
        event: dict[str, Any] = {"type": "VisitorIdentified", "email": f"p{person}@example.org"}
        event["visitorId"] = f"v-{dice.randrange(VISITORS)}"
        event["at"] = moment(dice.randrange(number + 1))  # late, and often at the same time as another event
        if number > EVENTS // 4 and dice.random() < 0.01 and person > 1:
            event |= {"externalId": f"u-{person % 2}"}
        events.append(event)
    return events


def moment(second: int) -> str:
    """An RFC 3339 time before the log."""
    minutes, seconds = divmod(second // 2, 60)  # two events per second
    hours, minutes = divmod(minutes, 60)
    return f"2026-05-04T{hours:02}:{minutes:02}:{seconds:02}.000Z"


def plainly(snapshot: Snapshot) -> dict[str, list[Membership]]:
    """The members of each living contact, computed from the link histories of the visitors and the tombstones."""
    merged_into = {
        contact["id"]: contact["mergedInto"]
        for contact in map(json.loads, snapshot.contacts.values())
        if "mergedInto" in contact
    }
    assert merged_into
    members: dict[str, list[Membership]] = {}
    for visitor_id, visitor in ((each.decode(), json.loads(data)) for each, data in snapshot.visitors.items()):
        contact_id = visitor.get("contactId")
        while contact_id in merged_into:
            contact_id = merged_into[contact_id]
        members.setdefault(contact_id, []).append(Membership(text_ms(visitor["links"][-1]["since"]), visitor_id))
    return {contact_id: sorted(each, reverse=True) for contact_id, each in members.items()}


def test_busy_day_is_before_the_log() -> None:
    """So every event counts at its own time."""
    assert moment(EVENTS) < "2026-12-31"
    assert LOG_START_MS > 1_798_675_200_000
