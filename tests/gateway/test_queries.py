"""Contacts and visitors over HTTP."""

import asyncio
import base64
import json
from typing import Any
from urllib.parse import quote

import pytest

from kinfold_schemas.canonical import metadata_hash
from kinfold_schemas.keys import key
from tests.support.gateways import Gateway


def seen(visitor: str, **fields: Any) -> dict[str, Any]:
    return {"type": "VisitorSeen", "visitorId": visitor, **fields}


def identified(external_id: str | None = None, **fields: Any) -> dict[str, Any]:
    names = {} if external_id is None else {"externalId": external_id}
    return {"type": "VisitorIdentified", **names, **fields}


async def test_a_backend_reads_its_own_writes(gateway: Gateway):
    """`?after=` with the position of the answer: the contact is there, by each of its names."""
    position = await gateway.put(identified("u-1", email="Ada@Example.org", visitorId="v-1", name="Ada"))

    contact = await gateway.get("/v1/contacts", externalId="u-1", after=position)

    assert (contact["name"], contact["email"], contact["visitorIds"]) == ("Ada", "Ada@Example.org", ["v-1"])
    assert await gateway.get("/v1/contacts", email="ada@EXAMPLE.org") == contact
    assert await gateway.get("/v1/contacts", email="\ufeffada@example.org. ") == contact
    assert await gateway.get("/v1/contacts", visitorId="v-1") == contact
    assert await gateway.get(f"/v1/contacts/{contact['id']}") == contact


def cursor_of(*place: str) -> str:
    """A cursor that somebody made up."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"externalId": "nobody"}, 404),
        ({"email": "no@body.org"}, 404),
        ({"visitorId": "nobody"}, 404),
        ({"externalId": "a", "email": "b@c.d"}, 400),
        ({"order": "sideways"}, 400),
        ({"limit": "0"}, 400),
        ({"limit": "501"}, 400),
        ({"cursor": "nonsense"}, 400),
        ({"cursor": cursor_of("recent", "1.2.3", "ct_0")}, 400),
        ({"cursor": cursor_of("recent", "\u0661", "ct_0")}, 400),
        ({"cursor": cursor_of("created", "ct_0", "")}, 400),
        ({"after": "soon"}, 400),
        ({"after": "99999999999999-0"}, 400),
    ],
)
async def test_questions_that_have_no_answer(gateway: Gateway, params: dict[str, str], status: int):
    """404 where nobody is, 400 where the question makes no sense; one sentence each."""
    await gateway.put(seen("v"))

    answer = await gateway.client.get("/v1/contacts", params=params)

    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]


async def test_what_comes_before_every_entry_is_not_waited_for(unfolded: Gateway):
    """`after=0`, of a log that is empty yet."""
    assert await unfolded.get("/v1/contacts", after="0") == {"contacts": [], "nextCursor": None}


async def test_a_position_that_nobody_folds_is_waited_for_and_then_given_up(unfolded: Gateway):
    """503 with Retry-After, after 5 s and no sooner: no projector runs here."""
    position = await unfolded.put(seen("v"))
    started = asyncio.get_running_loop().time()

    answer = await unfolded.client.get("/v1/visitors/v", params={"after": position})

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert 4.9 < asyncio.get_running_loop().time() - started < 7


async def test_a_merged_id_answers_with_the_survivor_and_says_so(gateway: Gateway):
    """However long the chain was."""
    position = await gateway.put(identified(email="a@b.org", name="Ada"))
    merged = await gateway.get("/v1/contacts", email="a@b.org", after=position)
    position = await gateway.put(identified("u-1"), identified("u-1", email="a@b.org"))

    answer = await gateway.client.get(f"/v1/contacts/{merged['id']}", params={"after": position})

    survivor = await gateway.get("/v1/contacts", externalId="u-1")
    assert answer.json() == {**survivor, "mergedFrom": merged["id"]}
    assert answer.headers["Content-Location"] == f"/v1/contacts/{survivor['id']}"
    assert "mergedFrom" not in survivor


async def test_the_metadata_hash_is_the_etag(gateway: Gateway):
    """A producer that knows the hash asks cheaply whether it still holds."""
    position = await gateway.put(identified("u-1", metadata={"plan": "pro"}))
    asked = {"externalId": "u-1", "after": position}
    tag = (await gateway.client.get("/v1/contacts", params=asked)).headers["ETag"]

    assert tag == f'"{metadata_hash({"plan": "pro"})}"'
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await gateway.client.get("/v1/contacts", params=asked, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)
    position = await gateway.put(identified("u-1", metadata={"plan": "free"}))
    changed = await gateway.client.get("/v1/contacts", params={**asked, "after": position}, headers={"If-None-Match": tag})
    assert changed.status_code == 200


async def test_a_visitor_comes_with_its_contact_and_the_contacts_other_visitors(gateway: Gateway):
    """A thread that began on the phone is found on the laptop."""
    position = await gateway.put(
        seen("phone", context={"url": "https://x.org/"}),
        identified("u-1", visitorId="phone"),
        identified("u-1", visitorId="laptop"),
    )

    visitor = await gateway.get("/v1/visitors/phone", after=position)

    assert visitor["contact"]["externalId"] == "u-1"
    assert (visitor["contactId"], visitor["otherVisitorIds"]) == (visitor["contact"]["id"], ["laptop"])
    assert visitor["context"] == {"url": "https://x.org/"}
    assert [link["contactId"] for link in visitor["links"]] == [visitor["contactId"]]


async def test_a_visitor_that_nobody_identified(gateway: Gateway):
    """There is no contact, and nobody else."""
    visitor = await gateway.get("/v1/visitors/v", after=await gateway.put(seen("v")))

    assert (visitor["contactId"], visitor["contact"], visitor["links"], visitor["otherVisitorIds"]) == (None, None, [], [])
    assert (await gateway.client.get("/v1/visitors/nobody")).status_code == 404


async def test_whose_a_visitor_was(gateway: Gateway):
    """On a shared device the first person's thread does not leak to the second: `?at=` tells the two apart."""
    morning, noon, evening = (f"2026-01-01T{hour}:00:00.000Z" for hour in ("08", "12", "18"))
    position = await gateway.put(
        identified("ada", visitorId="kiosk", at=morning),
        identified("ada", visitorId="phone", at=morning),
        identified("bob", visitorId="kiosk", at=noon),
    )

    now = await gateway.get("/v1/visitors/kiosk", after=position)
    then = await gateway.get("/v1/visitors/kiosk", at="2026-01-01T11:59:59+00:00")
    before = await gateway.get("/v1/visitors/kiosk", at="2020-01-01T00:00:00Z")
    later = await gateway.get("/v1/visitors/kiosk", at=evening)

    assert (now["contact"]["externalId"], now["otherVisitorIds"]) == ("bob", [])
    assert (then["contact"]["externalId"], then["otherVisitorIds"]) == ("ada", ["phone"])
    assert before["contact"] == then["contact"]
    assert later["contact"] == now["contact"]
    assert [link["since"] for link in now["links"]] == [morning, noon]
    for nonsense in ("noon", "2026-01-01T12:00:00", "1969-12-31T23:59:59Z"):
        assert (await gateway.client.get("/v1/visitors/kiosk", params={"at": nonsense})).status_code == 400


async def test_links_to_merged_contacts_name_the_living_one(gateway: Gateway):
    """Two links that a merge has made one are one."""
    position = await gateway.put(
        identified(email="a@b.org", visitorId="v", at="2026-01-01T00:00:00Z"),
        identified("u-1", visitorId="v", at="2026-01-02T00:00:00Z"),
        identified("u-1", email="a@b.org"),
    )

    visitor = await gateway.get("/v1/visitors/v", after=position)

    assert [link["contactId"] for link in visitor["links"]] == [visitor["contact"]["id"]]


@pytest.mark.parametrize("order", ["recent", "created"])
async def test_pages_go_on_where_they_ended_whatever_is_written_meanwhile(gateway: Gateway, order: str):
    """Every contact that was there and not seen again comes exactly once, newest first, though others come, go and merge."""
    events = [identified(f"u-{number:02}", at=f"2026-01-01T00:{number:02}:00Z") for number in range(20)]
    position = await gateway.put(*events, identified(email="gone@x.org", at="2026-01-01T00:00:30Z"))
    pages, cursor, ids = list[list[str]](), None, dict[str, str]()
    for turn in range(20):
        params = {"order": order, "limit": 3, "after": position, **({"cursor": cursor} if cursor else {})}
        page = await gateway.get("/v1/contacts", **params)
        pages.append([contact["externalId"] for contact in page["contacts"]])
        ids.update({contact["externalId"]: contact["id"] for contact in page["contacts"]})
        cursor = page["nextCursor"]
        if cursor is None:
            break
        position = await gateway.put(identified(f"new-{turn}"), identified("u-19"), identified("u-00", email="gone@x.org"))

    walked = [name for page in pages for name in page]
    untouched = [f"u-{number:02}" for number in range(18, 0, -1)]
    if order == "created":  # by id: entries of one millisecond are in no order of their own
        untouched.sort(key=lambda name: ids[name], reverse=True)
    assert [name for name in walked if name in untouched] == untouched
    assert len(walked) == len(set(walked))


@pytest.mark.parametrize("order", ["recent", "created"])
async def test_merged_contacts_leave_no_holes_in_the_pages(gateway: Gateway, order: str):
    """A contact that is merged is in no list any more: each page is as long as was asked for, but for the last."""
    await gateway.put(*(identified(email=f"{number}@example.org") for number in range(4)), identified("u-1"))
    before = await gateway.put(identified("u-2"))
    assert len((await gateway.get("/v1/contacts", order=order, after=before))["contacts"]) == 6
    position = await gateway.put(*(identified("u-1", email=f"{number}@example.org") for number in range(4)))

    first = await gateway.get("/v1/contacts", order=order, limit=1, after=position)
    second = await gateway.get("/v1/contacts", order=order, limit=1, cursor=first["nextCursor"])

    assert {each["externalId"] for page in (first, second) for each in page["contacts"]} == {"u-1", "u-2"}
    assert second["nextCursor"] is None


async def test_many_contacts_of_one_millisecond_are_paged_by_their_ids(gateway: Gateway):
    """An import gives thousands of contacts one time; the page after one that was since seen again goes on all the same."""
    at = "2026-01-01T00:00:00Z"
    position = await gateway.put(*(identified(f"u-{number:03}", at=at) for number in range(120)))
    first = await gateway.get("/v1/contacts", limit=50, after=position)
    last = first["contacts"][-1]["externalId"]
    position = await gateway.put(identified(last, at="2026-01-02T00:00:00Z"))

    second = await gateway.get("/v1/contacts", limit=50, cursor=first["nextCursor"], after=position)
    third = await gateway.get("/v1/contacts", limit=50, cursor=second["nextCursor"])

    walked = [contact["externalId"] for page in (first, second, third) for contact in page["contacts"]]
    assert sorted(walked) == [f"u-{number:03}" for number in range(120)]
    assert third["nextCursor"] is None


async def test_the_recent_index_follows_a_replay(gateway: Gateway):
    """It is state like any: what the fold says was seen last stands first, and a merged contact stands nowhere."""
    position = await gateway.put(
        identified("a", at="2026-01-01T00:00:00Z"),
        identified("b", at="2026-01-02T00:00:00Z"),
        identified(email="c@x.org", at="2026-01-03T00:00:00Z"),
        identified("a", email="c@x.org", at="2026-01-01T00:00:00Z"),
    )

    page = await gateway.get("/v1/contacts", after=position)

    assert [contact["externalId"] for contact in page["contacts"]] == ["a", "b"]
    for name in ("recent", "created"):
        assert await gateway.redis.zcard(key("default", name)) == 2


async def test_a_contact_moves_in_the_recent_order_once_a_minute(gateway: Gateway):
    """Within a minute the newest contact stands first, whoever was seen last; in the next one, who is seen does."""
    names = [f"u-{number}" for number in range(9)]
    await gateway.put(*(identified(name, at="2026-01-01T08:00:10Z") for name in names))
    position = await gateway.put(
        *(identified(name, at=f"2026-01-01T08:00:{20 + index}Z") for index, name in enumerate(reversed(names)))
    )
    by_id = await gateway.get("/v1/contacts", after=position)
    first = by_id["contacts"][-1]
    position = await gateway.put(
        identified(first["externalId"], at="2026-01-01T08:01:00Z"),
        *(identified(name, at="2026-01-01T07:00:00Z") for name in names),
    )
    moved = await gateway.get("/v1/contacts", after=position)

    ids = [contact["id"] for contact in by_id["contacts"]]
    assert len(ids) == len(names)
    assert ids == sorted(ids, reverse=True)
    assert [contact["id"] for contact in moved["contacts"]] == [first["id"], *ids[:-1]]


async def test_a_contacts_visitors_are_paged(gateway: Gateway):
    """All of them, newest link first, those of a merged contact among them, each once, though others are linked meanwhile."""
    own = [
        identified("u-1", visitorId=f"a-{number:03}", at=f"2026-01-01T{number // 60:02}:{number % 60:02}:00Z")
        for number in range(150)
    ]
    merged = [
        identified(email="a@b.org", visitorId=f"b-{number:03}", at=f"2026-01-01T{number // 60:02}:{number % 60:02}:30Z")
        for number in range(150)
    ]
    position = await gateway.put(*own, *merged, identified("u-1", email="a@b.org"))
    contact = await gateway.get("/v1/contacts", externalId="u-1", after=position)
    assert contact["visitorCount"] == 300

    walked, cursor = list[dict[str, Any]](), None
    while True:
        params = {"limit": 41, "after": position, **({"cursor": cursor} if cursor else {})}
        page = await gateway.get(f"/v1/contacts/{contact['id']}/visitors", **params)
        walked += page["visitors"]
        if (cursor := page["nextCursor"]) is None:
            break
        position = await gateway.put(identified("u-1", visitorId=f"new-{len(walked)}"))

    assert page["contactId"] == contact["id"]
    assert [each["id"] for each in walked] == [f"{side}-{number:03}" for number in range(149, -1, -1) for side in "ba"]
    assert all(each["links"][-1]["since"] == each["since"] for each in walked)
    assert (await gateway.client.get("/v1/contacts/ct_nobody/visitors")).status_code == 404


async def test_a_contact_of_many_merges_is_paged_too(gateway: Gateway):
    """More merged contacts than a cursor can name: the walk begins at the top, and shows nothing twice."""
    events = list[dict[str, Any]]()
    for number in range(60):
        events.append(identified(email=f"{number}@x.org", visitorId=f"v-{number:02}", at=f"2026-01-01T00:{number:02}:00Z"))
        events.append(identified("u-1", email=f"{number}@x.org"))
    position = await gateway.put(*events)
    contact = await gateway.get("/v1/contacts", externalId="u-1", after=position)

    walked, cursor = list[str](), None
    while True:
        page = await gateway.get(f"/v1/contacts/{contact['id']}/visitors", limit=25, **({"cursor": cursor} if cursor else {}))
        walked += [each["id"] for each in page["visitors"]]
        if (cursor := page["nextCursor"]) is None:
            break

    assert walked == [f"v-{number:02}" for number in range(59, -1, -1)]


@pytest.mark.parametrize("visitor_id", ["a/b", "k3+/8Q==", "x//y", "/v1/visitors/x/", "%2F"])
async def test_a_visitor_is_found_whatever_slashes_it_has(gateway: Gateway, visitor_id: str):
    """Ids in base64 have some; escaped, they divide no path."""
    position = await gateway.put(seen(visitor_id))

    found = await gateway.get(f"/v1/visitors/{quote(visitor_id, safe='')}", after=position)

    assert found["id"] == visitor_id


async def test_identifiers_with_odd_characters_are_found(gateway: Gateway):
    """A path or a query can hold any identifier, once it is escaped."""
    odd = "a b/ü?#%&\u2028+="
    position = await gateway.put(identified(odd, visitorId="v ü?"))

    assert (await gateway.get("/v1/contacts", externalId=odd, after=position))["externalId"] == odd
    assert (await gateway.get("/v1/visitors/v%20%C3%BC%3F"))["id"] == "v ü?"
    assert (
        json.loads((await gateway.client.get("/v1/contacts", params={"externalId": f" {odd} "})).content)["externalId"] == odd
    )
