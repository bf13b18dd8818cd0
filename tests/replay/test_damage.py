"""A state that was changed by hand: `verify` reports the damage; `replay` repairs it and puts the changes on the feed."""

import json
from collections.abc import Awaitable
from typing import Any, Final, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from kinfold_schemas.changes import ContactCreated, ContactGone, ContactUpdated
from kinfold_schemas.keys import PublicName, key
from kinfold_services.replay.differences import field_differences
from tests.support.event_log import append
from tests.support.projecting import fold_log
from tests.support.replaying import changes_since, kinfold, leftovers, replay, verify
from tests.support.snapshots import take_snapshot

PEOPLE: Final = [
    {
        "type": "VisitorIdentified",
        "visitorId": f"v-{name}",
        "externalId": f"u-{name}",
        "email": f"{name}@example.org",
        "name": name.title(),
        "metadata": {"plan": 1, "city": "Rome"},
    }
    for name in ("ada", "ben", "cy", "dora", "eve")
]
BY_HAND: Final = "ct_zzzzzzzzzzzzzzzzzzzzzzzzzz"


class Damage:
    """A folded workspace, and ways to damage it."""

    def __init__(self, client: Redis, workspace: str) -> None:
        self.client = client
        self.workspace = workspace
        self.log = key(workspace, "events")

    async def contact_id(self, name: str) -> str:
        """The id of a person's contact."""
        found = await self.get("external-ids", f"u-{name}")
        assert found is not None
        return found.decode()

    async def contact(self, name: str) -> dict[str, Any]:
        """The stored contact of a person."""
        data = await self.get("contacts", await self.contact_id(name))
        assert data is not None
        return cast("dict[str, Any]", json.loads(data))

    async def get(self, table: PublicName, field: str) -> bytes | None:
        """The stored value."""
        return await cast("Awaitable[bytes | None]", self.client.hget(key(self.workspace, table), field))

    async def put(self, table: PublicName, field: str, value: object) -> None:
        """Store a value."""
        data = value if isinstance(value, (str, bytes)) else json.dumps(value)
        await self.client.hset(key(self.workspace, table), field, cast("str", data))

    async def delete(self, table: PublicName, field: str) -> None:
        """Delete a value."""
        assert await self.client.hdel(key(self.workspace, table), field) == 1


@pytest.fixture(name="damage")
async def _damage(redis: Redis, redis_url: str, workspace: str) -> Damage:
    await append(redis, workspace, PEOPLE)
    await fold_log(redis, redis_url, workspace)
    return Damage(redis, workspace)


async def test_damage_by_hand_is_reported_field_by_field_and_repaired(
    redis: Redis, redis_url: str, workspace: str, damage: Damage
):
    """A contact deleted, one renamed, one added, an address moved, a visitor and an external id removed: exactly these."""
    healthy = await take_snapshot(redis, workspace)
    ada, ben, cy = [await damage.contact_id(name) for name in ("ada", "ben", "cy")]
    dora, eve = [await damage.contact_id(name) for name in ("dora", "eve")]
    await damage.put("contacts", ben, await damage.contact("ben") | {"name": "Bob", "metadata": {"plan": True}})
    await damage.put("contacts", BY_HAND, await damage.contact("cy") | {"id": BY_HAND})
    await damage.delete("contacts", ada)
    await damage.put("emails", "cy@example.org", dora)
    await damage.delete("visitors", "v-eve")
    await damage.delete("external-ids", "u-eve")

    verified = await kinfold(redis_url, workspace, "verify")

    assert verified.status == 1
    assert "8 differences" in verified.said
    contact, visitor = json.loads(healthy.contacts[ada.encode()]), json.loads(healthy.visitors[b"v-eve"])
    by_hand = json.loads(cast("bytes", await damage.get("contacts", BY_HAND)))
    assert sorted(verified.out, key=json.dumps) == sorted(
        [
            {"kind": "contacts", "id": ada, "field": None, "living": None, "rebuilt": contact},
            {"kind": "contacts", "id": ben, "field": "metadata.city", "rebuilt": "Rome"},
            {"kind": "contacts", "id": ben, "field": "metadata.plan", "living": True, "rebuilt": 1},
            {"kind": "contacts", "id": ben, "field": "name", "living": "Bob", "rebuilt": "Ben"},
            {"kind": "contacts", "id": BY_HAND, "field": None, "living": by_hand, "rebuilt": None},
            {"kind": "visitors", "id": "v-eve", "field": None, "living": None, "rebuilt": visitor},
            {"kind": "external-ids", "id": "u-eve", "field": None, "living": None, "rebuilt": eve},
            {"kind": "emails", "id": "cy@example.org", "field": None, "living": dora, "rebuilt": cy},
        ],
        key=json.dumps,
    )


async def test_each_kind_of_damage_is_one_change_on_the_feed(redis: Redis, redis_url: str, workspace: str, damage: Damage):
    """`ContactCreated`, `ContactUpdated` with the differing fields, `ContactGone`; no change for private fields."""
    healthy = await take_snapshot(redis, workspace)
    ada, ben = await damage.contact_id("ada"), await damage.contact_id("ben")
    await damage.put("contacts", ben, await damage.contact("ben") | {"name": "Bob", "metadata": {"plan": True}})
    await damage.put("contacts", BY_HAND, await damage.contact("cy") | {"id": BY_HAND})
    await damage.delete("contacts", ada)
    await damage.put("emails", "cy@example.org", await damage.contact_id("dora"))
    await damage.delete("visitors", "v-eve")
    await damage.delete("external-ids", "u-eve")

    dry = await kinfold(redis_url, workspace, "replay", "--dry-run")
    assert dry.status == 0
    assert await redis.xlen(key(workspace, "changes")) == len(healthy.feed)
    assert await leftovers(redis, workspace) == []
    answer = await kinfold(redis_url, workspace, "replay")

    assert answer.status == 0
    assert answer.out == dry.out
    told = await changes_since(redis, workspace, len(healthy.feed))
    assert [msgspec.to_builtins(change) for change in told] == answer.out
    assert {(type(change), change.contact_id, change.cause) for change in told} == {
        (ContactCreated, ada, "replay"),
        (ContactUpdated, ben, "replay"),
        (ContactGone, BY_HAND, "replay"),
    }
    assert [change.changed for change in told if isinstance(change, ContactUpdated)] == [
        ["name", "metadata.city", "metadata.plan"]
    ]
    assert len(told) == 3

    healed = await take_snapshot(redis, workspace)
    assert healed.position.pop(b"generation")
    healed._replace(feed=healthy.feed).must_equal(healthy)
    assert (await kinfold(redis_url, workspace, "verify")).status == 0
    assert (await kinfold(redis_url, workspace, "replay")).out == []


@pytest.mark.parametrize("nonsense", [b"", b"{", b"\xff", b"[]", b"null", b'{"id":1}', b'{"mergedInto":"ct_nobody"}'])
async def test_value_that_is_not_a_contact_is_repaired(redis: Redis, workspace: str, damage: Damage, nonsense: bytes):
    """Readers cannot read it, so for the feed it does not exist."""
    ada = await damage.contact_id("ada")
    await damage.put("contacts", ada, nonsense)
    await damage.put("visitors", "v-ada", nonsense)
    length = await redis.xlen(key(workspace, "changes"))

    found = await verify(redis, workspace)

    assert {(each.kind, each.id) for each in found} == {("contacts", ada), ("visitors", "v-ada")}
    await replay(redis, workspace)
    assert [(type(each), each.contact_id) for each in await changes_since(redis, workspace, length)] == [(ContactCreated, ada)]
    assert await verify(redis, workspace) == []


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.sampled_from(["", "a"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=6,
)
OBJECTS: Final = st.dictionaries(st.sampled_from(["name", "metadata", "version"]), JSON, max_size=3)


@given(OBJECTS, OBJECTS)
def test_two_objects_have_no_differing_field_only_if_they_are_equal(one: dict[str, Any], other: dict[str, Any]):
    """Equal as JSON, not as Python: true is not 1, and nothing is not an empty object."""
    left, right = msgspec.json.encode(one, order="sorted"), msgspec.json.encode(other, order="sorted")
    assert bool(field_differences("contacts", "ct_1", left, right)) == (left != right)
