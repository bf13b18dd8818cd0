"""The example history, end to end: the contacts of a real projector are those of the project's own mailmap."""

import json
from datetime import datetime, timedelta
from typing import Any, Final

from redis.asyncio import Redis

from kinfold_services.state.queries import StateQueries
from tests.support.event_log import EXAMPLES, HISTORY_CONTACTS, HISTORY_ENTRIES, HISTORY_VISITORS, append, history
from tests.support.projecting import fold_log
from tests.support.snapshots import take_snapshot

TRUTH: Final[dict[str, dict[str, Any]]] = json.loads((EXAMPLES / "swift-contacts.json").read_text())


async def test_history_makes_the_contacts_of_the_mailmap(redis: Redis, redis_url: str, workspace: str) -> None:
    """473 people: their external ids, their visitors, when each was first and last seen, and the latest `activeYear`.

    The last seen times on the feed may be less than a minute early (contract section 6, Presence).
    """
    await append(redis, workspace, history())
    await fold_log(redis, redis_url, workspace)

    contacts = [contact async for contact in StateQueries(redis, workspace).contacts()]

    assert len(contacts) == len(TRUTH) == HISTORY_CONTACTS
    for contact in contacts:
        truth = TRUTH[contact.external_id or ""]
        assert sorted(contact.visitor_ids) == sorted(truth["visitorIds"])
        assert timedelta() <= since(truth["firstSeenAt"], contact.first_seen_at) < timedelta(minutes=1)
        assert timedelta() <= since(contact.last_seen_at, truth["lastSeenAt"]) < timedelta(minutes=1)
        assert contact.metadata["activeYear"] == truth["activeYear"]
    assert all(contact.visitor_count == len(contact.visitor_ids) for contact in contacts)
    status = await StateQueries(redis, workspace).status()
    assert (status.entries, status.lag, status.contacts, status.visitors) == (
        HISTORY_ENTRIES,
        0,
        HISTORY_CONTACTS,
        HISTORY_VISITORS,
    )


async def test_history_a_second_time_changes_nothing(redis: Redis, redis_url: str, workspace: str) -> None:
    """Every event is a duplicate of one within the window: same contacts, same versions, nothing new on the feed."""
    await append(redis, workspace, history())
    await fold_log(redis, redis_url, workspace)
    once, counted = await take_snapshot(redis, workspace), await StateQueries(redis, workspace).status()

    await append(redis, workspace, history(), start=HISTORY_ENTRIES)
    await fold_log(redis, redis_url, workspace)

    twice, recounted = await take_snapshot(redis, workspace), await StateQueries(redis, workspace).status()
    twice._replace(position=once.position).must_equal(once)
    assert recounted.duplicate == HISTORY_ENTRIES
    assert (recounted.folded, recounted.no_op, recounted.stale) == (counted.folded, counted.no_op, counted.stale)


async def test_history_a_second_time_without_ids_changes_no_contact(redis: Redis, redis_url: str, workspace: str) -> None:
    """Without ids, no event is a duplicate, and still no contact changes: same versions.

    The feed only gets presence: a visitor's first page view was anonymous the first time, and now belongs to a contact.
    """
    unnamed = [{name: value for name, value in json.loads(line).items() if name != "id"} for line in history()]
    await append(redis, workspace, unnamed)
    await fold_log(redis, redis_url, workspace)
    once = await take_snapshot(redis, workspace)

    await append(redis, workspace, unnamed, start=HISTORY_ENTRIES)
    await fold_log(redis, redis_url, workspace)

    twice = await take_snapshot(redis, workspace)
    assert {json.loads(change)["type"] for change in twice.feed[len(once.feed) :]} == {"ContactSeen"}
    assert public(twice.contacts) == public(once.contacts)
    assert (await StateQueries(redis, workspace).status()).duplicate == 0


def since(earlier: str, later: str) -> timedelta:
    """The time between the two."""
    return datetime.fromisoformat(later) - datetime.fromisoformat(earlier)


def public(contacts: dict[bytes, bytes]) -> dict[bytes, Any]:
    """Contacts without the private fields of the fold."""
    own = {"stamps", "metadataStamps", "visitorSince", "presenceMs", "conflict"}
    return {
        name: {field: value for field, value in json.loads(data).items() if field not in own} for name, data in contacts.items()
    }
