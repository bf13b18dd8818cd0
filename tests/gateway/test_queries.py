"""Queries of contacts and visitors over HTTP."""

import asyncio
import base64
import json
from typing import Any
from urllib.parse import quote

import pytest

from kinfold_projections.rules import MAX_MERGES
from kinfold_schemas.canonical import metadata_hash
from tests.support.gateways import Gateway


def seen(visitor: str, **fields: Any) -> dict[str, Any]:
    return {"type": "VisitorSeen", "visitorId": visitor, **fields}


def identified(external_id: str | None = None, **fields: Any) -> dict[str, Any]:
    names = {} if external_id is None else {"externalId": external_id}
    return {"type": "VisitorIdentified", **names, **fields}


async def test_after_makes_a_backend_read_its_own_writes(gateway: Gateway):
    """With `?after=` and the position of the response, the contact is found by each of its identifiers."""
    position = await gateway.put(identified("u-1", email="Ada@Example.org", visitorId="v-1", name="Ada"))

    contact = await gateway.get("/v1/contacts", externalId="u-1", after=position)

    assert (contact["name"], contact["email"], contact["visitorIds"]) == ("Ada", "Ada@Example.org", ["v-1"])
    assert await gateway.get("/v1/contacts", email="ada@EXAMPLE.org") == contact
    assert await gateway.get("/v1/contacts", email="\ufeffada@example.org. ") == contact
    assert await gateway.get("/v1/contacts", visitorId="v-1") == contact
    assert await gateway.get(f"/v1/contacts/{contact['id']}") == contact


def cursor_of(*place: str) -> str:
    """A made-up cursor."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"externalId": "unknown"}, 404),
        ({"email": "no@body.org"}, 404),
        ({"visitorId": "unknown"}, 404),
        ({"externalId": "a", "email": "b@c.d"}, 400),
        ({"order": "sideways"}, 400),
        ({"limit": "0"}, 400),
        ({"limit": "501"}, 400),
        ({"cursor": "nonsense"}, 400),
        ({"cursor": cursor_of("visitors", "2026-01-01T00:00:00.000Z", "v-1")}, 400),
        ({"after": "soon"}, 400),
        ({"after": "99999999999999-0"}, 400),
    ],
)
async def test_impossible_query_is_rejected(gateway: Gateway, params: dict[str, str], status: int):
    """404 for an unknown identifier, 400 for an invalid query."""
    await gateway.put(seen("v"))

    answer = await gateway.client.get("/v1/contacts", params=params)

    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]


async def test_after_0_does_not_wait(unfolded: Gateway):
    """Even if the log is empty."""
    assert await unfolded.get("/v1/contacts", after="0") == {"contacts": [], "nextCursor": None}


async def test_after_gives_up_if_the_position_is_not_folded(unfolded: Gateway):
    """503 with Retry-After, after 5 s and not earlier. No projector runs here."""
    position = await unfolded.put(seen("v"))
    started = asyncio.get_running_loop().time()

    answer = await unfolded.client.get("/v1/visitors/v", params={"after": position})

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert 4.9 < asyncio.get_running_loop().time() - started < 7


async def test_id_of_a_merged_contact_returns_the_survivor(gateway: Gateway):
    """`mergedFrom` is the id in the request."""
    position = await gateway.put(identified(email="a@b.org", name="Ada"))
    merged = await gateway.get("/v1/contacts", email="a@b.org", after=position)
    position = await gateway.put(identified("u-1"), identified("u-1", email="a@b.org"))

    answer = await gateway.client.get(f"/v1/contacts/{merged['id']}", params={"after": position})

    survivor = await gateway.get("/v1/contacts", externalId="u-1")
    assert answer.json() == {**survivor, "mergedFrom": merged["id"]}
    assert answer.headers["Content-Location"] == f"/v1/contacts/{survivor['id']}"
    assert "mergedFrom" not in survivor


async def test_etag_is_the_metadata_hash(gateway: Gateway):
    """A producer that knows the hash can check cheaply whether the metadata changed."""
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


async def test_visitor_has_its_contact_and_the_contacts_other_visitors(gateway: Gateway):
    """So a thread that began on the phone is found on the laptop."""
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


async def test_anonymous_visitor_has_no_contact(gateway: Gateway):
    """An unknown visitor is 404."""
    visitor = await gateway.get("/v1/visitors/v", after=await gateway.put(seen("v")))

    assert (visitor["contactId"], visitor["contact"], visitor["links"], visitor["otherVisitorIds"]) == (None, None, [], [])
    assert (await gateway.client.get("/v1/visitors/unknown")).status_code == 404


async def test_at_returns_the_contact_at_that_time(gateway: Gateway):
    """On a shared device, `?at=` keeps the first person's thread from the second person."""
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


async def test_links_to_merged_contacts_name_the_survivor(gateway: Gateway):
    """Two links that lead to the same contact after a merge are one link."""
    position = await gateway.put(
        identified(email="a@b.org", visitorId="v", at="2026-01-01T00:00:00Z"),
        identified("u-1", visitorId="v", at="2026-01-02T00:00:00Z"),
        identified("u-1", email="a@b.org"),
    )

    visitor = await gateway.get("/v1/visitors/v", after=position)

    assert [link["contactId"] for link in visitor["links"]] == [visitor["contact"]["id"]]


async def test_contacts_are_paged_while_others_are_written(gateway: Gateway):
    """Every contact comes once, newest first, while contacts are created and merged."""
    events = [identified(f"u-{number:02}", at=f"2026-01-01T00:{number:02}:00Z") for number in range(20)]
    position = await gateway.put(*events, identified(email="gone@x.org", at="2026-01-01T00:00:30Z"))
    pages, cursor, ids = list[list[str]](), None, dict[str, str]()
    for turn in range(20):
        params = {"limit": 3, "after": position, **({"cursor": cursor} if cursor else {})}
        page = await gateway.get("/v1/contacts", **params)
        pages.append([contact["externalId"] for contact in page["contacts"]])
        ids.update({contact["externalId"]: contact["id"] for contact in page["contacts"]})
        cursor = page["nextCursor"]
        if cursor is None:
            break
        position = await gateway.put(identified(f"new-{turn}"), identified("u-19"), identified("u-00", email="gone@x.org"))

    walked = [name for page in pages for name in page]
    untouched = [f"u-{number:02}" for number in range(18, 0, -1)]
    untouched.sort(key=lambda name: ids[name], reverse=True)  # by id, because entries of one millisecond have no other order
    assert [name for name in walked if name in untouched] == untouched
    assert len(walked) == len(set(walked))


async def test_merged_contacts_do_not_shorten_the_pages(gateway: Gateway):
    """A merged contact is not listed. Every page except the last one has the requested length."""
    await gateway.put(*(identified(email=f"{number}@example.org") for number in range(4)), identified("u-1"))
    before = await gateway.put(identified("u-2"))
    assert len((await gateway.get("/v1/contacts", after=before))["contacts"]) == 6
    position = await gateway.put(*(identified("u-1", email=f"{number}@example.org") for number in range(4)))

    first = await gateway.get("/v1/contacts", limit=1, after=position)
    second = await gateway.get("/v1/contacts", limit=1, cursor=first["nextCursor"])

    assert {each["externalId"] for page in (first, second) for each in page["contacts"]} == {"u-1", "u-2"}
    assert second["nextCursor"] is None


async def test_contacts_of_one_millisecond_are_paged_by_id(gateway: Gateway):
    """An import creates thousands of contacts with one time. A contact that is seen again does not disturb the pages."""
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


async def test_visitors_of_a_contact_are_paged(gateway: Gateway):
    """Each comes once, newest link first, including those of a merged contact, while others are linked."""
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
    assert (await gateway.client.get("/v1/contacts/ct_unknown/visitors")).status_code == 404


async def test_visitors_of_a_contact_with_many_merges_are_paged(gateway: Gateway):
    """The maximum number of merged contacts, each with one visitor. Each visitor comes once."""
    events = list[dict[str, Any]]()
    for number in range(MAX_MERGES):
        events.append(identified(email=f"{number}@x.org", visitorId=f"v-{number:02}", at=f"2026-01-01T00:{number:02}:00Z"))
        events.append(identified("u-1", email=f"{number}@x.org"))
    position = await gateway.put(*events)
    contact = await gateway.get("/v1/contacts", externalId="u-1", after=position)

    walked, cursor = list[str](), None
    while True:
        page = await gateway.get(f"/v1/contacts/{contact['id']}/visitors", limit=10, **({"cursor": cursor} if cursor else {}))
        walked += [each["id"] for each in page["visitors"]]
        if (cursor := page["nextCursor"]) is None:
            break

    assert walked == [f"v-{number:02}" for number in reversed(range(MAX_MERGES))]


@pytest.mark.parametrize("visitor_id", ["a/b", "k3+/8Q==", "x//y", "/v1/visitors/x/", "%2F"])
async def test_visitor_id_with_slashes_is_found(gateway: Gateway, visitor_id: str):
    """Base64 ids have slashes. Escaped slashes do not split the path."""
    position = await gateway.put(seen(visitor_id))

    found = await gateway.get(f"/v1/visitors/{quote(visitor_id, safe='')}", after=position)

    assert found["id"] == visitor_id


async def test_identifier_with_special_characters_is_found(gateway: Gateway):
    """An escaped identifier works in a path and in a query."""
    odd = "a b/ü?#%&\u2028+="
    position = await gateway.put(identified(odd, visitorId="v ü?"))

    assert (await gateway.get("/v1/contacts", externalId=odd, after=position))["externalId"] == odd
    assert (await gateway.get("/v1/visitors/v%20%C3%BC%3F"))["id"] == "v ü?"
    assert (
        json.loads((await gateway.client.get("/v1/contacts", params={"externalId": f" {odd} "})).content)["externalId"] == odd
    )
