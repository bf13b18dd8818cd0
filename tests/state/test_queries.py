"""Queries that take two replies: the contact id of an identifier, and the contact. A replay may swap the state in between."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from kinfold import Feed
from kinfold.contacts.queries import Queries
from kinfold_schemas.contacts import Contact
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import PublicName, key
from kinfold_services.access.keys import Kind, create_key
from kinfold_services.gateway.app import make_app
from kinfold_services.history.past import Past
from kinfold_services.history.past_queries import PastQueries
from kinfold_services.settings import Settings
from kinfold_services.state.queries import StateQueries
from tests.support.event_log import append
from tests.support.projecting import fold_log

ADA: dict[str, Any] = {"type": "VisitorIdentified", "visitorId": "v-1", "externalId": "u-1", "email": "ada@example.org"}
BY = {"external-ids": "u-1", "emails": "ada@example.org", "visitors": "v-1"}
FIELD = {"external-ids": "externalId", "emails": "email", "visitors": "visitorId"}

Swap = Callable[[], Awaitable[None]]


@pytest.fixture(name="swap")
async def _swap(redis: Redis, redis_url: str, workspace: str) -> Swap:
    """Swap in a state in which Ada's contact has another id, as after a replay that left out the event that created it."""
    await append(redis, workspace, [ADA])
    await fold_log(redis, redis_url, workspace)
    other = f"other-{workspace[:50]}"
    await append(redis, other, [ADA], start=1000)
    await fold_log(redis, redis_url, other)
    names: list[PublicName] = ["contacts", "visitors", "external-ids", "emails"]

    async def swap() -> None:
        for name in names:
            stored = await cast("Awaitable[dict[bytes, bytes]]", redis.hgetall(key(other, name)))
            await redis.delete(key(workspace, name))
            await redis.hset(key(workspace, name), mapping=cast("Any", stored))

    return swap


class SwapsBehindTheVisitor(Redis):
    """A connection on which a replay ends right after the next reply about a visitor."""

    swaps: Sequence[Swap] = ()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        answer = await cast("Any", super()).execute_command(*args, **options)
        if any(str(each).endswith(":visitors") for each in args):
            swaps, self.swaps = self.swaps, ()
            for swap in swaps:
                await swap()
        return answer


class SwappedUnderWay(StateQueries):
    """Queries during which a replay ends right after the first reply."""

    def __init__(self, client: Redis, name: str, swap: Swap) -> None:
        super().__init__(client, name)
        self._swap: Swap | None = swap

    async def _get(self, name: PublicName, field: str) -> bytes | None:
        answer = await super()._get(name, field)
        if (swap := self._swap) is not None:
            self._swap = None
            await swap()
        return answer


@pytest.mark.parametrize("by", BY)
async def test_replay_between_two_queries_hides_no_contact(redis: Redis, workspace: str, swap: Swap, by: str) -> None:
    """The identifier named a contact that no longer exists. The query starts again and finds the current one."""
    reader = SwappedUnderWay(redis, workspace, swap)
    find = {
        "external-ids": reader.contact_by_external_id,
        "emails": reader.contact_by_email,
        "visitors": reader.contact_by_visitor,
    }[by]

    found = await find(BY[by])

    assert found is not None
    assert found == await StateQueries(redis, workspace).contact_by_external_id("u-1")


async def ask_as_the_client_does(
    redis: Redis, workspace: str, field: str, value: str, meanwhile: Swap | None = None
) -> Contact | None:
    """The commands of `kinfold.Contacts`, one after another; `meanwhile` runs after the first."""
    asking: Any = Queries(workspace, 0).find(field, value, None)
    command = next(asking)
    while True:
        answer = await cast("Any", redis).execute_command(*command)
        if meanwhile is not None:
            await meanwhile()
            meanwhile = None
        try:
            command = asking.send(answer)
        except StopIteration as end:
            return cast("Contact | None", end.value)


@pytest.mark.parametrize("by", BY)
async def test_replay_between_two_queries_of_the_client_hides_no_contact(
    redis: Redis, workspace: str, swap: Swap, by: str
) -> None:
    """`kinfold.Contacts` sends the same two queries to Redis itself."""
    found = await ask_as_the_client_does(redis, workspace, FIELD[by], BY[by], swap)

    assert found is not None
    assert found == await StateQueries(redis, workspace).contact_by_external_id("u-1")


@pytest.mark.parametrize("kind", ["secret", "publishable"])
async def test_visitor_and_contact_come_from_the_same_state(
    redis: Redis, redis_url: str, workspace: str, swap: Swap, kind: Kind
) -> None:
    """Over HTTP, a visitor, its links and its contact are one answer: all from before the replay, or all from after it."""
    api_key = await create_key(redis, workspace, kind)
    client = cast("SwapsBehindTheVisitor", SwapsBehindTheVisitor.from_url(redis_url))
    app, gateway = make_app(Settings(redis_url=redis_url), client)
    headers = {"Authorization": f"Bearer {api_key}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(cast("Any", app)), base_url="http://kinfold", headers=headers
    ) as http:
        before = (await http.get("/v1/visitors/v-1")).json()
        client.swaps = [swap]

        answer = (await http.get("/v1/visitors/v-1")).json()

        assert not client.swaps
        assert before["contact"] is not None
        assert answer == before
    await gateway.close()


@pytest.mark.parametrize("who", ["gateway and command line", "client"])
async def test_merge_that_a_replay_undoes_during_a_query_hides_no_contact(
    redis: Redis, redis_url: str, workspace: str, who: str
) -> None:
    """The id was that of a tombstone whose target no longer exists: the contact is living again."""
    await append(redis, workspace, [ADA])
    await fold_log(redis, redis_url, workspace)
    contacts = key(workspace, "contacts")
    ada = await StateQueries(redis, workspace).contact_by_external_id("u-1")
    assert ada is not None
    living = cast("bytes", await cast("Awaitable[Any]", redis.hget(contacts, ada.id)))
    tombstone = msgspec.json.encode({"id": ada.id, "mergedInto": "ct_other"})
    await redis.hset(contacts, mapping=cast("Any", {ada.id: tombstone, "ct_other": living}))

    async def take_back() -> None:
        await redis.hset(contacts, ada.id, cast("str", living))
        await redis.hdel(contacts, "ct_other")

    if who == "client":
        assert await ask_as_the_client_does(redis, workspace, "id", ada.id, take_back) == ada
    else:
        assert await SwappedUnderWay(redis, workspace, take_back).contact(ada.id) == ada


async def test_contact_is_found_by_any_spelling_of_its_identifiers(redis: Redis, redis_url: str, workspace: str) -> None:
    """By the gateway and the command line, now and in the past, by the client and by its live contacts."""
    names = {"visitorId": "caf\u00e9", "externalId": "na\u00efve", "email": "jos\u00e9@b\u00fccher.example"}
    await append(redis, workspace, [{"type": "VisitorIdentified", **names}])
    await fold_log(redis, redis_url, workspace)
    visitor, external_id, email = "\ufeffcafe\u0301 ", "nai\u0308ve\u200b", "JOSE\u0301@xn--BCHER-kva.example."
    past = PastQueries(await Past(redis, Settings(workspace=workspace), IdentifierRules()).state_at("9999999999999-0"))

    jose = await StateQueries(redis, workspace).contact_by_external_id(names["externalId"])
    assert jose is not None
    for reader in (StateQueries(redis, workspace), past):
        assert await reader.contact_by_external_id(external_id) == jose
        assert await reader.contact_by_email(email) == jose
        assert await reader.contact_by_visitor(visitor) == jose
        found = await reader.visitor(visitor)
        assert found is not None
        assert found.id == names["visitorId"]
        assert await reader.contact_by_email("jose@b\u00fccher.example") is None
    for by, value in (("externalId", external_id), ("email", email), ("visitorId", visitor)):
        assert await ask_as_the_client_does(redis, workspace, by, value) == jose
    with await asyncio.to_thread(Feed(redis_url, workspace=workspace).contacts) as live:
        assert live.by_email(email) == live.by_external_id(external_id) == live[jose.id]


async def test_identifier_of_a_missing_contact_is_not_found(redis: Redis, workspace: str, swap: Swap) -> None:
    """A damaged state does not send a query into a loop."""
    del swap
    await redis.delete(key(workspace, "contacts"))

    assert await StateQueries(redis, workspace).contact_by_email("ada@example.org") is None
    assert await ask_as_the_client_does(redis, workspace, "email", "ada@example.org") is None
