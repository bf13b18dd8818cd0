"""The example history, end to end: what a real projector makes of it is what the project's own mailmap says."""

import json
from datetime import datetime
from typing import Any, Final

from redis.asyncio import Redis

from kinfold_services.queries import Workspace
from tests.support.event_log import EXAMPLES, HISTORY_CONTACTS, HISTORY_ENTRIES, HISTORY_VISITORS, append, history
from tests.support.projecting import fold_log
from tests.support.snapshots import take_snapshot

TRUTH: Final[dict[str, dict[str, Any]]] = json.loads((EXAMPLES / "swift-contacts.json").read_text())


async def test_the_history_gives_the_contacts_that_the_mailmap_says(redis: Redis, redis_url: str, workspace: str) -> None:
    """473 people: their external ids, their visitors, when each was first and last seen, and the latest `activeYear`."""
    await append(redis, workspace, history())
    await fold_log(redis, redis_url, workspace)

    contacts = [contact async for contact in Workspace(redis, workspace).contacts()]

    assert len(contacts) == len(TRUTH) == HISTORY_CONTACTS
    assert {contact.external_id: told(contact) for contact in contacts} == {
        external_id: {**truth, "visitorIds": sorted(truth["visitorIds"])} for external_id, truth in TRUTH.items()
    }
    assert all(contact.visitor_count == len(contact.visitor_ids) for contact in contacts)
    status = await Workspace(redis, workspace).status()
    assert (status.entries, status.lag, status.contacts, status.visitors) == (
        HISTORY_ENTRIES,
        0,
        HISTORY_CONTACTS,
        HISTORY_VISITORS,
    )


async def test_the_history_a_second_time_changes_nothing(redis: Redis, redis_url: str, workspace: str) -> None:
    """Every event is a duplicate of one within the window: same contacts, same versions, nothing new on the feed."""
    await append(redis, workspace, history())
    await fold_log(redis, redis_url, workspace)
    once, counted = await take_snapshot(redis, workspace), await Workspace(redis, workspace).status()

    await append(redis, workspace, history(), start=HISTORY_ENTRIES)
    await fold_log(redis, redis_url, workspace)

    twice, recounted = await take_snapshot(redis, workspace), await Workspace(redis, workspace).status()
    twice._replace(position=once.position).must_equal(once)
    assert recounted.duplicate == HISTORY_ENTRIES
    assert (recounted.folded, recounted.no_op, recounted.stale) == (counted.folded, counted.no_op, counted.stale)


async def test_the_history_a_second_time_without_ids_says_nothing_new_of_anybody(
    redis: Redis, redis_url: str, workspace: str
) -> None:
    """Where events have no id of their own none is a duplicate, and still none of the contacts changes: same versions.

    The feed tells of presence alone: a visitor's first view, that was nobody's then, is somebody's now.
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
    assert (await Workspace(redis, workspace).status()).duplicate == 0


def told(contact: Any) -> dict[str, Any]:
    """What the truth says of a contact, as kinfold says it."""
    return {
        "visitorIds": sorted(contact.visitor_ids),
        "firstSeenAt": in_seconds(contact.first_seen_at),
        "lastSeenAt": in_seconds(contact.last_seen_at),
        "activeYear": contact.metadata["activeYear"],
    }


def in_seconds(text: str) -> str:
    """The same time, as the truth writes it."""
    return datetime.fromisoformat(text).strftime("%Y-%m-%dT%H:%M:%SZ")


def public(contacts: dict[bytes, bytes]) -> dict[bytes, Any]:
    """Contacts without what is the fold's own."""
    own = {"stamps", "metadataStamps", "visitorSince", "presenceMs", "conflict"}
    return {
        name: {field: value for field, value in json.loads(data).items() if field not in own} for name, data in contacts.items()
    }
